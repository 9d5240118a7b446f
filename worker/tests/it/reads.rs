//! What a snapshot reads out of Postgres: each call one moment, whoever writes meanwhile.

use std::ops::ControlFlow;

use todo_proto::change::Change;
use todo_proto::command::TodoCommand;
use todo_proto::fold::{Folded, fold};
use todo_proto::id::ItemId;
use todo_proto::limits::RETRY_WINDOW_MS;
use todo_worker::limits::REPAIR_ROWS_MAX;
use todo_worker::postgres::PgStore;
use todo_worker::reads::{OlderReader, Repair, StoreReader};
use todo_worker::traits::{Named, TodoStore};

use crate::database::{PARTITIONS, PgHome};
use crate::support::{NOW_MS, complete, create, delete, entries, id, large};

/// Applies commands to a partition, and returns what the feed would carry.
async fn apply(store: &mut PgStore, part: u32, commands: Vec<TodoCommand>) -> Vec<Change> {
    let partition = store.partition(part).await.unwrap();
    let entries = entries(&partition, commands);
    let begun = store.begin(part, partition.next_offset, Named::by(&entries)).await.unwrap();
    let Folded { batch, changes, .. } = fold(&begun.partition, begun.rows, &begun.producers, &entries);
    store.commit(batch).await.unwrap();
    changes.changes
}

#[tokio::test]
async fn a_load_is_the_newest_first_within_its_bounds() {
    let home = PgHome::new().await;
    let mut store = home.database.store();
    let commands = (0..10).map(|number| create(number, "a\"\n\u{1f600}")).chain([complete(3), delete(9)]).collect();
    let changes = apply(&mut store, 1, commands).await;
    let expected: Vec<(ItemId, Box<[u8]>)> =
        changes.into_iter().rev().filter_map(|change| Some((change.id, change.json?))).collect();
    let json_bytes: usize = expected.iter().map(|(_, json)| json.len()).sum();
    let mut reader = home.database.reader();
    for (todos_max, bytes_max, count) in [
        (100, usize::MAX, 9),
        (9, json_bytes, 9),
        (8, usize::MAX, 8),
        (100, json_bytes - 1, 8),
        (0, usize::MAX, 0),
        (100, 10, 0),
    ] {
        let mut todos = Vec::new();
        let loaded = reader.load(todos_max, bytes_max, |id, json| todos.push((id, json.into()))).await.unwrap();
        assert_eq!(todos, expected[..count], "{todos_max} {bytes_max}");
        assert_eq!((loaded.todos_count, loaded.older), (count, count < 9));
        assert_eq!(loaded.stand.positions, [0, 12, 0, 0]);
        assert_eq!(loaded.stand.store_id, store.partition(0).await.unwrap().store_id);
    }

    let below = reader.read_below(expected[3].0, 4, usize::MAX).await.unwrap();
    assert_eq!((below.todos, below.older), (expected[4..8].to_vec(), true));
    assert_eq!(reader.read_below(expected[8].0, 4, usize::MAX).await.unwrap().todos, []);
    let (stand, one) = reader.read_one(expected[2].0).await.unwrap();
    assert_eq!((stand.positions, one.as_ref()), (vec![0, 12, 0, 0], Some(&expected[2].1)));
    for nobody in [id(9), id(77)] {
        assert_eq!(reader.read_one(nobody).await.unwrap().1, None);
    }
    assert_eq!(reader.count().await, Ok(9));
}

#[tokio::test]
async fn a_look_tells_where_the_store_stands() {
    let home = PgHome::new().await;
    let mut store = home.database.store();
    let mut reader = home.database.reader();
    let look = reader.look().await.unwrap();
    assert_eq!((look.oldest, look.now_ms), (None, NOW_MS));
    assert_eq!((look.stand.positions.len(), look.purged.len()), (PARTITIONS as usize, PARTITIONS as usize));

    apply(&mut store, 2, vec![create(1, "a"), create(2, "b"), delete(1)]).await;
    let far = NOW_MS + 2 * RETRY_WINDOW_MS;
    store.catch_up(2, 3, far).await.unwrap();
    let look = reader.look().await.unwrap();
    assert_eq!((look.stand.positions, look.purged), (vec![0, 0, 3, 0], vec![0, 0, 3, 0]));
    assert_eq!((look.stand.caught_up_at_ms, look.oldest), (vec![0, 0, far, 0], Some(id(2))));
}

