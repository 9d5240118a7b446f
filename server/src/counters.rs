//! What a shard counts. Each counter has one writer, its shard: load, add, relaxed store, never a read-modify-write.
//! The control plane sums them when it is asked.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::http::reject::Reject;
use crate::http::route::Route;
use crate::latency::Latencies;
use crate::snapshot::response::Query;

/// One counter or gauge with a single writer.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Only by the one thread that writes it.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }

    /// Replaces the value. Only by the one thread that writes it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The value; a moment old when another thread asks.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A request's route, as metrics tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// `GET /todos…`
    List,
    /// `GET /todos/{id}`
    Item,
    /// `POST /todos`
    Create,
    /// `PUT /todos/{id}`
    Replace,
    /// `PATCH /todos/{id}`
    Patch,
    /// `DELETE /todos/{id}`
    Delete,
    /// `GET /health`, `/ready`, `/metrics`, and pages that never change
    Page,
    /// OPTIONS, and what was refused before it had a route.
    Other,
}

impl RouteKind {
    /// All of them, in the order of their labels.
    pub const ALL: [RouteKind; 8] = [
        RouteKind::List,
        RouteKind::Item,
        RouteKind::Create,
        RouteKind::Replace,
        RouteKind::Patch,
        RouteKind::Delete,
        RouteKind::Page,
        RouteKind::Other,
    ];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            RouteKind::List => "list",
            RouteKind::Item => "item",
            RouteKind::Create => "create",
            RouteKind::Replace => "replace",
            RouteKind::Patch => "patch",
            RouteKind::Delete => "delete",
            RouteKind::Page => "page",
            RouteKind::Other => "other",
        }
    }

    /// The kind of a read.
    pub fn of_query(query: Query) -> RouteKind {
        match query {
            Query::List { .. } => RouteKind::List,
            Query::Item(_) => RouteKind::Item,
        }
    }

    /// The kind of a route.
    pub fn of(route: Route) -> RouteKind {
        match route {
            Route::List { .. } | Route::All => RouteKind::List,
            Route::Item(_) => RouteKind::Item,
            Route::Create => RouteKind::Create,
            Route::Replace(_) => RouteKind::Replace,
            Route::Patch(_) => RouteKind::Patch,
            Route::Delete(_) => RouteKind::Delete,
            Route::Health | Route::Ready | Route::Metrics | Route::Page(_) | Route::Events => RouteKind::Page,
            Route::Options(_) => RouteKind::Other,
        }
    }
}

/// Statuses that this server gives, in the order of their counters.
pub const STATUSES: [u16; 20] =
    [200, 202, 204, 304, 400, 401, 404, 405, 408, 412, 413, 414, 415, 417, 429, 431, 500, 501, 503, 505];

/// Everything that one shard counts.
#[derive(Debug)]
pub struct ShardCounters {
    requests: [[Count; STATUSES.len()]; RouteKind::ALL.len()],
    rejects: [Count; Reject::KINDS],
    /// Connections taken.
    pub accepted: Count,
    /// Connections taken over from the process before this one.
    pub adopted: Count,
    /// Connections taken and not yet let go.
    pub connections: Count,
    /// What the shard has to end before the process may: its connections, its listeners, and 1 until it has begun to
    /// drain. One number, so that a connection on its way from a listener into the count is never missed.
    pub unfinished: Count,
    /// Connections ended by a deadline or a bound, with nothing or something owed.
    pub cut: Count,
    /// Connections that should have begun with a PROXY header and did not.
    pub proxy_refused: Count,
    /// Times that accepting waited because descriptors or socket memory had run out.
    pub accept_exhausted: Count,
    /// Reads from sockets that brought bytes.
    pub reads: Count,
    /// Bytes read.
    pub read_bytes: Count,
    /// Writes to sockets.
    pub writes: Count,
    /// Bytes written.
    pub written_bytes: Count,
    /// Of the writes, those from a file.
    pub file_writes: Count,
    /// Files that could not be made.
    pub files_failed: Count,
    /// Bytes of ready-made responses' files.
    pub file_bytes: Count,
    /// Bytes of input held for unfinished requests.
    pub input_bytes: Count,
    /// Bytes of answers that clients have not taken.
    pub unsent_bytes: Count,
    /// Bytes of ready-made responses.
    pub ready_bytes: Count,
    /// From a batch's bytes being in to its answer being written: one batch in `BATCHES_PER_SAMPLE`.
    pub batches: Latencies,
    /// How much later than due the shard came round to its sweep: as long a connection may wait for its turn.
    pub rounds: Latencies,
    /// Connections that read into a buffer of their own.
    pub busy: Count,
    /// Addresses and subjects whose limits are kept.
    pub purses: Count,
    /// Times that there was no place for another one, which shares one with others.
    pub purse_overflows: Count,
    /// Deferred groups handed over.
    pub deferred: Count,
    /// Deferred groups turned away because the queue was full.
    pub queue_full: Count,
    /// Records of the access log that its ring had no room for.
    pub access_dropped: Count,
}

impl Default for ShardCounters {
    fn default() -> ShardCounters {
        ShardCounters {
            requests: Default::default(),
            rejects: std::array::from_fn(|_| Count::default()),
            accepted: Count::default(),
            adopted: Count::default(),
            connections: Count::default(),
            unfinished: Count(AtomicU64::new(1)),
            cut: Count::default(),
            proxy_refused: Count::default(),
            accept_exhausted: Count::default(),
            reads: Count::default(),
            read_bytes: Count::default(),
            writes: Count::default(),
            written_bytes: Count::default(),
            file_writes: Count::default(),
            files_failed: Count::default(),
            file_bytes: Count::default(),
            input_bytes: Count::default(),
            unsent_bytes: Count::default(),
            ready_bytes: Count::default(),
            batches: Latencies::default(),
            rounds: Latencies::default(),
            busy: Count::default(),
            purses: Count::default(),
            purse_overflows: Count::default(),
            deferred: Count::default(),
            queue_full: Count::default(),
            access_dropped: Count::default(),
        }
    }
}

impl ShardCounters {
    /// `times` requests of one kind have been answered with `status`.
    pub fn answered(&self, kind: RouteKind, status: u16, times: u64) {
        // 200 stands first: the one that every cached read takes.
        let at = STATUSES.iter().position(|known| *known == status);
        debug_assert!(at.is_some(), "status {status} is not in the list");
        if let Some(at) = at {
            self.requests[kind as usize][at].add(times);
        }
    }

    /// A request has been refused.
    pub fn rejected(&self, reject: Reject) {
        self.rejects[reject.index()].add(1);
    }

    /// Requests by route and status, those that occurred.
    pub fn requests(&self) -> impl Iterator<Item = (RouteKind, u16, u64)> + '_ {
        RouteKind::ALL.into_iter().flat_map(move |kind| {
            let counts = STATUSES.into_iter().zip(&self.requests[kind as usize]);
            counts.map(move |(status, count)| (kind, status, count.get())).filter(|(_, _, count)| *count > 0)
        })
    }

    /// How often the reject with this index occurred.
    pub fn rejects(&self, index: usize) -> u64 {
        self.rejects[index].get()
    }
}
