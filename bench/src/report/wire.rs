//! What a network card lets through: arithmetic, nothing is measured.
//!
//! A full segment carries 1,448 bytes and takes 1,538 on the wire: TCP 20 and its timestamps 12, IP 20, Ethernet 14 and
//! its checksum 4, preamble 8, gap 12. Requests and acknowledgements go the other way and take none of it.

/// Bytes of a segment's payload: 1,500 less IP, TCP and timestamps.
pub const SEGMENT_BYTES: usize = 1_448;
/// What each segment takes beside its payload.
pub const OVERHEAD_BYTES: usize = 90;
/// Gigabits a second.
pub const CARDS_GBE: [f64; 3] = [10.0, 25.0, 100.0];

const _: () = assert!(SEGMENT_BYTES + OVERHEAD_BYTES == 1_538);

/// Wire bytes of an answer that is sent by itself: its last segment is not full.
pub fn alone_bytes(response_bytes: usize) -> f64 {
    (response_bytes + OVERHEAD_BYTES * response_bytes.div_ceil(SEGMENT_BYTES)) as f64
}

/// Wire bytes of an answer among many that fill their segments: pipelined ones do.
pub fn streamed_bytes(response_bytes: usize) -> f64 {
    response_bytes as f64 * (SEGMENT_BYTES + OVERHEAD_BYTES) as f64 / SEGMENT_BYTES as f64
}

/// Wire bytes of an answer at this depth.
pub fn bytes_at_depth(response_bytes: usize, depth: usize) -> f64 {
    if depth > 1 { streamed_bytes(response_bytes) } else { alone_bytes(response_bytes) }
}

/// Answers a second that a card lets through.
pub fn responses_per_second(card_gbe: f64, wire_bytes: f64) -> f64 {
    card_gbe * 1e9 / 8.0 / wire_bytes
}

/// Gigabits a second that these answers need.
pub fn gbe_needed(responses_per_second: f64, wire_bytes: f64) -> f64 {
    responses_per_second * wire_bytes * 8.0 / 1e9
}

/// The smallest card that lets so much through; `None` when none does.
pub fn card_for(gbe: f64) -> Option<f64> {
    CARDS_GBE.into_iter().find(|&card| gbe <= card)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // One byte: one segment. 1,448: one full one. 1,449: two.
        assert_eq!([1, 1_448, 1_449].map(alone_bytes), [91.0, 1_538.0, 1_629.0]);
        // 2,003 = 1,448 + 555: two segments, 2,003 + 180.
        assert_eq!(alone_bytes(2_003), 2_183.0);
        // 2,003 x 1,538 / 1,448 = 2,127.496.
        assert!((streamed_bytes(2_003) - 2_127.496).abs() < 0.001);
        assert_eq!((bytes_at_depth(2_003, 1), bytes_at_depth(1_448, 80)), (2_183.0, 1_538.0));
        // 10 Gb/s are 1.25e9 bytes; / 1,538 = 812,743.8.
        assert!((responses_per_second(10.0, 1_538.0) - 812_743.8).abs() < 0.1);
        // 100 Gb/s of 2,003-byte answers by themselves: 12.5e9 / 2,183 = 5,726,065.
        assert!((responses_per_second(100.0, 2_183.0) - 5_726_065.0).abs() < 1.0);
        // 25,431/s of 189,303 bytes: 131 segments, 189,303 + 11,790 = 201,093 bytes; x 25,431 x 8 = 40.91 Gb/s.
        assert_eq!(alone_bytes(189_303), 201_093.0);
        assert!((gbe_needed(25_431.0, 201_093.0) - 40.912).abs() < 0.001);
        assert_eq!(
            [9.0, 10.0, 10.1, 41.0, 101.0].map(card_for),
            [Some(10.0), Some(10.0), Some(25.0), Some(100.0), None]
        );
    }
}
