//! The generator against servers that behave, misbehave and stall; the floors against the generator.

#![cfg(target_os = "linux")]

mod floors;
mod generator;
mod matrix;
mod writer;
