//! What a refresh and a slice cost, at ten thousand items and at a million.
//!
//! `cargo run --release -p todo-server --example refresh_cost` prints medians. A refresh includes dropping the snapshot
//! before it. Each run also checks that what it timed has happened.

#![expect(clippy::disallowed_macros, clippy::disallowed_methods, reason = "it takes times and prints them")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use todo_proto::id::ItemId;
use todo_server::snapshot::{Builder, ItemChange, Snapshot};

const COUNTS: [u32; 2] = [10_000, 1_000_000];
const ROUNDS: usize = 401;
/// Calls that are timed together, where one is shorter than the clock's grain.
const CALLS: u32 = 1_000;

struct Row {
    name: &'static str,
    durations: Vec<Duration>,
}

fn main() {
    let columns: Vec<Vec<Row>> = COUNTS.iter().map(|&count| measure(count)).collect();
    println!("{:<32}{:>14}{:>14}", "median", COUNTS[0], COUNTS[1]);
    for row_index in 0..columns[0].len() {
        let medians = columns.iter().map(|rows| format!("{:>12.3}us", rows[row_index].median_us()));
        println!("{:<32}{}", columns[0][row_index].name, medians.collect::<String>());
    }
}

fn measure(count: u32) -> Vec<Row> {
    let started = Instant::now();
    let mut snapshot = load(count);
    let mut rows = vec![Row { name: "load", durations: vec![started.elapsed()] }];
    let mut next_id = u128::from(count);
    let mut revision = 0;

    rows.push(refreshes("1 scattered change", &mut snapshot, ROUNDS, || {
        revision += 1;
        vec![(random_id(count), revision)]
    }));
    rows.push(refreshes("1 create at the head", &mut snapshot, ROUNDS, || {
        next_id += 1;
        vec![(next_id, 0)]
    }));
    rows.push(refreshes("1,000 creates at the head", &mut snapshot, 41, || {
        next_id += 1_000;
        (next_id - 999..=next_id).map(|id| (id, 0)).collect()
    }));
    rows.push(refreshes("1,000 scattered changes", &mut snapshot, 41, || {
        revision += 1;
        (0..1_000).map(|_| (random_id(count), revision)).collect()
    }));

    let mut output = Vec::new();
    rows.push(calls("first(10)", || u64::from(snapshot.first(black_box(10)).items_count())));
    rows.push(calls("first(10), its tag", || snapshot.first(black_box(10)).etag().as_bytes().len() as u64));
    rows.push(calls("first(1000)", || snapshot.first(black_box(1_000)).body_bytes()));
    rows.push(calls("first(1000), its pieces", || {
        snapshot.pieces(&snapshot.first(black_box(1_000))).map(|piece| piece.len() as u64).sum()
    }));
    rows.push(calls("first(1000), copied", || {
        output.clear();
        snapshot.copy_into(&snapshot.first(black_box(1_000)), &mut output);
        output.len() as u64
    }));
    rows.push(calls("item(id)", || {
        snapshot.item(ItemId::from_u128(random_id(count))).map_or(0, |item| item.body_bytes())
    }));
    rows.push(calls("after(id, 10)", || {
        u64::from(snapshot.after(ItemId::from_u128(random_id(count)), 10).items_count())
    }));
    rows
}

fn load(count: u32) -> Snapshot {
    let mut builder = Builder::new([7; 16], 1);
    for id in (1..=u128::from(count)).rev() {
        builder.push(ItemId::from_u128(id), &json(id, 0));
    }
    builder.finish(vec![0].into(), ItemId::ZERO)
}

fn refreshes(
    name: &'static str,
    snapshot: &mut Snapshot,
    rounds: usize,
    mut changes: impl FnMut() -> Vec<(u128, u64)>,
) -> Row {
    let mut durations = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let items: Vec<(ItemId, String)> = changes()
            .into_iter()
            .map(|(id, revision)| (ItemId::from_u128(id), String::from_utf8(json(id, revision)).expect("text")))
            .collect();
        let changes: Vec<ItemChange<'_>> =
            items.iter().map(|(id, json)| ItemChange { id: *id, json: Some(json.as_bytes()) }).collect();
        let version = snapshot.version() + 1;
        let positions = vec![version].into();

        let started = Instant::now();
        *snapshot = snapshot.refresh(&changes, positions, version);
        durations.push(started.elapsed());
        let last = changes.last().expect("there are changes");
        assert_eq!(snapshot.json(last.id), last.json);
    }
    Row { name, durations }
}

fn calls(name: &'static str, mut call: impl FnMut() -> u64) -> Row {
    let durations = (0..ROUNDS)
        .map(|_| {
            let started = Instant::now();
            let sum: u64 = (0..CALLS).map(|_| black_box(call())).sum();
            let duration = started.elapsed() / CALLS;
            assert!(sum > 0, "{name} found nothing");
            duration
        })
        .collect();
    Row { name, durations }
}

impl Row {
    fn median_us(&self) -> f64 {
        let mut sorted = self.durations.clone();
        sorted.sort_unstable();
        sorted[sorted.len() / 2].as_nanos() as f64 / 1_000.0
    }
}

fn random_id(count: u32) -> u128 {
    u128::from(fastrand::u32(1..=count))
}

/// Some 185 bytes, like a todo.
fn json(id: u128, revision: u64) -> Vec<u8> {
    let time = "2026-01-01T00:00:00.000Z";
    let id = format!("01890f5c-0000-7000-8000-{id:012x}");
    let title = format!("todo {revision:04}");
    format!(
        "{{\"id\":\"{id}\",\"title\":\"{title}\",\"description\":\"soon\",\"completed\":false,\
         \"created_at\":\"{time}\",\"updated_at\":\"{time}\"}}"
    )
    .into_bytes()
}
