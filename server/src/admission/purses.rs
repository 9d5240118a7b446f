//! A shard's side: what it may spend without asking. A batch of reads costs one subtraction; what was spent is told twenty
//! times a second, and more is asked for then.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use slab::Slab;

use super::address::{is_in, number};
use super::{Allowance, Entry, Grant, Key, Kind, Limits, Report, Who};
use crate::limits::{PURSES_FORGET_EVERY_MS, PURSES_MAX};

/// A purse by its number in the table, from 1: a connection keeps two of these, or none, in four bytes each. The purse stays
/// there while one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurseId(NonZeroU32);

impl PurseId {
    fn of(index: usize) -> PurseId {
        let number = u32::try_from(index + 1).ok().and_then(NonZeroU32::new);
        PurseId(number.expect("there are fewer"))
    }

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// What a connection keeps of its look-up. Not `Drop`: [`Purses::release`] gives it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    open: Option<PurseId>,
    requests: Option<PurseId>,
    /// Of the limits under which it was looked up.
    generation: u32,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its address has as many as it may.
    TooMany,
    /// Its address begins too many a second.
    TooFast,
}

/// All purses of a shard.
#[derive(Debug, Default)]
pub struct Purses {
    limits: Arc<Limits>,
    /// How often they have changed.
    generation: u32,
    purses: Slab<Purse>,
    by_key: HashMap<Key, PurseId>,
    /// Those that the next report tells of.
    listed: Vec<PurseId>,
    /// One of them is new.
    is_urgent: bool,
    /// A report is on its way and not answered.
    is_reporting: bool,
    /// When it was last looked which ones can be forgotten, in ticks.
    searched_ms: u64,
    /// Look-ups that found no place.
    overflows: u64,
}

#[derive(Debug)]
struct Purse {
    key: Key,
    /// Unspent; below 0 where a connection of the process before this one had to be counted.
    tokens: i64,
    /// Spent since the last report, less what came back.
    spent: i64,
    /// Spent since then and before the limits changed.
    spent_before: i64,
    /// Asked for since the last report, granted or refused.
    demand: i64,
    /// Connections that keep it.
    holders: u32,
    is_listed: bool,
    /// The tick of the last report that told of it.
    told_ms: u64,
    /// Other shards have one too.
    is_shared: bool,
}

impl Purse {
    /// What it should hold: all that there is while it is the only one, else what it needs for two ticks.
    fn target(&self, allowance: &Allowance) -> i64 {
        if self.is_shared {
            allowance.kept_share().max(2 * self.demand).min(i64::from(allowance.burst))
        } else {
            i64::from(allowance.burst)
        }
    }

    /// Goes over to another limit. What was spent so far was of the one before. Where less may be saved up now, no more is kept than what
    /// may lie on every shard: there is no telling from here what the others keep.
    fn change(&mut self, before: &Allowance, after: &Allowance) {
        let lowered_by = i64::from(before.burst) - i64::from(after.burst);
        if self.key.kind == Kind::Open {
            // Each shard as if it were the only one: below 0 newcomers wait for the ledger, which knows what is left.
            self.tokens -= lowered_by.max(0);
        } else {
            self.spent_before += std::mem::take(&mut self.spent);
            if lowered_by > 0 {
                self.tokens = self.tokens.min(after.kept_share());
            }
        }
    }

    /// Begins anew, where there was no limit for a time: all connections that keep it are counted.
    fn begin(&mut self, first: i64) {
        let open = if self.key.kind == Kind::Open { i64::from(self.holders) } else { 0 };
        (self.tokens, self.spent, self.spent_before) = (first - open, open, 0);
        (self.demand, self.is_shared) = (0, false);
    }

    /// Whether it waits for more. What does not come back with time is asked for only when it is nearly spent.
    fn lacks(&self, allowance: &Allowance) -> bool {
        let is_enough = if self.is_shared || allowance.per_second == 0 {
            allowance.kept_share()
        } else {
            i64::from(allowance.burst)
        };
        self.tokens < is_enough
    }
}

