//! SIGHUP while connections are open: limits begin, are lowered, raised and lifted, for those who are there too.

use std::path::PathBuf;

use rustix::process::Signal;
use todo_server::clock::wall_ms;
use todo_server::http::bearer::Keys;

use crate::harness::{Client, Options, SECRET, Server, eventually, get, request};

/// Addresses that no test asks for metrics from.
const LIMITED: [u8; 4] = [127, 0, 0, 2];
const OTHER: [u8; 4] = [127, 0, 0, 3];

/// A server whose settings file can be changed, and the folder that holds it.
struct Changing {
    server: Server,
    settings: PathBuf,
    _folder: tempfile::TempDir,
}

impl Changing {
    fn start(shards: u16, settings: &str) -> Changing {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("settings");
        std::fs::write(&path, settings).expect("a file");
        let server = Options::new().flag("--shards", shards).flag("--settings-file", path.display()).start();
        Changing { server, settings: path, _folder: folder }
    }

    fn change(&self, settings: &str) {
        std::fs::write(&self.settings, settings).expect("a file");
        self.server.signal(Signal::HUP);
    }

    /// Connections of `from`, on each shard some.
    fn connect(&self, from: [u8; 4], count: usize) -> Vec<Client> {
        (0..count).map(|_| Client::connect_from(from, self.server.address)).collect()
    }
}

/// How many of so many requests at once are answered; the rest is refused as too many.
fn served(client: &mut Client, count: usize) -> usize {
    client.send(&get("/todos?limit=1").repeat(count));
    let responses = client.responses(count);
    let refused = responses.iter().filter(|response| response.status == 429).count();
    assert!(responses.iter().all(|response| [200, 429].contains(&response.status)));
    count - refused
}

fn is_let_in(changing: &Changing, from: [u8; 4]) -> Option<Client> {
    let mut client = Client::connect_from(from, changing.server.address);
    let is_served =
        client.try_send(&get("/health")) && client.try_response().is_some_and(|answer| answer.status == 200);
    is_served.then_some(client)
}

#[test]
fn a_rate_begins_is_lowered_and_lifted_for_connections_that_are_open() {
    for shards in [1, 2] {
        let changing = Changing::start(shards, "");
        let mut clients = changing.connect(LIMITED, 6);
        let mut other = changing.connect(OTHER, 1);
        assert!(clients.iter_mut().all(|client| served(client, 200) == 200), "nothing is limited");
        assert_eq!(changing.server.metric("todo_limit_entries"), 0.0);
        changing.change("REQUESTS_PER_SECOND=1\nLIMIT_BURST_SECONDS=10\n");
        for client in &mut clients {
            eventually("it is limited that was open", || served(client, 50) < 50);
        }
        assert!(served(&mut other[0], 1) == 1, "each address has its own");
        // Much more, but not at once: nobody is given a burst by it.
        changing.change("REQUESTS_PER_SECOND=10000000\nLIMIT_BURST_SECONDS=10\n");
        for client in &mut clients {
            eventually("there is much more", || served(client, 100) == 100);
        }
        changing.change("REQUESTS_PER_SECOND=1\nLIMIT_BURST_SECONDS=1\n");
        for client in &mut clients {
            eventually("it is little again", || served(client, 50) < 50);
        }
        changing.change("");
        for client in &mut clients {
            eventually("it is free again", || served(client, 500) == 500);
        }
        eventually("nothing is kept for it", || changing.server.metric("todo_limit_entries") == 0.0);
    }
}

#[test]
fn connections_that_are_open_count_when_their_number_is_limited() {
    for shards in [1, 2] {
        let changing = Changing::start(shards, "");
        let mut clients = changing.connect(LIMITED, 40);
        assert!(clients.iter_mut().all(|client| served(client, 1) == 1));
        changing.change("CONNECTIONS_PER_ADDRESS=8\n");
        eventually("they are too many already", || is_let_in(&changing, LIMITED).is_none());
        assert!(is_let_in(&changing, OTHER).is_some(), "each address has its own");
        assert!(clients.iter_mut().all(|client| served(client, 1) == 1), "who is there is not asked to go");
        changing.change("CONNECTIONS_PER_ADDRESS=60\n");
        eventually("there are more places", || is_let_in(&changing, LIMITED).is_some());
        changing.change("CONNECTIONS_PER_ADDRESS=8\n");
        eventually("there are fewer", || is_let_in(&changing, LIMITED).is_none());
        drop(clients);
        eventually("they are gone", || is_let_in(&changing, LIMITED).is_some());
    }
}

