//! The PROXY protocol: required of connections from the networks that are named, and nowhere else a way to say anything.
//!
//! 127.0.0.2 is the proxy here, and 127.0.0.1 everybody else.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use todo_server::control::handover::channel::ChannelError;
use todo_server::control::handover::protocol::Frame;
use todo_server::http::proxy_header;

use crate::harness::{Client, Options, PATIENCE, Server, Silence, eventually, get, successor};

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 80\r\n";
const V1_IPV6: &[u8] = b"PROXY TCP6 2001:db8::7 2001:db8::1 49152 80\r\n";
const V1_UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\xc0\x00\x00\x50";
const V2_TLVS: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x13\xc0\x00\x02\x07\xc6\x33\x64\x01\xc0\x00\x00\x50\xea\x00\x04\x01vpc";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
const HEADERS: [&[u8]; 6] = [V1, V1_IPV6, V1_UNKNOWN, V2, V2_TLVS, V2_LOCAL];

fn options() -> Options {
    Options::new().flag("--http-host", "127.0.0.1").flag("--proxy-from", "127.0.0.2/32,fd00::/8")
}

impl Server {
    /// A connection from the proxy.
    fn connect_proxy(&self) -> Client {
        Client::connect_from(PROXY, self.address)
    }

    fn refused(&self) -> f64 {
        self.metric("todo_proxy_refused_total")
    }
}

/// The connection ends, without an answer. With a reset where something was not read.
fn expect_end(client: &mut Client, what: &str) {
    assert_ne!(client.silence(PATIENCE), Silence::Open, "{what}");
}

/// Whichever way a connection reaches its shard: the header is read over, and what comes with it and behind it is answered.
#[test]
fn a_header_comes_before_the_first_request() {
    for accept in ["reuseport", "handoff"] {
        let server = options().flag("--accept", accept).start();
        let line = format!("\n  {:<12} a PROXY header begins every connection from 127.0.0.2/32, fd00::/8\n", "proxy");
        assert!(server.summary.contains(&line), "{}", server.summary);
        for header in HEADERS {
            let mut client = server.connect_proxy();
            // In the same segment: two requests and the beginning of a third.
            let request = get("/todos?limit=10");
            let stream = [header, &request.repeat(2), &request[..9]].concat();
            client.send(&stream);
            assert!(client.responses(2).iter().all(|answer| answer.status == 200), "{header:?}");
            client.send(&request[9..]);
            assert_eq!(client.response(false).status, 200);
            client.ask(&server.post("by way of a proxy")).accepted();
            // One is enough: a second is no request.
            let answer = client.ask(&[V1, &request].concat());
            assert_eq!((answer.status, answer.closes()), (400, true), "{answer}");
            // Alone, and then a request.
            let mut client = server.connect_proxy();
            client.send(header);
            assert_eq!(client.silence(Duration::from_millis(10)), Silence::Open);
            assert_eq!(client.ask(&get("/health")).status, 200);
        }
        // Everybody else comes as ever.
        assert_eq!(server.connect().ask(&get("/todos?limit=10")).status, 200);
        assert_eq!(server.refused(), 0.0);
    }
}

#[test]
fn a_header_may_come_in_pieces() {
    let server = options().start();
    for header in HEADERS {
        let stream = [header, &get("/todos?limit=1")].concat();
        let mut client = server.connect_proxy();
        for byte in stream[..stream.len() - 1].chunks(1) {
            client.send(byte);
            assert_eq!(client.silence(Duration::from_millis(1)), Silence::Open);
        }
        client.send(&stream[stream.len() - 1..]);
        assert_eq!(client.response(false).status, 200);
        for split in 1..header.len() + 2 {
            let mut client = server.connect_proxy();
            client.send(&stream[..split]);
            client.send(&stream[split..]);
            assert_eq!(client.response(false).status, 200, "split at {split}");
        }
    }
    assert_eq!(server.refused(), 0.0);
}

