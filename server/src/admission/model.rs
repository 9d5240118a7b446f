//! Shards, a control plane and messages between them that take their time, all of it decided by a seed: what comes through
//! is compared with what may.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use super::ledger::Ledger;
use super::purses::{Admitted, Purses, Refused};
use super::{Allowance, Entry, Grant, Key, Kind, Limits};
use crate::limits::{PURSES_FORGET_EVERY_MS, PURSES_MAX, TICK_MS};

const BEGUN_MS: u64 = 7_000;

fn allowance(per_second: u32, burst: u32, shards_count: u16) -> Allowance {
    Allowance { per_second, burst, at_begin: burst, begun_ms: BEGUN_MS, shards_count }
}

fn limits(kind: Kind, allowance: Allowance) -> Arc<Limits> {
    let mut limits = Limits::default();
    limits.allowances[kind as usize] = Some(allowance);
    Arc::new(limits)
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

enum Message {
    Report(u16, Vec<Entry>),
    Grants(u16, Vec<Grant>),
    Share(u16, Vec<Key>),
}

/// The whole of it. Messages between two ends stay in order, as in the channels that carry them.
struct World {
    shards: Vec<Purses>,
    ledger: Ledger,
    /// By the tick at which they come.
    ways: Vec<VecDeque<(u64, Message)>>,
    now_ms: u64,
    random: fastrand::Rng,
    delay_ms_max: u64,
}

impl World {
    fn new(limits: &Arc<Limits>, shards_count: u16, seed: u64) -> World {
        World {
            shards: (0..shards_count).map(|_| Purses::new(Arc::clone(limits))).collect(),
            ledger: Ledger::new(Arc::clone(limits)),
            ways: (0..2 * shards_count).map(|_| VecDeque::new()).collect(),
            now_ms: BEGUN_MS,
            random: fastrand::Rng::with_seed(seed),
            delay_ms_max: 20,
        }
    }

    fn send(&mut self, way: usize, message: Message) {
        let at_ms = self.now_ms + self.random.u64(0..=self.delay_ms_max);
        let last_ms = self.ways[way].back().map_or(0, |(at_ms, _)| *at_ms);
        self.ways[way].push_back((at_ms.max(last_ms), message));
    }

    /// One millisecond goes by.
    fn pass(&mut self) {
        self.now_ms += 1;
        let shards_count = self.shards.len();
        for way in 0..self.ways.len() {
            while self.ways[way].front().is_some_and(|(at_ms, _)| *at_ms <= self.now_ms) {
                let (_, message) = self.ways[way].pop_front().expect("looked at above");
                match message {
                    Message::Report(shard, report) => {
                        let settled = self.ledger.settle(shard, &report, self.now_ms);
                        self.send(shards_count + usize::from(shard), Message::Grants(shard, settled.grants));
                        for (other, key) in settled.shared {
                            self.send(shards_count + usize::from(other), Message::Share(other, vec![key]));
                        }
                    }
                    Message::Grants(shard, grants) => self.shards[usize::from(shard)].settle(&grants),
                    Message::Share(shard, keys) => self.shards[usize::from(shard)].share(&keys),
                }
            }
        }
        for shard in 0..shards_count {
            let is_tick = (self.now_ms + 7 * shard as u64).is_multiple_of(TICK_MS);
            let now_ms = self.now_ms - self.now_ms % TICK_MS;
            if let Some(report) = self.shards[shard].report(now_ms, is_tick) {
                self.send(shard, Message::Report(shard as u16, report));
            }
        }
    }

    fn admit(&mut self, shard: usize, from: IpAddr) -> Result<Admitted, Refused> {
        let now_ms = self.now_ms;
        self.shards[shard].admit(from, now_ms)
    }

    /// Requests that come through, of so many.
    fn ask(&mut self, shard: usize, admitted: Admitted, count: u32) -> u32 {
        let purse = admitted.requests().expect("requests are limited");
        let granted = self.shards[shard].requests_left(purse).min(count);
        self.shards[shard].spend(purse, i64::from(granted), i64::from(count - granted));
        granted
    }

    /// Until everybody is forgotten.
    fn come_to_rest(&mut self, at_most_ms: u64) {
        for _ in 0..at_most_ms {
            self.pass();
        }
        assert!(self.shards.iter().all(|shard| shard.count() == 0), "purses are forgotten");
        assert_eq!(self.ledger.accounts_count(), 0, "accounts are forgotten");
    }
}

/// Whether no window had more than `rate * t + most`, from what came through at which millisecond.
#[derive(Default)]
struct Windows {
    /// Thousandths of what came through beyond the rate, and the least of it so far.
    beyond: i64,
    least: i64,
    most: i64,
}

impl Windows {
    fn pass(&mut self, per_second: u32, came_through: i64) {
        self.beyond += came_through * 1_000;
        self.most = self.most.max(self.beyond - self.least);
        self.beyond -= i64::from(per_second);
        self.least = self.least.min(self.beyond);
    }
}

#[test]
fn no_window_has_more_than_was_promised() {
    for shards_count in [1, 2, 8] {
        for seed in 0..6 {
            let per_second = [3, 40, 1_000][seed as usize % 3];
            let allowance = allowance(per_second, (per_second * 2).max(u32::from(shards_count)), shards_count);
            let limits = limits(Kind::Requests, allowance);
            let mut world = World::new(&limits, shards_count, seed);
            let mut random = fastrand::Rng::with_seed(seed + 1_000);
            let mut connections: Vec<(usize, Admitted)> = Vec::new();
            let mut windows = Windows::default();
            let mut is_quiet = false;
            for _ in 0..20_000 {
                world.pass();
                // Sometimes long enough to be forgotten.
                if random.u32(0..4_000) == 0 {
                    is_quiet = !is_quiet;
                }
                let mut came_through = 0;
                if !is_quiet {
                    if random.u32(0..20) == 0 {
                        let shard = random.usize(0..usize::from(shards_count));
                        let admitted = world.admit(shard, address(1)).expect("connections are not limited");
                        connections.push((shard, admitted));
                    }
                    for &(shard, admitted) in &connections {
                        if random.u32(0..4) == 0 {
                            came_through += i64::from(world.ask(shard, admitted, random.u32(1..50)));
                        }
                    }
                }
                if !connections.is_empty() && (is_quiet || random.u32(0..15) == 0) {
                    let (shard, admitted) = connections.swap_remove(random.usize(0..connections.len()));
                    world.shards[shard].release(admitted);
                }
                windows.pass(per_second, came_through);
            }
            let more = (i64::from(shards_count) - 1) * allowance.kept_share();
            let promised = i64::from(allowance.burst) + more;
            assert!(windows.most <= promised * 1_000, "{shards_count} shards, seed {seed}: {}", windows.most);
            for (shard, admitted) in connections {
                world.shards[shard].release(admitted);
            }
            world.come_to_rest(10_000);
        }
    }
}

#[test]
fn one_shard_is_exact() {
    let limits = limits(Kind::Requests, allowance(100, 300, 1));
    let mut world = World::new(&limits, 1, 1);
    let admitted = world.admit(0, address(1)).expect("not limited");
    assert_eq!(world.ask(0, admitted, 1_000), 300, "the burst at once");
    let mut came_through = 0;
    for _ in 0..10_000 {
        world.pass();
        came_through += world.ask(0, admitted, 10);
    }
    // What came back during the last tick and messages is not there yet.
    assert!((990..=1_000).contains(&came_through), "{came_through}");
}

#[test]
fn who_wants_it_gets_it_wherever_the_rest_lies() {
    for shards_count in [2, 8, 64] {
        let allowance = allowance(200, 1_000, shards_count);
        let limits = limits(Kind::Requests, allowance);
        let mut world = World::new(&limits, shards_count, 3);
        // A connection on each shard, and all but one of them silent.
        let connections: Vec<_> =
            (0..usize::from(shards_count)).map(|shard| world.admit(shard, address(1)).expect("not limited")).collect();
        for _ in 0..3_000 {
            world.pass();
        }
        let ask = |world: &mut World, for_ms: u64| {
            let mut came_through = 0;
            for _ in 0..for_ms {
                world.pass();
                came_through += world.ask(0, connections[0], 1);
            }
            came_through
        };
        let begun = ask(&mut world, 5_000);
        let others = (i64::from(shards_count) - 1) * allowance.kept_share();
        assert!(i64::from(begun) >= 1_000 - others + 950, "{shards_count} shards: {begun} at first");
        let steady = ask(&mut world, 10_000);
        assert!((1_900..=2_010).contains(&steady), "{shards_count} shards: {steady} in ten seconds");
    }
}

#[test]
fn connections_are_counted_across_shards() {
    for shards_count in [1_u16, 2, 8] {
        let allowance = allowance(0, 40, shards_count);
        let limits = limits(Kind::Open, allowance);
        let mut world = World::new(&limits, shards_count, 5);
        let mut random = fastrand::Rng::with_seed(9);
        let mut open: Vec<(usize, Admitted)> = Vec::new();
        let mut most = 0;
        for round in 0..30_000_u32 {
            world.pass();
            let shard = random.usize(0..usize::from(shards_count));
            match world.admit(shard, address(1)) {
                Ok(admitted) => open.push((shard, admitted)),
                Err(refused) => assert_eq!(refused, Refused::TooMany),
            }
            most = most.max(open.len());
            if round > 15_000 && random.bool() && !open.is_empty() {
                let (shard, admitted) = open.swap_remove(random.usize(0..open.len()));
                world.shards[shard].release(admitted);
            }
            if round == 15_000 {
                assert!(open.len() >= 40, "{shards_count} shards: only {}", open.len());
            }
        }
        let more = (i64::from(shards_count) - 1) * allowance.kept_share();
        assert!((40..=40 + more).contains(&(most as i64)), "{shards_count} shards: {most}");
        for (shard, admitted) in open {
            world.shards[shard].release(admitted);
        }
        world.come_to_rest(5_000);
    }
}

#[test]
fn a_connection_of_another_process_is_counted_and_not_refused() {
    let limits = limits(Kind::Open, allowance(0, 2, 1));
    let mut world = World::new(&limits, 1, 5);
    let moved: Vec<_> = (0..3).map(|_| world.shards[0].admit_moved(address(1), BEGUN_MS)).collect();
    for admitted in &moved[..2] {
        assert_eq!(world.admit(0, address(1)), Err(Refused::TooMany));
        world.shards[0].release(*admitted);
        world.pass();
    }
    assert!(world.admit(0, address(1)).is_ok(), "one is left, and two may be");
}

#[test]
fn who_comes_back_has_what_he_would_have_had() {
    let limits = limits(Kind::Begun, allowance(1, 10, 2));
    let mut world = World::new(&limits, 2, 11);
    let mut came_through = 0;
    // Nobody keeps the purses: without memory every try would find a new one with a first share in it.
    for round in 0..60_000_usize {
        world.pass();
        came_through += usize::from(world.admit(round % 2, address(1)).is_ok());
    }
    assert!((60..=60 + 10 + 2).contains(&came_through), "{came_through} in a minute");
    let before = world.ledger.accounts_count();
    world.come_to_rest(10_000 + 5 * PURSES_FORGET_EVERY_MS);
    assert_eq!(before, 1);
    let back = (0..100).filter(|_| world.admit(0, address(1)).is_ok()).count();
    assert_eq!(back, 2, "a first share");
}

#[test]
fn who_finds_no_place_shares_one_purse() {
    let limits = limits(Kind::Begun, allowance(100, 2, 1));
    let mut world = World::new(&limits, 1, 11);
    let one = |index: usize| IpAddr::from((u128::from(0x2001_0db8_u32) << 96 | (index as u128) << 64).to_be_bytes());
    for index in 0..PURSES_MAX {
        assert!(world.admit(0, one(index)).is_ok());
    }
    let late = (0..100).filter(|index| world.admit(0, one(PURSES_MAX + index)).is_ok()).count();
    assert_eq!(late, 2, "together what one has");
    assert_eq!((world.shards[0].count(), world.shards[0].overflows()), (PURSES_MAX + 1, 100));
    assert!(world.admit(0, one(7)).is_ok(), "who was there before is counted alone");
    world.come_to_rest(3 * PURSES_FORGET_EVERY_MS);
}

#[test]
fn after_a_hand_over_nobody_begins_with_a_full_bucket() {
    let allowance = Allowance { at_begin: 10, ..allowance(10, 50, 2) };
    let table = [(0, 10, 2), (1_000, 20, 5), (4_000, 50, 12), (90_000, 50, 12)];
    for (since_ms, tokens, first) in table {
        let at_ms = BEGUN_MS + since_ms;
        assert_eq!((allowance.of_newcomer(at_ms), allowance.first_share(at_ms)), (tokens, first), "{since_ms}");
    }
}
