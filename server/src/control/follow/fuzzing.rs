//! What the fuzz target of messages runs: whatever comes from the channel, what is served stays whole.

use std::sync::Arc;

use todo_proto::id::ItemId;
use todo_worker::messages::Heard;

use super::{Follow, Shown};
use crate::control::feed::Window;
use crate::snapshot::Builder;

/// Format and store of the messages: bytes that are refused at once teach nothing.
const HEAD: [u8; 17] = [1, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7];

/// Messages, each behind two bytes of its length, to one that serves an empty snapshot of two partitions.
pub fn messages(mut data: &[u8]) {
    let mut follow = Follow::new(Window { items_max: 8, bytes_max: 1 << 20 }, 0);
    follow.heard(Heard::Subscribed);
    let version = follow.begin_load();
    follow.loaded(Builder::new([7; 16], version).finish(Box::new([0, 0]), ItemId::ZERO));
    let mut served = follow.replace(&Shown::default()).expect("the first load is served");
    while let Some(([high, low], rest)) = data.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (body, rest) = rest.split_at(length);
        data = rest;
        follow.heard(Heard::Message([&HEAD[..], body].concat()));
        if follow.is_fresh() {
            let newer = follow.refresh();
            assert!(newer.positions().iter().zip(served.positions()).all(|(newer, older)| newer >= older));
            assert!(newer.items_count() <= 8 && newer.version() > served.version());
            served = Arc::clone(&newer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fuzzing::replay;

    #[test]
    fn corpus_replays() {
        replay("messages", messages);
    }
}
