//! The control plane's side: whole buckets, and what of each is out with shards.
//!
//! An account's bucket holds all that is unspent, also what shards have in their purses. What may be granted is the
//! difference, so the sum never exceeds the bucket but for first shares, which are taken before they are told of.
//! That holds through a change of the limits too: the buckets change at once, and what is out is counted on until it is told of.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::Arc;

use super::bucket::Bucket;
use super::{Grant, Key, Kind, Limits, Report};

/// All accounts. There is one for each key of which a shard has a purse, and no other: so the shards' bound is its own.
#[derive(Debug)]
pub struct Ledger {
    limits: Arc<Limits>,
    accounts: HashMap<Key, Account>,
    /// How often the limits have changed.
    generation: u32,
    /// The generation at which a kind has changed last, in the order of [`Kind::ALL`].
    changed_at: [u32; Kind::ALL.len()],
    /// The generation at which it was switched on last.
    begun_at: [u32; Kind::ALL.len()],
}

#[derive(Debug)]
struct Account {
    bucket: Bucket,
    /// Shards that have a purse.
    holders: Vec<Holder>,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    shard: u16,
    /// In its purse, unspent, by its last word and what it was granted then.
    tokens: i64,
}

impl Account {
    /// What the purse of `holder` may get of what it wants.
    fn grant(&self, holder: usize, wanted: i64) -> i64 {
        let unspent = self.bucket.tokens();
        if unspent < 0 {
            // More connections are open than may be: what ends pays for that first, wherever it does.
            return 0;
        }
        let out: i64 = self.holders.iter().map(|holder| holder.tokens).sum();
        // A purse below 0 owes to the others, not to those who would spend: its debt is nothing that another may have.
        let spendable: i64 = self.holders.iter().map(|holder| holder.tokens.max(0)).sum();
        let debt = (-self.holders[holder].tokens).max(0);
        wanted.min(unspent - out).min(debt + (unspent - spendable).max(0)).max(0)
    }
}

/// What follows from a report.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// For the shard that reported.
    pub grants: Vec<Grant>,
    /// For shards that are no longer alone: they give back what they do not need.
    pub shared: Vec<(u16, Key)>,
}

impl Ledger {
    /// One without accounts.
    pub fn new(limits: Arc<Limits>) -> Ledger {
        let never = [0; Kind::ALL.len()];
        Ledger { limits, accounts: HashMap::new(), generation: 0, changed_at: never, begun_at: never }
    }

    /// What is wanted from `now_ms` on is in force here, and what shards are to be told: the limits and their generation. `None` where
    /// it is in force already.
    pub fn change(&mut self, wanted: &Limits, now_ms: u64) -> Option<(Arc<Limits>, u32)> {
        let limits = self.limits.changed_to(wanted, now_ms);
        if limits == *self.limits {
            return None;
        }
        self.generation += 1;
        for kind in Kind::ALL {
            let (before, after) = (self.limits.of(kind), limits.of(kind));
            if before != after {
                self.changed_at[kind as usize] = self.generation;
            }
            if before.is_none() && after.is_some() {
                self.begun_at[kind as usize] = self.generation;
            }
        }
        let before = std::mem::replace(&mut self.limits, Arc::new(limits));
        self.accounts.retain(|key, account| {
            let (Some(before), Some(after)) = (before.of(key.kind), self.limits.of(key.kind)) else { return false };
            account.bucket.refill(before.per_second, before.burst, now_ms);
            if key.kind == Kind::Open {
                // How many are open is known; what is left follows from it.
                account.bucket.take(i64::from(before.burst) - i64::from(after.burst));
            }
            // No time passes: it keeps at most the new burst.
            account.bucket.refill(0, after.burst, now_ms);
            true
        });
        Some((Arc::clone(&self.limits), self.generation))
    }

    /// Takes a shard's report at `now_ms`.
    pub fn settle(&mut self, shard: u16, report: &Report, now_ms: u64) -> Settled {
        let mut settled = Settled::default();
        for entry in &report.entries {
            let kind = entry.key.kind;
            let Some(allowance) = self.limits.of(kind) else { continue };
            // Of accounts that are no more.
            if report.generation < self.begun_at[kind as usize] {
                continue;
            }
            let mut place = match self.accounts.entry(entry.key) {
                Place::Occupied(place) => place,
                Place::Vacant(place) => {
                    let bucket = Bucket::with(allowance.of_newcomer(now_ms), now_ms);
                    place.insert_entry(Account { bucket, holders: Vec::new() })
                }
            };
            let account = place.get_mut();
            let known = account.holders.iter().position(|holder| holder.shard == shard);
            let holder = known.unwrap_or_else(|| {
                if let [alone] = *account.holders {
                    settled.shared.push((alone.shard, entry.key));
                }
                account.holders.push(Holder { shard, tokens: 0 });
                account.holders.len() - 1
            });
            account.holders[holder].tokens = entry.kept;
            account.bucket.refill(allowance.per_second, allowance.burst, now_ms);
            // Connections are open whatever the limit was when they came.
            let is_past = kind != Kind::Open && report.generation < self.changed_at[kind as usize];
            let (past, spent) =
                if is_past { (entry.spent_before + entry.spent, 0) } else { (entry.spent_before, entry.spent) };
            account.bucket.take_past(past);
            account.bucket.take(spent);
            let is_forgotten = entry.forgets && account.bucket.is_full(allowance.burst);
            let mut tokens = 0;
            if is_forgotten {
                account.holders.swap_remove(holder);
            } else {
                tokens = account.grant(holder, entry.wanted);
                account.holders[holder].tokens += tokens;
            }
            let is_sole = account.holders.len() == 1;
            settled.grants.push(Grant { key: entry.key, tokens, is_sole, is_forgotten });
            if account.holders.is_empty() {
                place.remove();
            }
        }
        settled
    }

    /// How many accounts there are.
    pub fn accounts_count(&self) -> usize {
        self.accounts.len()
    }
}