impl Purses {
    /// None yet.
    pub fn new(limits: Arc<Limits>) -> Purses {
        Purses { limits, ..Purses::default() }
    }

    /// Other limits are in force from `now_ms` on, for those that are known too. Says whether connections that are here need to be looked
    /// up again, each by [`Purses::renew`]: because what is limited has changed, or who is trusted.
    pub fn change(&mut self, limits: Arc<Limits>, generation: u32, now_ms: u64) -> bool {
        let before = std::mem::replace(&mut self.limits, limits);
        self.generation = generation;
        let limits = &self.limits;
        self.purses.retain(|_, purse| {
            let kind = purse.key.kind;
            match (before.of(kind), limits.of(kind)) {
                // Kept by number until the last connection has let go of it.
                (_, None) => {}
                (None, Some(after)) => purse.begin(after.first_share(now_ms)),
                (Some(before), Some(after)) if before != after => purse.change(before, after),
                (Some(_), Some(_)) => return true,
            }
            let is_kept = purse.holders > 0 || limits.of(kind).is_some();
            if !is_kept {
                self.by_key.remove(&purse.key);
            }
            is_kept
        });
        // All that are limited: who has changed is told of, and who has not has nothing to tell, which does no harm.
        self.listed.clear();
        for (index, purse) in &mut self.purses {
            purse.is_listed = limits.of(purse.key.kind).is_some();
            if purse.is_listed {
                self.listed.push(PurseId::of(index));
            }
        }
        self.is_urgent = true;
        let is_limited = |limits: &Limits| [Kind::Open, Kind::Requests].map(|kind| limits.of(kind).is_some());
        before.trusted != limits.trusted || is_limited(&before) != is_limited(limits)
    }

    /// Whether addresses need to be looked at.
    pub fn is_by_address(&self) -> bool {
        self.limits.is_by_address()
    }

    /// A connection from `address`: the one look-up for it.
    ///
    /// # Errors
    /// It is not to be taken.
    pub fn admit(&mut self, address: IpAddr, now_ms: u64) -> Result<Admitted, Refused> {
        if is_in(address, &self.limits.trusted) {
            return Ok(self.unlimited());
        }
        let number = number(address);
        if let Some(begun) = self.find(Kind::Begun, number, now_ms)
            && !self.take_one(begun)
        {
            return Err(Refused::TooFast);
        }
        let open = self.find(Kind::Open, number, now_ms);
        if let Some(open) = open
            && !self.take_one(open)
        {
            return Err(Refused::TooMany);
        }
        let requests = self.find(Kind::Requests, number, now_ms);
        Ok(self.keep(Admitted { open, requests, generation: self.generation }))
    }

    /// A connection that another process had taken: counted, and never refused.
    pub fn admit_moved(&mut self, address: IpAddr, now_ms: u64) -> Admitted {
        self.renew(self.unlimited(), address, now_ms)
    }

    /// A connection that is here, under the limits that are in force now: counted where it was not yet, no longer where its address is
    /// trusted or nothing is limited, and never refused.
    pub fn renew(&mut self, admitted: Admitted, address: IpAddr, now_ms: u64) -> Admitted {
        let is_free = is_in(address, &self.limits.trusted);
        let is_limited = |kind| !is_free && self.limits.of(kind).is_some();
        let (is_counted, asks) = (is_limited(Kind::Open), is_limited(Kind::Requests));
        let kept = Admitted {
            open: admitted.open.filter(|_| is_counted),
            requests: admitted.requests.filter(|_| asks),
            generation: self.generation,
        };
        self.release(Admitted {
            open: admitted.open.filter(|_| !is_counted),
            requests: admitted.requests.filter(|_| !asks),
            ..admitted
        });
        let mut found = self.unlimited();
        if is_counted && kept.open.is_none() {
            found.open = self.find_one_more(address, now_ms);
        }
        if asks && kept.requests.is_none() {
            found.requests = self.find(Kind::Requests, number(address), now_ms);
        }
        self.keep(found);
        Admitted { open: kept.open.or(found.open), requests: kept.requests.or(found.requests), ..kept }
    }

