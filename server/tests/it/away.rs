//! A cluster of which something is away, or wrong: what `check` says of it, and what an upgrade does.

use crate::harness::{Cluster, run_with};

/// Where nobody listens.
const NOBODY: &str = "127.0.0.1:1";

type Variables = Vec<(&'static str, String)>;

struct Said {
    code: Option<i32>,
    out: String,
    error: String,
}

/// `check` in the cluster, with other variables; asked again when a service of a busy machine was too slow for it.
fn check(cluster: &Cluster, changed: &[(&'static str, String)], flags: &[&str]) -> Said {
    let is_slow = |said: &Said| {
        ["no connection within", "no answer in", "does not answer in"].iter().any(|words| said.out.contains(words))
    };
    let mut answers = std::iter::repeat_with(|| check_once(cluster, changed, flags)).take(10);
    answers.find(|said| !is_slow(said)).expect("the services answer")
}

fn check_once(cluster: &Cluster, changed: &[(&'static str, String)], flags: &[&str]) -> Said {
    let variables = [cluster.variables(), changed.to_vec()].concat();
    let arguments = [&["check", "--http-port", "0"], flags].concat();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = run_with(folder.path(), &arguments, &variables);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let said = Said { code: output.status.code(), out: text(output.stdout), error: text(output.stderr) };
    assert!(!said.out.contains("hidden") && !said.error.contains("hidden"), "{} {}", said.out, said.error);
    said
}

/// The sentences of one kind.
fn lines<'a>(said: &'a Said, kind: &str) -> Vec<&'a str> {
    said.out.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(": ")).collect()
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: start with `cargo xtask test`"))
}

/// The address with another password.
fn guessed(url: &str) -> String {
    let (before, after) = url.rsplit_once('@').expect("a user");
    let (user, _) = before.rsplit_once(':').expect("a password");
    format!("{user}:hidden@{after}")
}

/// Whatever passes by itself, or is waited for, is a warning, and only `--strict` ends with 1 for it.
#[test]
fn what_is_away_is_a_warning() {
    let cluster = Cluster::new();
    // Twice: looking makes neither a store nor a topic.
    for (flags, code, last) in [
        (&[][..], 0, "\nno problems, 2 warnings\n"),
        (&["--strict"][..], 1, "whoever needs it first makes it with the broker's defaults\n"),
    ] {
        let new = check(&cluster, &[], flags);
        assert!(new.code == Some(code) && new.out.ends_with(last), "{flags:?}: {} {}", new.out, new.error);
        let [store, topic] = lines(&new, "warning")[..] else { panic!("{}", new.out) };
        assert!(store.contains("start a todo-worker, which makes it"), "{store}");
        assert!(topic.starts_with("there is no topic server-"), "{topic}");
        assert_eq!(new.error.contains("2 warnings, which --strict does not let pass"), code == 1, "{}", new.error);
    }

    let _worker = cluster.worker();
    let _server = cluster.server();
    for flags in [&[][..], &["--strict"]] {
        let well = check(&cluster, &[], flags);
        assert!(well.code == Some(0) && well.out.ends_with("\nno problems\n"), "{} {}", well.out, well.error);
        for name in ["Postgres", "Kafka", "topic", "Redis"] {
            assert!(well.out.contains(&format!("\n  {name:<12} ")), "{name}: {}", well.out);
        }
    }

    let brokers = cluster.variables().into_iter().find(|(name, _)| *name == "KAFKA_BROKERS").expect("it is there").1;
    let cases = [
        ("DATABASE_URL", format!("postgres://app:hidden@{NOBODY}/nowhere"), "a server waits for it"),
        ("KAFKA_BROKERS", NOBODY.to_owned(), "writes are answered 503 until one answers"),
        ("KAFKA_BROKERS", format!("{brokers},{NOBODY}"), "and another one answers"),
        ("REDIS_URL", format!("redis://:hidden@{NOBODY}/0"), "seen within a second instead of at once"),
    ];
    for (name, value, words) in cases {
        let away = check(&cluster, &[(name, value)], &[]);
        assert!(away.code == Some(0) && away.out.ends_with("\nno problems, 1 warnings\n"), "{name}: {}", away.out);
        let [warning] = lines(&away, "warning")[..] else { panic!("{}", away.out) };
        assert!(warning.contains(words) && warning.contains(NOBODY) && warning.contains(name), "{warning}");
    }
}

/// What does not pass by itself is a problem, whatever else is away.
#[test]
fn what_is_wrong_is_a_problem() {
    let cluster = Cluster::new();
    let _worker = cluster.worker();
    let _server = cluster.server();
    let url = cluster.variables().into_iter().find(|(name, _)| *name == "DATABASE_URL").expect("it is there").1;
    let ca = variable("TEST_CA_FILE");
    let sasl = vec![
        ("KAFKA_BROKERS", variable("TEST_KAFKA_SASL_BROKERS")),
        ("KAFKA_TLS", "true".to_owned()),
        ("KAFKA_CA_FILE", ca.clone()),
        ("KAFKA_SASL_MECHANISM", "PLAIN".to_owned()),
        ("KAFKA_USERNAME", variable("TEST_KAFKA_USERNAME")),
    ];
    let with = |password: String| [sasl.clone(), vec![("KAFKA_PASSWORD", password)]].concat();
    let of_redis = |url: String| vec![("REDIS_URL", url), ("REDIS_CA_FILE", ca.clone())];
    let redis = variable("TEST_REDIS_TLS_URL");
    let right = [with(variable("TEST_KAFKA_PASSWORD")), of_redis(redis.clone())].concat();
    let well = check(&cluster, &right, &["--strict"]);
    assert_eq!(well.code, Some(0), "{} {}", well.out, well.error);

    let cases: [(Variables, &[&str]); 7] = [
        (
            vec![("KAFKA_PARTITIONS", "4".to_owned())],
            &["the store has 3 partitions, but KAFKA_PARTITIONS is 4", "has 3 partitions and KAFKA_PARTITIONS says 4"],
        ),
        (vec![("KAFKA_TODO_TOPIC", "server-other-topic".to_owned())], &["the store was filled from topic server-"]),
        (vec![("DATABASE_URL", format!("{url}_missing"))], &["there is no database at"]),
        (vec![("DATABASE_URL", guessed(&url))], &["refuses the login"]),
        (vec![("REDIS_URL", "http://hidden".to_owned())], &["REDIS_URL cannot be used"]),
        (with("hidden".to_owned()), &["Kafka refuses the login: check KAFKA_USERNAME"]),
        (of_redis(guessed(&redis)), &["refuses the login: check REDIS_URL (Authentication Error: WRONGPASS"]),
    ];
    for (changed, expected) in cases {
        let wrong = check(&cluster, &changed, &[]);
        let problems = lines(&wrong, "problem");
        assert!(
            wrong.code == Some(1) && problems.len() == expected.len(),
            "{changed:?}: {} {}",
            wrong.out,
            wrong.error
        );
        for (problem, words) in problems.iter().zip(expected) {
            assert!(problem.contains(words), "{words}: {problem}");
        }
        assert_eq!(wrong.error, format!("todo-server: {} problems\n", expected.len()));
    }

    // A version of the future has been here.
    cluster.execute("UPDATE store SET schema = 1000, min_reader = 1000");
    let newer = check(&cluster, &[("REDIS_URL", format!("redis://{NOBODY}/0"))], &[]);
    let kinds = (lines(&newer, "problem"), lines(&newer, "warning").len());
    assert!(newer.code == Some(1) && kinds.0.len() == 1 && kinds.1 == 1, "{} {}", newer.out, newer.error);
    assert!(kinds.0[0].contains("was written by a newer version"), "{}", kinds.0[0]);
}

#[cfg(target_os = "linux")]
mod upgrade {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::NOBODY;
    use crate::harness::successor::script;
    use crate::harness::{Client, Cluster, EndsWith, Server, Silence, binary, eventually, get};

    /// Replaces the server by its like while somebody reads all the time; what the new one has logged at its end.
    fn upgrade_under_readers(server: &mut Server) {
        let (stop, address) = (AtomicBool::new(false), server.address);
        let read = std::thread::scope(|scope| {
            let _ends = EndsWith(&stop);
            let reader = scope.spawn(|| {
                let (mut client, mut read) = (Client::connect(address), 0_u32);
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.ask(&get("/todos?limit=10"));
                    assert!(answer.status == 200 && !answer.closes(), "{answer}");
                    read += 1;
                }
                read
            });
            server.upgrade(&[]);
            stop.store(true, Ordering::Relaxed);
            reader.join().expect("the reader is well")
        });
        assert!(read > 0, "somebody has read meanwhile");
    }

    #[test]
    fn without_redis_a_successor_takes_over() {
        let cluster = Cluster::new();
        let _worker = cluster.worker();
        let mut server = cluster.options().variable("REDIS_URL", format!("redis://{NOBODY}/0")).start();
        let mut client = server.connect();
        eventually("writes are taken", || client.ask(&get("/ready")).json()["writes"] == true);
        let id = client.ask(&server.post("before")).accepted();
        eventually("it is there", || client.ask(&get(&format!("/todos/{id}"))).status == 200);
        upgrade_under_readers(&mut server);
        assert_eq!(client.ask(&get(&format!("/todos/{id}"))).status, 200);
        let id = client.ask(&server.post("after")).accepted();
        eventually("it is there", || client.ask(&get(&format!("/todos/{id}"))).status == 200);
        eventually("Redis is said to be away", || {
            client.ask(&get("/ready")).json()["away"] == serde_json::json!(["redis"])
        });
        let log = server.stop_successor();
        assert!(log.contains(&format!("Redis at {NOBODY} is away")), "{log}");
    }

    /// One broker of one: the new one does what the old one did, answers reads and refuses writes.
    #[test]
    fn without_a_broker_a_successor_takes_over() {
        let cluster = Cluster::new();
        let _worker = cluster.worker();
        let mut server = cluster.options().variable("KAFKA_BROKERS", NOBODY).start();
        let mut client = server.connect();
        let mut is_refused = |server: &Server| {
            eventually("Kafka is said to be away", || {
                let ready = client.ask(&get("/ready"));
                ready.status == 200 && ready.json()["away"] == serde_json::json!(["kafka"])
            });
            let refused = client.ask(&server.post("not taken"));
            assert!(
                refused.status == 503 && refused.field("Retry-After") == Some("1") && !refused.closes(),
                "{refused}"
            );
        };
        is_refused(&server);
        upgrade_under_readers(&mut server);
        is_refused(&server);
        let log = server.stop_successor();
        assert!(log.contains(&format!("the Kafka broker {NOBODY} is away")), "{log}");
    }

    /// It could not load, so the old one goes on, and whoever asked hears that it is Postgres.
    #[test]
    fn without_postgres_the_old_one_goes_on() {
        let cluster = Cluster::new();
        let _worker = cluster.worker();
        let server = cluster.server();
        let mut client = server.connect();
        let id = client.ask(&server.post("before")).accepted();
        eventually("it is there", || client.ask(&get(&format!("/todos/{id}"))).status == 200);
        let body = format!("DATABASE_URL=postgres://app:hidden@{NOBODY}/nowhere exec {} \"$@\"", binary());
        let program = script(server.folder(), "without-postgres", &body);
        let said = server.try_upgrade(&["--binary", program.to_str().expect("text")]);
        let error = String::from_utf8(said.stderr).expect("text");
        let words = format!("the todos cannot be loaded: Postgres at {NOBODY}/nowhere is away");
        assert!(said.status.code() == Some(1) && error.contains(&words), "{error}");
        assert!(error.contains("the old process goes on serving") && error.lines().count() == 1, "{error}");
        assert!(!error.contains("hidden"), "{error}");
        assert_eq!(client.ask(&get(&format!("/todos/{id}"))).status, 200);
        let id = client.ask(&server.post("after")).accepted();
        eventually("it is there", || client.ask(&get(&format!("/todos/{id}"))).status == 200);
        assert_eq!(client.silence(Duration::from_millis(20)), Silence::Open);
    }
}
