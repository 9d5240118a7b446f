//! `/health`, `/ready` and `/metrics`: put together when asked for.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde_json::json;

use crate::exposition::Format;
use crate::process;
use crate::publish::PublishMetrics;
use crate::redis::documents::DocumentMetrics;
use crate::service::board::{Board, PartView, View};
use crate::service::measured::ApplyMetrics;

/// What the pages are made of.
pub struct Pages {
    board: Arc<Board>,
    registry: Registry,
    /// What is not of us: names without our prefix.
    process: Registry,
}

/// What the parts of a worker count.
pub struct Counted {
    /// The loops.
    pub apply: ApplyMetrics,
    /// The publisher.
    pub publish: PublishMetrics,
    /// The documents.
    pub documents: DocumentMetrics,
}

impl Pages {
    /// Pages of what `board` knows and the others count.
    pub fn new(board: Arc<Board>, Counted { apply, publish, documents }: Counted) -> Self {
        let mut registry = Registry::with_prefix("todo_worker");
        registry.register("batch_commands", "Commands of a batch", apply.commands);
        registry.register("apply_seconds", "Time from asking the store for rows to their commit", apply.seconds);
        registry.register("publish_seconds", "Time from a commit to its message", publish.seconds);
        registry.register("published", "Batches of changes sent", publish.published);
        registry.register("publish_dropped", "Batches of changes dropped; followers repair", publish.dropped);
        registry.register("messages", "Messages sent", publish.messages);
        registry.register("message_bytes", "Bytes of messages sent", publish.message_bytes);
        registry.register("documents_written", "Times that the documents were set", documents.written);
        registry.register("documents_refused", "Times that newer documents stood there already", documents.refused);
        registry.register("documents_failed", "Times that the store or Redis was away for them", documents.failed);
        registry.register_collector(Box::new(Parts(Arc::clone(&board))));
        Self { board, registry, process: process::registry() }
    }

    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/health", get(async || "alive\n"))
            .route("/ready", get(async |State(pages): State<Arc<Self>>| pages.ready()))
            .route("/metrics", get(async |State(pages): State<Arc<Self>>, fields: HeaderMap| pages.metrics(&fields)))
            .with_state(Arc::new(self))
    }

    /// 200 while this worker is there for its partitions and none of them is halted.
    fn ready(&self) -> Response {
        let view = self.board.view();
        let halted: Vec<_> = view.halted().map(|(part, why)| json!({ "part": part, "remedy": why })).collect();
        let ready = view.trouble.is_none() && halted.is_empty();
        let body = json!({
            "status": if ready { "ready" } else { "not ready" },
            "because": view.trouble,
            "halted": halted,
            "workers": view.workers,
            "partitions": view.parts.iter().filter(|part| part.held).map(|part| part.part).collect::<Vec<_>>(),
            "lag": view.parts.iter().filter(|part| part.held).map(|part| part.lag).sum::<u64>(),
        });
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        answer(status, "application/json", format!("{body}\n"))
    }

    fn metrics(&self, fields: &HeaderMap) -> Response {
        let format = Format::of_accept(fields.get(header::ACCEPT).map(HeaderValue::as_bytes));
        match format.encode(&[&self.registry, &self.process]) {
            Ok(text) => answer(StatusCode::OK, format.content_type(), text),
            Err(fmt::Error) => {
                answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "the metrics cannot be encoded\n".to_owned())
            }
        }
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-store")], body).into_response()
}

/// What the board knows, by partition.
#[derive(Debug)]
struct Parts(Arc<Board>);

type PerPart = (&'static str, &'static str, fn(&PartView) -> u64);

const COUNTERS: [PerPart; 7] = [
    ("batches", "Transactions committed", |part| part.status.batches),
    ("retries", "Batches that had to be given up or tried again", |part| part.status.failures),
    ("commands", "Commands applied", |part| part.status.counts.commands),
    ("changed", "Commands that changed a todo", |part| part.status.counts.changed),
    ("nothing", "Commands that had nothing to change", |part| part.status.counts.nothing),
    ("ghosts", "Records that a producer's number showed to be sent twice", |part| part.status.counts.ghosts),
    ("dead_letters", "Commands kept aside", |part| part.status.counts.dead_letters),
];

const GAUGES: [PerPart; 3] = [
    ("position", "Position of the partition", |part| part.status.position),
    ("lag", "Records in the log that are not applied", |part| part.lag),
    ("caught_up_at_seconds", "Everything appended before this time is applied", |part| {
        part.status.caught_up_at_ms / 1_000
    }),
];

impl Collector for Parts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let view = self.0.view();
        for (name, help, count) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for part in &view.parts {
                let labels = [("part", part.part.to_string())];
                ConstCounter::new(count(part)).encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, value) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for part in view.parts.iter().filter(|part| part.held) {
                let labels = [("part", part.part.to_string())];
                ConstGauge::new(value(part).cast_signed()).encode(family.encode_family(&labels)?)?;
            }
        }
        halted(&view, &mut encoder)?;
        let held = view.parts.iter().filter(|part| part.held).count();
        for (name, help, value) in
            [("leases", "Partitions that this worker has", held), ("workers", "Workers that are there", view.workers)]
        {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value as i64).encode(metric)?;
        }
        Ok(())
    }
}

/// A series for each halted partition, with what is to be done about it.
fn halted(view: &View, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let help = "1 for a partition that is not applied until somebody follows the remedy";
    let mut family = encoder.encode_descriptor("halted", help, None, MetricType::Gauge)?;
    for (part, why) in view.halted() {
        let labels = [("part", part.to_string()), ("remedy", why.to_owned())];
        ConstGauge::new(1).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
