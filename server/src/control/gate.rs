//! Whether a server of a cluster may take writes: PROTOCOL "Append". What it refuses would be taken for too old, or would
//! go to another partition than the todo's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use todo_proto::defects::{Defect, is_on};
use todo_worker::reads::Look;
use tokio::time::Instant;

use crate::control::follow::drive::View;
use crate::limits::{AHEAD_MS_MAX, CLOCK_OFF_MS_MAX, LAG_MS_MAX};

/// Looked at by the shards, set by the control plane. Begins closed.
#[derive(Debug, Default)]
pub struct Gate(AtomicBool);

impl Gate {
    /// A closed one.
    pub fn closed() -> Arc<Gate> {
        Arc::new(Gate::default())
    }

    /// Writes are taken from now on, or not.
    pub fn set(&self, is_open: bool) {
        self.0.store(is_open, Ordering::Relaxed);
    }

    /// Whether writes are taken.
    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The log that a server is configured to append to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configured {
    /// Its topic.
    pub topic: String,
    /// The partitions that todos are spread over.
    pub partitions: u32,
}

/// Why no write may be taken, with the remedy; `None` when all is well. `own_ms` is this machine's clock at `now`, in ms
/// since the Unix epoch.
pub fn refusal(view: &View, own_ms: u64, now: Instant, configured: &Configured) -> Option<String> {
    let Some((look, looked_at)) = &view.look else {
        return Some(match &view.store_away {
            Some(why) => format!("Postgres does not answer ({why})"),
            None => "Postgres has not answered yet".to_owned(),
        });
    };
    let Configured { topic, partitions } = configured;
    let store_partitions = look.stand.positions.len();
    if store_partitions != *partitions as usize && !is_on(Defect::NoPartCount) {
        return Some(format!(
            "the store has {store_partitions} partitions and KAFKA_PARTITIONS is {partitions}: set it to {store_partitions}"
        ));
    }
    if look.topic != *topic {
        return Some(format!(
            "the store is filled from topic {} and KAFKA_TODO_TOPIC is {topic}: what is written there is never applied",
            look.topic
        ));
    }
    let store_ms = store_clock_ms(look, *looked_at, now);
    let off_ms = own_ms.abs_diff(store_ms);
    if off_ms > CLOCK_OFF_MS_MAX {
        return Some(format!("this machine's clock is {} s off that of Postgres: set it right", off_ms / 1_000));
    }
    let unseen = now.saturating_duration_since(*looked_at);
    if unseen.as_millis() > u128::from(LAG_MS_MAX) {
        return Some(format!("Postgres has not answered for {} h", unseen.as_secs() / 3_600));
    }
    (0..).zip(&look.stand.caught_up_at_ms).find_map(|(part, at_ms)| lag(part, *at_ms, store_ms))
}

/// What the store's clock shows at `now`, going by the look and this machine's monotonic clock.
pub fn store_clock_ms(look: &Look, looked_at: Instant, now: Instant) -> u64 {
    look.now_ms + now.saturating_duration_since(looked_at).as_millis() as u64
}

fn lag(part: u32, caught_up_at_ms: u64, store_ms: u64) -> Option<String> {
    match caught_up_at_ms {
        0 => Some(format!("partition {part} was never applied: start a todo-worker")),
        at_ms if at_ms > store_ms + AHEAD_MS_MAX => Some(format!(
            "partition {part} was caught up {} min ahead of the clock of Postgres: set that clock right",
            (at_ms - store_ms) / 60_000
        )),
        at_ms if store_ms.saturating_sub(at_ms) > LAG_MS_MAX => {
            Some(format!("partition {part} is {} h behind: see to the todo-workers", (store_ms - at_ms) / 3_600_000))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use todo_worker::reads::Stand;

    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;
    const HOUR_MS: u64 = 3_600_000;

    fn view(looked_at: Instant, now_ms: u64, caught_up_at_ms: [u64; 2]) -> View {
        let stand = Stand { store_id: [1; 16], positions: vec![0; 2], caught_up_at_ms: caught_up_at_ms.to_vec() };
        let look = Look { stand, purged: vec![0; 2], oldest: None, now_ms, topic: "commands".to_owned() };
        View { look: Some((look, looked_at)), ..View::default() }
    }

    fn configured(topic: &str, partitions: u32) -> Configured {
        Configured { topic: topic.to_owned(), partitions }
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_be_lost_is_not_taken() {
        let looked_at = Instant::now();
        let day = 24 * HOUR_MS;
        /// Name; caught up at; the own clock; seconds since the look; configured partitions; what is said.
        type Case = (&'static str, [u64; 2], u64, u64, u32, Option<&'static str>);
        let cases: [Case; 11] = [
            ("all is well", [NOW_MS; 2], NOW_MS, 0, 2, None),
            ("a look of a while ago", [NOW_MS; 2], NOW_MS + 10_000, 10, 2, None),
            ("another count", [NOW_MS; 2], NOW_MS, 0, 3, Some("set it to 2")),
            ("a slow clock", [NOW_MS; 2], NOW_MS - 60_001, 0, 2, Some("60 s off")),
            ("a clock within reason", [NOW_MS; 2], NOW_MS + 60_000, 0, 2, None),
            ("a fast clock", [NOW_MS; 2], NOW_MS + 60_001, 0, 2, Some("set it right")),
            ("never applied", [NOW_MS, 0], NOW_MS, 0, 2, Some("partition 1 was never applied")),
            ("a day behind", [NOW_MS - day - 1, NOW_MS], NOW_MS, 0, 2, Some("partition 0 is 24 h behind")),
            ("nearly a day behind", [NOW_MS - day, NOW_MS], NOW_MS, 0, 2, None),
            ("ahead", [NOW_MS, NOW_MS + HOUR_MS / 2 + 1], NOW_MS, 0, 2, Some("30 min ahead")),
            (
                "not seen for a day",
                [NOW_MS + HOUR_MS; 2],
                NOW_MS + day + 1_000,
                86_401,
                2,
                Some("not answered for 24 h"),
            ),
        ];
        for (name, caught_up_at_ms, own_ms, seconds, partitions, expected) in cases {
            let now = looked_at + Duration::from_secs(seconds);
            let said =
                refusal(&view(looked_at, NOW_MS, caught_up_at_ms), own_ms, now, &configured("commands", partitions));
            match expected {
                None => assert_eq!(said, None, "{name}"),
                Some(words) => assert!(said.as_ref().is_some_and(|said| said.contains(words)), "{name}: {said:?}"),
            }
        }
        let two = configured("commands", 2);
        let another = refusal(&view(looked_at, NOW_MS, [NOW_MS; 2]), NOW_MS, looked_at, &configured("others", 2));
        assert!(another.is_some_and(|said| said.contains("never applied")));
        let unseen = View { store_away: Some("cut".to_owned()), ..View::default() };
        assert_eq!(refusal(&unseen, NOW_MS, looked_at, &two).as_deref(), Some("Postgres does not answer (cut)"));
        assert_eq!(
            refusal(&View::default(), NOW_MS, looked_at, &two).as_deref(),
            Some("Postgres has not answered yet")
        );
    }
}
