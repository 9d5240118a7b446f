//! The control plane's side: whole buckets, and what of each is out with shards.
//!
//! An account's bucket holds all that is unspent, also what shards have in their purses. What may be granted is the
//! difference, so the sum never exceeds the bucket but for first shares, which are taken before they are told of.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::Arc;

use super::bucket::Bucket;
use super::{Entry, Grant, Key, Limits};

/// All accounts. There is one for each key of which a shard has a purse, and no other: so the shards' bound is its own.
#[derive(Debug)]
pub struct Ledger {
    limits: Arc<Limits>,
    accounts: HashMap<Key, Account>,
}

#[derive(Debug)]
struct Account {
    bucket: Bucket,
    /// In the purses of shards, unspent.
    outstanding: i64,
    /// Shards that have a purse.
    holders: Vec<u16>,
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
        Ledger { limits, accounts: HashMap::new() }
    }

    /// Takes a shard's report at `now_ms`.
    pub fn settle(&mut self, shard: u16, report: &[Entry], now_ms: u64) -> Settled {
        let mut settled = Settled::default();
        for entry in report {
            let Some(allowance) = self.limits.of(entry.key.kind) else { continue };
            let mut place = match self.accounts.entry(entry.key) {
                Place::Occupied(place) => place,
                Place::Vacant(place) => {
                    let bucket = Bucket::with(allowance.of_newcomer(now_ms), now_ms);
                    place.insert_entry(Account { bucket, outstanding: 0, holders: Vec::new() })
                }
            };
            let account = place.get_mut();
            if !account.holders.contains(&shard) {
                if let [alone] = *account.holders {
                    settled.shared.push((alone, entry.key));
                }
                account.holders.push(shard);
            }
            account.bucket.refill(allowance.per_second, allowance.burst, now_ms);
            account.bucket.take(entry.spent);
            account.outstanding += entry.first - entry.spent - entry.back;
            let is_forgotten = entry.forgets && account.bucket.is_full(allowance.burst);
            let mut tokens = 0;
            if is_forgotten {
                account.outstanding -= entry.kept;
                account.holders.retain(|holder| *holder != shard);
            } else {
                tokens = entry.wanted.min(account.bucket.tokens() - account.outstanding).max(0);
                account.outstanding += tokens;
            }
            let is_sole = account.holders.len() == 1;
            settled.grants.push(Grant { key: entry.key, tokens, is_sole, is_forgotten });
            if account.holders.is_empty() {
                debug_assert_eq!(account.outstanding, 0, "nobody has anything");
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
