//! What a connection's decisions draw on: the shard's tables, its view of the data, its clock readings.
//!
//! Everything here belongs to one shard, or is immutable. The shell keeps it current (snapshot, time) between batches,
//! so that one batch sees one version of all of it.

use std::rc::Rc;
use std::sync::Arc;

use ipnet::IpNet;
use todo_proto::id::IdSource;

use crate::admission::purses::{PurseId, Purses};
use crate::counters::ShardCounters;
use crate::http::access::Access;
use crate::http::bearer::Keys;
use crate::http::cors::AllowedOrigin;
use crate::http::date::HttpDate;
use crate::http::known::KnownHeads;
use crate::http::output::{Held, Pool};
use crate::snapshot::response::{Current, Responses};

/// The times that a batch may look at without asking a clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Monotonic milliseconds, at most [`crate::limits::TICK_MS`] old.
    pub tick_ms: u64,
    /// Unix seconds, at most 100 ms behind.
    pub second: u64,
    /// Unix milliseconds of the same moment.
    pub wall_ms: u64,
}

/// Deadlines and bounds that an operator may set.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Largest `limit` of a list.
    pub limit_max: u32,
    /// Origins whose pages may ask from a browser.
    pub allowed_origins: &'static [AllowedOrigin],
    /// Metrics and dashboard are on another address, and not here.
    pub admin_elsewhere: bool,
    /// Networks of proxies: a connection from one begins with a PROXY header.
    pub proxy_from: Vec<IpNet>,
    /// A head must be whole this long after its first byte, in milliseconds.
    pub head_timeout_ms: u64,
    /// A body must be whole this long after its head, in milliseconds.
    pub body_timeout_ms: u64,
    /// Connections that each shard may have at once; one more makes the one go that has been without a whole head longest.
    pub connections_max: usize,
    /// A connection without a request is closed after this, in milliseconds.
    pub idle_timeout_ms: u64,
    /// A client must take [`crate::limits::PROGRESS_BYTES`], or all it is owed, in each such time, in milliseconds.
    pub progress_timeout_ms: u64,
}

/// One shard's side of every decision.
pub struct Site {
    /// Heads parsed before.
    pub known: KnownHeads,
    /// Ready-made responses.
    pub responses: Responses,
    /// Buffers for answers.
    pub pool: Pool,
    /// The snapshot that this batch sees.
    pub held: Rc<Held>,
    /// The times that this batch sees.
    pub now: Now,
    /// `now.second` as a Date.
    pub date: HttpDate,
    /// Keys of the tokens that writes need.
    pub keys: Arc<Keys>,
    /// Where new ids come from.
    pub ids: IdSource,
    /// Randomness for ids.
    pub random: fastrand::Rng,
    /// Unix milliseconds; asked for writes only.
    pub wall_clock: fn() -> u64,
    /// Deadlines and bounds.
    pub rules: Arc<Rules>,
    /// The process is going: every answer says that its connection closes.
    pub draining: bool,
    /// Another process goes on with the connections: one between requests waits to be passed on, even while draining.
    pub moving: bool,
    /// Writes are not looked at: another process will, or this one when that has failed.
    pub holds_writes: bool,
    /// What metrics are made of; this shard is the only writer.
    pub counters: Arc<ShardCounters>,
    /// Bytes of input held for all connections of the shard.
    pub input_bytes: usize,
    /// This shard's side of the access log.
    pub access: Access,
    /// What addresses and subjects may still do.
    pub purses: Purses,
    /// Requests that the connection may be answered in this turn; counted down. `u32::MAX` at its beginning where it is not
    /// limited: no turn has as many.
    pub requests_left: u32,
    /// Requests of this turn that were refused for want of them.
    pub requests_refused: u32,
}

impl Site {
    /// What ready-made responses depend on, beside the table they live in.
    pub fn current(&mut self) -> (&mut Responses, Current<'_>) {
        let current =
            Current { snapshot: &self.held.snapshot, second: self.now.second, date: &self.date, pool: &self.pool };
        (&mut self.responses, current)
    }

    /// Runs a turn of a connection within what its address may still ask: one branch where it is not limited.
    pub fn within(&mut self, purse: Option<PurseId>, turn: impl FnOnce(&mut Site)) {
        let Some(purse) = purse else {
            self.requests_left = u32::MAX;
            return turn(self);
        };
        let before = self.purses.requests_left(purse);
        (self.requests_left, self.requests_refused) = (before, 0);
        turn(self);
        self.purses.spend(purse, i64::from(before - self.requests_left), i64::from(self.requests_refused));
    }

    /// Takes one request out of what the connection may have in this turn; false when there is none.
    pub fn take_request(&mut self) -> bool {
        let is_there = self.requests_left > 0;
        self.requests_left -= u32::from(is_there);
        self.requests_refused += u32::from(!is_there);
        is_there
    }

    /// Moves the times on; the Date follows the second.
    pub fn set_now(&mut self, now: Now) {
        self.date.advance(now.second);
        self.now = now;
    }
}
