//! The store: what Postgres promises of it, and what it may do to whoever uses it.

use std::collections::BTreeMap;
use std::time::Duration;

use todo_proto::change::{Change, StoreId};
use todo_proto::command::ProducerId;
use todo_proto::defects::{Defect, is_on};
use todo_proto::fold::{Batch, DeadLetter, Partition, Row};
use todo_proto::id::ItemId;
use todo_proto::limits::RETRY_WINDOW_MS;
use todo_proto::names::TOPIC;
use todo_worker::limits::{PRODUCER_KEPT_MS, TOMBSTONE_KEPT_MS};
use todo_worker::reads::{Below, Json, Loaded, Look, OlderReader, Repair, Stand, StoreReader};
use todo_worker::traits::{Begun, CaughtUp, Named, StoreError, TodoStore};
use tokio::time::{Instant, sleep};

use crate::world::{Fault, State, World};

/// An open transaction loses its lock after standing still for so long.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(2);
/// A lock is waited for no longer than this.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);
/// Rows of a repair; more are loaded.
const REPAIR_ROWS_MAX: usize = 40;

/// What is committed, and who holds what.
pub struct Store {
    pub id: StoreId,
    pub parts: Vec<Part>,
    pub todos: BTreeMap<ItemId, Stored>,
    producers: BTreeMap<(u32, ProducerId), (u64, u64)>,
    pub dead_letters: Vec<DeadLetter>,
    /// Nobody is answered before this.
    away_until: Option<Instant>,
    sessions: u64,
}

pub struct Part {
    pub base: u64,
    pub next_offset: u64,
    last_hash: Option<u64>,
    pub caught_up_at_ms: u64,
    purged: u64,
    /// Which session holds it, and since when it has stood still.
    lock: Option<(u64, Instant)>,
}

pub struct Stored {
    pub part: u32,
    pub row: Row,
    /// Made once; `None` for a tombstone.
    pub json: Option<Json>,
}

impl Store {
    pub fn new(id: StoreId, partitions: u32) -> Store {
        let part = |_| Part { base: 0, next_offset: 0, last_hash: None, caught_up_at_ms: 0, purged: 0, lock: None };
        Store {
            id,
            parts: (0..partitions).map(part).collect(),
            todos: BTreeMap::new(),
            producers: BTreeMap::new(),
            dead_letters: Vec::new(),
            away_until: None,
            sessions: 0,
        }
    }

    pub fn positions(&self) -> Vec<u64> {
        self.parts.iter().map(Part::position).collect()
    }

    /// Live rows, newest first, with their JSON.
    pub fn live(&self) -> impl Iterator<Item = (ItemId, &Json)> {
        self.todos.iter().rev().filter_map(|(id, stored)| Some((*id, stored.json.as_ref()?)))
    }

    /// What a human does when the topic was made anew.
    pub fn adopt(&mut self, part: u32) {
        let part = &mut self.parts[part as usize];
        part.base = part.position();
        part.next_offset = 0;
        part.last_hash = None;
    }

    fn stand(&self) -> Stand {
        Stand {
            store_id: self.id,
            positions: self.positions(),
            caught_up_at_ms: self.parts.iter().map(|part| part.caught_up_at_ms).collect(),
        }
    }

    fn partition(&self, part: u32) -> Partition {
        let Part { base, next_offset, last_hash, caught_up_at_ms, .. } = self.parts[part as usize];
        Partition { store_id: self.id, part, base, next_offset, last_hash, caught_up_at_ms }
    }
}

impl Part {
    pub fn position(&self) -> u64 {
        self.base + self.next_offset
    }
}

/// A todo's JSON; `None` for a tombstone.
pub fn json(row: &Row) -> Option<Json> {
    let mut json = Vec::new();
    row.fields.as_ref()?.write_json(&mut json, row.id, row.updated_at_ms);
    Some(json.into())
}

