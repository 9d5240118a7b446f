//! What stands behind the process, as `/ready` and `/metrics` tell of it.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use todo_worker::apply::{Status, Writing};
use tokio::sync::watch;

use crate::bridge::Writes;
use crate::control::follow::drive::{Ages, View};

const WRITES_REFUSED: &str = "1 while no writes are taken; /ready says why";

/// What stands behind the process.
#[derive(Clone)]
pub enum Backend {
    /// A file and the apply loop, in this process.
    Embedded {
        /// The queue.
        writes: Writes,
        /// The loop's word.
        status: watch::Receiver<Status>,
        /// Seconds from each commit until it was served.
        ages: Ages,
    },
    /// Kafka, Postgres and Redis.
    Cluster {
        /// The queues.
        writes: Writes,
        /// What is known of the store.
        view: watch::Receiver<View>,
        /// Why no writes are taken; `None` while they are.
        refused: watch::Receiver<Option<String>>,
    },
}

/// Whether the process does its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// There is something to serve.
    pub is_loaded: bool,
    /// Why no writes are taken; `None` while they are.
    pub writes_refused: Option<String>,
    /// What is away, and what is known of it.
    pub away: Vec<(&'static str, String)>,
}

impl Backend {
    /// Why the store of a cluster does not answer; `None` while it does, and for a file.
    pub fn store_away(&self) -> Option<String> {
        match self {
            Backend::Embedded { .. } => None,
            Backend::Cluster { view, .. } => view.borrow().store_away.clone(),
        }
    }

    /// Whether the process does its work.
    pub fn readiness(&self, is_loaded: bool) -> Readiness {
        match self {
            Backend::Embedded { status, .. } => {
                let status = status.borrow();
                let (writes_refused, away) = match &status.writing {
                    Writing::Opening => (Some("the store is being opened".to_owned()), None),
                    Writing::Open => (None, None),
                    Writing::Failing(why) | Writing::Ended(why) => (Some(why.clone()), Some(why.clone())),
                };
                let away = away.map(|why| ("store", why)).into_iter().collect();
                Readiness { is_loaded, writes_refused, away }
            }
            Backend::Cluster { writes, view, refused } => {
                let view = view.borrow();
                let kafka = match writes {
                    Writes::Embedded(_) => None,
                    Writes::Cluster { appender, .. } => appender.away(),
                };
                let kafka = kafka.map(|away| format!("{} partitions: {}", away.partitions_count, away.why));
                let refused = refused.borrow().clone();
                let away = [
                    ("postgres", view.store_away.clone()),
                    ("redis", view.messages_away.clone()),
                    ("kafka", kafka.clone()),
                ];
                let away = away.into_iter().filter_map(|(name, why)| Some((name, why?))).collect();
                Readiness { is_loaded, writes_refused: refused.or(kafka), away }
            }
        }
    }

    /// Registers what is measured by itself.
    pub fn register(&self, registry: &mut Registry) {
        let (since, ages) = match self {
            Backend::Embedded { ages, .. } => ("Time from a commit until it was served", ages.clone()),
            Backend::Cluster { view, .. } => {
                ("Time from a look at the store until what it saw was served", view.borrow().age_seconds.clone())
            }
        };
        registry.register("snapshot_reached_seconds", since, ages.0);
        let Backend::Cluster { writes: Writes::Cluster { appender, .. }, .. } = self else { return };
        let appends = appender.metrics();
        registry.register("append_batches", "Batches that Kafka acknowledged", appends.batches.clone());
        registry.register("append_commands", "Commands in them", appends.commands.clone());
        registry.register("append_unknown", "Batches whose outcome is unknown", appends.unknown.clone());
        registry.register(
            "append_seconds",
            "Time from sending a batch to its acknowledgement",
            appends.seconds.clone(),
        );
    }

    /// Writes what is only read when asked for. `position` is that of what is served.
    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>, position: u64) -> Result<(), fmt::Error> {
        match self {
            Backend::Embedded { writes, status, .. } => {
                let status = status.borrow().clone();
                gauges(encoder, writes, position, status.position)?;
                // Nobody else writes to the file: without a commit that is not served, what is served is the present.
                // The loop that commits is told a moment after the shards, and by what is served that moment is over.
                let unserved_since = status.unpublished_since.filter(|_| position < status.position);
                age(encoder, unserved_since.map_or(Duration::ZERO, |since| since.elapsed()))?;
                let is_refusing = self.readiness(true).writes_refused.is_some();
                gauge(encoder, "writes_refused", WRITES_REFUSED, u64::from(is_refusing))?;
                counters(
                    encoder,
                    &[
                        ("commits", "Transactions committed", status.batches),
                        ("commit_failures", "Transactions that had to be given up or tried again", status.failures),
                    ],
                )
            }
            Backend::Cluster { writes, view, refused } => {
                let view = view.borrow();
                let look = view.look.as_ref().map(|(look, _)| look);
                let stored = look.map_or(0, |look| look.stand.positions.iter().sum());
                gauges(encoder, writes, position, stored)?;
                let readiness = self.readiness(true);
                for name in ["postgres", "redis", "kafka"] {
                    let is_away = readiness.away.iter().any(|(away, _)| *away == name);
                    let help = "1 while it does not answer";
                    gauge(encoder, &format!("{name}_away"), help, u64::from(is_away))?;
                }
                let is_refusing = u64::from(refused.borrow().is_some());
                gauge(encoder, "writes_refused", WRITES_REFUSED, is_refusing)?;
                if let Some(as_of) = view.as_of {
                    age(encoder, as_of.elapsed())?;
                }
                let counts = view.counts;
                counters(
                    encoder,
                    &[
                        ("follow_messages", "Messages of changes that were read", counts.messages),
                        ("follow_unreadable", "Messages that this version cannot read", counts.unreadable),
                        ("follow_gaps", "Messages whose predecessor was lost", counts.gaps),
                        ("follow_missed", "Times that messages came faster than they could be taken", counts.missed),
                        ("follow_away", "Times that the channel of changes went away", counts.away),
                        ("follow_repairs", "Repairs from the store that brought something", counts.repairs),
                        ("follow_loads", "Snapshots loaded from the store", counts.loads),
                    ],
                )
            }
        }
    }
}

fn gauges(encoder: &mut DescriptorEncoder<'_>, writes: &Writes, position: u64, stored: u64) -> Result<(), fmt::Error> {
    gauge(encoder, "store_position", "Log position that the store contains", stored)?;
    let behind = stored.saturating_sub(position);
    gauge(encoder, "snapshot_behind", "Positions in the store that the snapshot lacks", behind)?;
    let waiting = writes.waiting_count() as u64;
    gauge(encoder, "write_queue_commands", "Writes that wait for their outcome", waiting)?;
    gauge(encoder, "write_queue_bytes", "Bytes of them", writes.waiting_bytes() as u64)
}

/// Everything that the store had `age` ago is served.
fn age(encoder: &mut DescriptorEncoder<'_>, age: Duration) -> Result<(), fmt::Error> {
    let help = "Everything in the store so many seconds ago is served";
    let metric = encoder.encode_descriptor("snapshot_age_seconds", help, None, MetricType::Gauge)?;
    ConstGauge::new(age.as_secs_f64()).encode(metric)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value.cast_signed()).encode(metric)
}

fn counters(encoder: &mut DescriptorEncoder<'_>, counters: &[(&str, &str, u64)]) -> Result<(), fmt::Error> {
    for (name, help, value) in counters {
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(*value).encode(metric)?;
    }
    Ok(())
}
