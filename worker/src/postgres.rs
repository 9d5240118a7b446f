//! The store of a cluster: Postgres, one transaction a batch, in the same transaction as the offset of the log.
//!
//! A [`Database`] hands out what works on it: [`PgStore`] writes for one apply loop, [`PgReader`] reads for a snapshot,
//! [`Leases`] shares the partitions among workers, [`DeadLetters`] is for a human. Every session has timeouts of its own on
//! the server's side, and every call one here: a server that stands still is noticed, and so is a worker that does.

mod adopt;
mod connect;
mod dead_letters;
mod leases;
mod migrate;
mod read;
mod write;

use std::error::Error as _;
use std::future::Future;

use todo_proto::id::ItemId;
use tokio::time::timeout;
use tokio_postgres::Error;
use uuid::Uuid;

use crate::limits::CALL_TIMEOUT;
use crate::traits::StoreError;

pub use connect::{Database, OpenError};
pub use dead_letters::{DeadLetterRow, DeadLetters};
pub use leases::{Leases, Share, WorkerId};
pub use migrate::StoreFacts;
pub use read::PgReader;
pub use write::PgStore;

/// What a call ends with that did not end in time.
const NO_ANSWER: &str = "Postgres has not answered in time";

/// A call of a few flights at most, given up in time. Its connection is then closed with whatever was open on it.
async fn in_time<R>(call: impl Future<Output = Result<R, StoreError>>) -> Result<R, StoreError> {
    timeout(CALL_TIMEOUT, call).await.unwrap_or_else(|_| Err(StoreError::Unavailable(NO_ANSWER.to_owned())))
}

/// What an error means to whoever holds the store: nothing was written.
fn store_error(error: &Error) -> StoreError {
    match error.code().map(tokio_postgres::error::SqlState::code) {
        Some("53100") => StoreError::Full,
        // Data exceptions and violated constraints: the row is at fault, now and for ever.
        Some(code) if code.starts_with("22") || code.starts_with("23") => StoreError::Refused(sentence(error)),
        _ => StoreError::Unavailable(sentence(error)),
    }
}

/// An error with its causes. Of what the server says only the message: the detail may hold a row.
fn sentence(error: &Error) -> String {
    if let Some(said) = error.as_db_error() {
        return format!("{} ({})", said.message(), said.code().code());
    }
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        sentence = format!("{sentence}: {error}");
        cause = error.source();
    }
    sentence
}

fn uuid(id: ItemId) -> Uuid {
    Uuid::from_bytes(id.to_bytes())
}

fn item_id(uuid: Uuid) -> ItemId {
    ItemId::from_bytes(uuid.into_bytes())
}

/// A number as Postgres has it: 64 bits with a sign. Hashes use all of them, everything else stays far below.
fn integer(number: u64) -> i64 {
    number.cast_signed()
}

/// The number that [`integer`] stored.
fn number(integer: i64) -> u64 {
    integer.cast_unsigned()
}

/// A partition as Postgres has it.
fn part_column(part: u32) -> i32 {
    part.cast_signed()
}
