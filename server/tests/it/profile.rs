//! Profiles, on the operator's address alone: what is in them, who gets none, and that nobody else notices.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use prost::Message;
use rustix::process::Signal;
use todo_server::control::profile::pprof::Written;

use crate::harness::{Client, EndsWith, Options, Response, Server, eventually, get};

const PPROF: &str = "/debug/pprof/profile";
const FLAME_GRAPH: &str = "/debug/pprof/flamegraph";

/// What profiles leave behind goes with the server's folder, unless a test says otherwise.
fn with_admin(options: Options) -> (Server, SocketAddr) {
    started_by(options, "export TMPDIR=\"${TMPDIR:-$DATA_FOLDER}\"; exec \"$@\"")
}

fn started_by(options: Options, shell: &str) -> (Server, SocketAddr) {
    let server = options.wrapped(shell).flag("--admin-addr", "127.0.0.1:0").start();
    let line = server.summary.lines().find_map(|line| line.strip_prefix("  admin ")).expect("it is said");
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
    let admin = address.parse().expect("an address");
    (server, admin)
}

fn ask(admin: SocketAddr, target: &str) -> Response {
    Client::connect(admin).ask(&get(target))
}

/// A client that waits for a profile of a minute, which has begun.
fn begin(server: &mut Server, admin: SocketAddr) -> Client {
    let mut client = Client::connect(admin);
    client.send(&get(&format!("{PPROF}?seconds=60")));
    server.has_logged("a profile begins");
    client
}

/// Names of the threads that were seen with a function whose name holds `function` on their stack.
fn threads_in(profile: &Written, function: &str) -> Vec<String> {
    let text = |number: i64| profile.string_table[number as usize].as_str();
    let is_of = |id: &u64| {
        let location = profile.location.iter().find(|location| location.id == *id).expect("it is in the table");
        location.line.iter().any(|line| {
            let of_line = profile.function.iter().find(|function| function.id == line.function_id);
            text(of_line.expect("it is in the table").name).contains(function)
        })
    };
    let seen = profile.sample.iter().filter(|sample| sample.location_id.iter().any(is_of));
    seen.map(|sample| text(sample.label[0].str).to_owned()).collect()
}

