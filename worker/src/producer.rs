//! The name of a process in a log.

use todo_proto::command::ProducerId;

/// A producer's name, new for every process and log. Random: two are the same once in 2^64 pairs or so.
pub fn new_producer() -> ProducerId {
    fastrand::u128(..).to_le_bytes()
}
