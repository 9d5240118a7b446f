//! What is published: changes of several partitions in one message, or some of one partition's in several.
//!
//! A message, format 1, numbers big-endian, at most [`MESSAGE_BYTES_MAX`]:
//!
//! ```text
//!  0   1  format, 1
//!  1  16  store id
//! 17      one or more pieces, to the end:
//!          0   4  partition
//!          4   8  from: the position before, not included
//!         12   8  to: the position after, included; from < to
//!         20   4  index of this piece among those of (from, to], from 0
//!         24   4  count of those pieces, at least 1
//!         28   4  count of the changes in this piece
//!         32      the changes, in ascending order of ids:
//!                   0  16  id
//!                  16   8  revision; from < revision <= to
//!                  24   4  bytes of JSON; 0 for a deleted item
//!                  28      JSON
//! ```
//!
//! A follower stands at `to` only when it has all pieces of (from, to]. Small messages, since Redis cuts every subscriber
//! off when one message passes its output bound.

use std::fmt;

use crate::change::{Change, Changes, StoreId};
use crate::id::ItemId;
use crate::limits::{ITEM_JSON_BYTES_MAX, MESSAGE_BYTES_MAX};

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The store that the changes happened in.
    pub store_id: StoreId,
    /// What happened, at least one piece.
    pub pieces: Vec<Piece>,
}

/// Changes of one partition: all from one position to another, or some of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The partition.
    pub part: u32,
    /// The position before, not included.
    pub from: u64,
    /// The position after, included. `from < to`
    pub to: u64,
    /// Which of the pieces of `(from, to]` this is. `index < count`
    pub index: u32,
    /// How many pieces `(from, to]` has.
    pub count: u32,
    /// In ascending order of ids.
    pub changes: Vec<Change>,
}

/// Why bytes are not a message. Whoever reads them goes on without: what is missing is repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageError {
    /// A later version wrote it.
    UnknownFormat(u8),
    /// No version writes this.
    Malformed(&'static str),
}

/// The only format there is so far.
const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 17;
const PIECE_HEAD_BYTES: usize = 32;
const CHANGE_HEAD_BYTES: usize = 28;

// One change alone always fits.
const _: () = assert!(HEAD_BYTES + PIECE_HEAD_BYTES + CHANGE_HEAD_BYTES + ITEM_JSON_BYTES_MAX <= MESSAGE_BYTES_MAX);

/// The messages that carry `changes`, in order, as few as the order allows. What moves no position is left out.
pub fn encode(changes: &[Changes]) -> Vec<Vec<u8>> {
    let mut packing = Packing { done: Vec::new(), open: Vec::new(), store_id: None };
    for changes in changes.iter().filter(|changes| changes.from < changes.to) {
        let pieces = cut(&changes.changes);
        let count = pieces.len() as u32; // pieces of 190 KiB and more: memory ends first
        for (index, piece) in (0..).zip(pieces) {
            packing.put(changes, index, count, piece);
        }
    }
    packing.finish()
}

impl Message {
    /// Reads a message: any bytes, in time and memory bounded by their number.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut input = Input { rest: bytes };
        match input.u8()? {
            FORMAT => {}
            other => return Err(MessageError::UnknownFormat(other)),
        }
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::Malformed("longer than any message"));
        }
        let store_id = input.array()?;
        let mut pieces = vec![input.piece()?];
        while !input.rest.is_empty() {
            pieces.push(input.piece()?);
        }
        Ok(Self { store_id, pieces })
    }
}

impl fmt::Display for MessageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownFormat(format) => {
                write!(formatter, "message of format {format}, which this version cannot read")
            }
            Self::Malformed(what) => write!(formatter, "not a message: {what}"),
        }
    }
}

impl std::error::Error for MessageError {}

