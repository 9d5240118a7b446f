//! The generator against servers that behave, misbehave and stall; the floors against the generator;
//! results of other clients, audited.

#![cfg(target_os = "linux")]

mod audit;
mod exchanges;
mod floors;
mod generator;
mod load_command;
mod matrix;
mod report;
mod writer;
