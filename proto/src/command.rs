//! A write asked for, and how it stands in the log.
//!
//! A record, format 1, numbers big-endian, a text being two bytes of length and its UTF-8:
//!
//! ```text
//!  0   1  format, 1
//!  1  16  producer: a UUID made anew at each start of the process that appends
//! 17   8  number: grows with every record of this producer in this partition
//! 25   8  received_at: ms since the Unix epoch
//! 33   8  fingerprint: SipHash-2-4, fixed key, of everything from the operation to the end
//! 41      subject, a text
//!      1  operation: 1 create, 2 replace, 3 patch, 4 delete, 5 import
//!     16  id
//!         create, replace: flags (1 completed), title, description
//!         patch:           flags (1 completed is named, 2 its value, 4 title is named, 8 description is named),
//!                          then the texts that are named, title first
//!         delete:          nothing
//!         import:          flags (1 completed, 2 born is there), title, description, updated_at 8, born 8 if there
//! ```
//!
//! Nothing may follow, and bits without a meaning are zero: a record has one encoding.

use std::fmt;

use siphasher::sip::SipHasher24;

use crate::id::ItemId;
use crate::limits::{RECORD_BYTES_MAX, SUBJECT_BYTES_MAX};
use crate::todo::{TodoFields, TodoPatch};

/// One start of a process that appends to the log.
pub type ProducerId = [u8; 16];

/// A write asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TodoCommand {
    /// The todo it is about.
    pub id: ItemId,
    /// What is to be done.
    pub operation: Operation,
    /// Who asked: the token's `sub`, at most [`SUBJECT_BYTES_MAX`] bytes.
    pub subject: String,
    /// When it arrived, in ms since the Unix epoch.
    pub received_at_ms: u64,
}

/// What is to be done with a todo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// POST.
    Create(TodoFields),
    /// PUT.
    Replace(TodoFields),
    /// PATCH.
    Patch(TodoPatch),
    /// DELETE.
    Delete,
    /// A todo that was one before, from a file or from a dead letter. Its `created_at` is its id's time, as always.
    Import(Import),
}

/// What an imported todo brings along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Its fields.
    pub fields: TodoFields,
    /// When it was last changed, in ms since the Unix epoch.
    pub updated_at_ms: u64,
    /// The fingerprint of the POST that made it, if known.
    pub born: Option<u64>,
}

/// A command as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Who appended it.
    pub producer: ProducerId,
    /// Above every number that this producer appended to the partition before.
    pub number: u64,
    /// What was appended.
    pub command: TodoCommand,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// A later version wrote it: reading on would lose it, so the partition halts.
    UnknownFormat(u8),
    /// No version writes this; it becomes a dead letter.
    Malformed(&'static str),
}

/// The only format there is so far.
const FORMAT: u8 = 1;
const FINGERPRINT_KEY: (u64, u64) = (0x746f_646f_2063_6f6d, 0x6d61_6e64_2076_3031);
const RECORD_KEY: (u64, u64) = (0x746f_646f_2072_6563, 0x6f72_6420_6861_7368);

const CREATE: u8 = 1;
const REPLACE: u8 = 2;
const PATCH: u8 = 3;
const DELETE: u8 = 4;
const IMPORT: u8 = 5;

const COMPLETED: u8 = 1;
const BORN: u8 = 2;
const PATCH_COMPLETED: u8 = 1;
const PATCH_COMPLETED_VALUE: u8 = 2;
const PATCH_TITLE: u8 = 4;
const PATCH_DESCRIPTION: u8 = 8;

/// The hash of a record's bytes, kept beside the offset so that a log that is not the same any more is noticed.
pub fn record_hash(bytes: &[u8]) -> u64 {
    SipHasher24::new_with_keys(RECORD_KEY.0, RECORD_KEY.1).hash(bytes)
}

impl TodoCommand {
    /// Two commands with one fingerprint ask for the same: over operation, id and fields with defaults filled in, so
    /// neither over who asked nor over when.
    pub fn fingerprint(&self) -> u64 {
        let mut out = Vec::with_capacity(256);
        self.encode_essence(&mut out);
        fingerprint(&out)
    }