/// Runs of changes that fit one message each: one run, and be it empty, when they all do.
fn cut(changes: &[Change]) -> Vec<&[Change]> {
    let mut runs = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, change) in changes.iter().enumerate() {
        let change_bytes = encoded_bytes(change);
        if bytes + change_bytes > MESSAGE_BYTES_MAX - HEAD_BYTES - PIECE_HEAD_BYTES && start < at {
            runs.push(&changes[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += change_bytes;
    }
    runs.push(&changes[start..]);
    runs
}

fn encoded_bytes(change: &Change) -> usize {
    CHANGE_HEAD_BYTES + change.json.as_ref().map_or(0, |json| json.len())
}

/// Messages that are being filled.
struct Packing {
    done: Vec<Vec<u8>>,
    /// The last one; empty before the first.
    open: Vec<u8>,
    /// The store of the open one.
    store_id: Option<StoreId>,
}

impl Packing {
    fn put(&mut self, of: &Changes, index: u32, count: u32, changes: &[Change]) {
        let bytes = PIECE_HEAD_BYTES + changes.iter().map(encoded_bytes).sum::<usize>();
        if self.store_id != Some(of.store_id) || self.open.len() + bytes > MESSAGE_BYTES_MAX {
            self.close();
            self.open.push(FORMAT);
            self.open.extend_from_slice(&of.store_id);
            self.store_id = Some(of.store_id);
        }
        let out = &mut self.open;
        out.reserve(bytes);
        out.extend_from_slice(&of.part.to_be_bytes());
        out.extend_from_slice(&of.from.to_be_bytes());
        out.extend_from_slice(&of.to.to_be_bytes());
        out.extend_from_slice(&index.to_be_bytes());
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(&(changes.len() as u32).to_be_bytes()); // each has 28 bytes of a message
        for change in changes {
            let json = change.json.as_deref().unwrap_or_default();
            out.extend_from_slice(&change.id.to_bytes());
            out.extend_from_slice(&change.revision.to_be_bytes());
            out.extend_from_slice(&(json.len() as u32).to_be_bytes()); // at most ITEM_JSON_BYTES_MAX
            out.extend_from_slice(json);
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.done.push(std::mem::take(&mut self.open));
        }
    }

    fn finish(mut self) -> Vec<Vec<u8>> {
        self.close();
        self.done
    }
}

/// What is left of a message that is being read.
struct Input<'a> {
    rest: &'a [u8],
}

impl Input<'_> {
    fn piece(&mut self) -> Result<Piece, MessageError> {
        let part = self.u32()?;
        let (from, to) = (self.u64()?, self.u64()?);
        if from >= to {
            return Err(MessageError::Malformed("a piece that moves nothing"));
        }
        let (index, count) = (self.u32()?, self.u32()?);
        if index >= count {
            return Err(MessageError::Malformed("a piece beyond the last"));
        }
        let changes_count = self.u32()? as usize;
        // Not more than can follow, whatever the number says.
        let mut changes: Vec<Change> = Vec::with_capacity(changes_count.min(self.rest.len() / CHANGE_HEAD_BYTES));
        for _ in 0..changes_count {
            let change = self.change()?;
            if change.revision <= from || change.revision > to {
                return Err(MessageError::Malformed("a revision outside of its piece"));
            }
            if changes.last().is_some_and(|last| last.id >= change.id) {
                return Err(MessageError::Malformed("ids out of order"));
            }
            changes.push(change);
        }
        Ok(Piece { part, from, to, index, count, changes })
    }

    fn change(&mut self) -> Result<Change, MessageError> {
        let id = ItemId::from_bytes(self.array()?);
        if !id.is_version_7() {
            return Err(MessageError::Malformed("id is no UUIDv7"));
        }
        let revision = self.u64()?;
        let json = match self.u32()? as usize {
            0 => None,
            length if length > ITEM_JSON_BYTES_MAX => {
                return Err(MessageError::Malformed("longer than any item"));
            }
            length => Some(self.bytes(length)?.into()),
        };
        Ok(Change { id, revision, json })
    }

    fn u64(&mut self) -> Result<u64, MessageError> {
        self.array().map(u64::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, MessageError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u8(&mut self) -> Result<u8, MessageError> {
        self.array().map(u8::from_be_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(MessageError::Malformed("cut off"))?;
        self.rest = rest;
        Ok(*array)
    }

    fn bytes(&mut self, length: usize) -> Result<&[u8], MessageError> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(MessageError::Malformed("cut off"))?;
        self.rest = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn change(id: u64, revision: u64, json_bytes: usize) -> Change {
        let json = (json_bytes > 0).then(|| vec![b'x'; json_bytes].into());
        Change { id: ItemId::from_parts(id, 1), revision, json }
    }

    fn changes(part: u32, from: u64, to: u64, changes: Vec<Change>) -> Changes {
        Changes { store_id: [7; 16], part, from, to, changes }
    }

    fn decoded(messages: &[Vec<u8>]) -> Vec<Message> {
        messages.iter().map(|bytes| Message::decode(bytes).expect("it was just encoded")).collect()
    }

    #[test]
    fn a_message_stands_byte_by_byte() {
        let id = ItemId::from_parts(0x0123_4567_89ab, 1);
        let change = |revision, json: Option<&[u8]>| Change { id, revision, json: json.map(Into::into) };
        let published = [
            changes(1, 2, 5, vec![change(4, Some(b"{}"))]),
            changes(2, 6, 6, Vec::new()),
            changes(3, 8, 9, vec![change(9, None)]),
        ];
        let mut expected = vec![1];
        expected.extend([7; 16]);
        for (part, from, to, revision, json) in [(1, 2, 5, 4, &b"{}"[..]), (3, 8, 9, 9, b"")] {
            expected.extend([0, 0, 0, part]);
            expected.extend([0, 0, 0, 0, 0, 0, 0, from]);
            expected.extend([0, 0, 0, 0, 0, 0, 0, to]);
            expected.extend([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
            expected.extend(id.to_bytes());
            expected.extend([0, 0, 0, 0, 0, 0, 0, revision]);
            expected.extend([0, 0, 0, json.len() as u8]);
            expected.extend(json);
        }
        assert_eq!(encode(&published), [expected]);
    }

    #[test]
    fn what_is_too_large_goes_in_pieces() {
        let row = |id| change(id, id, ITEM_JSON_BYTES_MAX);
        /// Partition, index and count of each piece, by message.
        type Pieces = &'static [&'static [(u32, u32, u32)]];
        let cases: [(&str, Vec<Changes>, Pieces); 5] = [
            ("nothing", vec![changes(0, 3, 3, Vec::new())], &[]),
            ("moved and not changed", vec![changes(0, 3, 4, Vec::new())], &[&[(0, 0, 1)]]),
            ("four fit", vec![changes(0, 0, 4, (1..5).map(row).collect())], &[&[(0, 0, 1)]]),
            (
                "nine in three, and the next partition behind the rest",
                vec![changes(5, 0, 9, (1..10).map(row).collect()), changes(6, 0, 2, (1..3).map(row).collect())],
                &[&[(5, 0, 3)], &[(5, 1, 3)], &[(5, 2, 3), (6, 0, 1)]],
            ),
            (
                "another store, another message",
                vec![changes(0, 1, 2, Vec::new()), Changes { store_id: [8; 16], ..changes(0, 2, 3, Vec::new()) }],
                &[&[(0, 0, 1)], &[(0, 0, 1)]],
            ),
        ];
        for (name, published, expected) in cases {
            let messages = encode(&published);
            assert!(messages.iter().all(|bytes| bytes.len() <= MESSAGE_BYTES_MAX), "{name}");
            let pieces = |message: Message| -> Vec<(u32, u32, u32)> {
                message.pieces.iter().map(|piece| (piece.part, piece.index, piece.count)).collect()
            };
            let pieces: Vec<_> = decoded(&messages).into_iter().map(pieces).collect();
            assert_eq!(pieces, expected, "{name}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let good = encode(&[changes(0, 1, 9, vec![change(1, 2, 2), change(2, 3, 0)])]).remove(0);
        let second = HEAD_BYTES + PIECE_HEAD_BYTES + CHANGE_HEAD_BYTES + 2;
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let cases: [(&str, Vec<u8>, &str); 12] = [
            ("nothing", Vec::new(), "cut off"),
            ("later format", with(0, 2), "message of format 2"),
            ("no piece", good[..HEAD_BYTES].to_vec(), "cut off"),
            ("cut off", good[..good.len() - 1].to_vec(), "cut off"),
            ("moves nothing", with(HEAD_BYTES + 11, 9), "moves nothing"),
            ("beyond the last", with(HEAD_BYTES + 23, 1), "beyond the last"),
            ("no pieces", with(HEAD_BYTES + 27, 0), "beyond the last"),
            ("more changes than there are", with(HEAD_BYTES + 28, 255), "cut off"),
            ("no version 7", with(second + 6, 0), "no UUIDv7"),
            ("out of order", with(second + 5, 0), "out of order"),
            ("revision outside", with(second + 23, 1), "outside"),
            ("too long", with(second + 24, 1), "longer than any item"),
        ];
        for (name, bytes, expected) in cases {
            let error = Message::decode(&bytes).expect_err(name).to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
        let mut long = good.clone();
        long.resize(MESSAGE_BYTES_MAX + 1, 0);
        assert_eq!(Message::decode(&long), Err(MessageError::Malformed("longer than any message")));
    }

    fn any_changes() -> impl Strategy<Value = Changes> {
        let rows = prop::collection::btree_map(0..1_000_u64, (1..=50_u64, 0..3_usize), 0..12);
        (0..2_u8, 0..4_u32, any::<u32>(), 0..=50_u64, rows).prop_map(|(store, part, from, length, rows)| {
            let from = u64::from(from);
            let rows = if length == 0 { BTreeMap::new() } else { rows };
            // Small ones, and so large ones that a few make a second piece.
            let json_bytes = [0, 200, ITEM_JSON_BYTES_MAX];
            let rows = rows
                .into_iter()
                .map(|(id, (revision, size))| change(id, from + 1 + (revision - 1) % length, json_bytes[size]));
            Changes { store_id: [store; 16], ..changes(part, from, from + length, rows.collect()) }
        })
    }

    /// What a follower of everything puts together again, which must be what was published.
    fn joined(messages: Vec<Message>) -> Vec<Changes> {
        let mut all: Vec<Changes> = Vec::new();
        for Message { store_id, pieces } in messages {
            for Piece { part, from, to, index, count, changes } in pieces {
                if index == 0 {
                    all.push(Changes { store_id, part, from, to, changes });
                } else {
                    let last = all.last_mut().expect("the first piece comes first");
                    assert_eq!((last.store_id, last.part, last.from, last.to), (store_id, part, from, to));
                    last.changes.extend(changes);
                }
                assert!(index < count);
            }
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn messages_come_back(mut published in prop::collection::vec(any_changes(), 0..8)) {
            let messages = encode(&published);
            prop_assert!(messages.iter().all(|bytes| bytes.len() <= MESSAGE_BYTES_MAX));
            published.retain(|changes| changes.from < changes.to);
            prop_assert_eq!(joined(decoded(&messages)), published);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), is_format: bool) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut().filter(|_| is_format) {
                *first = FORMAT;
            }
            check_total(&bytes);
        }

        #[test]
        fn a_changed_message_is_read_or_refused(
            published in prop::collection::vec(any_changes(), 1..4),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            for mut bytes in encode(&published) {
                for (at, byte) in &edits {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }
                check_total(&bytes);
                check_total(&bytes[..cut.index(bytes.len())]);
            }
        }
    }

    /// No bytes make it panic, and what is read keeps the promises that followers rely on.
    fn check_total(bytes: &[u8]) {
        let Ok(message) = Message::decode(bytes) else { return };
        for piece in &message.pieces {
            assert!(piece.from < piece.to && piece.index < piece.count);
            assert!(piece.changes.is_sorted_by(|before, after| before.id < after.id));
            for change in &piece.changes {
                assert!(change.revision > piece.from && change.revision <= piece.to);
                assert!(change.json.as_ref().is_none_or(|json| (1..=ITEM_JSON_BYTES_MAX).contains(&json.len())));
            }
        }
    }
}
