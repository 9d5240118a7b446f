//! Shards, a control plane and messages between them that take their time, all of it decided by a seed: what comes through
//! is compared with what may.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use super::ledger::Ledger;
use super::purses::{Admitted, Purses, Refused};
use super::{Allowance, Grant, Key, Kind, Limits, Report};
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
    Report(u16, Report),
    Grants(u16, Vec<Grant>),
    Share(u16, Vec<Key>),
    Limits(u16, Arc<Limits>, u32),
}

/// A rule that is taken away, which the model must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A report says that it is of the limits that are in force when it comes.
    Generations,
    /// Who is known keeps what is left to him.
    OldBuckets,
    /// A shard keeps no more than its share of the new burst.
    Heed,
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
    without: Without,
    /// Shards that have not heard of the last change.
    unaware: usize,
    /// Connections that are here: which shard, whose, what it has.
    open: Vec<(usize, IpAddr, Admitted)>,
    /// Shards that look their connections up again.
    renewing: Vec<usize>,
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
            without: Without::Nothing,
            unaware: 0,
            open: Vec::new(),
            renewing: Vec::new(),
        }
    }

    /// An operator changes his mind.
    fn change(&mut self, wanted: &Limits) {
        let change = self.ledger.change(wanted, self.now_ms);
        let Some((limits, generation)) = change else { return };
        if self.without == Without::OldBuckets {
            self.ledger = Ledger::new(Arc::clone(&limits));
        }
        self.unaware = self.shards.len();
        for shard in 0..self.shards.len() {
            let message = Message::Limits(shard as u16, Arc::clone(&limits), generation);
            self.send(self.shards.len() + shard, message);
        }
    }

    fn take_limits(&mut self, shard: usize, limits: Arc<Limits>, generation: u32) {
        // Another change may be on its way already.
        self.unaware = self.unaware.saturating_sub(1);
        if self.without != Without::Heed && self.shards[shard].change(limits, generation, self.now_ms) {
            self.renewing.retain(|other| *other != shard);
            self.renewing.push(shard);
        }
    }

    /// Some connections of shards whose limits have changed are looked up again.
    fn renew_some(&mut self) {
        let (random, now_ms) = (&mut self.random, self.now_ms);
        for at in (0..self.renewing.len()).rev() {
            let shard = self.renewing[at];
            let mut is_left = false;
            for (of, from, admitted) in &mut self.open {
                if *of != shard || self.shards[shard].is_current(*admitted) {
                    continue;
                }
                if random.u32(0..3) == 0 {
                    *admitted = self.shards[shard].renew(*admitted, *from, now_ms);
                } else {
                    is_left = true;
                }
            }
            if !is_left {
                self.renewing.swap_remove(at);
            }
        }
    }

    /// Whether the last change is everywhere.
    fn is_settled(&self) -> bool {
        self.unaware == 0 && self.renewing.is_empty()
    }

    /// A connection comes and stays; why not, when it may not.
    fn come(&mut self, shard: usize, from: IpAddr) -> Result<(), Refused> {
        let admitted = self.admit(shard, from)?;
        self.open.push((shard, from, admitted));
        Ok(())
    }

    /// One that is here goes.
    fn go(&mut self, at: usize) {
        let (shard, _, admitted) = self.open.swap_remove(at);
        self.shards[shard].release(admitted);
    }

    fn all_go(&mut self) {
        while !self.open.is_empty() {
            self.go(0);
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
                    Message::Report(shard, mut report) => {
                        if self.without == Without::Generations {
                            report.generation = u32::MAX;
                        }
                        let settled = self.ledger.settle(shard, &report, self.now_ms);
                        self.send(shards_count + usize::from(shard), Message::Grants(shard, settled.grants));
                        for (other, key) in settled.shared {
                            self.send(shards_count + usize::from(other), Message::Share(other, vec![key]));
                        }
                    }
                    Message::Grants(shard, grants) => self.shards[usize::from(shard)].settle(&grants),
                    Message::Share(shard, keys) => self.shards[usize::from(shard)].share(&keys),
                    Message::Limits(shard, limits, generation) => {
                        self.take_limits(usize::from(shard), limits, generation);
                    }
                }
            }
        }
        self.renew_some();
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
        let Some(purse) = admitted.requests() else { return count };
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

/// What an operator may want, one after the other: rate and burst; 0 is no limit.
fn wanted(kind: Kind, per_second: u32, burst: u32, shards_count: u16) -> Limits {
    let mut limits = Limits::default();
    // As where one process takes another one's place.
    let at_begin = if per_second == 0 { burst } else { per_second.min(burst) };
    let allowance = Allowance { at_begin, ..allowance(per_second, burst, shards_count) };
    limits.allowances[kind as usize] = (burst > 0).then_some(allowance);
    limits
}

