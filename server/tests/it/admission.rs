//! Limits of addresses and subjects: each refuses, says so, and lets in again. Clients come from addresses of their own,
//! which Linux' loopback network has many of.

use std::time::{Duration, Instant};

use todo_server::clock::wall_ms;
use todo_server::http::bearer::Keys;

use crate::harness::{Client, Options, Response, SECRET, Server, eventually, get, request};

/// An address that no test uses for anything else, so that looks at metrics cost nobody anything.
const LIMITED: [u8; 4] = [127, 0, 0, 2];
const OTHER: [u8; 4] = [127, 0, 0, 3];

fn one_shard() -> Options {
    Options::new().flag("--shards", 1)
}

fn list() -> Vec<u8> {
    get("/todos?limit=1")
}

/// Every promise of a 429, and its problem.
fn too_much(response: &Response) -> String {
    assert_eq!((response.status, response.field("Retry-After")), (429, Some("1")), "{response}");
    response.problem()
}

fn is_served(client: &mut Client) -> bool {
    let response = client.ask(&list());
    if response.status != 200 {
        assert_eq!(too_much(&response), "too-many-requests");
    }
    response.status == 200
}

#[test]
fn nothing_is_limited_unless_it_is_set() {
    let server = Server::start();
    let mut clients: Vec<Client> = (0..50).map(|_| Client::connect_from(LIMITED, server.address)).collect();
    for client in &mut clients {
        client.send(&list().repeat(400));
    }
    for client in &mut clients {
        assert!(client.responses(400).iter().all(|response| response.status == 200));
    }
    assert_eq!(server.metric("todo_limit_entries"), 0.0);
}

#[test]
fn a_batch_is_answered_as_far_as_it_may_and_refused_behind() {
    let server = one_shard().flag("--requests-per-second", 1).flag("--limit-burst-seconds", 20).start();
    let begun = Instant::now();
    let mut client = Client::connect_from(LIMITED, server.address);
    // Equal heads, which are answered in a run, then different ones, then equal ones again.
    let mixed: Vec<u8> = (1..=10).flat_map(|limit| get(&format!("/todos?limit={limit}"))).collect();
    client.send(&[list().repeat(12), mixed, list().repeat(20)].concat());
    let responses = client.responses(42);
    let served = responses.iter().filter(|response| response.status == 200).count() as u64;
    assert!((20..=20 + begun.elapsed().as_secs() + 1).contains(&served), "{served}");
    for (at, response) in responses.iter().enumerate() {
        match at {
            0..20 => assert_eq!(response.status, 200, "{at}"),
            _ if response.status == 200 => {}
            _ => assert_eq!(too_much(response), "too-many-requests"),
        }
    }
    let refused = server.metric("todo_rejects_total{problem=\"too-many-requests\"}");
    assert_eq!(refused, (42 - served) as f64);
    let mut other = Client::connect_from(OTHER, server.address);
    assert!(is_served(&mut other), "each address has its own");
    eventually("a request a second", || is_served(&mut client));
}

#[test]
fn a_refused_write_is_read_over_and_not_taken() {
    let server = one_shard().flag("--requests-per-second", 1).flag("--limit-burst-seconds", 5).start();
    let mut client = Client::connect_from(LIMITED, server.address);
    let begun = Instant::now();
    client.send(&[list().repeat(5), server.post("refused"), server.post("refused too"), list()].concat());
    let responses = client.responses(8);
    // On a machine that stood still for a second meanwhile, one more.
    if begun.elapsed() < Duration::from_secs(1) {
        let statuses: Vec<u16> = responses.iter().map(|response| response.status).collect();
        assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
        let todos = server.connect().ask(&get("/todos?limit=200"));
        assert!(!String::from_utf8_lossy(&todos.body).contains("refused"));
    }
    eventually("a request a second", || is_served(&mut client));
}

#[test]
fn two_shards_together_keep_the_rate() {
    let (per_second, burst) = (100, 200);
    let server = Options::new().flag("--requests-per-second", per_second).flag("--limit-burst-seconds", 2).start();
    let mut clients: Vec<Client> = (0..8).map(|_| Client::connect_from(LIMITED, server.address)).collect();
    let begun = Instant::now();
    let mut served = 0;
    while begun.elapsed() < Duration::from_secs(4) {
        for client in &mut clients {
            client.send(&list().repeat(10));
        }
        for client in &mut clients {
            served += client.responses(10).iter().filter(|response| response.status == 200).count() as u64;
        }
    }
    let most = begun.elapsed().as_millis() as u64 * per_second / 1_000 + burst + burst / 4;
    // A few ticks and messages may be on their way.
    let least = begun.elapsed().as_millis() as u64 * per_second * 9 / 10_000 + burst - burst / 4;
    assert!((least..=most + 1).contains(&served), "{served} of {least} to {most}");
}

