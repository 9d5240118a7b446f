//! Who may do how much: connections and requests of an address, writes of a subject. Pure: no I/O, no clock.
//!
//! ```text
//! control plane   Ledger   one account for each address and subject: a bucket, and how much of it is out with shards
//!                   │ ▲
//!            grants │ │ reports: what was spent, what is given back, what is wanted; one in flight a shard
//!                   ▼ │
//! shards          Purses   what the shard may spend without asking; a connection keeps the number of its purse
//! ```
//!
//! What it promises, with `n` shards and a first share `f` ([`Allowance::first_share`]: half of the burst over `n`, at
//! least one; all of it for one shard):
//! - In any `t` seconds no more than `rate * t + burst + (n - 1) * f` is spent, so at most one and a half bursts beside
//!   the rate. With one shard nothing is added. Of connections `burst` is how many there may be, and the rate is 0.
//! - Until the control plane has answered for the first time, well under a millisecond where nothing holds it up, a shard
//!   has only `f`: at one instant out of nothing that is half of the burst, all shards together.
//! - Who is on several shards may be refused on one while up to `f` lies unused on each other one. What comes back with time
//!   goes to the shard that spends it.
//! - A purse or an account is forgotten only when the bucket is full: who comes back finds what he would have had. Where
//!   no more can be kept, newcomers share one purse.
//!
//! - When an operator changes a limit ([`Limits::changed_to`]), who is known keeps what is left to him, at most the new burst; where
//!   there was no limit everybody begins with what a second brings. A shard goes on with no more than its share of the new burst. So
//!   nobody gains by a change, and from when every shard has it the promise is that of the new limit.
//!
//! Why the first holds: all that is unspent is in the account's bucket, granted or not, and no more is granted than is in
//! it. Only a first share is spent before it was asked for, each shard can have one that is not covered, and it gets
//! another only when the account was full in between.
//!
//! Why a change does not break it: what is out with shards is counted on, so nothing is granted that a shard which has not heard yet
//! may still spend. Shards hear of it on the way that grants come, so none comes from before it.
//! Reports do, and carry the [`generation`](Report::generation) that tells: what they have spent is of the old limits and takes
//! from the new bucket, but makes no debt in it; and where a limit was off in between nothing of before counts.
//!
//! - [`bucket`]: tokens that come back with time.
//! - [`address`]: which addresses count as one, and which are trusted.
//! - [`purses`]: the shards' side.
//! - [`ledger`]: the control plane's side.

pub mod address;
pub mod bucket;
pub mod ledger;
#[cfg(test)]
mod model;
pub mod purses;

use std::hash::Hasher;

use ipnet::IpNet;
use siphasher::sip128::{Hasher128, SipHasher13};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Connections open at once, of an address.
    Open,
    /// Connections that begin, of an address.
    Begun,
    /// Requests of an address.
    Requests,
    /// Writes of a subject.
    Writes,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Open, Kind::Begun, Kind::Requests, Kind::Writes];
}

/// Who it is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// An address, as [`address::number`] has it, or a subject, as [`Limits::subject`] has it.
    One(u128),
    /// All those together for whom there is no place.
    Others,
}

/// Names one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// What is counted.
    pub kind: Kind,
    /// For whom.
    pub who: Who,
}

/// How much of one kind everybody may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Tokens that come back in a second; 0 where only who spent them gives them back.
    pub per_second: u32,
    /// Tokens of a full bucket, from 1. Where they come back with time at least as many as there are shards, else the first
    /// shares that lie on other shards could be all there is.
    pub burst: u32,
    /// Tokens that somebody unknown has at `begun_ms`; from then on as if he had been refilled.
    pub at_begin: u32,
    /// When the process began, in ticks.
    pub begun_ms: u64,
    /// Shards that share.
    pub shards_count: u16,
}

impl Allowance {
    /// What a bucket holds that nothing is known of.
    pub fn of_newcomer(&self, now_ms: u64) -> i64 {
        let since_ms = now_ms.saturating_sub(self.begun_ms);
        let refilled = u64::from(self.per_second).saturating_mul(since_ms) / 1_000;
        u64::from(self.at_begin).saturating_add(refilled).min(u64::from(self.burst)) as i64
    }