    /// What a connection has that nothing is counted for.
    pub fn unlimited(&self) -> Admitted {
        Admitted { generation: self.generation, ..Admitted::default() }
    }

    /// Whether it was looked up under the limits that are in force.
    pub fn is_current(&self, admitted: Admitted) -> bool {
        admitted.generation == self.generation
    }

    /// A connection has ended.
    pub fn release(&mut self, admitted: Admitted) {
        if let Some(open) = admitted.open {
            self.spend(open, -1, 0);
        }
        for id in [admitted.open, admitted.requests].into_iter().flatten() {
            self.let_go(id);
        }
    }

    /// Requests that the connection may make now; `u32::MAX` where they are not limited any more and it has not been looked up again.
    pub fn requests_left(&self, id: PurseId) -> u32 {
        if self.limits.of(Kind::Requests).is_none() {
            return u32::MAX;
        }
        u32::try_from(self.purses[id.index()].tokens.max(0)).unwrap_or(u32::MAX)
    }

    /// Takes `spent` tokens out; `refused` more were asked for.
    pub fn spend(&mut self, id: PurseId, spent: i64, refused: i64) {
        let purse = &mut self.purses[id.index()];
        if self.limits.of(purse.key.kind).is_none() {
            return;
        }
        purse.tokens -= spent;
        purse.spent += spent;
        purse.demand += spent.max(0) + refused;
        self.list(id);
    }

    /// A write of `subject` that is about to be taken; false when it has had too many.
    pub fn take_write(&mut self, subject: &str, now_ms: u64) -> bool {
        if self.limits.of(Kind::Writes).is_none() {
            return true;
        }
        let number = self.limits.subject(subject);
        self.find(Kind::Writes, number, now_ms).is_none_or(|id| self.take_one(id))
    }

    /// What is to be told: on a tick all of it, else only where somebody is new. `None` while the last report is not
    /// answered, or when there is nothing to tell.
    pub fn report(&mut self, now_ms: u64, is_tick: bool) -> Option<Report> {
        if self.is_reporting || self.purses.is_empty() || !(is_tick || self.is_urgent) {
            return None;
        }
        self.is_urgent = false;
        let mut entries = Vec::with_capacity(self.listed.len());
        // Drained, so that its memory stays: a read that lists its purse allocates nothing.
        for id in self.listed.drain(..) {
            let purse = &mut self.purses[id.index()];
            purse.is_listed = false;
            let Some(allowance) = self.limits.of(purse.key.kind) else { continue };
            let target = purse.target(allowance);
            let wanted = (target - purse.tokens).max(0);
            entries.push(purse.tell(target, wanted, false, now_ms));
        }
        if self.searched_ms + PURSES_FORGET_EVERY_MS <= now_ms {
            self.searched_ms = now_ms;
            // One that was told of a moment ago is looked at the next time.
            let may_go = |purse: &Purse| purse.holders == 0 && purse.told_ms != now_ms;
            for (_, purse) in self.purses.iter_mut().filter(|(_, purse)| may_go(purse)) {
                let Some(allowance) = self.limits.of(purse.key.kind) else { continue };
                entries.push(purse.tell(allowance.kept_share(), 0, true, now_ms));
            }
        }
        self.is_reporting = !entries.is_empty();
        self.is_reporting.then_some(Report { generation: self.generation, entries })
    }

    /// The answer to the last report.
    pub fn settle(&mut self, grants: &[Grant]) {
        self.is_reporting = false;
        for grant in grants {
            let Some(&id) = self.by_key.get(&grant.key) else { continue };
            let Some(allowance) = self.limits.of(grant.key.kind).copied() else { continue };
            let purse = &mut self.purses[id.index()];
            purse.tokens += grant.tokens;
            if grant.is_forgotten {
                // What has happened meanwhile is told of as of a new one.
                if purse.holders == 0 && purse.spent == 0 && !purse.is_listed {
                    self.by_key.remove(&grant.key);
                    self.purses.remove(id.index());
                    continue;
                }
                self.list(id);
                continue;
            }
            purse.is_shared = !grant.is_sole;
            let has_too_much = purse.is_shared && purse.tokens > allowance.kept_share();
            if purse.lacks(&allowance) || has_too_much {
                self.list(id);
            }
        }
    }

