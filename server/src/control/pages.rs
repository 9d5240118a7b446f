//! `/ready` and `/metrics`: put together when asked for, from counters that cost nobody anything meanwhile.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use serde_json::json;
use todo_worker::exposition::Format;
use todo_worker::process;

use crate::control::access_log::AccessMetrics;
use crate::control::backend::{Backend, Readiness};
use crate::counters::{Count, ShardCounters};
use crate::http::connection::{DeferredAnswer, Page};
use crate::http::reject::Reject;
use crate::latency::Latencies;
use crate::snapshot::Snapshot;
use crate::snapshot::response::JSON;

/// What the follower notes of the snapshots it makes.
#[derive(Debug)]
pub struct FeedMetrics {
    /// Seconds that one refresh took.
    pub refresh_seconds: Histogram,
    version: AtomicU64,
    items: AtomicU64,
    bytes: AtomicU64,
    position: AtomicU64,
    is_loaded: AtomicBool,
}

/// Seconds from handing a write over to its outcome, and how many ended how.
#[derive(Debug)]
pub struct WriteMetrics {
    /// Seconds from handing over to the outcome.
    pub seconds: Histogram,
    /// Durable and visible.
    pub acknowledged: AtomicU64,
    /// Certainly without effect.
    pub not_appended: AtomicU64,
    /// Possibly with effect.
    pub unknown: AtomicU64,
}

/// What both pages are made of.
#[derive(Clone)]
pub struct Sources {
    /// By shard.
    pub counters: Vec<Arc<ShardCounters>>,
    /// The snapshot's.
    pub feed: Arc<FeedMetrics>,
    /// The writes'.
    pub writes: Arc<WriteMetrics>,
    /// The access log's.
    pub access: Arc<AccessMetrics>,
    /// What stands behind the process.
    pub backend: Backend,
    /// The process is going.
    pub draining: Arc<AtomicBool>,
    /// `io_uring`, `epoll` or `kqueue`.
    pub driver: &'static str,
}

/// Writes the pages.
pub struct Pages {
    registry: Registry,
    /// What is not of us: names without our prefix.
    process: Registry,
    sources: Sources,
}

impl Default for FeedMetrics {
    fn default() -> FeedMetrics {
        FeedMetrics {
            refresh_seconds: Histogram::new(exponential_buckets(0.000_001, 4.0, 12)),
            version: AtomicU64::new(0),
            items: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            position: AtomicU64::new(0),
            is_loaded: AtomicBool::new(false),
        }
    }
}

impl FeedMetrics {
    /// Notes what is served from now on.
    pub fn set_snapshot(&self, snapshot: &Snapshot) {
        self.version.store(snapshot.version(), Relaxed);
        self.items.store(u64::from(snapshot.items_count()), Relaxed);
        self.bytes.store(snapshot.bytes(), Relaxed);
        self.position.store(snapshot.positions().iter().sum(), Relaxed);
        self.is_loaded.store(snapshot.is_loaded(), Relaxed);
    }
}

impl Default for WriteMetrics {
    fn default() -> WriteMetrics {
        WriteMetrics {
            seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 14)),
            acknowledged: AtomicU64::new(0),
            not_appended: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
        }
    }
}

impl Pages {
    /// Pages from `sources`.
    pub fn new(sources: Sources) -> Pages {
        let mut registry = Registry::with_prefix("todo");
        registry.register(
            "snapshot_refresh_seconds",
            "Time to make and publish a snapshot",
            sources.feed.refresh_seconds.clone(),
        );
        registry.register(
            "write_seconds",
            "Time from handing a write over to its outcome",
            sources.writes.seconds.clone(),
        );
        sources.backend.register(&mut registry);
        registry.register_collector(Box::new(Counted(sources.clone())));
        Pages { registry, process: process::registry(), sources }
    }

    /// One page.
    pub fn answer(&self, page: Page) -> DeferredAnswer {
        match page {
            Page::Ready => self.ready(),
            Page::Metrics(format) => self.metrics(format),
        }
    }

