//! A shard's side: what it may spend without asking. A batch of reads costs one subtraction; what was spent is told twenty
//! times a second, and more is asked for then.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use slab::Slab;

use super::address::{is_in, number};
use super::{Allowance, Entry, Grant, Key, Kind, Limits, Who};
use crate::limits::{PURSES_FORGET_EVERY_MS, PURSES_MAX};

/// A purse by its number in the table, from 1: a connection keeps two of these, or none, in eight bytes. The purse stays there
/// while one does.
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
    /// Asked for since the last report, granted or refused.
    demand: i64,
    /// What it was given when it was made and the account has not been told of.
    first: i64,
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
            return Ok(Admitted::default());
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
        Ok(self.keep(Admitted { open, requests }))
    }

    /// A connection that another process had taken: counted, and never refused.
    pub fn admit_moved(&mut self, address: IpAddr, now_ms: u64) -> Admitted {
        if is_in(address, &self.limits.trusted) {
            return Admitted::default();
        }
        let number = number(address);
        let open = self.find(Kind::Open, number, now_ms);
        if let Some(open) = open {
            self.spend(open, 1, 0);
        }
        let requests = self.find(Kind::Requests, number, now_ms);
        self.keep(Admitted { open, requests })
    }

    /// A connection has ended.
    pub fn release(&mut self, admitted: Admitted) {
        for id in [admitted.open, admitted.requests].into_iter().flatten() {
            self.purses[id.index()].holders -= 1;
        }
        if let Some(open) = admitted.open {
            self.spend(open, -1, 0);
        }
    }

    /// Requests that the connection may make now.
    pub fn requests_left(&self, id: PurseId) -> u32 {
        u32::try_from(self.purses[id.index()].tokens.max(0)).unwrap_or(u32::MAX)
    }

    /// Takes `spent` tokens out; `refused` more were asked for.
    pub fn spend(&mut self, id: PurseId, spent: i64, refused: i64) {
        let purse = &mut self.purses[id.index()];
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
    pub fn report(&mut self, now_ms: u64, is_tick: bool) -> Option<Vec<Entry>> {
        if self.is_reporting || self.purses.is_empty() || !(is_tick || self.is_urgent) {
            return None;
        }
        self.is_urgent = false;
        let mut report = Vec::with_capacity(self.listed.len());
        // Drained, so that its memory stays: a read that lists its purse allocates nothing.
        for id in self.listed.drain(..) {
            let purse = &mut self.purses[id.index()];
            purse.is_listed = false;
            let Some(allowance) = self.limits.of(purse.key.kind) else { continue };
            let target = purse.target(allowance);
            let wanted = (target - purse.tokens).max(0);
            report.push(purse.tell(target, wanted, false, now_ms));
        }
        if self.searched_ms + PURSES_FORGET_EVERY_MS <= now_ms {
            self.searched_ms = now_ms;
            // One that was told of a moment ago is looked at the next time.
            let may_go = |purse: &Purse| purse.holders == 0 && purse.told_ms != now_ms;
            for (_, purse) in self.purses.iter_mut().filter(|(_, purse)| may_go(purse)) {
                let Some(allowance) = self.limits.of(purse.key.kind) else { continue };
                report.push(purse.tell(allowance.kept_share(), 0, true, now_ms));
            }
        }
        self.is_reporting = !report.is_empty();
        self.is_reporting.then_some(report)
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
                // What has happened meanwhile was in the purse that is forgotten: it is a new one.
                if purse.holders == 0 && purse.spent == 0 && !purse.is_listed {
                    self.by_key.remove(&grant.key);
                    self.purses.remove(id.index());
                    continue;
                }
                purse.first = purse.tokens + purse.spent;
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
            if let Some(&id) = self.by_key.get(key) {
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
            demand: 0,
            first,
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
        let back = (self.tokens - target).max(0);
        self.tokens -= back;
        let entry =
            Entry { key: self.key, first: self.first, spent: self.spent, back, wanted, forgets, kept: self.tokens };
        (self.first, self.spent, self.demand, self.told_ms) = (0, 0, 0, now_ms);
        entry
    }
}

impl Admitted {
    /// The purse of the connection's requests, if they are limited.
    pub fn requests(self) -> Option<PurseId> {
        self.requests
    }
}
