//! Who has read a 202 sees the write, on any connection of any shard.

use std::collections::HashSet;

use crate::harness::{Options, Todo, get};

/// A thousand pairs: a write on one connection, then a read on another, which is mostly on another shard.
#[test]
fn a_write_that_was_acknowledged_is_seen_everywhere() {
    for shards in [1, 2] {
        let server = Options::new().flag("--shards", shards).start();
        let mut clients: Vec<_> = (0..8).map(|_| server.connect()).collect();
        let mut random = fastrand::Rng::with_seed(7);
        let mut missed = Vec::new();
        for pair in 0..500 {
            let (writer, reader) = (random.usize(..8), random.usize(..8));
            let title = format!("pair {pair}");
            let id = clients[writer].ask(&server.post(&title)).accepted();
            let list = clients[reader].ask(&get("/todos?limit=1"));
            let one = clients[reader].ask(&get(&format!("/todos/{id}")));
            let is_first = Todo::list(&list.body)[0].id == id;
            if !is_first || one.status != 200 || Todo::one(&one.body).title != title {
                missed.push((pair, writer, reader));
            }
        }
        assert_eq!(missed, [], "{shards} shards");
    }
}

/// The same while many write at once: every id is there for whoever asks after its 202, and never goes back.
#[test]
fn many_writers_see_their_own_and_nobody_goes_back() {
    let server = Options::new().start();
    std::thread::scope(|scope| {
        for writer in 0..6 {
            let server = &server;
            scope.spawn(move || {
                let (mut writing, mut reading) = (server.connect(), server.connect());
                let mut newest_seen = String::new();
                for turn in 0..40 {
                    let id = writing.ask(&server.post(&format!("{writer}/{turn}"))).accepted();
                    let list = Todo::list(&reading.ask(&get("/todos?limit=300")).body);
                    assert!(list.iter().any(|todo| todo.id == id), "{id} is missing");
                    assert!(list[0].id >= newest_seen, "the newest went back");
                    newest_seen.clone_from(&list[0].id);
                }
            });
        }
    });
    let all = Todo::list(&server.connect().ask(&get("/todos")).body);
    let titles: HashSet<_> = all.iter().map(|todo| &todo.title).filter(|title| title.contains('/')).collect();
    assert_eq!(titles.len(), 240, "each once");
    assert_eq!(all.len(), 340);
}
