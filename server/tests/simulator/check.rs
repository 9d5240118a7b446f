//! What is checked: while it runs, everything that a server serves; at the end, what every client was promised.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use todo_proto::id::ItemId;
use todo_server::http::connection::DeferredAnswer;
use todo_server::http::reject::Reject;
use todo_server::snapshot::Snapshot;
use todo_server::snapshot::response::{Found, Query, find};
use todo_worker::reads::Json;
use tokio::time::sleep;

use crate::clients::{Answer, Write};
use crate::oracle::Model;
use crate::process::Servers;
use crate::world::{Fault, State, World};

/// A server is about to serve `newer`: it is exactly what the log says of its positions, and nothing goes back.
pub fn served(state: &mut State, server: usize, older: &Snapshot, newer: &Snapshot) {
    let positions = newer.positions().to_vec();
    state.note(&format!("server {server}: serves {positions:?} from {:?}", newer.floor()));
    let goes_back = older.is_loaded() && older.positions().iter().zip(&positions).any(|(old, new)| old > new);
    if goes_back || newer.version() <= older.version() {
        state.violate(format!("server {server} goes back from {:?} to {positions:?}", older.positions()));
    }
    let is_ahead = positions.iter().zip(state.store.positions()).any(|(served, stored)| *served > stored);
    if is_ahead || !state.oracle.advance(&positions) {
        state.violate(format!("server {server} serves {positions:?}, which nobody has applied"));
        return;
    }
    if let Some(what) = difference(state, newer) {
        state.violate(format!("server {server} serves at {positions:?}: {what}"));
    }
    for limit in [1, 10, u32::MAX] {
        tag(state, newer, limit);
    }
}

/// Where a snapshot differs from what the log says.
fn difference(state: &State, snapshot: &Snapshot) -> Option<String> {
    let floor = snapshot.floor();
    let expected: Vec<(ItemId, &Json)> =
        state.oracle.live_at(snapshot.positions()).rev().take_while(|(id, _)| *id >= floor).collect();
    if expected.len() != snapshot.items_count() as usize {
        return Some(format!("{} todos instead of {}", snapshot.items_count(), expected.len()));
    }
    let wrong = expected.into_iter().find(|(id, json)| snapshot.json(*id) != Some(json));
    wrong.map(|(id, json)| {
        let text =
            |json: Option<&[u8]>| json.map(|json| String::from_utf8_lossy(&json[..json.len().min(300)]).into_owned());
        format!("{id} is {:?} instead of {:?}", text(snapshot.json(id)), text(Some(json)))
    })
}

/// Equal bytes have equal tags, on every server and at every time; other bytes have others.
fn tag(state: &mut State, snapshot: &Snapshot, limit: u32) {
    let slice = snapshot.first(limit);
    if slice.body_bytes() > 20_000 {
        return;
    }
    let mut body = Vec::new();
    snapshot.copy_into(&slice, &mut body);
    let tag = slice.etag();
    let is_other = state.tags.get(&body).is_some_and(|other| *other != tag);
    if is_other {
        state.violate(format!("equal bytes have two tags: {:?} and {tag:?}", state.tags[&body]));
    }
    state.tags.insert(body, tag);
}

/// A client that reads over one connection, some of it below the window, and must never see anything older than before.
pub async fn observe(world: World, servers: Servers) {
    // By todo, the position at which what it saw last was so.
    let mut seen: HashMap<ItemId, u64> = HashMap::new();
    let mut server = None;
    loop {
        let pause = world.state().random.u64(10..200);
        sleep(std::time::Duration::from_millis(pause)).await;
        if world.state().is_healed {
            return;
        }
        let place = world.state().random.usize(0..servers.all().len());
        let current = match server.take() {
            Some(current) if servers.all().iter().any(|other| Arc::ptr_eq(other, &current)) => current,
            _ => {
                // The server has ended, so has the connection.
                seen.clear();
                Arc::clone(&servers.all()[place])
            }
        };
        let query = {
            let mut state = world.state();
            let ids: Vec<ItemId> = state.oracle.versions.keys().copied().collect();
            let id = (!ids.is_empty()).then(|| ids[state.random.usize(0..ids.len())]);
            match id {
                None => Query::List { limit: 3, after: None },
                Some(id) if state.random.bool() => Query::Item(id),
                after => Query::List { limit: 3, after },
            }
        };
        let snapshot = current.snapshot();
        let answer = match find(&snapshot, query) {
            Found::Absent => Some(Vec::new()),
            Found::Whole(slice) | Found::Short(slice) => {
                let mut body = Vec::new();
                snapshot.copy_into(&slice, &mut body);
                Some(body)
            }
            Found::Below => match current.reads.answer(query, || current.snapshot()).await {
                Ok(DeferredAnswer::Body { body, .. }) => Some(body),
                Ok(DeferredAnswer::Reject(Reject::NotFound)) => Some(Vec::new()),
                Ok(DeferredAnswer::Reject(reject)) => panic!("{reject:?}"),
                // 503: nothing was said.
                Err(_) => None,
            },
        };
        if let Some(body) = answer {
            saw(&mut world.state(), query, &body, &mut seen);
        }
        server = Some(current);
    }
}