/// Never guessed: without the header nothing is answered, not even refused.
#[test]
fn who_must_send_a_header_and_does_not_is_not_answered() {
    let server = options().start();
    let long = format!("PROXY UNKNOWN {}", "x".repeat(200));
    let request = get("/todos?limit=1");
    let table: [(&str, &[u8]); 10] = [
        ("a request", &request),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        ("an empty line first", &[b"\r\n", V1].concat()),
        ("a leading zero", b"PROXY TCP4 192.0.2.7 198.51.100.1 049152 80\r\n"),
        ("another family", b"PROXY UDP4 192.0.2.7 198.51.100.1 49152 80\r\n"),
        ("a bare line feed", b"PROXY UNKNOWN\n"),
        ("too long a line", long.as_bytes()),
        ("version 3", &[&V2[..12], b"\x31", &V2[13..]].concat()),
        ("a length that is too short", &[&V2[..15], b"\x0b", &V2[16..]].concat()),
        ("more than is taken", &[&V2[..14], b"\x04\x00", &V2[16..]].concat()),
    ];
    for (what, bytes) in table {
        let mut client = server.connect_proxy();
        client.send(bytes);
        // It may be gone before this comes.
        client.try_send(&request);
        expect_end(&mut client, what);
    }
    assert_eq!(server.refused(), 10.0);
    // Half a header and an end is none either; nothing and an end is a look at the port.
    let mut half = server.connect_proxy();
    half.send(&V1[..20]);
    half.finish();
    half.expect_close();
    let mut nothing = server.connect_proxy();
    nothing.finish();
    nothing.expect_close();
    assert_eq!(server.refused(), 11.0);
    assert_eq!(server.metric("todo_rejects_total"), 0.0, "none was taken for a request");
}

#[test]
fn a_header_has_its_time() {
    let server = options().flag("--head-timeout-ms", 1_000).flag("--idle-timeout-ms", 60_000).start();
    let begun = Instant::now();
    let (mut silent, mut slow) = (server.connect_proxy(), server.connect_proxy());
    let mut bytes = V1.chunks(1);
    // Some four seconds of bytes: a time per read would come too late.
    while slow.silence(Duration::from_millis(100)) == Silence::Open {
        assert!(begun.elapsed() < PATIENCE, "it is not ended");
        bytes.next().into_iter().for_each(|byte| _ = slow.try_send(byte));
    }
    expect_end(&mut silent, "silence");
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_secs(1) && waited < PATIENCE / 10, "{waited:?}");
    assert_eq!(server.refused(), 2.0);
}

/// From elsewhere, and where no network is named, a header is a bad request.
#[test]
fn from_elsewhere_a_header_is_a_bad_request() {
    for server in [options().start(), Options::new().flag("--http-host", "127.0.0.1").start()] {
        for header in HEADERS {
            let mut client = server.connect();
            client.send(&[header, &get("/todos?limit=1")].concat());
            let answer = client.response(false);
            assert_eq!((answer.status, answer.closes()), (400, true), "{header:?}: {answer}");
            client.expect_close();
        }
        assert_eq!(server.refused(), 0.0);
    }
}

/// A connection that waits for its header does not hold up the end of the process.
#[test]
fn a_drain_does_not_wait_for_headers() {
    let server = options().flag("--head-timeout-ms", 600_000).flag("--drain-timeout-ms", 600_000).start();
    let (mut silent, mut half, mut whole) = (server.connect_proxy(), server.connect_proxy(), server.connect_proxy());
    half.send(&V1[..10]);
    whole.send(V2);
    assert_eq!(half.silence(Duration::from_millis(20)), Silence::Open);
    let (status, log) = server.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    for client in [&mut silent, &mut half, &mut whole] {
        expect_end(client, "the process has gone");
    }
}

/// The address for metrics and dashboard is nobody's proxy's.
#[test]
fn the_admin_address_takes_no_header() {
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        free.local_addr().expect("bound").port()
    };
    let server = options().flag("--admin-addr", format!("127.0.0.1:{port}")).start();
    let admin = std::net::SocketAddr::new(server.address.ip(), port);
    assert_eq!(Client::connect_from(PROXY, admin).ask(&get("/health")).status, 200);
    let mut client = Client::connect_from(PROXY, admin);
    client.send(&[V1, &get("/health")].concat());
    assert_eq!(client.response(false).status, 400);
}

/// SIGHUP changes the networks, for connections that come from then on.
#[test]
fn a_hangup_changes_the_networks() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = folder.path().join("settings");
    std::fs::write(&settings, "").expect("a file");
    let options = Options::new().flag("--http-host", "127.0.0.1").flag("--settings-file", settings.display());
    let mut server = options.start();
    let mut before = server.connect_proxy();
    assert_eq!(before.ask(&get("/health")).status, 200);
    std::fs::write(&settings, "PROXY_FROM=127.0.0.2/32\n").expect("a file");
    server.signal(Signal::HUP);
    server.has_logged("are read again");
    eventually("the networks are known", || {
        let mut client = server.connect_proxy();
        client.send(&[V2, &get("/health")].concat());
        client.response(false).status == 200
    });
    assert_eq!(before.ask(&get("/health")).status, 200);
}

