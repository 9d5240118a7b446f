//! Writes todos whose creation came too late after all: their dead letters go through the log once more, as imports.

use todo_proto::command::TodoCommand;
use todo_proto::fold::DeadReason;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::kafka::{Kafka, append};
use crate::limits::{PROBE_PAUSE_MIN, REPLAY_TIMEOUT};
use crate::postgres::{Database, DeadLetterRow, DeadLetters};
use crate::producer::new_producer;
use crate::service::letters::import_of;
use crate::traits::{Outcome, StoreError};

/// Why a dead letter was not replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// There is none.
    #[error(
        "there is no dead letter of partition {part} at {position}: `todo-worker dead-letters list` shows those there are"
    )]
    Missing {
        /// The partition asked for.
        part: u32,
        /// The position asked for.
        position: u64,
    },
    /// It does not hold a whole todo.
    #[error(
        "the dead letter of partition {part} at {position} is {reason}: only those that are too-old can be replayed"
    )]
    NotReplayable {
        /// Its partition.
        part: u32,
        /// Its position.
        position: u64,
        /// Why it is one.
        reason: String,
    },
    /// The store.
    #[error("the store cannot be asked: {0}")]
    Store(#[from] StoreError),
    /// The log did not take it.
    #[error(
        "the log did not take it ({0}): look whether Kafka is there, and replay again; what was taken twice is one todo"
    )]
    NotAppended(&'static str),
}

/// Replays the one of partition `part` at `position`.
///
/// # Errors
/// [`ReplayError`]; then it may be replayed again.
pub async fn one(database: &Database, kafka: &Kafka, part: u32, position: u64) -> Result<(), ReplayError> {
    let letters = database.dead_letters();
    let letter = letters.show(part, position).await?.ok_or(ReplayError::Missing { part, position })?;
    replay(&letters, kafka, &[letter]).await
}

/// Replays every one that is too old and was not replayed. Returns how many.
///
/// # Errors
/// [`ReplayError`]; those before it are replayed.
pub async fn all(database: &Database, kafka: &Kafka) -> Result<u64, ReplayError> {
    let letters = database.dead_letters();
    let mut count = 0;
    loop {
        let waiting = letters.not_replayed(DeadReason::TooOld).await?;
        if waiting.is_empty() {
            return Ok(count);
        }
        replay(&letters, kafka, &waiting).await?;
        count += waiting.len() as u64;
    }
}

async fn replay(letters: &DeadLetters, kafka: &Kafka, waiting: &[DeadLetterRow]) -> Result<(), ReplayError> {
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_millis());
    let commands = waiting.iter().map(|letter| import(letter, u64::try_from(now_ms).unwrap_or(u64::MAX)));
    let commands = commands.collect::<Result<Vec<_>, _>>()?;
    let (outcome_sender, mut outcomes) = mpsc::unbounded_channel();
    let sink = Box::new(move |settled: Vec<(usize, Outcome)>| {
        for outcome in settled {
            // Nobody asks any more after the first that was not taken.
            let _ = outcome_sender.send(outcome);
        }
    });
    let producer = new_producer();
    let (appender, appending) = append::start(kafka, kafka.partitions_count(), producer, sink);
    // A partition takes nothing before its first connection stands, and says so at once: certainly not taken, so again.
    let deadline = Instant::now() + REPLAY_TIMEOUT;
    let mut asked: Vec<(TodoCommand, usize)> = commands.into_iter().zip(0..).collect();
    while !asked.is_empty() {
        appender.try_append(asked.clone()).map_err(|_| ReplayError::NotAppended("it is closed"))?;
        let mut refused = Vec::new();
        for _ in 0..asked.len() {
            match outcomes.recv().await {
                Some((place, Outcome::Acknowledged)) => {
                    let DeadLetterRow { part, position, .. } = waiting[place];
                    letters.mark_replayed(part, position).await?;
                }
                Some((place, Outcome::NotAppended(_))) if Instant::now() < deadline => refused.push(place),
                Some((_, Outcome::NotAppended(_))) => return Err(ReplayError::NotAppended("it is away")),
                Some((_, Outcome::Unknown)) => return Err(ReplayError::NotAppended("the outcome is unknown")),
                None => return Err(ReplayError::NotAppended("it has ended")),
            }
        }
        asked.retain(|(_, place)| refused.contains(place));
        if !asked.is_empty() {
            sleep(PROBE_PAUSE_MIN).await;
        }
    }
    appending.finish().await;
    Ok(())
}

fn import(letter: &DeadLetterRow, now_ms: u64) -> Result<TodoCommand, ReplayError> {
    let too_old = letter.reason == DeadReason::TooOld.name();
    import_of(letter, now_ms).filter(|_| too_old).ok_or_else(|| ReplayError::NotReplayable {
        part: letter.part,
        position: letter.position,
        reason: letter.reason.clone(),
    })
}