    /// Another shard has a purse of the same key now.
    pub fn share(&mut self, keys: &[Key]) {
        for key in keys {
            if let Some(&id) = self.by_key.get(key)
                && self.limits.of(key.kind).is_some()
            {
                self.purses[id.index()].is_shared = true;
                self.list(id);
            }
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.purses.len()
    }

    /// How many look-ups have found no place, and shared a purse with others.
    pub fn overflows(&self) -> u64 {
        self.overflows
    }

    /// The purse of one, made when there is none; that of all others when there is no place. `None` without a limit.
    fn find(&mut self, kind: Kind, number: u128, now_ms: u64) -> Option<PurseId> {
        let allowance = *self.limits.of(kind)?;
        let mut key = Key { kind, who: Who::One(number) };
        if let Some(&id) = self.by_key.get(&key) {
            return Some(id);
        }
        if self.purses.len() >= PURSES_MAX {
            self.overflows += 1;
            key.who = Who::Others;
            if let Some(&id) = self.by_key.get(&key) {
                return Some(id);
            }
        }
        let first = allowance.first_share(now_ms);
        let purse = Purse {
            key,
            tokens: first,
            spent: 0,
            spent_before: 0,
            demand: 0,
            holders: 0,
            is_listed: false,
            told_ms: 0,
            is_shared: false,
        };
        let id = PurseId::of(self.purses.insert(purse));
        self.by_key.insert(key, id);
        self.list(id);
        self.is_urgent = true;
        Some(id)
    }

    fn take_one(&mut self, id: PurseId) -> bool {
        let is_there = self.purses[id.index()].tokens > 0;
        self.spend(id, i64::from(is_there), i64::from(!is_there));
        is_there
    }

    /// The purse of a connection that is here and not counted yet, counted now.
    fn find_one_more(&mut self, address: IpAddr, now_ms: u64) -> Option<PurseId> {
        let open = self.find(Kind::Open, number(address), now_ms)?;
        self.spend(open, 1, 0);
        Some(open)
    }

    /// One connection fewer keeps a purse, which goes with the last one where nothing is limited any more.
    fn let_go(&mut self, id: PurseId) {
        let purse = &mut self.purses[id.index()];
        purse.holders -= 1;
        if purse.holders == 0 && self.limits.of(purse.key.kind).is_none() {
            self.by_key.remove(&purse.key);
            self.purses.remove(id.index());
        }
    }

    fn keep(&mut self, admitted: Admitted) -> Admitted {
        for id in [admitted.open, admitted.requests].into_iter().flatten() {
            self.purses[id.index()].holders += 1;
        }
        admitted
    }

    fn list(&mut self, id: PurseId) {
        let purse = &mut self.purses[id.index()];
        if !purse.is_listed {
            purse.is_listed = true;
            self.listed.push(id);
        }
    }
}

impl Purse {
    /// The report's line, after which nothing is untold; what is above `target` goes back.
    fn tell(&mut self, target: i64, wanted: i64, forgets: bool, now_ms: u64) -> Entry {
        self.tokens = self.tokens.min(target);
        let entry = Entry {
            key: self.key,
            spent: self.spent,
            spent_before: self.spent_before,
            wanted,
            forgets,
            kept: self.tokens,
        };
        (self.spent, self.spent_before, self.demand, self.told_ms) = (0, 0, 0, now_ms);
        entry
    }
}

impl Admitted {
    /// The purse of the connection's requests, if they are limited.
    pub fn requests(self) -> Option<PurseId> {
        self.requests
    }
}