#[test]
fn an_address_has_so_many_connections_and_no_more() {
    let server = one_shard().flag("--connections-per-address", 3).start();
    let connect = || Client::connect_from(LIMITED, server.address);
    let mut clients: Vec<Client> = (0..3).map(|_| connect()).collect();
    assert!(clients.iter_mut().all(is_served));
    let mut refused = connect();
    let response = refused.response(false);
    assert_eq!(too_much(&response), "too-many-connections");
    assert!(response.closes());
    refused.expect_close();
    assert!(is_served(&mut Client::connect_from(OTHER, server.address)), "each address has its own");
    assert_eq!(server.metric("todo_rejects_total{problem=\"too-many-connections\"}"), 1.0);
    drop(clients.pop());
    eventually("the place is free again", || {
        let mut client = connect();
        // It may be refused before it has asked.
        client.try_send(&list()) && client.try_response().is_some_and(|response| response.status == 200)
    });
    assert!(clients.iter_mut().all(is_served), "who is there is not asked to go");
}

#[test]
fn two_shards_together_keep_the_number_of_connections() {
    let server = Options::new().flag("--connections-per-address", 40).start();
    let mut clients: Vec<Client> = (0..100).map(|_| Client::connect_from(LIMITED, server.address)).collect();
    let is_open = |client: &mut Client| {
        client.try_send(&list()) && client.try_response().is_some_and(|response| response.status == 200)
    };
    clients.retain_mut(is_open);
    // All at one instant: a first share of 10 on each shard, and what was granted meanwhile.
    assert!((20..=50).contains(&clients.len()), "{}", clients.len());
    eventually("all but a share of the other shard is there", || {
        let mut client = Client::connect_from(LIMITED, server.address);
        if is_open(&mut client) {
            clients.push(client);
        }
        clients.len() >= 30
    });
    for _ in 0..100 {
        let mut client = Client::connect_from(LIMITED, server.address);
        if is_open(&mut client) {
            clients.push(client);
        }
    }
    assert!(clients.len() <= 50, "{}", clients.len());
}

#[test]
fn an_address_opens_so_many_connections_a_second() {
    let server = one_shard().flag("--new-connections-per-second", 1).flag("--limit-burst-seconds", 5).start();
    let begun = Instant::now();
    let try_one = || {
        let mut client = Client::connect_from(LIMITED, server.address);
        if client.try_send(&list())
            && let Some(response) = client.try_response()
        {
            if response.status == 200 {
                return true;
            }
            assert_eq!(too_much(&response), "connecting-too-fast");
            assert!(response.closes());
        }
        false
    };
    let served = (0..30).filter(|_| try_one()).count() as u64;
    assert!((5..=5 + begun.elapsed().as_secs() + 1).contains(&served), "{served}");
    eventually("a connection a second", try_one);
}

#[test]
fn trusted_networks_are_not_limited() {
    let options = one_shard().flag("--requests-per-second", 1).flag("--connections-per-address", 1);
    let options = options.flag("--new-connections-per-second", 1).flag("--limit-burst-seconds", 1);
    let server = options.flag("--trusted-networks", "10.0.0.0/8,127.0.0.2/32").start();
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect_from(LIMITED, server.address)).collect();
    for client in &mut clients {
        client.send(&list().repeat(20));
        assert!(client.responses(20).iter().all(|response| response.status == 200));
    }
    let begun = Instant::now();
    let mut other = Client::connect_from(OTHER, server.address);
    other.send(&list().repeat(100));
    let served = other.responses(100).iter().filter(|response| response.status == 200).count() as u64;
    assert!((1..=1 + begun.elapsed().as_secs() + 1).contains(&served), "{served}");
}

