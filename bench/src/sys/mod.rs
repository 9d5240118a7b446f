//! The only unsafe code of the bench.

pub mod ring;
pub mod scheduling;
