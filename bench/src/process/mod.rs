//! What the kernel tells about the process under test.

pub mod child;
pub mod counters;
pub mod cpu;
pub mod host;
pub mod machine;
pub mod memory;