impl World {
    /// A call to the store: it takes its time, and may find nobody.
    async fn call(&self) -> Result<(), StoreError> {
        self.pause().await;
        let mut state = self.state();
        let now = Instant::now();
        if state.strikes(Fault::StoreAway, 2) {
            let for_ms = state.random.u64(20..1_500);
            state.store.away_until = Some(now + Duration::from_millis(for_ms));
        }
        match state.store.away_until {
            Some(until) if now < until && !state.is_healed => {
                Err(StoreError::Unavailable("connection refused".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

/// A worker's connection.
pub struct Session {
    world: World,
    id: u64,
    open: Option<u32>,
}

impl Session {
    pub fn open(world: &World) -> Session {
        let id = {
            let mut state = world.state();
            state.store.sessions += 1;
            state.store.sessions
        };
        Session { world: world.clone(), id, open: None }
    }

    async fn lock(&mut self, part: u32) -> Result<(), StoreError> {
        let begun = Instant::now();
        loop {
            {
                let mut state = self.world.state();
                let now = Instant::now();
                match state.store.parts[part as usize].lock {
                    Some((holder, since)) if holder != self.id && now - since < IDLE_IN_TRANSACTION => {}
                    holder => {
                        if holder.is_some_and(|(holder, _)| holder != self.id) {
                            state.meet(Fault::FrozenWorker);
                        }
                        state.store.parts[part as usize].lock = Some((self.id, now));
                        self.open = Some(part);
                        return Ok(());
                    }
                }
            }
            if begun.elapsed() > LOCK_TIMEOUT {
                return Err(StoreError::Unavailable("canceling statement due to lock timeout".to_owned()));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The server ends a transaction whose connection was closed.
    fn roll_back(&mut self) {
        let Some(part) = self.open.take() else { return };
        let lock = &mut self.world.state().store.parts[part as usize].lock;
        if lock.is_some_and(|(holder, _)| holder == self.id) {
            *lock = None;
        }
    }

    fn holds(&self, part: u32) -> bool {
        self.world.state().store.parts[part as usize].lock.is_some_and(|(holder, _)| holder == self.id)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.roll_back();
    }
}

impl TodoStore for Session {
    async fn partition(&mut self, part: u32) -> Result<Partition, StoreError> {
        self.roll_back();
        self.world.call().await?;
        Ok(self.world.state().store.partition(part))
    }

    async fn begin(&mut self, part: u32, from: u64, named: Named) -> Result<Begun, StoreError> {
        self.roll_back();
        self.world.call().await?;
        if !is_on(Defect::NoFence) {
            self.lock(part).await?;
        }
        let (begun, freeze_ms) = {
            let mut state = self.world.state();
            let store = &state.store;
            let mut partition = store.partition(part);
            if partition.next_offset != from && !is_on(Defect::NoFence) {
                drop(state);
                self.roll_back();
                return Err(StoreError::Fenced);
            }
            partition.next_offset = from;
            let rows = named.ids.iter().filter_map(|id| Some(store.todos.get(id)?.row.clone())).collect();
            let last = |producer: &ProducerId| Some((*producer, store.producers.get(&(part, *producer))?.0));
            let producers = named.producers.iter().filter_map(last).collect();
            let begun = Begun { partition, ids_read: named.ids.len(), rows, producers };
            // Counted when another has the lock meanwhile.
            let freezes = !state.is_healed && state.random.u32(0..1_000) < 8;
            (begun, freezes.then(|| state.random.u64(500..6_000)))
        };
        if let Some(freeze_ms) = freeze_ms {
            sleep(Duration::from_millis(freeze_ms)).await;
        }
        Ok(begun)
    }

    async fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        if let Err(error) = self.world.call().await {
            self.roll_back();
            return Err(error);
        }
        let part = batch.part;
        if !is_on(Defect::NoFence) {
            if !self.holds(part) {
                self.open = None;
                return Err(StoreError::Unavailable(
                    "terminating connection due to idle-in-transaction timeout".to_owned(),
                ));
            }
            if self.world.state().store.parts[part as usize].next_offset != batch.from {
                self.roll_back();
                return Err(StoreError::Fenced);
            }
        }
        let (was_lost, has_happened) = {
            let mut state = self.world.state();
            let was_lost = state.strikes(Fault::UnknownCommit, 20);
            (was_lost, !was_lost || state.random.bool())
        };
        if has_happened {
            self.world.state().commit(batch);
        }
        self.roll_back();
        if was_lost {
            return Err(StoreError::Unknown("connection closed".to_owned()));
        }
        self.world.pause().await;
        Ok(())
    }

    async fn now_ms(&mut self) -> Result<u64, StoreError> {
        self.world.call().await?;
        Ok(self.world.state().true_ms())
    }

    async fn catch_up(&mut self, part: u32, next_offset: u64, now_ms: u64) -> Result<CaughtUp, StoreError> {
        self.roll_back();
        self.world.call().await?;
        let mut state = self.world.state();
        if state.store.parts[part as usize].next_offset != next_offset && !is_on(Defect::NoFence) {
            return Err(StoreError::Fenced);
        }
        Ok(CaughtUp { caught_up_at_ms: state.catch_up(part, now_ms), more: false })
    }
}

impl State {
    fn commit(&mut self, batch: Batch) {
        let Batch { part, to, last_hash, rows, producers, dead_letters, .. } = batch;
        let seen_ms = self.true_ms();
        for row in rows {
            let json = json(&row);
            self.store.todos.insert(row.id, Stored { part, row, json });
        }
        for (producer, last) in producers {
            self.store.producers.insert((part, producer), (last, seen_ms));
        }
        self.store.dead_letters.extend(dead_letters);
        let held = &mut self.store.parts[part as usize];
        held.next_offset = to;
        held.last_hash = last_hash;
        let position = held.position();
        self.note(&format!("store {part}: stands at {position}"));
    }

    fn catch_up(&mut self, part: u32, now_ms: u64) -> u64 {
        let held = &mut self.store.parts[part as usize];
        held.caught_up_at_ms = held.caught_up_at_ms.max(now_ms);
        let (position, caught_up_at_ms) = (held.position(), held.caught_up_at_ms);
        self.oracle.caught_up(part, position, caught_up_at_ms);
        self.store
            .producers
            .retain(|(of, _), (_, seen_ms)| *of != part || *seen_ms + PRODUCER_KEPT_MS >= caught_up_at_ms);
        let is_purged = |stored: &Stored| {
            let row = &stored.row;
            let too_old = row.id.time_ms() + RETRY_WINDOW_MS < caught_up_at_ms;
            let unseen = row.updated_at_ms + TOMBSTONE_KEPT_MS < caught_up_at_ms;
            stored.part == part && row.fields.is_none() && ((too_old && unseen) || is_on(Defect::EarlyPurge))
        };
        let mut purged = self.store.parts[part as usize].purged;
        self.store.todos.retain(|_, stored| {
            let goes = is_purged(stored);
            purged = if goes { purged.max(stored.row.revision) } else { purged };
            !goes
        });
        self.store.parts[part as usize].purged = purged;
        self.note(&format!("store {part}: caught up with {caught_up_at_ms} at {position}, purged {purged}"));
        caught_up_at_ms
    }
}

/// A server's reads.
#[derive(Clone)]
pub struct Reader(pub World);

impl StoreReader for Reader {
    async fn load(
        &mut self,
        todos_max: usize,
        json_bytes_max: usize,
        mut take: impl FnMut(ItemId, &[u8]) + Send,
    ) -> Result<Loaded, StoreError> {
        self.0.call().await?;
        let (mut stand, rows) = {
            let state = self.0.state();
            let live = state.store.live().map(|(id, json)| (id, json.clone()));
            (state.store.stand(), live.take(todos_max.saturating_add(1)).collect::<Vec<_>>())
        };
        let (mut todos_count, mut json_bytes, mut older) = (0, 0, false);
        for (id, json) in rows {
            if todos_count == todos_max || json_bytes + json.len() > json_bytes_max {
                older = true;
                break;
            }
            todos_count += 1;
            json_bytes += json.len();
            take(id, &json);
            if todos_count % 8 == 0 {
                self.0.call().await?;
            }
        }
        if is_on(Defect::PositionsAfterRows) {
            stand = self.0.state().store.stand();
        }
        self.0.pause().await;
        Ok(Loaded { stand, todos_count, json_bytes, older })
    }

    async fn look(&mut self) -> Result<Look, StoreError> {
        self.0.call().await?;
        let look = {
            let state = self.0.state();
            let store = &state.store;
            Look {
                stand: store.stand(),
                purged: store.parts.iter().map(|part| part.purged).collect(),
                oldest: store.todos.values().find(|stored| stored.row.fields.is_some()).map(|stored| stored.row.id),
                now_ms: state.true_ms(),
                topic: TOPIC.to_owned(),
            }
        };
        self.0.pause().await;
        Ok(look)
    }

    async fn repair(&mut self, part: u32, above: u64) -> Result<Repair, StoreError> {
        self.0.call().await?;
        let repair = {
            let state = self.0.state();
            let store = &state.store;
            let changed = store.todos.values().filter(|stored| stored.part == part && stored.row.revision > above);
            let change = |stored: &Stored| Change {
                id: stored.row.id,
                revision: stored.row.revision,
                json: stored.json.clone(),
            };
            let changes: Vec<Change> = changed.take(REPAIR_ROWS_MAX + 1).map(change).collect();
            let held = &store.parts[part as usize];
            if changes.len() > REPAIR_ROWS_MAX || above < held.purged {
                Repair::TooMuch
            } else {
                Repair::Changes { store_id: store.id, position: held.position(), changes }
            }
        };
        self.0.pause().await;
        Ok(repair)
    }
}

impl OlderReader for Reader {
    async fn read_below(
        &mut self,
        before: ItemId,
        todos_max: usize,
        json_bytes_max: usize,
    ) -> Result<Below, StoreError> {
        self.0.call().await?;
        let below = {
            let state = self.0.state();
            let older = state.store.todos.range(..before).rev();
            let live = older.filter_map(|(id, stored)| Some((*id, stored.json.clone()?)));
            let mut todos: Vec<_> = live.take(todos_max.saturating_add(1)).collect();
            let older = todos.len() > todos_max;
            todos.truncate(todos_max);
            assert!(todos.iter().map(|(_, json)| json.len()).sum::<usize>() <= json_bytes_max, "small todos only");
            Below { stand: state.store.stand(), todos, older }
        };
        self.0.pause().await;
        Ok(below)
    }

    async fn read_one(&mut self, id: ItemId) -> Result<(Stand, Option<Json>), StoreError> {
        self.0.call().await?;
        let found = {
            let state = self.0.state();
            (state.store.stand(), state.store.todos.get(&id).and_then(|stored| stored.json.clone()))
        };
        self.0.pause().await;
        Ok(found)
    }
}