/// Takes an answer apart, and looks up when each todo was so.
fn saw(state: &mut State, query: Query, body: &[u8], seen: &mut HashMap<ItemId, u64>) {
    let stood = state.store.positions();
    if !state.oracle.advance(&stood) {
        state.violate("the store is ahead of the log");
        return;
    }
    match query {
        Query::Item(id) => {
            let shown = (!body.is_empty()).then_some(body);
            saw_one(state, id, shown, seen);
        }
        Query::List { .. } => {
            let list = std::str::from_utf8(body).expect("JSON is UTF-8");
            let inside = list.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).expect("a list");
            // No text in here holds what stands between two todos.
            for todo in inside.split_inclusive("},").filter(|todo| !todo.is_empty()) {
                let todo = todo.strip_suffix(',').unwrap_or(todo).as_bytes();
                let id = ItemId::parse(&todo[7..43]).expect("the id comes first");
                saw_one(state, id, Some(todo), seen);
            }
        }
    }
}

fn saw_one(state: &mut State, id: ItemId, shown: Option<&[u8]>, seen: &mut HashMap<ItemId, u64>) {
    let before = seen.get(&id).copied().unwrap_or(0);
    let Some(todo) = state.oracle.versions.get(&id) else {
        if shown.is_some() {
            state.violate(format!("{id} was never written and is read"));
        }
        return;
    };
    // The version that was current at `before`, and all later ones.
    let first = todo.versions.partition_point(|(position, _)| *position <= before).saturating_sub(1);
    if shown.is_none() && todo.versions[0].0 > before {
        // It was not there yet: nothing newer need have been seen.
        return;
    }
    let found = todo.versions[first..].iter().find(|(_, json)| json.as_deref() == shown);
    match found {
        Some((position, _)) => {
            seen.insert(id, (*position).max(before));
        }
        None => {
            let what = shown.map(|json| String::from_utf8_lossy(json).into_owned());
            state.violate(format!("{id} goes back behind position {before}: {what:?}"));
        }
    }
}

/// Everything has come to rest: what is stored, what is served, and what every client was told.
pub fn at_the_end(state: &mut State, servers: &Servers) {
    let positions = state.store.positions();
    if !state.oracle.advance(&positions) {
        state.violate(format!("the store stands at {positions:?}, beyond the log"));
        return;
    }
    rows(state, &positions);
    for server in servers.all() {
        let snapshot = server.snapshot();
        let stored: Vec<_> = state.store.live().take_while(|(id, _)| *id >= snapshot.floor()).collect();
        let is_equal = snapshot.items_count() as usize == stored.len()
            && stored.iter().all(|(id, json)| snapshot.json(*id) == Some(json));
        if snapshot.positions() != positions || !is_equal {
            state.violate(format!(
                "server {} ends at {:?} with {} todos; the store is at {positions:?} with {}",
                server.number,
                snapshot.positions(),
                snapshot.items_count(),
                stored.len()
            ));
        }
        for limit in [1, 10, u32::MAX] {
            tag(state, &snapshot, limit);
        }
    }
    histories(state);
}

/// The rows are what the log says, one command after the other.
fn rows(state: &mut State, positions: &[u64]) {
    let expected: BTreeMap<ItemId, (u64, Json)> = state
        .oracle
        .live_at(positions)
        .map(|(id, json)| {
            let versions = &state.oracle.versions[&id].versions;
            (id, (versions[versions.len() - 1].0, json.clone()))
        })
        .collect();
    let stored: BTreeMap<ItemId, (u64, Json)> = state
        .store
        .todos
        .values()
        .filter_map(|stored| Some((stored.row.id, (stored.row.revision, stored.json.clone()?))))
        .collect();
    for id in expected.keys().chain(stored.keys()).copied().collect::<HashSet<_>>() {
        let (expected, stored) = (expected.get(&id), stored.get(&id));
        if expected != stored {
            let text = |found: Option<&(u64, Json)>| {
                found.map(|(revision, json)| format!("{revision}: {}", String::from_utf8_lossy(json)))
            };
            state.violate(format!("{id} is stored as {:?} instead of {:?}", text(stored), text(expected)));
        }
    }
}

