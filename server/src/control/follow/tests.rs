use todo_proto::change::{Change, Changes};
use todo_proto::message;
use todo_worker::reads::Stand;

use super::*;
use crate::snapshot::Builder;

const STORE: StoreId = [1; 16];
const OTHER: StoreId = [2; 16];
const WINDOW: Window = Window { items_max: 100, bytes_max: 1 << 20 };

fn id(number: u64) -> ItemId {
    ItemId::from_parts(number, 0)
}

fn change(number: u64, revision: u64) -> Change {
    Change { id: id(number), revision, json: Some(format!("{{{revision}}}").into_bytes().into()) }
}

/// A snapshot at two positions with the todos of these numbers, newest first.
fn snapshot(version: u64, positions: [u64; 2], numbers: &[u64]) -> Snapshot {
    snapshot_of(STORE, version, positions, numbers, ItemId::ZERO)
}

fn snapshot_of(store: StoreId, version: u64, positions: [u64; 2], numbers: &[u64], floor: ItemId) -> Snapshot {
    let mut builder = Builder::new(store, version);
    numbers.iter().for_each(|number| builder.push(id(*number), b"{}"));
    builder.finish(positions.into(), floor)
}

fn look_of(store_id: StoreId, positions: [u64; 2], oldest: Option<u64>) -> Look {
    let stand = Stand { store_id, positions: positions.to_vec(), caught_up_at_ms: vec![0; 2] };
    Look { stand, purged: vec![0; 2], oldest: oldest.map(id), now_ms: 0, topic: String::new() }
}

fn look(positions: [u64; 2]) -> Look {
    look_of(STORE, positions, Some(1))
}

/// A message of partition 0 that says what each revision of `(from, to]` made of the todo of its number.
fn said(from: u64, to: u64) -> Heard {
    said_of(STORE, 0, from, to)
}

fn said_of(store_id: StoreId, part: u32, from: u64, to: u64) -> Heard {
    let changes = (from + 1..=to).map(|revision| change(revision, revision)).collect();
    let [message] = message::encode(&[Changes { store_id, part, from, to, changes }]).try_into().expect("a small one");
    Heard::Message(message)
}

/// One that serves a snapshot at these positions and hears messages.
fn following(positions: [u64; 2], numbers: &[u64]) -> Follow {
    let mut follow = Follow::new(WINDOW, 0);
    assert!(!follow.wants_load(), "the channel is waited for");
    follow.heard(Heard::Subscribed);
    assert!(follow.wants_load());
    let version = follow.begin_load();
    follow.loaded(snapshot(version, positions, numbers));
    assert!(follow.replace(&Shown::default()).is_some());
    follow.looked(look(positions));
    follow
}

fn refreshed(follow: &mut Follow) -> Arc<Snapshot> {
    assert!(follow.is_fresh());
    follow.refresh()
}

fn ask(follow: &mut Follow) -> Option<(u32, u64)> {
    follow.ask(&Shown::default()).map(|ask| (ask.part, ask.above))
}

#[test]
fn a_message_is_taken_only_where_it_continues_a_position() {
    // From position 5: what is heard, then the position of partition 0, and whether the store is asked.
    let cases: [(&str, Vec<Heard>, u64, bool); 8] = [
        ("next", vec![said(5, 7)], 7, false),
        ("old", vec![said(3, 5)], 5, false),
        ("twice", vec![said(5, 7), said(5, 7)], 7, false),
        ("over what is there", vec![said(2, 6)], 6, false),
        ("a gap", vec![said(6, 8)], 5, true),
        ("another store's", vec![said_of(OTHER, 0, 5, 7)], 5, false),
        ("of a partition that is not there", vec![said_of(STORE, 9, 0, 7)], 5, false),
        ("nobody's", vec![Heard::Message(b"hello".to_vec())], 5, false),
    ];
    for (name, heard, position, asks) in cases {
        let mut follow = following([5, 0], &[]);
        heard.into_iter().for_each(|heard| follow.heard(heard));
        assert_eq!(ask(&mut follow).is_some(), asks, "{name}");
        let served = if follow.is_fresh() { follow.refresh() } else { Arc::new(snapshot(0, [5, 0], &[])) };
        assert_eq!(served.positions(), [position, 0], "{name}");
        assert_eq!(u64::from(served.items_count()), position - 5, "{name}");
    }
}

