//! The data that driver and oracle share: what a store has had, version by version, beside the snapshots made of it.

use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use todo_proto::id::{IdSource, ItemId};

use crate::admission::purses::Purses;
use crate::counters::ShardCounters;
use crate::http::access::Access;
use crate::http::bearer::Keys;
use crate::http::date::HttpDate;
use crate::http::known::KnownHeads;
use crate::http::output::{Held, Pool};
use crate::http::site::{Now, Rules, Site};
use crate::limits::{BODY_TIMEOUT, HEAD_TIMEOUT, IDLE_TIMEOUT, LIST_LIMIT_MAX, PROGRESS_TIMEOUT};
use crate::snapshot::response::Responses;
use crate::snapshot::{Builder, ItemChange, Snapshot};

/// Unix time of everything here, in milliseconds.
pub const WALL_MS: u64 = 1_800_000_000_000;
/// The store whose items these are: the key of every tag.
pub const STORE_ID: [u8; 16] = *b"a store of tests";
/// Items of the first version.
pub const ITEMS_COUNT: u64 = 170;
/// Items of the first version that the window of a floored world holds.
pub const WINDOW_COUNT: u64 = 100;
/// Tick of every start, in milliseconds.
pub const START_TICK_MS: u64 = 1_000_000;

const SECRET: &[u8] = b"a secret of thirty-two bytes....";

/// Keys of every site.
pub static KEYS: LazyLock<Arc<Keys>> = LazyLock::new(|| Arc::new(Keys::new(SECRET)));
/// An `Authorization` value that is good for a year.
pub static BEARER: LazyLock<String> = LazyLock::new(|| {
    let token = KEYS.sign("ann", WALL_MS / 1000, 365 * 24 * 60 * 60).expect("HMAC signs everything");
    format!("Bearer {token}")
});

/// One version of the data.
pub struct Version {
    /// Newest first, nothing below the floor.
    pub items: Vec<(ItemId, Vec<u8>)>,
    /// As [`Snapshot::floor`].
    pub floor: ItemId,
    /// The same as a snapshot.
    pub snapshot: Arc<Snapshot>,
}

/// Three versions of a store that fits memory.
pub static WHOLE: LazyLock<Vec<Version>> = LazyLock::new(|| versions(ITEMS_COUNT, false));
/// Three versions of a store of which memory has the newest items.
pub static FLOORED: LazyLock<Vec<Version>> = LazyLock::new(|| versions(WINDOW_COUNT, true));

/// The id of the item that has `index` newer ones in front of it in the first version.
pub fn id_at(index: u64) -> ItemId {
    ItemId::from_parts(WALL_MS - 1_000 - index * 1_000, u128::from(index))
}

/// A shard's side that sees the first of `versions`.
pub fn site(versions: &[Version]) -> Site {
    Site {
        known: KnownHeads::default(),
        responses: Responses::default(),
        pool: Pool::new(),
        held: Rc::new(Held { snapshot: Arc::clone(&versions[0].snapshot) }),
        now: Now { tick_ms: START_TICK_MS, second: WALL_MS / 1000, wall_ms: WALL_MS },
        date: HttpDate::at(WALL_MS / 1000),
        keys: Arc::clone(&KEYS),
        ids: IdSource::default(),
        random: fastrand::Rng::with_seed(7),
        wall_clock: || WALL_MS,
        rules: Arc::new(Rules {
            connections_max: usize::MAX,
            allowed_origins: &[],
            admin_elsewhere: false,
            proxy_from: Vec::new(),
            limit_max: LIST_LIMIT_MAX,
            head_timeout_ms: HEAD_TIMEOUT.as_millis() as u64,
            body_timeout_ms: BODY_TIMEOUT.as_millis() as u64,
            idle_timeout_ms: IDLE_TIMEOUT.as_millis() as u64,
            progress_timeout_ms: PROGRESS_TIMEOUT.as_millis() as u64,
        }),
        draining: false,
        moving: false,
        holds_writes: false,
        counters: Arc::new(ShardCounters::default()),
        input_bytes: 0,
        purses: Purses::default(),
        requests_left: u32::MAX,
        requests_refused: 0,
        // Its records go nowhere: what is to be seen is that none is forgotten.
        access: Access::new(rtrb::RingBuffer::new(8).0, 3),
    }
}

/// The first `items_count` items, then the same with one more and one changed, then with one less.
fn versions(items_count: u64, is_floored: bool) -> Vec<Version> {
    let items: Vec<_> = (0..items_count).map(|index| (id_at(index), json(index, "first"))).collect();
    let floor = if is_floored { id_at(items_count - 1) } else { ItemId::ZERO };
    let mut builder = Builder::new(STORE_ID, 1);
    items.iter().for_each(|(id, json)| builder.push(*id, json));
    let first = Version { items, floor, snapshot: Arc::new(builder.finish([1].into(), floor)) };

    let newest = ItemId::from_parts(WALL_MS, 1);
    let second = next(&first, &[(newest, Some(json(1, "new"))), (id_at(5), Some(json(5, "changed")))]);
    let third = next(&second, &[(id_at(2), None)]);
    vec![first, second, third]
}

fn next(before: &Version, changes: &[(ItemId, Option<Vec<u8>>)]) -> Version {
    let mut items = before.items.clone();
    for (id, json) in changes {
        items.retain(|(other, _)| other != id);
        items.extend(json.iter().map(|json| (*id, json.clone())));
    }
    items.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
    let changes: Vec<_> = changes.iter().map(|(id, json)| ItemChange { id: *id, json: json.as_deref() }).collect();
    let version = before.snapshot.version() + 1;
    let snapshot = Arc::new(before.snapshot.refresh(&changes, [version].into(), version));
    Version { items, floor: before.floor, snapshot }
}

/// Small, but for the oldest twenty of the whole store: with them it is over a megabyte, so that it leaves as slices.
fn json(index: u64, word: &str) -> Vec<u8> {
    let length = if index >= ITEMS_COUNT - 20 { 60_000 } else { 20 + index as usize % 7 * 30 };
    format!("{{\"n\":{index},\"{word}\":\"{}\"}}", "x".repeat(length)).into_bytes()
}
