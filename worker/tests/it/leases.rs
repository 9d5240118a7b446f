//! How workers share the partitions, and what is kept for a human.

use todo_proto::fold::{DeadLetter, DeadReason, fold};
use todo_worker::limits::LEASE;
use todo_worker::postgres::Share;
use todo_worker::traits::{Named, TodoStore};

use crate::database::{PARTITIONS, PgHome};
use crate::support::{NOW_MS, create, entries};

#[tokio::test]
async fn partitions_are_shared_out_and_change_hands() {
    let home = PgHome::new().await;
    let (first, second) = (home.database.leases([1; 16]), home.database.leases([2; 16]));
    let share = |held: &[u32], surplus, workers| Ok(Share { held: held.to_vec(), surplus, workers });
    assert_eq!(first.renew().await, share(&[0, 1, 2, 3], 0, 1));
    // Nothing is free, and the first hears that it is to give up half.
    assert_eq!(second.renew().await, share(&[], 0, 2));
    assert_eq!(first.renew().await, share(&[0, 1, 2, 3], 2, 2));
    for part in [2, 3] {
        first.release(part).await.unwrap();
    }
    // What is free it leaves alone, since it has its share.
    assert_eq!(first.renew().await, share(&[0, 1], 0, 2));
    assert_eq!(second.renew().await, share(&[2, 3], 0, 2));
    second.release(0).await.unwrap();
    assert_eq!(first.renew().await, share(&[0, 1], 0, 2), "nobody gives up what is another's");

    first.leave().await.unwrap();
    assert_eq!(second.renew().await, share(&[0, 1, 2, 3], 0, 1));
}

#[tokio::test]
async fn a_worker_that_says_nothing_loses_its_partitions_when_the_lease_ends() {
    let home = PgHome::new().await;
    let (dead, other) = (home.database.leases([1; 16]), home.database.leases([2; 16]));
    assert_eq!(dead.renew().await.unwrap().held.len(), PARTITIONS as usize);
    let lease_ms = LEASE.as_millis() as u64;
    home.set_clock(NOW_MS + lease_ms).await;
    assert_eq!(other.renew().await.unwrap().held, [] as [u32; 0]);
    home.set_clock(NOW_MS + lease_ms + 1).await;
    assert_eq!(other.renew().await.unwrap().held.len(), PARTITIONS as usize);
    // It wakes up, and takes nothing back.
    assert_eq!(dead.renew().await.unwrap().held, [] as [u32; 0]);
}

#[tokio::test]
async fn more_workers_than_partitions_hold_one_each_at_most() {
    let home = PgHome::new().await;
    let workers: Vec<_> = (1..=PARTITIONS as u8 + 2).map(|number| home.database.leases([number; 16])).collect();
    for worker in &workers {
        let Share { held, surplus, .. } = worker.renew().await.unwrap();
        for part in held.iter().rev().take(surplus) {
            worker.release(*part).await.unwrap();
        }
    }
    // Everybody is there: who has too many gives them up, who has none takes one.
    for _ in 0..2 {
        for worker in &workers {
            let Share { held, surplus, .. } = worker.renew().await.unwrap();
            for part in held.iter().rev().take(surplus) {
                worker.release(*part).await.unwrap();
            }
        }
    }
    let mut held: Vec<u32> = Vec::new();
    for worker in &workers {
        let share = worker.renew().await.unwrap();
        assert!(share.held.len() <= 1);
        held.extend(share.held);
    }
    held.sort_unstable();
    assert_eq!(held, [0, 1, 2, 3]);
}

#[tokio::test]
async fn dead_letters_are_listed_shown_and_marked() {
    let home = PgHome::new().await;
    let mut store = home.database.store();
    let partition = store.partition(1).await.unwrap();
    let entries = entries(&partition, vec![create(1, "a")]);
    let begun = store.begin(1, 0, Named::by(&entries)).await.unwrap();
    let mut batch = fold(&begun.partition, begun.rows, &begun.producers, &entries).batch;
    let letter = |position, reason, record: &[u8]| DeadLetter { position, reason, record: record.to_vec() };
    batch.dead_letters = vec![letter(1, DeadReason::TooOld, b"first"), letter(2, DeadReason::Undecodable, b"second")];
    store.commit(batch).await.unwrap();

    let letters = home.database.dead_letters();
    let all = letters.list(None).await.unwrap();
    let known = |letter: &todo_worker::postgres::DeadLetterRow| (letter.part, letter.position, letter.reason.clone());
    assert_eq!(
        all.iter().map(known).collect::<Vec<_>>(),
        [(1, 2, "undecodable".to_owned()), (1, 1, "too-old".to_owned())]
    );
    assert_eq!(letters.list(Some(DeadReason::TooOld)).await.unwrap(), all[1..]);
    assert_eq!(letters.show(1, 2).await.unwrap().as_ref(), Some(&all[0]));
    assert_eq!(letters.show(0, 2).await.unwrap(), None);
    assert_eq!((all[0].record.as_slice(), all[0].at_ms, all[0].replayed_ms), (&b"second"[..], NOW_MS, None));

    letters.mark_replayed(1, 1).await.unwrap();
    home.set_clock(NOW_MS + 5).await;
    letters.mark_replayed(1, 1).await.unwrap();
    assert_eq!(letters.show(1, 1).await.unwrap().unwrap().replayed_ms, Some(NOW_MS));
    assert_eq!(letters.not_replayed(DeadReason::TooOld).await.unwrap(), []);
    let counts = vec![("too-old".to_owned(), 1), ("undecodable".to_owned(), 1)];
    assert_eq!(letters.counts().await.unwrap(), (counts, 0));
}
