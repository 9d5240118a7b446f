//! `export`: every todo of one moment, a line each, while the store is served.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use todo_worker::postgres::{Database, OpenError as DatabaseError};
use todo_worker::reads::Exported;
use todo_worker::settings::Cluster;
use todo_worker::sqlite::{OpenError, SqliteReader};
use todo_worker::traits::StoreError;

use super::line::write_line;
use crate::limits::{EXPORT_BUFFER_BYTES, STORE_CONNECTIONS_MAX};

/// Why nothing, or not everything, was exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The data file.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The cluster's store.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// While it was read.
    #[error("the export is not complete: {0}")]
    Store(#[from] StoreError),
    /// Where it is written to.
    #[error("the export is not complete: it cannot be written ({0})")]
    Output(#[from] std::io::Error),
}

/// Exports a data file, be it beside the process that has it. Returns how many todos it has.
///
/// # Errors
/// [`ExportError`]; what is written so far is whole lines.
pub fn from_file(path: &Path, output: impl Write) -> Result<u64, ExportError> {
    let mut reader = SqliteReader::open_beside(path)?;
    let mut lines = Lines::to(output);
    let count = reader.export(|todo| lines.take(todo))?;
    lines.finish()?;
    Ok(count)
}

/// Exports the store of a cluster. Returns how many todos it has.
///
/// # Errors
/// [`ExportError`]; what is written so far is whole lines.
pub async fn from_cluster(cluster: &Cluster, output: impl Write + Send) -> Result<u64, ExportError> {
    let database = Database::new(&cluster.database, STORE_CONNECTIONS_MAX)?;
    database.find_store().await?;
    let mut lines = Lines::to(output);
    let count = database.reader().export(|todo| lines.take(todo)).await?;
    lines.finish()?;
    Ok(count)
}

/// Lines on their way out.
struct Lines<W> {
    output: W,
    buffer: Vec<u8>,
    failed: Option<std::io::Error>,
}

impl<W: Write> Lines<W> {
    fn to(output: W) -> Lines<W> {
        Lines { output, buffer: Vec::new(), failed: None }
    }

    fn take(&mut self, todo: &Exported<'_>) -> ControlFlow<()> {
        write_line(&mut self.buffer, todo);
        if self.buffer.len() >= EXPORT_BUFFER_BYTES {
            self.failed = self.write().err();
        }
        if self.failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn finish(mut self) -> std::io::Result<()> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.write().and_then(|()| self.output.flush()),
        }
    }

    fn write(&mut self) -> std::io::Result<()> {
        self.output.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}
