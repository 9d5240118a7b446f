//! The newest todos as JSON, under the keys under which the original kept them, for whoever reads them there. A courtesy:
//! nothing in this project reads them.
//!
//! ```text
//! while this worker owns partition 0, each second:
//!     look where the store stands
//!     it has moved, or half the time to live has passed:
//!         read the newest todos; set `todos:limit:N` for each N, and `todos:all`, in one script
//! ```
//!
//! 1. A document over 8 MB is not kept but deleted. Whether `todos:all` has become small enough is only seen every now and
//!    then: else each second would read 8 MB for nothing.
//! 2. The script refuses documents of an older state of the same store, so that a worker that was slow, or owns the
//!    partition no more, undoes nothing. It remembers how far the documents are in a key that lives as long as they do.

use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::LuaInterface;
use fred::types::Value;
use prometheus_client::metrics::counter::Counter;
use todo_proto::names::{KEY_ALL, KEY_LIMIT_PREFIX};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::limits::{DOCUMENT_BYTES_MAX, DOCUMENTS_EVERY, REDIS_DOCUMENTS_TIMEOUT};
use crate::reads::{Stand, StoreReader};
use crate::redis::connect::{Redis, at_once};
use crate::traits::StoreError;

/// What became of documents.
#[derive(Debug, Clone, Default)]
pub struct DocumentMetrics {
    /// How often they were set.
    pub written: Counter,
    /// How often a newer state stood there already.
    pub refused: Counter,
    /// How often the store or Redis was away.
    pub failed: Counter,
}

/// Which lists have a document, and for how long.
#[derive(Debug, Clone)]
pub struct Documents {
    /// The first so many todos each.
    pub limits: Vec<u32>,
    /// After this a document that is not set again is gone.
    pub ttl: Duration,
    /// What became of them.
    pub metrics: DocumentMetrics,
}

/// Keeps the documents while `owner` says so; ends when its sender has gone.
pub async fn run(documents: Documents, mut reader: impl StoreReader, redis: &Redis, mut owner: watch::Receiver<bool>) {
    let client = redis.connect();
    while owner.wait_for(|owns| *owns).await.is_ok() {
        let mut keeper = Keeper { documents: &documents, client: &client, written: None, all_is_large: None };
        loop {
            keeper.turn(&mut reader).await;
            tokio::select! {
                changed = owner.wait_for(|owns| !owns) => match changed {
                    Ok(_) => break,
                    Err(_) => return,
                },
                () = sleep(DOCUMENTS_EVERY) => {}
            }
        }
    }
}

/// Where documents are said to be from: `KEYS[1]` a store and the sum of its positions. The other keys are documents, with
/// their JSON or nothing from `ARGV[4]` on. All is checked before anything is written.
const SCRIPT: &str = "
local store, sum, ttl_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local stands = redis.call('GET', KEYS[1])
if stands then
    local stands_store, stands_sum = string.match(stands, '^(%x+):(%d+)$')
    if stands_store == store and sum < tonumber(stands_sum) then return 0 end
end
redis.call('SET', KEYS[1], store .. ':' .. ARGV[2], 'PX', ttl_ms)
for place = 2, #KEYS do
    local document = ARGV[place + 2]
    if document == '' then redis.call('DEL', KEYS[place])
    else redis.call('SET', KEYS[place], document, 'PX', ttl_ms) end
end
return 1";

/// Beside the documents: what they are from.
const KEY_STANDS: &str = "documents";

struct Keeper<'a> {
    documents: &'a Documents,
    client: &'a Client,
    /// What was written last, and when.
    written: Option<(Stand, Instant)>,
    /// When the document of everything was last seen to be too large.
    all_is_large: Option<Instant>,
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Redis is away: {0}")]
    Redis(#[from] fred::error::Error),
}