/// Histories per todo: some order of the writes explains what is stored, and breaks no promise.
fn histories(state: &mut State) {
    let mut by_id: BTreeMap<ItemId, Vec<usize>> = BTreeMap::new();
    for (at, write) in state.history.writes.iter().enumerate() {
        let is_void = matches!(write.answered, Some((_, Answer::NotAppended)));
        if is_void || write.appended.is_none() {
            // It was never given to the log. Nobody may have been told that it was.
            if matches!(write.answered, Some((_, Answer::Acknowledged))) {
                state.violations.push(format!("write {at} was acknowledged and not appended"));
            }
            continue;
        }
        by_id.entry(write.command.id).or_default().push(at);
    }
    let has_jumped = state.met.contains_key(&Fault::StoreClockJump);
    let mut unexplained = Vec::new();
    for (id, writes) in by_id {
        let end = state.store.todos.get(&id).and_then(|stored| stored.json.clone());
        let of: Vec<&Write> = writes.iter().map(|at| &state.history.writes[*at]).collect();
        assert!(of.len() <= 64, "a todo is written a few times");
        let mut search = Search { id, writes: &of, end: end.as_deref(), has_jumped, refuted: HashSet::new() };
        if !search.is_explained(0, &Model::default()) {
            let said: Vec<String> = writes
                .iter()
                .zip(&of)
                .map(|(at, write)| {
                    format!(
                        "  write {at} sent {} answered {:?} as {:?}: {}",
                        write.sent,
                        write.answered,
                        write.appended.map(|name| (name.producer[0], name.number)),
                        crate::oracle::short(&write.command.operation)
                    )
                })
                .collect();
            let end = end.map(|json| String::from_utf8_lossy(&json).into_owned());
            unexplained.push(format!("no order of its writes explains {id} = {end:?}:\n{}", said.join("\n")));
        }
    }
    unexplained.into_iter().for_each(|what| state.violate(what));
}

/// Looks for an order: every acknowledged write once, any other at most once, each behind those that were acknowledged
/// before it was sent, and none that nobody knows of behind a later one of its producer that was acknowledged.
struct Search<'a> {
    id: ItemId,
    writes: &'a [&'a Write],
    end: Option<&'a [u8]>,
    /// The store's clock has jumped: a create may have been too old when its turn came.
    has_jumped: bool,
    /// Sets of writes and what they made, from which no order leads to the end.
    refuted: HashSet<(u64, Model)>,
}

impl Search<'_> {
    fn is_explained(&mut self, done: u64, now: &Model) -> bool {
        let is_done = |at: usize| done & (1 << at) != 0;
        let is_acknowledged = |write: &Write| matches!(write.answered, Some((_, Answer::Acknowledged)));
        let all_acknowledged = (0..self.writes.len()).all(|at| is_done(at) || !is_acknowledged(self.writes[at]));
        if all_acknowledged && now.json_of(self.id).as_deref() == self.end {
            return true;
        }
        if !self.refuted.insert((done, now.clone())) {
            return false;
        }
        for at in (0..self.writes.len()).filter(|at| !is_done(*at)) {
            let write = self.writes[at];
            let may_be_next = (0..self.writes.len()).all(|other| {
                let before = self.writes[other];
                let was_answered_before =
                    matches!(before.answered, Some((moment, Answer::Acknowledged)) if moment < write.sent);
                let is_shut_out = is_acknowledged(before) && is_later_of_same_producer(before, write);
                // Whoever must come before it is done, and nobody is done that shuts it out.
                (is_done(other) || !was_answered_before) && !(is_done(other) && is_shut_out)
            });
            if !may_be_next {
                continue;
            }
            let after = now.after(&write.command, false).unwrap_or_else(|| now.clone());
            if self.is_explained(done | 1 << at, &after) {
                return true;
            }
            if self.has_jumped && !now.is_known && self.is_explained(done | 1 << at, now) {
                return true;
            }
        }
        false
    }
}

fn is_later_of_same_producer(later: &Write, write: &Write) -> bool {
    match (later.appended, write.appended) {
        (Some(later), Some(name)) => later.producer == name.producer && later.number > name.number,
        _ => false,
    }
}