    /// Bytes of memory it takes, near enough for the bounds of queues.
    pub fn memory_bytes(&self) -> usize {
        let texts = match &self.operation {
            Operation::Create(fields) | Operation::Replace(fields) => fields.texts_bytes(),
            Operation::Import(import) => import.fields.texts_bytes(),
            Operation::Patch(patch) => {
                patch.title.as_ref().map_or(0, String::len) + patch.description.as_ref().map_or(0, String::len)
            }
            Operation::Delete => 0,
        };
        size_of::<Self>() + self.subject.len() + texts
    }

    /// What the fingerprint covers: from the operation to the end of the record.
    fn encode_essence(&self, out: &mut Vec<u8>) {
        match &self.operation {
            Operation::Create(fields) => {
                self.put_operation(CREATE, out);
                put_fields(fields, 0, out);
            }
            Operation::Replace(fields) => {
                self.put_operation(REPLACE, out);
                put_fields(fields, 0, out);
            }
            Operation::Patch(patch) => {
                self.put_operation(PATCH, out);
                put_patch(patch, out);
            }
            Operation::Delete => self.put_operation(DELETE, out),
            Operation::Import(import) => {
                self.put_operation(IMPORT, out);
                put_fields(&import.fields, if import.born.is_some() { BORN } else { 0 }, out);
                out.extend_from_slice(&import.updated_at_ms.to_be_bytes());
                out.extend_from_slice(import.born.map(u64::to_be_bytes).as_ref().map_or(&[], <[u8; 8]>::as_slice));
            }
        }
    }

    fn put_operation(&self, operation: u8, out: &mut Vec<u8>) {
        out.push(operation);
        out.extend_from_slice(&self.id.to_bytes());
    }
}

impl Record {
    /// The record's one encoding. The command's texts are within their limits.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.push(FORMAT);
        out.extend_from_slice(&self.producer);
        out.extend_from_slice(&self.number.to_be_bytes());
        out.extend_from_slice(&self.command.received_at_ms.to_be_bytes());
        let fingerprint_at = out.len();
        out.extend_from_slice(&[0; 8]);
        put_text(&self.command.subject, &mut out);
        let essence_at = out.len();
        self.command.encode_essence(&mut out);
        let fingerprint = fingerprint(&out[essence_at..]);
        out[fingerprint_at..fingerprint_at + 8].copy_from_slice(&fingerprint.to_be_bytes());
        out
    }

    /// Reads a record. Fields longer than a request may bring are taken as they are; the store refuses them.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Input { rest: bytes };
        match input.byte()? {
            FORMAT => {}
            other => return Err(DecodeError::UnknownFormat(other)),
        }
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(DecodeError::Malformed("longer than any record"));
        }
        let producer = input.array()?;
        let number = input.u64()?;
        let received_at_ms = input.u64()?;
        let expected = input.u64()?;
        let subject = input.text()?;
        if subject.len() > SUBJECT_BYTES_MAX {
            return Err(DecodeError::Malformed("subject too long"));
        }
        if fingerprint(input.rest) != expected {
            return Err(DecodeError::Malformed("fingerprint differs"));
        }
        let operation = input.byte()?;
        let id = ItemId::from_bytes(input.array()?);
        if !id.is_version_7() {
            return Err(DecodeError::Malformed("id is no UUIDv7"));
        }
        let operation = input.operation(operation)?;
        if !input.rest.is_empty() {
            return Err(DecodeError::Malformed("bytes behind the end"));
        }
        Ok(Self { producer, number, command: TodoCommand { id, operation, subject, received_at_ms } })
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownFormat(format) => {
                write!(formatter, "record of format {format}, which this version cannot read")
            }
            Self::Malformed(what) => write!(formatter, "not a record: {what}"),
        }
    }
}

impl std::error::Error for DecodeError {}

fn fingerprint(essence: &[u8]) -> u64 {
    SipHasher24::new_with_keys(FINGERPRINT_KEY.0, FINGERPRINT_KEY.1).hash(essence)
}

