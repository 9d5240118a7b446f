//! Sample todos for a store: appended and applied like any other write.

use todo_worker::producer::new_producer;
use todo_worker::sample::SampleTodos;
use todo_worker::sqlite::SqliteStore;

use crate::clock;

/// Why a store could not be filled.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// The store took only some of them.
    #[error("the store could not be filled with sample todos: {0}")]
    Refused(#[from] todo_worker::fill::FillError),
    /// No runtime.
    #[error("a runtime cannot be started ({0}): the system is short of memory or descriptors")]
    System(#[from] std::io::Error),
}

/// Fills `store` with `count` varied todos, the newest made now. Gives the store back.
///
/// # Errors
/// [`FillError`]; what was stored before it stays.
pub fn fill(store: SqliteStore, count: u64) -> Result<SqliteStore, FillError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let samples = SampleTodos::new(fastrand::u64(..), count, clock::wall_ms());
    let (store, filled) = runtime.block_on(todo_worker::fill::fill(store, new_producer(), samples));
    filled?;
    Ok(store)
}