#[tokio::test]
async fn a_repair_is_what_has_changed_since() {
    let home = PgHome::new().await;
    let mut store = home.database.store();
    let mut reader = home.database.reader();
    let store_id = store.partition(0).await.unwrap().store_id;
    let nothing = Repair::Changes { store_id, position: 0, changes: Vec::new() };
    assert_eq!(reader.repair(1, 0).await.unwrap(), nothing);

    apply(&mut store, 1, vec![create(5, "a"), create(4, "b"), create(3, "c")]).await;
    apply(&mut store, 0, vec![create(6, "elsewhere")]).await;
    let changes = apply(&mut store, 1, vec![complete(5), delete(4)]).await;
    assert_eq!(reader.repair(1, 3).await.unwrap(), Repair::Changes { store_id, position: 5, changes });
    let Repair::Changes { changes, .. } = reader.repair(1, 0).await.unwrap() else { panic!("few rows") };
    assert_eq!(changes.iter().map(|change| change.id).collect::<Vec<_>>(), [id(3), id(4), id(5)]);
    assert_eq!(changes.iter().map(|change| change.revision).collect::<Vec<_>>(), [3, 5, 4]);
    assert_eq!(reader.repair(1, 9).await.unwrap(), Repair::Changes { store_id, position: 5, changes: Vec::new() });

    // Somebody may have missed the tombstone.
    store.catch_up(1, 5, NOW_MS + 2 * RETRY_WINDOW_MS).await.unwrap();
    assert_eq!(reader.repair(1, 4).await.unwrap(), Repair::TooMuch);
    assert!(matches!(reader.repair(1, 5).await.unwrap(), Repair::Changes { .. }));

    let many = REPAIR_ROWS_MAX;
    home.client()
        .await
        .batch_execute(&format!(
            "INSERT INTO todos SELECT gen_random_uuid(), 3, n, false, false, 0, NULL, 'a', ''
                 FROM generate_series(1, {many} + 1) AS n;
             UPDATE partitions SET next_offset = {many} + 1 WHERE part = 3"
        ))
        .await
        .unwrap();
    assert_eq!(reader.repair(3, 0).await.unwrap(), Repair::TooMuch);
    let Repair::Changes { changes, .. } = reader.repair(3, 1).await.unwrap() else { panic!("it fits") };
    assert_eq!(changes.len(), many as usize);
}

#[tokio::test]
async fn a_load_that_others_write_beside_is_one_moment() {
    let home = PgHome::new().await;
    let mut store = home.database.store();
    for first in [0, 100] {
        apply(&mut store, 0, (first..first + 100).map(large).collect()).await;
    }
    let mut reader = home.database.reader();
    let mut titles = 0;
    // 8 MB: more than sockets hold, so the writer goes on while rows are on their way.
    let (loaded, _) = tokio::join!(
        reader
            .load(1_000, usize::MAX, |_, json| titles += usize::from(json.windows(7).any(|part| part == b"\"large\""))),
        async {
            for number in 0..20 {
                apply(&mut store, 0, vec![delete(number)]).await;
            }
        }
    );
    let loaded = loaded.unwrap();
    let deleted = loaded.stand.positions[0] - 200;
    assert_eq!((loaded.todos_count as u64 + deleted, titles), (200, loaded.todos_count));
}

#[tokio::test]
async fn an_export_has_all_that_an_import_needs() {
    let home = PgHome::new().await;
    let mut store = home.database.store();
    let first = create(1, "a");
    let born = first.fingerprint();
    apply(&mut store, 0, vec![first, create(2, "b"), delete(2), create(3, "c")]).await;
    let mut reader = home.database.reader();
    let mut todos = Vec::new();
    let count = reader.export(|todo| {
        todos.push((todo.id, todo.fields.title.to_owned(), todo.updated_at_ms, todo.born));
        ControlFlow::Continue(())
    });
    assert_eq!(count.await, Ok(2));
    assert_eq!(todos[1], (id(1), "a".to_owned(), NOW_MS, Some(born)));
    assert_eq!(reader.export(|_| ControlFlow::Break(())).await, Ok(1));
    // What was left half way is not in anybody's way.
    assert_eq!(reader.count().await, Ok(2));
}