    /// What a shard may spend for somebody unknown before it has asked.
    pub fn first_share(&self, now_ms: u64) -> i64 {
        self.share_of(self.of_newcomer(now_ms))
    }

    /// What a shard keeps while others have connections of the same address and it has nothing to do for it.
    pub fn kept_share(&self) -> i64 {
        self.share_of(i64::from(self.burst))
    }

    /// Whether an operator has set the same: when it began is nothing that is set.
    pub fn is_same_limit(&self, other: &Allowance) -> bool {
        (self.per_second, self.burst, self.shards_count) == (other.per_second, other.burst, other.shards_count)
    }

    fn share_of(&self, tokens: i64) -> i64 {
        match self.shards_count {
            0 | 1 => tokens,
            shards => (tokens / (2 * i64::from(shards))).max(1),
        }
    }
}

/// All that an operator has set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// In the order of [`Kind::ALL`]; `None` where there is no limit.
    pub allowances: [Option<Allowance>; Kind::ALL.len()],
    /// Whose connections are not counted.
    pub trusted: Vec<IpNet>,
    /// Makes numbers of subjects, so that nobody can choose whom he shares one with; the same for all shards.
    pub subject_keys: (u64, u64),
}

impl Limits {
    /// How much of a kind everybody may have; `None` without a limit.
    pub fn of(&self, kind: Kind) -> Option<&Allowance> {
        self.allowances[kind as usize].as_ref()
    }

    /// Whether an address needs to be looked at.
    pub fn is_by_address(&self) -> bool {
        [Kind::Open, Kind::Begun, Kind::Requests].into_iter().any(|kind| self.of(kind).is_some())
    }

    /// What is in force from `now_ms` on when an operator wants `wanted`, which says what somebody unknown begins with where there was no
    /// limit. One that stays as it was goes on; under another somebody unknown has what he would have had, at most the new burst.
    pub fn changed_to(&self, wanted: &Limits, now_ms: u64) -> Limits {
        let changed = |kind| {
            let wanted = Allowance { begun_ms: now_ms, ..*wanted.of(kind)? };
            let Some(before) = self.of(kind) else { return Some(wanted) };
            if before.is_same_limit(&wanted) {
                return Some(*before);
            }
            // Connections are counted one by one, those that are open too: nobody has to save up for them.
            let at_begin = match wanted.per_second {
                0 => wanted.burst,
                _ => u32::try_from(before.of_newcomer(now_ms)).unwrap_or(u32::MAX).min(wanted.burst),
            };
            Some(Allowance { at_begin, ..wanted })
        };
        // The same keys: a subject keeps its number, and with it its bucket.
        Limits { allowances: Kind::ALL.map(changed), trusted: wanted.trusted.clone(), subject_keys: self.subject_keys }
    }

    /// The number of a subject.
    pub fn subject(&self, subject: &str) -> u128 {
        let mut hasher = SipHasher13::new_with_keys(self.subject_keys.0, self.subject_keys.1);
        hasher.write(subject.as_bytes());
        hasher.finish128().as_u128()
    }
}

/// What a shard tells at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How often the limits had changed that the shard knew of.
    pub generation: u32,
    /// Purse by purse.
    pub entries: Vec<Entry>,
}

/// What a shard tells of one purse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose.
    pub key: Key,
    /// What was spent since the last report; below 0 where more was given back by who had spent it.
    pub spent: i64,
    /// What was spent since then and before the limits changed.
    pub spent_before: i64,
    /// What it would like to have.
    pub wanted: i64,
    /// Whether it would forget the purse.
    pub forgets: bool,
    /// What is left in it: all but what it gives back. Below 0 where more connections are open than it had.
    pub kept: i64,
}

/// What comes back for one purse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whose.
    pub key: Key,
    /// More to spend.
    pub tokens: i64,
    /// No other shard has such a purse.
    pub is_sole: bool,
    /// The account no longer counts the purse and what is in it.
    pub is_forgotten: bool,
}
