//! One page of a run, and two runs compared.
//!
//! A run is a directory. `report` reads what is there and writes `report.html` beside it; only a matrix must be there:
//!
//! | file | written by |
//! | --- | --- |
//! | `machine.json` | `todo-bench machine --json >machine.json` |
//! | `matrix.json`, `matrix-NAME.json` | `todo-bench matrix --json matrix.json` |
//! | `latency.json`, `latency-NAME.json` | `todo-bench load --rate N --json >latency-N.json`, one for each rate, or a list of them |
//! | `memory.json`, `memory-NAME.json` | `todo-bench idle --json memory-idle.json`, `todo-bench stall --json memory-stall.json` |
//! | `writes.json`, `writes-NAME.json` | `todo-bench writes --json writes.json` |
//! | `cluster.json` | `todo-bench cluster --json cluster.json` |
//!
//! Each may hold one result or a list. A kind of server that this version does not know is shown by its name; one whose name
//! begins with `peer-` is a peer, and `peer-original` is the original.
//!
//! - `input` is what was read; `trust` says which of it not to believe, and why; `wire` is what a network card allows.
//! - `html` writes markup that is balanced and escaped by construction; `chart` draws; `units` writes numbers.
//! - `page` is the page, `summary` its first screen; `compare` is two runs.

mod chart;
pub mod compare;
mod html;
pub mod input;
mod page;
mod summary;
mod trust;
mod units;
pub mod wire;

pub use compare::{Comparison, Difference};
pub use input::Run;

/// The whole page, with the comparison when there is one.
pub fn render(run: &Run, comparison: Option<&Comparison>) -> String {
    page::render(run, comparison)
}
