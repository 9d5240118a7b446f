//! A filled store, and the reads that a snapshot is made of.

use todo_proto::id::ItemId;
use todo_worker::fill::fill;
use todo_worker::sample::SampleTodos;
use todo_worker::traits::{StoreError, TodoStore};

use crate::support::{Home, NOW_MS};

const COUNT: u64 = 5_000;

#[tokio::test]
async fn a_filled_store_reads_newest_first() {
    let home = Home::new();
    let store = home.open();
    let mut reader = store.reader().unwrap();
    assert!(reader.is_empty().unwrap());
    assert_eq!(reader.oldest().unwrap(), None);

    let (mut store, filled) = fill(store, [1; 16], SampleTodos::new(1, COUNT, NOW_MS)).await;
    assert_eq!(filled, Ok(COUNT));
    assert!(!reader.is_empty().unwrap());
    assert_eq!(reader.count().unwrap(), COUNT);
    assert_eq!(store.partition(0).await.unwrap().next_offset, COUNT);

    let expected: Vec<ItemId> = SampleTodos::new(1, COUNT, NOW_MS).map(|todo| todo.id).collect();
    let newest_first: Vec<ItemId> = expected.iter().rev().copied().collect();
    assert_eq!(reader.oldest().unwrap(), Some(expected[0]));
    let mut todos = Vec::new();
    let all = reader.load(usize::MAX, usize::MAX, |id, json| todos.push((id, json.to_vec()))).unwrap();
    assert_eq!((all.todos_count as u64, all.older), (COUNT, false));
    assert_eq!(all.json_bytes, todos.iter().map(|(_, json)| json.len()).sum::<usize>());
    assert_eq!(all.stand.positions, [COUNT]);
    assert_eq!(todos.iter().map(|(id, _)| *id).collect::<Vec<_>>(), newest_first);
    for (id, json) in &todos {
        assert!(json.starts_with(format!("{{\"id\":\"{id}\",\"title\":\"").as_bytes()));
    }

    // A window ends where either bound does, and what is below begins there.
    let first_ten: usize = todos[..10].iter().map(|(_, json)| json.len()).sum();
    for (todos_max, bytes_max, count) in
        [(10, usize::MAX, 10), (11, first_ten, 10), (11, first_ten - 1, 9), (0, usize::MAX, 0)]
    {
        let window = reader.load(todos_max, bytes_max, |_, _| {}).unwrap();
        assert_eq!((window.todos_count, window.older), (count, true));
    }
    let below = reader.read_below(todos[9].0, 4, usize::MAX).unwrap();
    assert!(below.older && below.stand == all.stand);
    assert!(below.todos.iter().map(|(id, json)| (*id, json.to_vec())).eq(todos[10..14].iter().cloned()));
    let last = reader.read_below(expected[1], 4, usize::MAX).unwrap();
    assert_eq!((last.todos.len(), last.older), (1, false));

    let (stand, json) = reader.read_one(todos[7].0).unwrap();
    assert_eq!((stand, json.as_deref()), (all.stand, Some(todos[7].1.as_slice())));
    assert_eq!(reader.read_one(ItemId::ZERO).unwrap().1, None);
}

/// A read that began before a write sees nothing of it, neither row nor position.
#[tokio::test]
async fn a_load_is_one_moment() {
    let home = Home::new();
    let (store, filled) = fill(home.open(), [1; 16], SampleTodos::new(1, 10, NOW_MS)).await;
    filled.unwrap();
    let mut reader = store.reader().unwrap();
    let mut store = Some(store);
    let (mut seen, mut appended) = (0, false);
    let loaded = reader
        .load(usize::MAX, usize::MAX, |_, _| {
            seen += 1;
            if let Some(store) = store.take() {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                let more = SampleTodos::new(2, 5, NOW_MS);
                let writer = std::thread::spawn(move || runtime.block_on(fill(store, [2; 16], more)).1.unwrap());
                appended = writer.join().unwrap() == 5;
            }
        })
        .unwrap();
    assert!(appended);
    assert_eq!((seen, loaded.todos_count, loaded.stand.positions), (10, 10, vec![10]));
    assert_eq!(reader.load(usize::MAX, usize::MAX, |_, _| {}).unwrap().stand.positions, [15]);
}

#[tokio::test]
async fn filling_says_why_it_ended() {
    let home = Home::new();
    let mut store = home.open();
    store.cap_pages(100).await.unwrap();
    let (mut store, filled) = fill(store, [1; 16], SampleTodos::new(1, COUNT, NOW_MS)).await;
    let error = filled.unwrap_err();
    assert_eq!(error.why, StoreError::Full.to_string());
    assert!(error.applied < COUNT);
    assert_eq!(store.partition(0).await.unwrap().next_offset, error.applied);
}