impl Keeper<'_> {
    async fn turn(&mut self, reader: &mut impl StoreReader) {
        let metrics = &self.documents.metrics;
        match self.refresh(reader).await {
            Ok(Some(true)) => drop(metrics.written.inc()),
            Ok(Some(false)) => drop(metrics.refused.inc()),
            Ok(None) => {}
            Err(why) => {
                metrics.failed.inc();
                tracing::debug!(%why, "the documents are not set");
            }
        }
    }

    /// Whether the documents were taken; `None` when they need not be set.
    async fn refresh(&mut self, reader: &mut impl StoreReader) -> Result<Option<bool>, Trouble> {
        let stand = reader.look().await?.stand;
        let half_ttl = self.documents.ttl / 2;
        let fresh = |(written, when): &(Stand, Instant)| {
            written.positions == stand.positions && written.store_id == stand.store_id && when.elapsed() < half_ttl
        };
        if self.written.as_ref().is_some_and(fresh) {
            return Ok(None);
        }
        let with_all = self.all_is_large.is_none_or(|when| when.elapsed() >= half_ttl);
        let limit_max = self.documents.limits.iter().max().map_or(0, |limit| *limit as usize);
        let todos_max = if with_all { usize::MAX } else { limit_max };

        let mut array = JsonArray::default();
        let loaded = reader.load(todos_max, DOCUMENT_BYTES_MAX, |_, json| array.push(json)).await?;
        let all = (!loaded.older).then(|| array.whole()).flatten();
        if with_all {
            self.all_is_large = all.is_none().then(Instant::now);
        }
        let limited = self.documents.limits.iter().map(|limit| {
            let document =
                if loaded.older { array.first(*limit as usize) } else { array.first_or_all(*limit as usize) };
            (format!("{KEY_LIMIT_PREFIX}{limit}"), document)
        });
        let documents = limited.chain([(KEY_ALL.to_owned(), all)]).collect();
        let taken = self.set(&loaded.stand, documents).await?;
        self.written = Some((loaded.stand, Instant::now()));
        Ok(Some(taken))
    }

    async fn set(&self, stand: &Stand, documents: Vec<(String, Option<Vec<u8>>)>) -> Result<bool, Trouble> {
        let store = format!("{:032x}", u128::from_be_bytes(stand.store_id));
        // Numbers in the script are exact below 2^53, which positions do not reach in a hundred years.
        let sum: u64 = stand.positions.iter().sum();
        let ttl_ms = u64::try_from(self.documents.ttl.as_millis()).expect("years");
        let mut keys = vec![format!("{KEY_ALL}:{KEY_STANDS}")];
        let mut arguments: Vec<Value> = vec![store.into(), sum.to_string().into(), ttl_ms.to_string().into()];
        for (key, document) in documents {
            keys.push(key);
            arguments.push(Value::Bytes(document.unwrap_or_default().into()));
        }
        let client = at_once(self.client, REDIS_DOCUMENTS_TIMEOUT);
        let taken: u32 = client.eval(SCRIPT, keys, arguments).await?;
        Ok(taken == 1)
    }
}

/// Todos as one JSON array, and where each of them ends.
#[derive(Default)]
struct JsonArray {
    /// `[`, the first, `,`, the second…; without the `]`.
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl JsonArray {
    fn push(&mut self, json: &[u8]) {
        self.bytes.push(if self.ends.is_empty() { b'[' } else { b',' });
        self.bytes.extend_from_slice(json);
        self.ends.push(self.bytes.len());
    }

    /// The first `count`, if there are so many and they are not too large.
    fn first(&self, count: usize) -> Option<Vec<u8>> {
        let end = match count {
            0 => 0,
            count => *self.ends.get(count - 1)?,
        };
        if end >= DOCUMENT_BYTES_MAX {
            return None;
        }
        let head = if end == 0 { &b"["[..] } else { &self.bytes[..end] };
        Some([head, b"]"].concat())
    }

    fn first_or_all(&self, count: usize) -> Option<Vec<u8>> {
        self.first(count.min(self.ends.len()))
    }

    fn whole(&self) -> Option<Vec<u8>> {
        self.first(self.ends.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_cut_between_todos() {
        let mut array = JsonArray::default();
        assert_eq!(array.whole().as_deref(), Some(&b"[]"[..]));
        assert_eq!(array.first_or_all(3).as_deref(), Some(&b"[]"[..]));
        ["{1}", "{22}", "{333}"].iter().for_each(|json| array.push(json.as_bytes()));
        for (count, expected) in [(0, "[]"), (1, "[{1}]"), (2, "[{1},{22}]"), (3, "[{1},{22},{333}]")] {
            assert_eq!(array.first(count).as_deref(), Some(expected.as_bytes()), "{count}");
        }
        assert_eq!(array.first(4), None);
        assert_eq!(array.first_or_all(4), array.whole());
    }

    #[test]
    fn what_is_too_large_is_none() {
        let mut array = JsonArray::default();
        array.push(&vec![b'1'; DOCUMENT_BYTES_MAX - 2]);
        assert_eq!(array.whole().map(|document| document.len()), Some(DOCUMENT_BYTES_MAX));
        array.push(b"2");
        assert_eq!(array.whole(), None);
        assert!(array.first(1).is_some());
    }
}
