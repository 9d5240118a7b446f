//! Why a run could not be carried out. What a server under test does wrong is counted instead (`load::Faults`).

use std::io;

/// A failed run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A server, an argument or a measurement is not usable.
    #[error("{0}")]
    Unusable(String),
}

/// The result of a step of a run.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what was being done when the system refused.
pub trait Context<T> {
    /// Adds `what` to the error.
    fn context(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::System { what: what.into(), source: source.into() })
    }
}