#[test]
fn a_gap_is_asked_for_once_and_what_is_answered_goes_in() {
    let mut follow = following([5, 0], &[]);
    follow.heard(said(6, 8));
    let asked = follow.ask(&Shown::default()).expect("a gap");
    assert_eq!((asked.part, asked.above), (0, 5));
    assert_eq!(follow.ask(&Shown::default()), None, "once");
    let changes = vec![change(6, 6), change(8, 8)];
    follow.repaired(asked, Repair::Changes { store_id: STORE, position: 8, changes });
    assert_eq!(refreshed(&mut follow).positions(), [8, 0]);
    // An answer that is older than what messages brought meanwhile changes nothing.
    follow.heard(said(9, 10));
    let late = follow.ask(&Shown::default()).expect("another gap");
    follow.heard(said(8, 10));
    follow.repaired(late, Repair::Changes { store_id: STORE, position: 9, changes: vec![change(9, 9)] });
    assert_eq!(refreshed(&mut follow).positions(), [10, 0]);
    assert_eq!(follow.counts().repairs, 1);
}

#[test]
fn what_the_last_look_saw_and_nobody_brought_is_asked_for() {
    let mut follow = following([5, 5], &[]);
    follow.looked(look([7, 5]));
    assert_eq!(ask(&mut follow), None, "it may be on its way");
    follow.heard(said(5, 6));
    follow.looked(look([9, 5]));
    assert_eq!(ask(&mut follow), Some((0, 6)), "the last look's 7 is not reached");
    follow.heard(said(6, 9));
    follow.looked(look([9, 6]));
    assert_eq!(ask(&mut follow), None);

    for (name, heard) in [
        ("while nothing is heard", Heard::Away("cut".to_owned())),
        ("after a pause", Heard::Subscribed),
        ("after a flood", Heard::Missed),
    ] {
        let mut follow = following([5, 5], &[]);
        follow.heard(heard);
        follow.looked(look([5, 6]));
        assert_eq!(ask(&mut follow), Some((1, 5)), "at once {name}");
    }
}

#[test]
fn a_run_in_pieces_moves_with_the_last_of_them() {
    let large = |number: u64| {
        let json = vec![b'x'; todo_proto::limits::ITEM_JSON_BYTES_MAX];
        Change { id: id(number), revision: number, json: Some(json.into()) }
    };
    let changes = (1..=9).map(large).collect();
    let pieces = message::encode(&[Changes { store_id: STORE, part: 0, from: 0, to: 9, changes }]);
    assert_eq!(pieces.len(), 3);
    let orders: [(&[usize], bool); 5] =
        [(&[0, 1, 2], true), (&[2, 0, 0, 1], true), (&[0, 1], false), (&[0, 0, 0], false), (&[1, 2, 1], false)];
    for (order, is_whole) in orders {
        let mut follow = following([0, 0], &[]);
        order.iter().for_each(|piece| follow.heard(Heard::Message(pieces[*piece].clone())));
        assert_eq!(follow.is_fresh(), is_whole, "{order:?}");
        if is_whole {
            assert_eq!(refreshed(&mut follow).items_count(), 9, "{order:?}");
        }
        // What is missing is asked for like anything else.
        follow.heard(said(9, 10));
        assert_eq!(ask(&mut follow), if is_whole { None } else { Some((0, 0)) }, "{order:?}");
    }
}

#[test]
fn a_load_replaces_what_is_served_when_nothing_goes_back() {
    let mut follow = following([5, 5], &[]);
    follow.looked(look_of(OTHER, [1, 1], None));
    assert!(follow.wants_load(), "another store");
    let version = follow.begin_load();
    follow.loaded(snapshot_of(OTHER, version, [1, 1], &[3], ItemId::ZERO));
    let served = follow.replace(&Shown::default()).expect("nothing of another store is compared");
    assert_eq!((served.store_id(), served.positions()), (&OTHER, &[1, 1][..]));

    let mut follow = following([5, 5], &[]);
    let lost = {
        follow.heard(said(9, 10));
        follow.ask(&Shown::default()).expect("a gap")
    };
    follow.repaired(lost, Repair::TooMuch);
    let version = follow.begin_load();
    // What is heard meanwhile is kept, and goes into both.
    follow.heard(said(5, 7));
    assert_eq!(refreshed(&mut follow).positions(), [7, 5], "what is served goes on");
    follow.loaded(snapshot(version, [6, 4], &[6]));
    assert!(follow.replace(&Shown::default()).is_none(), "partition 1 would go back");
    let asked = follow.ask(&Shown::default()).expect("it is repaired");
    assert_eq!((asked.part, asked.above), (1, 4));
    assert_eq!(follow.ask(&Shown::default()), None, "once a look");
    follow.repaired(asked, Repair::Changes { store_id: STORE, position: 8, changes: vec![change(90, 8)] });
    let served = follow.replace(&Shown::default()).expect("nothing goes back");
    assert_eq!(served.positions(), [7, 8]);
    let numbers: Vec<u64> = (1..100).filter(|number| served.json(id(*number)).is_some()).collect();
    assert_eq!(numbers, [6, 7, 90]);
    assert_eq!(follow.counts().loads, 2);
}