#[test]
fn each_subject_writes_so_often() {
    let server = one_shard().flag("--writes-per-second-per-subject", 1).flag("--limit-burst-seconds", 3).start();
    let write_of = |subject: &str, title: &str| {
        let token = Keys::new(SECRET.as_bytes()).sign(subject, wall_ms() / 1_000, 3_600).expect("a token");
        let fields = [("Authorization", &*format!("Bearer {token}")), ("Content-Type", "application/json")];
        request("POST", "/todos", &fields, &format!("{{\"title\":\"{title}\"}}"))
    };
    let mut client = server.connect();
    let begun = Instant::now();
    let of_ann = write_of("ann", "of ann").repeat(3);
    client.send(&[of_ann, write_of("ann", "too much"), write_of("bob", "of bob"), list()].concat());
    let responses = client.responses(6);
    if begun.elapsed() < Duration::from_secs(1) {
        let statuses: Vec<u16> = responses.iter().map(|response| response.status).collect();
        assert_eq!(statuses, [202, 202, 202, 429, 202, 200]);
        assert_eq!(too_much(&responses[3]), "too-many-writes");
        let todos = server.connect().ask(&get("/todos?limit=200"));
        let todos = String::from_utf8_lossy(&todos.body).into_owned();
        assert_eq!((todos.matches("of ann").count(), todos.contains("too much")), (3, false));
    }
    // From another connection too.
    eventually("a write a second", || {
        let response = server.connect().ask(&write_of("ann", "later"));
        response.status == 202 || too_much(&response) != "too-many-writes"
    });
}

#[test]
fn connections_that_move_are_counted_by_the_next_process() {
    let mut server = one_shard().flag("--connections-per-address", 2).start();
    let connect = || Client::connect_from(LIMITED, server.address);
    let mut clients = [connect(), connect()];
    assert!(clients.iter_mut().all(is_served));
    server.upgrade(&[]);
    server.wait_for_the_old_one();
    assert!(clients.iter_mut().all(is_served), "they have moved");
    let mut refused = Client::connect_from(LIMITED, server.address);
    assert_eq!(too_much(&refused.response(false)), "too-many-connections");
    drop(clients);
    eventually("their places are free again", || {
        let mut client = Client::connect_from(LIMITED, server.address);
        client.try_send(&list()) && client.try_response().is_some_and(|response| response.status == 200)
    });
    server.stop_successor();
}

/// A proxy is nobody's address: whom its headers name has the limits, from the first request on, and to the next process too.
#[test]
fn behind_a_proxy_the_limits_are_of_whom_it_names() {
    let options = one_shard().flag("--http-host", "127.0.0.1").flag("--proxy-from", "127.0.0.4");
    let options = options.flag("--requests-per-second", 1).flag("--limit-burst-seconds", 10);
    let mut server = options.flag("--connections-per-address", 2).start();
    let connect = |server: &Server, named: &str| {
        let mut client = Client::connect_from([127, 0, 0, 4], server.address);
        client.send(format!("PROXY TCP4 {named} 198.51.100.1 49152 80\r\n").as_bytes());
        client
    };
    let begun = Instant::now();
    let mut one = connect(&server, "192.0.2.1");
    one.send(&list().repeat(30));
    let served = one.responses(30).iter().filter(|response| response.status == 200).count() as u64;
    assert!((10..=10 + begun.elapsed().as_secs() + 1).contains(&served), "{served}");
    let mut other = connect(&server, "192.0.2.2");
    assert!(is_served(&mut other), "each has his own");
    // Header and request in one segment: looked up before the request is looked at.
    let mut together = Client::connect_from([127, 0, 0, 4], server.address);
    let header = b"PROXY TCP4 192.0.2.3 198.51.100.1 49152 80\r\n";
    together.send(&[&header[..], &list().repeat(30)].concat());
    let begun = Instant::now();
    let served = together.responses(30).iter().filter(|response| response.status == 200).count() as u64;
    assert!((10..=10 + begun.elapsed().as_secs() + 1).contains(&served), "{served}");
    let mut second = connect(&server, "192.0.2.2");
    assert!(is_served(&mut second));
    for _ in 0..2 {
        let mut third = connect(&server, "192.0.2.2");
        let response = third.response(false);
        assert_eq!(too_much(&response), "too-many-connections");
        assert!(response.closes());
        third.finish();
        third.expect_close();
        server.upgrade(&[]);
        server.wait_for_the_old_one();
    }
    drop((second, other));
    eventually("the places are free again", || {
        let mut client = connect(&server, "192.0.2.2");
        client.try_send(&list()) && client.try_response().is_some_and(|response| response.status == 200)
    });
}