fn put_fields(fields: &TodoFields, flags: u8, out: &mut Vec<u8>) {
    out.push(flags | if fields.completed { COMPLETED } else { 0 });
    put_text(&fields.title, out);
    put_text(&fields.description, out);
}

fn put_patch(patch: &TodoPatch, out: &mut Vec<u8>) {
    let completed = match patch.completed {
        None => 0,
        Some(false) => PATCH_COMPLETED,
        Some(true) => PATCH_COMPLETED | PATCH_COMPLETED_VALUE,
    };
    let title = if patch.title.is_some() { PATCH_TITLE } else { 0 };
    let description = if patch.description.is_some() { PATCH_DESCRIPTION } else { 0 };
    out.push(completed | title | description);
    for text in patch.title.iter().chain(&patch.description) {
        put_text(text, out);
    }
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    let length = u16::try_from(text.len()).expect("texts are checked against their limits before they are a command");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// What is left of a record that is being read.
struct Input<'a> {
    rest: &'a [u8],
}

impl Input<'_> {
    fn operation(&mut self, operation: u8) -> Result<Operation, DecodeError> {
        Ok(match operation {
            CREATE => Operation::Create(self.fields(0)?.0),
            REPLACE => Operation::Replace(self.fields(0)?.0),
            PATCH => Operation::Patch(self.patch()?),
            DELETE => Operation::Delete,
            IMPORT => {
                let (fields, flags) = self.fields(BORN)?;
                let updated_at_ms = self.u64()?;
                let born = if flags & BORN != 0 { Some(self.u64()?) } else { None };
                Operation::Import(Import { fields, updated_at_ms, born })
            }
            _ => return Err(DecodeError::Malformed("unknown operation")),
        })
    }

    /// Flags other than `more` and those of every todo have no meaning here.
    fn fields(&mut self, more: u8) -> Result<(TodoFields, u8), DecodeError> {
        let flags = self.flags(COMPLETED | more)?;
        let fields = TodoFields { completed: flags & COMPLETED != 0, title: self.text()?, description: self.text()? };
        Ok((fields, flags))
    }

    fn patch(&mut self) -> Result<TodoPatch, DecodeError> {
        let flags = self.flags(PATCH_COMPLETED | PATCH_COMPLETED_VALUE | PATCH_TITLE | PATCH_DESCRIPTION)?;
        let completed = match (flags & PATCH_COMPLETED != 0, flags & PATCH_COMPLETED_VALUE != 0) {
            (true, value) => Some(value),
            (false, false) => None,
            (false, true) => return Err(DecodeError::Malformed("flags without a meaning")),
        };
        let title = if flags & PATCH_TITLE != 0 { Some(self.text()?) } else { None };
        let description = if flags & PATCH_DESCRIPTION != 0 { Some(self.text()?) } else { None };
        Ok(TodoPatch { title, description, completed })
    }

    fn flags(&mut self, known: u8) -> Result<u8, DecodeError> {
        match self.byte()? {
            flags if flags & !known == 0 => Ok(flags),
            _ => Err(DecodeError::Malformed("flags without a meaning")),
        }
    }

    fn text(&mut self) -> Result<String, DecodeError> {
        let length = usize::from(u16::from_be_bytes(self.array()?));
        let (text, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Malformed("cut off"))?;
        self.rest = rest;
        let text = std::str::from_utf8(text).map_err(|_| DecodeError::Malformed("text is not UTF-8"))?;
        Ok(text.to_owned())
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Malformed("cut off"))?;
        self.rest = rest;
        Ok(*array)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_fields() -> impl Strategy<Value = TodoFields> {
        ("\\PC{1,20}", "\\PC{0,60}", any::<bool>()).prop_map(|(title, description, completed)| TodoFields {
            title,
            description,
            completed,
        })
    }

    fn any_operation() -> impl Strategy<Value = Operation> {
        let patch = (proptest::option::of("\\PC{1,20}"), proptest::option::of("\\PC{0,60}"), any::<Option<bool>>());
        prop_oneof![
            any_fields().prop_map(Operation::Create),
            any_fields().prop_map(Operation::Replace),
            patch.prop_map(|(title, description, completed)| {
                Operation::Patch(TodoPatch { title, description, completed })
            }),
            Just(Operation::Delete),
            (any_fields(), any::<u64>(), any::<Option<u64>>()).prop_map(|(fields, updated_at_ms, born)| {
                Operation::Import(Import { fields, updated_at_ms, born })
            }),
        ]
    }

    fn any_record() -> impl Strategy<Value = Record> {
        (any::<ProducerId>(), any::<u64>(), any::<(u64, u128, u64)>(), any_operation(), "\\PC{0,20}").prop_map(
            |(producer, number, (time_ms, random, received_at_ms), operation, subject)| {
                let id = ItemId::from_parts(time_ms, random);
                Record { producer, number, command: TodoCommand { id, operation, subject, received_at_ms } }
            },
        )
    }

    proptest! {
        #[test]
        fn records_come_back(record in any_record()) {
            let bytes = record.encode();
            prop_assert!(bytes.len() <= RECORD_BYTES_MAX);
            prop_assert_eq!(Record::decode(&bytes), Ok(record));
        }

        #[test]
        fn every_truncation_and_addition_is_an_error(record in any_record(), byte: u8) {
            let mut bytes = record.encode();
            for length in 0..bytes.len() {
                prop_assert!(Record::decode(&bytes[..length]).is_err(), "{} of {}", length, bytes.len());
            }
            bytes.push(byte);
            prop_assert!(Record::decode(&bytes).is_err());
        }

        #[test]
        fn what_decodes_was_encoded(record in any_record(), at: prop::sample::Index, flip in 1..=u8::MAX) {
            let mut bytes = record.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(other) = Record::decode(&bytes) {
                prop_assert_eq!(other.encode(), bytes);
            }
        }

        #[test]
        fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::decode(&bytes);
            if let Some(first) = bytes.first_mut() {
                *first = FORMAT;
            }
            prop_assert!(Record::decode(&bytes).is_err());
        }
    }

    fn create(title: &str) -> TodoCommand {
        let fields = TodoFields { title: title.into(), description: String::new(), completed: false };
        TodoCommand {
            id: ItemId::from_parts(1_700_000_000_000, 1),
            operation: Operation::Create(fields),
            subject: "anna".into(),
            received_at_ms: 7,
        }
    }

    #[test]
    fn the_format_stands_still() {
        let record = Record { producer: [0xaa; 16], number: 3, command: create("hi") };
        let expected = [
            &[1][..],
            &[0xaa; 16],
            &[0, 0, 0, 0, 0, 0, 0, 3],
            &[0, 0, 0, 0, 0, 0, 0, 7],
            &record.command.fingerprint().to_be_bytes(),
            &[0, 4],
            b"anna",
            &[1],
            &record.command.id.to_bytes(),
            &[0, 0, 2],
            b"hi",
            &[0, 0],
        ];
        assert_eq!(record.encode(), expected.concat());
        // Stored in rows as `born`: a change of it would make every retry a different todo.
        assert_eq!(record.command.fingerprint(), 6_841_331_997_897_859_904);
    }

    #[test]
    fn fingerprints_tell_what_was_asked_for() {
        let original = create("a");
        let same = TodoCommand { subject: "bert".into(), received_at_ms: 9, ..original.clone() };
        assert_eq!(original.fingerprint(), same.fingerprint());
        let Operation::Create(fields) = original.operation.clone() else { unreachable!("made above") };
        let others = [
            create("b"),
            TodoCommand { id: ItemId::from_parts(1, 1), ..original.clone() },
            TodoCommand { operation: Operation::Replace(fields), ..original.clone() },
            TodoCommand { operation: Operation::Delete, ..original.clone() },
        ];
        for other in others {
            assert_ne!(original.fingerprint(), other.fingerprint(), "{other:?}");
        }
    }

    #[test]
    fn a_later_format_is_not_malformed() {
        let mut bytes = Record { producer: [1; 16], number: 1, command: create("a") }.encode();
        bytes[0] = 2;
        assert_eq!(Record::decode(&bytes), Err(DecodeError::UnknownFormat(2)));
        assert_eq!(Record::decode(&[]), Err(DecodeError::Malformed("cut off")));
    }
}
