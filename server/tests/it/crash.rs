//! kill -9 under write load: what was acknowledged is there exactly once, and nothing is there twice.

use std::collections::HashMap;
use std::time::Duration;

use crate::harness::{Client, Options, Server, Todo, get};

/// Connections that write at once, and the writes that each keeps under way.
const CONNECTIONS: usize = 4;
const DEPTH: usize = 16;

/// Acknowledged todos: title by id.
type Acknowledged = HashMap<String, String>;

/// `KILL_ROUNDS` raises the number of rounds, for a soak.
#[test]
fn no_acknowledged_write_is_lost_or_doubled_by_kill_9() {
    let rounds = std::env::var("KILL_ROUNDS").map_or(3, |rounds| rounds.parse().expect("KILL_ROUNDS is a number"));
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut server = Options::new().flag("--seed-todos", 0).start();
    let mut acknowledged = Acknowledged::new();
    for round in 0..rounds {
        let (next, written) = write_until_killed(server, round, Duration::from_millis(random.u64(5..400)));
        server = next;
        acknowledged.extend(written);
        check(&server, &acknowledged, &format!("seed {seed}, round {round}"));
    }
    assert!(acknowledged.len() > rounds * 10, "{} writes are no load", acknowledged.len());
}

/// Writes over several connections, kills the server after `load`, and starts it again; what had been acknowledged.
fn write_until_killed(server: Server, round: usize, load: Duration) -> (Server, Acknowledged) {
    let mut posts = Vec::new();
    for connection in 0..CONNECTIONS {
        let post = |number: usize| server.post(&format!("{round}/{connection}/{number}"));
        posts.push((0..3_000).map(post).collect::<Vec<_>>());
    }
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    std::thread::scope(|scope| {
        let writing: Vec<_> = clients
            .iter_mut()
            .zip(&posts)
            .enumerate()
            .map(|(connection, (client, posts))| scope.spawn(move || write(client, posts, round, connection)))
            .collect();
        std::thread::sleep(load);
        let server = server.kill_and_restart();
        let written = writing.into_iter().flat_map(|writer| writer.join().expect("a writer ends with its connection"));
        (server, written.collect())
    })
}

/// Keeps [`DEPTH`] writes under way until the connection ends; what was acknowledged on it.
fn write(client: &mut Client, posts: &[Vec<u8>], round: usize, connection: usize) -> Acknowledged {
    let mut acknowledged = Acknowledged::new();
    let mut sent = 0;
    for answered in 0..posts.len() {
        while sent < posts.len() && sent < answered + DEPTH {
            if !client.try_send(&posts[sent]) {
                break;
            }
            sent += 1;
        }
        let Some(answer) = client.try_response() else { break };
        acknowledged.insert(answer.accepted(), format!("{round}/{connection}/{answered}"));
    }
    acknowledged
}

fn check(server: &Server, acknowledged: &Acknowledged, when: &str) {
    let todos = Todo::list(&server.connect().ask(&get("/todos")).body);
    let titles: HashMap<&str, &str> = todos.iter().map(|todo| (todo.id.as_str(), todo.title.as_str())).collect();
    assert_eq!(titles.len(), todos.len(), "{when}: an id is there twice");
    let mut once: Vec<&str> = titles.values().copied().collect();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), todos.len(), "{when}: a write took effect twice");
    for (id, title) in acknowledged {
        assert_eq!(titles.get(id.as_str()), Some(&title.as_str()), "{when}: {id} was acknowledged");
    }
}