#[test]
fn who_is_trusted_changes_for_connections_that_are_open() {
    for shards in [1, 2] {
        let limits = "REQUESTS_PER_SECOND=1\nLIMIT_BURST_SECONDS=5\n";
        let trusting = |network: &str| format!("{limits}TRUSTED_NETWORKS={network}\n");
        let changing = Changing::start(shards, &trusting("127.0.0.2/32"));
        let (mut one, mut other) = (changing.connect(LIMITED, 3), changing.connect(OTHER, 3));
        for _ in 0..2 {
            assert!(one.iter_mut().all(|client| served(client, 100) == 100));
            assert!(other.iter_mut().all(|client| served(client, 100) < 100));
            changing.change(&trusting("127.0.0.3/32"));
            for (free, limited) in other.iter_mut().zip(&mut one) {
                eventually("it is trusted", || served(free, 100) == 100);
                eventually("it is trusted no more", || served(limited, 100) < 100);
            }
            std::mem::swap(&mut one, &mut other);
            changing.change(&trusting("127.0.0.2/32"));
            for (free, limited) in other.iter_mut().zip(&mut one) {
                eventually("it is trusted", || served(free, 100) == 100);
                eventually("it is trusted no more", || served(limited, 100) < 100);
            }
            std::mem::swap(&mut one, &mut other);
        }
    }
}

#[test]
fn a_limit_of_subjects_begins_and_ends_and_a_bad_value_changes_nothing() {
    for shards in [1, 2] {
        let mut changing = Changing::start(shards, "");
        let token = Keys::new(SECRET.as_bytes()).sign("ann", wall_ms() / 1_000, 3_600).expect("a token");
        let fields = [("Authorization", &*format!("Bearer {token}")), ("Content-Type", "application/json")];
        let write = request("POST", "/todos", &fields, "{\"title\":\"of ann\"}");
        let mut client = changing.server.connect();
        let mut are_refused = || {
            client.send(&write.repeat(10));
            let statuses: Vec<u16> = client.responses(10).iter().map(|response| response.status).collect();
            assert!(statuses.iter().all(|status| [202, 429].contains(status)), "{statuses:?}");
            statuses.contains(&429)
        };
        assert!(!are_refused(), "nothing is limited");
        let limits = "WRITES_PER_SECOND_PER_SUBJECT=1\nLIMIT_BURST_SECONDS=2\n";
        changing.change(limits);
        eventually("it is limited", &mut are_refused);
        for (bad, words) in [
            ("WRITES_PER_SECOND_PER_SUBJECT=many\n", "many"),
            ("REQUESTS_PER_SECOND=10000001\n", "10000001"),
            ("TRUSTED_NETWORKS=10.0.0.1/8\n", "10.0.0.0/8 meant"),
        ] {
            changing.change(bad);
            changing.server.has_logged(words);
            assert!(are_refused(), "{bad} changes nothing");
        }
        changing.change("");
        eventually("it is free again", || !are_refused());
    }
}

/// A lower bound closes nobody; who comes then makes one go.
#[test]
fn the_connections_of_a_shard_have_another_bound() {
    let changing = Changing::start(1, "");
    let mut clients = changing.connect(LIMITED, 8);
    assert!(clients.iter_mut().all(|client| served(client, 1) == 1));
    changing.change("CONNECTIONS_MAX=8\n");
    eventually("newcomers make one go", || {
        is_let_in(&changing, OTHER).is_some_and(|_| changing.server.metric("todo_cut_total") > 0.0)
    });
}