/// By how many thousandths of tokens the promise was broken at most, through many changes of one seed; at most 0 when it was kept.
fn beyond_what_was_promised(shards_count: u16, seed: u64, without: Without) -> i64 {
    let choices = [(40, 80), (40, 200), (200, 200), (3, 16), (1_000, 4_000), (0, 0)];
    let mut world = World::new(&Arc::new(Limits::default()), shards_count, seed);
    world.without = without;
    let mut random = fastrand::Rng::with_seed(seed + 2_000);
    let shards = i64::from(shards_count) - 1;
    let more = |burst: u32| shards * allowance(1, burst.max(1), shards_count).kept_share();
    // Windows that begin when the last change, and the one before, was everywhere.
    let (mut since, mut across) = (Windows::default(), None::<Windows>);
    let (mut now, mut before) = ((0, 0), (0, 0));
    let (mut beyond, mut is_settled, mut is_quiet) = (i64::MIN, true, false);
    for _ in 0..20_000 {
        world.pass();
        if random.u32(0..1_500) == 0 {
            is_quiet = !is_quiet;
        }
        if world.is_settled() && random.u32(0..1_200) == 0 {
            let next = choices[random.usize(0..choices.len())];
            if next != now {
                (before, now) = (now, next);
                world.change(&wanted(Kind::Requests, now.0, now.1, shards_count));
                across = (before != (0, 0) && now != (0, 0)).then_some(since);
                (since, is_settled) = (Windows::default(), false);
            }
        }
        if world.is_settled() && !is_settled {
            (since, is_settled) = (Windows::default(), true);
        }
        let mut came_through = 0;
        if !is_quiet {
            if random.u32(0..20) == 0 {
                let shard = random.usize(0..usize::from(shards_count));
                world.come(shard, address(1)).expect("connections are not limited");
            }
            for at in 0..world.open.len() {
                if random.u32(0..4) == 0 {
                    let (shard, _, admitted) = world.open[at];
                    came_through += i64::from(world.ask(shard, admitted, random.u32(1..50)));
                }
            }
        }
        if !world.open.is_empty() && (is_quiet || random.u32(0..15) == 0) {
            let at = random.usize(0..world.open.len());
            world.go(at);
        }
        if now == (0, 0) {
            continue;
        }
        since.pass(now.0, came_through);
        if is_settled {
            beyond = beyond.max(since.most - (i64::from(now.1) + more(now.1)) * 1_000);
        }
        if let Some(across) = &mut across {
            across.pass(if is_settled { now.0 } else { now.0.max(before.0) }, came_through);
            let burst = now.1.max(before.1);
            // A first share that nobody has asked for may lie on each other shard before the change and anew behind it.
            beyond = beyond.max(across.most - (i64::from(burst) + 2 * more(burst)) * 1_000);
        }
    }
    if without == Without::Nothing {
        world.all_go();
        world.come_to_rest(100_000);
    }
    beyond
}

#[test]
fn limits_that_change_keep_what_was_promised() {
    for shards_count in [1, 2, 8] {
        for seed in 0..8 {
            let beyond = beyond_what_was_promised(shards_count, seed, Without::Nothing);
            assert!(beyond <= 0, "{shards_count} shards, seed {seed}: {beyond}");
        }
    }
}

/// The model sees what each rule is for.
#[test]
fn without_one_of_the_rules_of_a_change_the_promise_is_broken() {
    for without in [Without::OldBuckets, Without::Heed] {
        let beyond = |seed| beyond_what_was_promised(1 + seed as u16 % 2, seed, without);
        assert!((0..16).map(beyond).any(|beyond| beyond > 0), "{without:?}");
    }
}

/// What comes through in four seconds behind a change from much to little.
fn through_after_a_change(seed: u64, without: Without) -> u32 {
    let mut world = World::new(&Arc::new(wanted(Kind::Requests, 1_000, 4_000, 2)), 2, seed);
    world.without = without;
    for shard in 0..2 {
        world.come(shard, address(1)).expect("connections are not limited");
    }
    let ask = |world: &mut World, for_ms: u64| {
        let mut came_through = 0;
        for _ in 0..for_ms {
            world.pass();
            for at in 0..2 {
                let (shard, _, admitted) = world.open[at];
                came_through += world.ask(shard, admitted, 5);
            }
        }
        came_through
    };
    ask(&mut world, 1_000 + seed);
    world.change(&wanted(Kind::Requests, 5, 20, 2));
    while !world.is_settled() {
        ask(&mut world, 1);
    }
    ask(&mut world, 4_000)
}

#[test]
fn what_was_spent_before_a_change_is_no_debt_behind_it() {
    for seed in 0..50 {
        let came_through = through_after_a_change(seed, Without::Nothing);
        // Behind the change each shard has its share of the new burst, which is paid back in two of the four seconds.
        assert!((9..=4 * 5 + 20 + 5).contains(&came_through), "seed {seed}: {came_through}");
    }
    // What is on its way would take minutes to be paid back.
    assert!((0..50).any(|seed| through_after_a_change(seed, Without::Generations) == 0));
}

