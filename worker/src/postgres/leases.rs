//! Who applies which partition. A lease lives by Postgres's clock and is renewed by saying so again; a worker that says
//! nothing loses its partitions to the others. Nothing right depends on it: two owners of one partition are kept apart by
//! its row, and only cost each other work.
//!
//! Shared out fairly: with W workers there, none keeps more than its share, partitions / W rounded up. A worker that has
//! more is told how many too many, ends their loops and releases them; one that has fewer takes what is free.

use futures_util::future::join;
use tokio_postgres::Error;
use uuid::Uuid;

use crate::limits::LEASE;
use crate::postgres::connect::Lent;
use crate::postgres::{Database, part_column};
use crate::traits::StoreError;

/// One start of a worker.
pub type WorkerId = [u8; 16];

/// The leases of one worker.
#[derive(Clone)]
pub struct Leases {
    database: Database,
    worker: Uuid,
}

/// What a worker has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Share {
    /// Its partitions, ascending.
    pub held: Vec<u32>,
    /// How many of them it is to give up.
    pub surplus: usize,
    /// Workers that are there, this one included.
    pub workers: usize,
}

impl Database {
    /// The leases of `worker`.
    pub fn leases(&self, worker: WorkerId) -> Leases {
        Leases { database: self.clone(), worker: Uuid::from_bytes(worker) }
    }
}

impl Leases {
    /// Says that this worker is there, renews what it has, and takes what is free up to its share.
    pub async fn renew(&self) -> Result<Share, StoreError> {
        self.database.call(async |lent| renew(lent, self.worker).await).await
    }

    /// Gives `part` up, so that another can take it at once.
    pub async fn release(&self, part: u32) -> Result<(), StoreError> {
        self.database
            .call(async |lent| {
                let statement = lent.prepare_cached(RELEASE).await?;
                lent.execute(&statement, &[&self.worker, &part_column(part)]).await.map(drop)
            })
            .await
    }

    /// Gives everything up, and is not there any more.
    pub async fn leave(&self) -> Result<(), StoreError> {
        self.database
            .call(async |lent| {
                let (released, left) = (lent.prepare_cached(RELEASE_ALL).await?, lent.prepare_cached(LEAVE).await?);
                let (released, left) =
                    join(lent.execute(&released, &[&self.worker]), lent.execute(&left, &[&self.worker])).await;
                released.and(left).map(drop)
            })
            .await
    }
}

const ENTER: &str = "
    INSERT INTO workers (worker, live_until) VALUES ($1, store_now_ms() + $2)
    ON CONFLICT (worker) DO UPDATE SET live_until = excluded.live_until";

/// Another that buries the same dead is not waited for.
const BURY: &str = "
    DELETE FROM workers WHERE worker IN (
        SELECT worker FROM workers WHERE live_until < store_now_ms() FOR UPDATE SKIP LOCKED)";

const RENEW: &str = "UPDATE leases SET lease_until = store_now_ms() + $2 WHERE owner = $1 RETURNING part";

const COUNTS: &str = "
    SELECT (SELECT count(*) FROM workers WHERE live_until >= store_now_ms()), (SELECT count(*) FROM leases)";

const CLAIM: &str = "
    UPDATE leases SET owner = $1, lease_until = store_now_ms() + $2
    WHERE part IN (
        SELECT part FROM leases WHERE owner IS NULL OR lease_until < store_now_ms()
        ORDER BY part LIMIT $3 FOR UPDATE SKIP LOCKED)
    RETURNING part";

const RELEASE: &str = "UPDATE leases SET owner = NULL WHERE owner = $1 AND part = $2";
const RELEASE_ALL: &str = "UPDATE leases SET owner = NULL WHERE owner = $1";
const LEAVE: &str = "DELETE FROM workers WHERE worker = $1";

/// One by one, each a transaction of its own: whatever comes between them is put right by the next renewal.
async fn renew(lent: &Lent, worker: Uuid) -> Result<Share, Error> {
    let lease_ms = LEASE.as_millis() as i64;
    lent.execute(&lent.prepare_cached(ENTER).await?, &[&worker, &lease_ms]).await?;
    lent.execute(&lent.prepare_cached(BURY).await?, &[]).await?;
    let renewed = lent.query(&lent.prepare_cached(RENEW).await?, &[&worker, &lease_ms]).await?;
    let counts = lent.query_one(&lent.prepare_cached(COUNTS).await?, &[]).await?;
    let (workers, partitions): (i64, i64) = (counts.try_get(0)?, counts.try_get(1)?);
    let workers = usize::try_from(workers).unwrap_or(0).max(1);
    let share = usize::try_from(partitions).unwrap_or(0).div_ceil(workers);

    let mut rows = renewed;
    if rows.len() < share {
        let wanted = (share - rows.len()) as i64;
        rows.extend(lent.query(&lent.prepare_cached(CLAIM).await?, &[&worker, &lease_ms, &wanted]).await?);
    }
    let parts = rows.iter().map(|row| row.try_get::<_, i32>(0).map(i32::cast_unsigned));
    let mut held = parts.collect::<Result<Vec<_>, _>>()?;
    held.sort_unstable();
    let surplus = held.len().saturating_sub(share);
    Ok(Share { held, surplus, workers })
}