/// Connections in every state go on in the next process, and in the one behind it: whose header was read sends none again,
/// and whose was not still must.
#[test]
fn a_moved_connection_sends_its_header_once() {
    let mut server = options().start();
    let request = get("/todos?limit=10");
    let (mut asked, mut named, mut begun) = (server.connect_proxy(), server.connect_proxy(), server.connect_proxy());
    let (mut half, mut silent, mut wrong) = (server.connect_proxy(), server.connect_proxy(), server.connect_proxy());
    let mut direct = server.connect();
    asked.send(V1);
    for _ in 0..4 {
        assert_eq!(asked.ask(&request).status, 200);
    }
    named.send(V2);
    begun.send(&[V1, &request[..9]].concat());
    half.send(&V2[..14]);
    wrong.send(&V1[..9]);
    assert_eq!(half.silence(Duration::from_millis(20)), Silence::Open);
    for _ in 0..2 {
        server.upgrade(&[]);
        assert_eq!(asked.ask(&request).status, 200);
        assert_eq!(direct.ask(&request).status, 200);
        for client in [&mut named, &mut begun, &mut half, &mut silent, &mut wrong] {
            assert_eq!(client.silence(Duration::from_millis(10)), Silence::Open);
        }
    }
    assert_eq!(named.ask(&request).status, 200);
    begun.send(&request[9..]);
    half.send(&[&V2[14..], &request].concat());
    silent.send(&[V1, &request].concat());
    for client in [&mut begun, &mut half, &mut silent] {
        assert_eq!(client.response(false).status, 200);
    }
    wrong.send(&request);
    expect_end(&mut wrong, "no header");
    assert_eq!(server.refused(), 1.0);
    let mut late = server.connect_proxy();
    late.send(&request);
    expect_end(&mut late, "the new process asks for one too");
}

/// What goes along with a moved connection: the address that counts, or that it is still to come.
#[test]
fn a_moved_connection_takes_its_address_along() {
    let mut server = options().start();
    let mut clients: Vec<Client> = [V1, V1_IPV6, V2_LOCAL, &V2[..20], b""]
        .into_iter()
        .map(|begun| {
            let mut client = server.connect_proxy();
            client.send(begun);
            assert_eq!(client.silence(Duration::from_millis(20)), Silence::Open);
            client
        })
        .collect();
    clients.push(server.connect());
    let (program, seen) = (server.folder().join("witness"), server.folder().join("seen"));
    let test = std::env::current_exe().expect("a test");
    let body = format!(
        "exec env WITNESS_SEEN={} {} --exact proxy_header::the_successor_that_only_looks --nocapture",
        seen.display(),
        test.display()
    );
    let mut file = std::fs::File::create(&program).expect("a file");
    writeln!(file, "#!/bin/sh\n{body}").expect("it takes it");
    file.set_permissions(std::fs::Permissions::from_mode(0o755)).expect("its mode");
    drop(file);
    let said = server.try_upgrade(&["--binary", program.to_str().expect("text")]);
    assert!(said.status.success(), "{said:?}");
    server.wait_for_the_old_one();
    let mut came = Vec::new();
    eventually("the witness has written all down", || {
        let text = std::fs::read_to_string(&seen).unwrap_or_default();
        came = text.lines().map(str::to_owned).collect();
        came.last().is_some_and(|line| line == "end")
    });
    let half = V2[..20].escape_ascii();
    let mut expected = vec![
        "Named(192.0.2.7) ".to_owned(),
        "Named(2001:db8::7) ".to_owned(),
        "Direct ".to_owned(),
        format!("Awaited {half}"),
        "Awaited ".to_owned(),
        "Direct ".to_owned(),
    ];
    came.pop();
    came.sort();
    expected.sort();
    assert_eq!(came, expected);
}

/// What the test above starts as a successor: it takes everything, and writes down whose connections come. Run by itself it
/// makes sure that a process without a predecessor has none.
#[test]
fn the_successor_that_only_looks() {
    let Some(seen) = std::env::var_os("WITNESS_SEEN").map(PathBuf::from) else {
        assert!(todo_server::control::handover::take::Predecessor::meet().expect("nothing to meet").is_none());
        return;
    };
    let mut channel = successor::loaded();
    assert!(matches!(channel.receive().expect("the writes").0, Frame::Released(_)));
    channel.send(&Frame::Ready, &[]).expect("it listens");
    assert_eq!(channel.receive().expect("the word").0, Frame::Go);
    channel.send(&Frame::Serving, &[]).expect("it listens");
    let mut lines = String::new();
    loop {
        match channel.receive() {
            Ok((Frame::Positions(_), _)) => {}
            Ok((Frame::Connection(client, input), sockets)) => {
                assert_eq!(sockets.len(), 1);
                let client = match client {
                    proxy_header::Client::Named(address) => format!("Named({address})"),
                    other => format!("{other:?}"),
                };
                lines.push_str(&format!("{client} {}\n", input.escape_ascii()));
            }
            Err(ChannelError::Ended) => break,
            other => panic!("not to be understood: {other:?}"),
        }
    }
    std::fs::write(seen, lines + "end\n").expect("a file");
}
