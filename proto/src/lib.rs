//! Placeholder crate map.
pub mod id;
