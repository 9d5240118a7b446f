//! `seed`: sample todos, or those of a file, by the way of every write.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use todo_proto::command::TodoCommand;
use todo_worker::producer::new_producer;
use todo_worker::sqlite::SqliteStore;

use super::line::read_line;
use crate::clock;
use crate::fill::FillError;
use crate::limits::IMPORT_LINE_BYTES_MAX;

/// A file that cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A line of it is no todo.
    #[error("line {line} of {} is no todo: {why}. Nothing was imported.", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
}

/// The lines of a file, which have all been looked at.
pub struct ImportFile {
    path: PathBuf,
    /// How many todos it has.
    pub todos_count: u64,
}

impl ImportFile {
    /// Looks at every line, so that a file is imported whole or not at all.
    ///
    /// # Errors
    /// It cannot be read, or a line of it is no todo.
    pub fn check(path: &Path) -> Result<ImportFile, FileError> {
        let mut todos_count = 0;
        for (line, number) in lines(path)?.zip(1..) {
            let line = line.map_err(|source| FileError::Read { path: path.to_owned(), source })?;
            let of_line = |why| FileError::Line { path: path.to_owned(), line: number, why };
            if line.len() > IMPORT_LINE_BYTES_MAX {
                return Err(of_line("it is longer than any todo".to_owned()));
            }
            read_line(&line, 0).map_err(of_line)?;
            todos_count += 1;
        }
        Ok(ImportFile { path: path.to_owned(), todos_count })
    }

    /// The commands that import its todos, in its order. A file that is changed meanwhile ends early.
    ///
    /// # Errors
    /// It cannot be read any more.
    pub fn commands(&self) -> Result<impl Iterator<Item = TodoCommand> + use<>, FileError> {
        let now_ms = clock::wall_ms();
        Ok(lines(&self.path)?.map_while(move |line| read_line(&line.ok()?, now_ms).ok()))
    }
}

/// Imports a file into a data file that nobody else writes. Gives the store back, and how many todos were new.
///
/// # Errors
/// The file cannot be read any more; [`FillError`], and then what was stored before it stays.
pub fn import(store: SqliteStore, file: &ImportFile) -> Result<(SqliteStore, u64), ImportError> {
    let commands = file.commands()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(FillError::from)?;
    let (store, filled) = runtime.block_on(todo_worker::fill::fill(store, new_producer(), commands));
    Ok((store, filled.map_err(FillError::from)?))
}

/// Why a file was not imported, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store.
    #[error(transparent)]
    Fill(#[from] FillError),
}

fn lines(path: &Path) -> Result<impl Iterator<Item = std::io::Result<Vec<u8>>> + use<>, FileError> {
    let file = File::open(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    Ok(BufReader::new(file).split(b'\n').filter(|line| line.as_ref().map_or(true, |line| !line.is_empty())))
}
