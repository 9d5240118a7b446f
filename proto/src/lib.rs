//! The shared words of the Todo API.

pub mod id;
