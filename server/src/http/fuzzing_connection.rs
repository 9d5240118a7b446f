//! What the fuzz target of the connection machine runs: its driver and oracle, with everything chosen by the input.

use super::connection::proof::drive::{Plan, drive};

/// One stream of a client, moved as the input says, against the oracle.
///
/// The first byte: 1 for a store of which memory has the newest items only, 2 for a client that ends its side, 4 for
/// time that passes. The second: how many of the next bytes are choices of the driver. The rest is what the client
/// sends.
pub fn connection(data: &[u8]) {
    let [flags, choices_count, rest @ ..] = data else { return };
    let Some((choices, input)) = rest.split_at_checked(usize::from(*choices_count)) else { return };
    drive(&Plan {
        input,
        pieces: &[],
        choices,
        is_floored: flags & 1 != 0,
        ends: flags & 2 != 0,
        has_deadlines: flags & 4 != 0,
    });
}

#[cfg(test)]
mod tests {
    use super::super::fuzzing::replay;
    use super::*;

    #[test]
    fn corpus_replays() {
        replay("connection", connection);
    }

    /// Else nothing of the corpus would come through the door of writes.
    #[test]
    fn the_token_of_the_corpus_is_good() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/connection/writes");
        let writes = std::fs::read(path).unwrap();
        let token = crate::http::connection::proof::drive::bearer();
        assert!(writes.windows(token.len()).any(|window| window == token.as_bytes()));
    }
}