    /// 200 from the first snapshot until draining begins.
    fn ready(&self) -> DeferredAnswer {
        let draining = self.sources.draining.load(Relaxed);
        let readiness = self.sources.backend.readiness(self.sources.feed.is_loaded.load(Relaxed));
        let (status, refused) = match &readiness {
            _ if draining => ("draining", Some("the server is shutting down".to_owned())),
            Readiness { is_loaded: false, writes_refused, .. } => {
                let refused = writes_refused.clone();
                ("starting", refused.or_else(|| Some("the first snapshot is not loaded yet".to_owned())))
            }
            Readiness { writes_refused, .. } => ("ready", writes_refused.clone()),
        };
        let why: serde_json::Map<_, _> =
            readiness.away.iter().map(|(name, why)| ((*name).to_owned(), why.as_str().into())).collect();
        let body = json!({
            "status": status,
            "writes": refused.is_none(),
            "writes_refused_because": refused,
            "away": readiness.away.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            "away_because": why,
            "position": self.sources.feed.position.load(Relaxed),
            "todos_in_memory": self.sources.feed.items.load(Relaxed),
        });
        DeferredAnswer::Body {
            status: if status == "ready" { 200 } else { 503 },
            content_type: JSON,
            extra: "Cache-Control: no-store\r\n".to_owned(),
            etag: None,
            body: format!("{body}\n").into_bytes(),
        }
    }

    fn metrics(&self, format: Format) -> DeferredAnswer {
        match self.text(format) {
            Ok(text) => DeferredAnswer::Body {
                status: 200,
                content_type: format.content_type(),
                extra: "Cache-Control: no-store\r\nVary: Accept\r\n".to_owned(),
                etag: None,
                body: text.into_bytes(),
            },
            Err(fmt::Error) => {
                tracing::error!("the metrics cannot be encoded");
                DeferredAnswer::Reject(Reject::StoreUnavailable)
            }
        }
    }

    /// All figures as they are now.
    ///
    /// # Errors
    /// One cannot be encoded, which is a fault of ours.
    pub fn text(&self, format: Format) -> Result<String, fmt::Error> {
        format.encode(&[&self.registry, &self.process])
    }
}

/// Everything that is counted elsewhere and only read here.
struct Counted(Sources);

impl fmt::Debug for Counted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Counted")
    }
}

type PerShard = (&'static str, &'static str, fn(&ShardCounters) -> &Count);

const SHARD_COUNTERS: [PerShard; 15] = [
    ("accepted", "Connections taken", |shard| &shard.accepted),
    ("adopted", "Connections taken over from the process before", |shard| &shard.adopted),
    ("cut", "Connections ended by a deadline or a bound", |shard| &shard.cut),
    ("proxy_refused", "Connections without the PROXY header that they should begin with", |shard| &shard.proxy_refused),
    ("accept_exhausted", "Times that accepting waited for descriptors or memory", |shard| &shard.accept_exhausted),
    ("reads", "Reads from sockets that brought bytes", |shard| &shard.reads),
    ("read_bytes", "Bytes read", |shard| &shard.read_bytes),
    ("socket_writes", "Writes to sockets", |shard| &shard.writes),
    ("file_writes", "Writes to sockets by sendfile from a ready-made response's file", |shard| &shard.file_writes),
    ("files_failed", "Files of ready-made responses that could not be made", |shard| &shard.files_failed),
    ("written_bytes", "Bytes written", |shard| &shard.written_bytes),
    ("limit_overflows", "Times that no more addresses or subjects could be kept apart", |shard| &shard.purse_overflows),
    ("deferred", "Groups handed to the control plane", |shard| &shard.deferred),
    ("queue_full", "Groups refused because a queue was full", |shard| &shard.queue_full),
    ("access_dropped", "Access log records dropped because their ring was full", |shard| &shard.access_dropped),
];

type ShardLatencies = (&'static str, &'static str, fn(&ShardCounters) -> &Latencies);

const SHARD_LATENCIES: [ShardLatencies; 2] = [
    ("batch_seconds", "From a batch's bytes being in to its answer being written, one batch in 1024", |shard| {
        &shard.batches
    }),
    ("round_late_seconds", "How much later than due the shard came round to its sweep", |shard| &shard.rounds),
];