#[test]
fn a_load_is_not_lower_than_what_reads_of_the_store_have_shown() {
    let mut shown = Shown::default();
    shown.note(STORE, &[5, 5]);
    shown.note(STORE, &[7, 4]);
    let mut follow = following([5, 5], &[]);
    follow.want_load();
    let version = follow.begin_load();
    follow.loaded(snapshot(version, [6, 5], &[]));
    assert!(follow.replace(&shown).is_none(), "a client has seen 7");
    assert_eq!(follow.ask(&shown).map(|ask| (ask.part, ask.above)), Some((0, 6)));
    follow.heard(said(6, 7));
    assert_eq!(follow.replace(&shown).expect("7 is reached").positions(), [7, 5]);
    shown.note(OTHER, &[1, 1]);
    assert_eq!(shown, Shown { store_id: OTHER, positions: vec![1, 1] });
}

#[test]
fn a_store_that_was_restored_is_waited_for() {
    let mut follow = following([5, 5], &[]);
    follow.looked(look([3, 5]));
    follow.looked(look([3, 5]));
    assert!(ask(&mut follow).is_none() && !follow.wants_load(), "it will apply the log again");
    follow.want_load();
    let version = follow.begin_load();
    follow.loaded(snapshot(version, [3, 5], &[]));
    let asked = follow.ask(&Shown::default()).expect("behind what is served");
    follow.repaired(asked, Repair::Changes { store_id: STORE, position: 4, changes: Vec::new() });
    assert!(follow.replace(&Shown::default()).is_none());
    assert_eq!(ask(&mut follow), None, "not before the next look");
    follow.looked(look([5, 5]));
    assert_eq!(ask(&mut follow), Some((0, 4)));
}

#[test]
fn a_window_that_has_shrunk_is_loaded_again_when_there_is_more() {
    let numbers: Vec<u64> = (50..=120).rev().collect();
    let cases: [(&str, u64, Option<u64>, bool); 4] = [
        ("well filled", 60, Some(1), false),
        ("under half", 80, Some(1), true),
        ("under half of everything", 80, Some(50), false),
        ("an empty store", 80, None, false),
    ];
    for (name, deleted, oldest, wanted) in cases {
        let mut follow = Follow::new(WINDOW, 0);
        follow.heard(Heard::Subscribed);
        let version = follow.begin_load();
        follow.loaded(snapshot_of(STORE, version, [0, 0], &numbers, id(50)));
        assert!(follow.replace(&Shown::default()).is_some());
        let gone = (51..=deleted).map(|number| Change { id: id(number), revision: number, json: None });
        let changes = Changes { store_id: STORE, part: 0, from: 0, to: deleted, changes: gone.collect() };
        follow.heard(Heard::Message(message::encode(&[changes]).remove(0)));
        refreshed(&mut follow);
        follow.looked(look_of(STORE, [deleted, 0], oldest));
        assert_eq!(follow.wants_load(), wanted, "{name}");
    }
}

/// A look of a moment ago knows nothing of what came since: an id that was taken is never "older than all".
#[test]
fn nothing_that_was_taken_is_older_than_all() {
    let mut follow = following([5, 5], &[90]);
    assert_eq!(follow.oldest(), Some(ItemId::ZERO), "that look may be older than the load");
    follow.asks_look();
    follow.looked(look_of(STORE, [5, 5], Some(90)));
    assert_eq!(follow.oldest(), Some(id(90)));
    follow.heard(said(5, 6));
    assert_eq!(follow.oldest(), Some(id(6)));
    follow.asks_look();
    follow.heard(said(6, 7));
    follow.looked(look_of(STORE, [5, 5], Some(90)));
    assert_eq!(follow.oldest(), Some(id(7)), "it may have been asked before 7 was there");
    follow.asks_look();
    follow.looked(look_of(STORE, [7, 5], None));
    assert_eq!(follow.oldest(), Some(ItemId::MAX), "there is nothing");
}