/// Whether the process has a handler for SIGPROF, and whether a thread that takes a profile.
#[cfg(target_os = "linux")]
fn is_sampled(server: &Server) -> (bool, bool) {
    let process = format!("/proc/{}", server.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(format!("{process}/status")).expect("it runs");
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a SigCgt line");
    let caught = u64::from_str_radix(caught.trim(), 16).expect("a hexadecimal mask");
    let threads = std::fs::read_dir(format!("{process}/task")).expect("it runs");
    // One that ends meanwhile has no name any more.
    let names = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
    (caught & 1 << (Signal::PROF.as_raw() - 1) != 0, names.into_iter().any(|name| name.trim() == "profile"))
}

/// Reads of every kind and writes, whose answers must be right, for as long as profiles are taken one after the other.
#[test]
fn a_profile_shows_the_shards_at_work_and_no_request_fails_meanwhile() {
    let (server, admin) = with_admin(Options::new());
    let stop = AtomicBool::new(false);
    let answered = std::thread::scope(|scope| {
        let _stops = EndsWith(&stop);
        let reader = |target: &'static str| {
            let (server, stop) = (&server, &stop);
            scope.spawn(move || {
                let mut client = server.connect();
                let (request, mut count) = (get(target).repeat(8), 0);
                while !stop.load(Ordering::Relaxed) {
                    client.send(&request);
                    assert!(client.responses(8).iter().all(|answer| answer.status == 200));
                    count += 8;
                    // Accepting goes on as well.
                    if count % 1024 == 0 {
                        client = server.connect();
                    }
                }
                count
            })
        };
        let readers = [reader("/todos?limit=10"), reader("/todos?limit=1000"), reader("/todos?limit=10000")];
        let writer = scope.spawn(|| {
            let (mut client, mut count) = (server.connect(), 0);
            while !stop.load(Ordering::Relaxed) {
                client.ask(&server.post("written while somebody looks")).accepted();
                count += 1;
            }
            count
        });
        eventually("a shard is seen at its work", || {
            let answer = ask(admin, &format!("{PPROF}?seconds=1&hz=250"));
            assert_eq!((answer.status, answer.field("content-type")), (200, Some("application/octet-stream")));
            let profile = Written::decode(answer.body.as_slice()).expect("it is well-formed");
            assert_eq!(profile.period, 4_000_000);
            assert!((1_000_000_000..60_000_000_000).contains(&profile.duration_nanos), "{}", profile.duration_nanos);
            // Up to the thread's first function, and by its own name.
            threads_in(&profile, "todo_server::shard::run").iter().any(|name| name.starts_with("shard-"))
                && !threads_in(&profile, "todo_server::").contains(&"profile".to_owned())
        });
        // A shard that is given no CPU in that second is not in it.
        eventually("a shard is in the picture", || {
            let picture = ask(admin, &format!("{FLAME_GRAPH}?seconds=1"));
            assert_eq!((picture.status, picture.field("content-type")), (200, Some("image/svg+xml")));
            let svg = String::from_utf8(picture.body).expect("text");
            assert!(svg.starts_with("<svg "), "{svg}");
            svg.contains("<title>shard-")
        });
        stop.store(true, Ordering::Relaxed);
        let reads: u64 = readers.into_iter().map(|reader| reader.join().expect("its answers were right")).sum();
        (reads, writer.join().expect("its writes were taken"))
    });
    assert!(answered.0 > 0 && answered.1 > 0, "{answered:?}");
    let (status, log) = server.stop();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn one_is_taken_at_a_time_and_ends_with_its_client() {
    let (mut server, admin) = with_admin(Options::new());
    #[cfg(target_os = "linux")]
    assert_eq!(is_sampled(&server), (false, false));
    let client = begin(&mut server, admin);
    #[cfg(target_os = "linux")]
    eventually("the signal is caught", || is_sampled(&server) == (true, true));
    for target in [PPROF, FLAME_GRAPH] {
        let refused = ask(admin, &format!("{target}?seconds=1"));
        assert_eq!((refused.status, refused.field("retry-after")), (503, Some("1")));
        assert_eq!(refused.problem(), "profile-running");
    }
    drop(client);
    eventually("there is room for another", || ask(admin, &format!("{FLAME_GRAPH}?seconds=1")).status == 200);
    #[cfg(target_os = "linux")]
    eventually("nothing is left of it", || is_sampled(&server) == (false, false));
    // Late, or somebody else's: it ends nothing.
    server.signal(Signal::PROF);
    assert_eq!(server.connect().ask(&get("/todos?limit=1")).status, 200);
}

#[test]
fn what_is_asked_for_is_bounded() {
    let (_server, admin) = with_admin(Options::new());
    for query in ["seconds=0", "seconds=61", "seconds=x", "seconds=1&seconds=1", "hz=0", "hz=251", "seconds=1&hz="] {
        for target in [PPROF, FLAME_GRAPH] {
            let refused = ask(admin, &format!("{target}?{query}"));
            assert_eq!((refused.status, refused.field("retry-after")), (400, None), "{query}");
            assert_eq!(refused.problem(), "profile-parameter", "{query}");
        }
    }
}

#[test]
fn there_is_none_on_the_port_of_the_api() {
    let (server, _) = with_admin(Options::new());
    for server in [server, Server::start()] {
        let mut client = server.connect();
        for target in [PPROF, FLAME_GRAPH] {
            let answer = client.ask(&get(&format!("{target}?seconds=1")));
            assert_eq!((answer.status, answer.problem().as_str()), (404, "not-found"), "{target}");
        }
    }
}

#[test]
fn without_a_folder_for_its_file_it_says_so_and_may_be_asked_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, admin) = with_admin(Options::new().variable("TMPDIR", folder.path().join("later").display()));
    let refused = ask(admin, &format!("{PPROF}?seconds=1"));
    assert_eq!((refused.status, refused.problem().as_str()), (503, "profile-unavailable"));
    assert!(String::from_utf8_lossy(&refused.body).contains("TMPDIR"), "{refused}");
    std::fs::create_dir(folder.path().join("later")).expect("a folder");
    assert_eq!(ask(admin, &format!("{PPROF}?seconds=1")).status, 200);
    drop(server);
}

/// Names would be those of another program.
#[cfg(target_os = "linux")]
#[test]
fn a_program_that_has_been_replaced_says_so() {
    let copied = "program=$DATA_FOLDER/program; cp \"$1\" \"$program\"; shift; exec \"$program\" \"$@\"";
    let (server, admin) = started_by(Options::new(), copied);
    std::fs::remove_file(server.folder().join("program")).expect("it was copied there");
    let refused = ask(admin, &format!("{PPROF}?seconds=1"));
    assert_eq!((refused.status, refused.problem().as_str()), (503, "profile-unavailable"));
    assert!(String::from_utf8_lossy(&refused.body).contains("replaced"), "{refused}");
}

/// The successor inherits neither timer nor handler, and the old process does not wait for the profile's minute.
#[cfg(target_os = "linux")]
#[test]
fn a_process_that_is_sampled_can_be_replaced() {
    let (mut server, admin) = with_admin(Options::new());
    let mut reader = server.connect();
    assert_eq!(reader.ask(&get("/todos?limit=10")).status, 200);
    let mut client = begin(&mut server, admin);
    server.upgrade(&[]);
    server.wait_for_the_old_one();
    assert_eq!(client.drain(), 0, "there is no half of a profile");
    assert_eq!(reader.ask(&get("/todos?limit=10")).status, 200);
    assert_eq!(server.connect().ask(&server.post("written by the new one")).status, 202);
    server.stop_successor();
}