#[test]
fn where_there_was_no_limit_everybody_begins_with_a_second() {
    for shards_count in [1_u16, 2, 8] {
        let limits = wanted(Kind::Requests, 100, 500, shards_count);
        let mut world = World::new(&Arc::new(Limits::default()), shards_count, 3);
        for shard in 0..usize::from(shards_count) {
            world.come(shard, address(1)).expect("not limited");
            assert_eq!(world.open[shard].2.requests(), None, "nothing is counted for it");
        }
        for round in 0..4 {
            world.change(&limits);
            while !world.is_settled() {
                world.pass();
            }
            let mut came_through = 0;
            for _ in 0..1_000 {
                for at in 0..world.open.len() {
                    let (shard, _, admitted) = world.open[at];
                    assert!(admitted.requests().is_some(), "it counts from now on");
                    came_through += world.ask(shard, admitted, 10);
                }
                world.pass();
            }
            // A second's worth, and what another second brings; first shares of a second on the others.
            let more = (u32::from(shards_count) - 1) * (100 / (2 * u32::from(shards_count))).max(1);
            assert!((180..=200 + more + 2).contains(&came_through), "{shards_count} shards, {round}: {came_through}");
            world.change(&Limits::default());
            while !world.is_settled() {
                world.pass();
            }
            assert!(world.open.iter().all(|(_, _, admitted)| admitted.requests().is_none()), "it is free again");
            assert!(world.shards.iter().all(|shard| shard.count() == 0), "and nothing is kept for it");
            world.pass();
            assert_eq!(world.ledger.accounts_count(), 0);
        }
    }
}

#[test]
fn connections_stay_counted_while_their_number_changes() {
    for shards_count in [1_u16, 2, 8] {
        for seed in 0..6 {
            let mut world = World::new(&Arc::new(Limits::default()), shards_count, seed);
            let mut random = fastrand::Rng::with_seed(seed + 3_000);
            let (mut most_wanted, mut settled_ms, mut there) = (0_u32, 0, 0);
            let (mut reached, mut judged) = (0, 0);
            for _ in 0..30_000 {
                world.pass();
                if world.is_settled() && random.u32(0..2_000) == 0 {
                    most_wanted = [0, 16, 40, 100][random.usize(0..4)];
                    world.change(&wanted(Kind::Open, 0, most_wanted, shards_count));
                    settled_ms = 0;
                }
                settled_ms += u64::from(world.is_settled());
                let shard = random.usize(0..usize::from(shards_count));
                // More come than go, but not for ever where nobody is refused.
                let is_refused = world.open.len() < 150 && random.bool() && world.come(shard, address(1)).is_err();
                if random.u32(0..3) == 0 && !world.open.is_empty() {
                    world.go(random.usize(0..world.open.len()));
                }
                // What was granted before others were counted has been given back by then.
                if settled_ms == 300 {
                    there = world.open.len() as u32;
                }
                if settled_ms >= 300 && most_wanted > 0 {
                    let share = allowance(0, most_wanted, shards_count).kept_share() as u32;
                    let most = there.max(most_wanted) + (u32::from(shards_count) - 1) * share;
                    let open = world.open.len() as u32;
                    assert!(open <= most, "{shards_count} shards, seed {seed}: {open} of {most}, {there} were there");
                    judged += 1;
                    reached += u32::from(is_refused && open + u32::from(shards_count) * share >= most_wanted);
                }
            }
            assert!(judged > 3_000 && reached > 100, "{shards_count} shards, seed {seed}: {judged}, {reached}");
            world.all_go();
            world.come_to_rest(5_000);
        }
    }
}

#[test]
fn who_becomes_trusted_is_free_and_who_was_is_counted() {
    let limits = |trusted: &str| {
        let mut limits = wanted(Kind::Open, 0, 4, 2);
        let allowance = Allowance { at_begin: 10, ..allowance(10, 50, 2) };
        limits.allowances[Kind::Requests as usize] = Some(allowance);
        limits.trusted = vec![super::address::parse_network(trusted).expect("a network")];
        limits
    };
    let mut world = World::new(&Arc::new(limits("192.0.2.1")), 2, 3);
    for _ in 0..4 {
        for last in [1, 2] {
            world.come(0, address(last)).expect("there are so many places");
            for _ in 0..100 {
                world.pass();
            }
        }
    }
    let is_limited = |world: &World, last: u8| {
        let limited =
            world.open.iter().filter(|(_, from, _)| *from == address(last)).map(|(_, _, admitted)| admitted.requests());
        let limited: Vec<bool> = limited.map(|purse| purse.is_some()).collect();
        assert!(limited.windows(2).all(|two| two[0] == two[1]));
        limited[0]
    };
    for (trusted, limited) in [("192.0.2.1", 2), ("192.0.2.2", 1), ("192.0.2.1", 2)] {
        world.change(&limits(trusted));
        for _ in 0..1_000 {
            world.pass();
        }
        let free = 3 - limited;
        assert!(is_limited(&world, limited) && !is_limited(&world, free), "{trusted}");
        assert_eq!(world.admit(0, address(limited)), Err(Refused::TooMany), "four are there");
        let more = world.admit(0, address(free)).expect("nobody counts");
        world.shards[0].release(more);
    }
}