const SHARD_GAUGES: [PerShard; 7] = [
    ("connections", "Connections open", |shard| &shard.connections),
    ("busy_connections", "Connections that read into a buffer of their own", |shard| &shard.busy),
    ("limit_entries", "Addresses and subjects whose limits are kept", |shard| &shard.purses),
    ("input_bytes", "Bytes of unfinished requests held", |shard| &shard.input_bytes),
    ("unsent_bytes", "Bytes of answers that clients have not taken", |shard| &shard.unsent_bytes),
    ("ready_bytes", "Bytes of ready-made responses", |shard| &shard.ready_bytes),
    ("file_bytes", "Bytes of the files of ready-made responses", |shard| &shard.file_bytes),
];

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.requests(&mut encoder)?;
        self.rejects(&mut encoder)?;
        for (name, help, count) in SHARD_COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (shard, counters) in self.0.counters.iter().enumerate() {
                let labels = [("shard", shard.to_string())];
                ConstCounter::new(count(counters).get()).encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, latencies) in SHARD_LATENCIES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for (shard, counters) in self.0.counters.iter().enumerate() {
                let (labels, latencies) = ([("shard", shard.to_string())], latencies(counters));
                let buckets: Vec<(f64, u64)> = latencies.buckets().collect();
                let count = buckets.iter().map(|(_, count)| count).sum();
                let mut metric = family.encode_family(&labels)?;
                metric.encode_histogram::<NoLabelSet>(latencies.sum_seconds(), count, &buckets, None)?;
            }
        }
        for (name, help, count) in SHARD_GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (shard, counters) in self.0.counters.iter().enumerate() {
                let labels = [("shard", shard.to_string())];
                ConstGauge::new(count(counters).get() as i64).encode(family.encode_family(&labels)?)?;
            }
        }
        self.snapshot_and_writes(&mut encoder)
    }
}

impl Counted {
    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor("requests", "Requests answered", None, MetricType::Counter)?;
        for (shard, counters) in self.0.counters.iter().enumerate() {
            for (kind, status, count) in counters.requests() {
                let labels =
                    [("shard", shard.to_string()), ("route", kind.label().to_owned()), ("status", status.to_string())];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn rejects(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family =
            encoder.encode_descriptor("rejects", "Requests refused, by problem", None, MetricType::Counter)?;
        for (shard, counters) in self.0.counters.iter().enumerate() {
            // Several faults may share a problem type; each type is one series of the shard.
            let mut by_slug = std::collections::BTreeMap::new();
            for index in 0..Reject::KINDS {
                *by_slug.entry(Reject::slug(index)).or_insert(0) += counters.rejects(index);
            }
            // Those that have not occurred too, at every shard: a rate sees a first time only where there was a zero
            // before, and a sum of rates only what each of them sees. So there are always as many series as problems
            // times shards, some fifty a shard, and no request makes one more.
            for (slug, count) in by_slug {
                let labels = [("shard", shard.to_string()), ("problem", slug.to_owned())];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn snapshot_and_writes(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Sources { feed, writes, access, backend, driver, draining, .. } = &self.0;
        let position = feed.position.load(Relaxed);
        let gauges: [(&str, &str, u64); 5] = [
            ("snapshot_items", "Todos in memory", feed.items.load(Relaxed)),
            ("snapshot_bytes", "Bytes of JSON in memory", feed.bytes.load(Relaxed)),
            ("snapshot_version", "Snapshots published since the start", feed.version.load(Relaxed)),
            ("snapshot_position", "Log position that the snapshot contains", position),
            ("draining", "1 while the process is going", u64::from(draining.load(Relaxed))),
        ];
        for (name, help, value) in gauges {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value as i64).encode(metric)?;
        }
        let mut build = encoder.encode_descriptor("build", "1; what runs", None, MetricType::Gauge)?;
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("commit", env!("BUILD_COMMIT"))];
        ConstGauge::new(1).encode(build.encode_family(&labels)?)?;
        let mut info = encoder.encode_descriptor("driver", "The I/O driver in use", None, MetricType::Gauge)?;
        ConstGauge::new(1).encode(info.encode_family(&[("driver", *driver)])?)?;
        let mut outcomes = encoder.encode_descriptor("writes", "Writes by outcome", None, MetricType::Counter)?;
        let counts = [
            ("acknowledged", &writes.acknowledged),
            ("not_appended", &writes.not_appended),
            ("unknown", &writes.unknown),
        ];
        for (outcome, count) in counts {
            ConstCounter::new(count.load(Relaxed)).encode(outcomes.encode_family(&[("outcome", outcome)])?)?;
        }
        let access = [
            ("access_records", "Access log records written", &access.written),
            ("access_write_errors", "Access log records lost because they could not be written", &access.lost),
        ];
        for (name, help, count) in access {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count.load(Relaxed)).encode(metric)?;
        }
        backend.encode(encoder, position)
    }
}
