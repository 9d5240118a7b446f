//! The commands and their words, as somebody at a terminal has them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use crate::harness::{Options, SECRET, Todo, get, request, run};

struct Said {
    code: Option<i32>,
    out: String,
    error: String,
}

fn say(folder: &Path, arguments: &[&str]) -> Said {
    let Output { status, stdout, stderr } = run(folder, arguments);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Said { code: status.code(), out: text(stdout), error: text(stderr) }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

#[test]
fn version_and_help() {
    let folder = folder();
    let version = say(folder.path(), &["--version"]);
    let expected = format!("todo-server {} (commit ", env!("CARGO_PKG_VERSION"));
    assert!(version.code == Some(0) && version.out.starts_with(&expected), "{}", version.out);
    let help = say(folder.path(), &["--help"]);
    assert_eq!((help.code, help.error.as_str()), (Some(0), ""));
    for word in ["HTTP_PORT", "DATA_FILE", "JWT_SECRET", "SHARDS", "ACCEPT", "token", "seed", "curl"] {
        assert!(help.out.contains(word), "{word} is not in the help");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("it is there").count(), 0, "nothing was made");
}

#[test]
fn what_is_not_understood_is_said_plainly() {
    let folder = folder();
    let table: [(&[&str], i32, &str); 10] = [
        (&["--shards", "0"], 2, "--shards"),
        (&["--http-port", "eighty"], 2, "--http-port"),
        (&["--accept", "telepathy"], 2, "reuseport"),
        (&["--colour", "red"], 2, "--colour"),
        (&["--proxy-from", "10.0.0.1/8"], 2, "is 10.0.0.0/8 meant?"),
        (&["--proxy-from", "10.0.0.0/8,proxy"], 2, "it is no network"),
        (&["token", "--sub", "me", "--ttl", "soon"], 2, "24h"),
        (&["token", "--sub", ""], 1, "--sub must have 1 to 256 bytes"),
        (&["--log", "a=b=c"], 1, "LOG `a=b=c` is no filter"),
        (&["--http-port", "0", "--http-host", "no.such.host.invalid"], 1, "HTTP_HOST `no.such.host.invalid`"),
    ];
    for (arguments, code, words) in table {
        let said = say(folder.path(), arguments);
        assert!(said.code == Some(code) && said.error.contains(words), "{arguments:?}: {:?} {}", said.code, said.error);
        assert_eq!(said.out, "", "{arguments:?}");
        assert!(!said.error.contains("panicked"), "{arguments:?}: {}", said.error);
    }
}

#[test]
fn a_weak_secret_is_refused_unless_allowed() {
    let folder = folder();
    let weak = ["token", "--sub", "me", "--jwt-secret", "change-me"];
    let said = say(folder.path(), &weak);
    assert!(
        said.code == Some(1) && said.error.contains("at least 32") && said.error.lines().count() == 1,
        "{}",
        said.error
    );
    assert!(!said.error.contains("change-me"), "the secret is not repeated");
    let serving = say(folder.path(), &["--http-port", "0", "--jwt-secret", "change-me"]);
    assert_eq!(serving.code, Some(1), "{}", serving.error);
    assert_eq!(std::fs::read_dir(folder.path()).expect("it is there").count(), 0, "nothing was made");
    let allowed = say(folder.path(), &[&weak[..], &["--allow-weak-secret"]].concat());
    assert_eq!(allowed.code, Some(0), "{}", allowed.error);
}

/// Settings with their values, secrets without, and every problem at once.
#[test]
fn check_says_what_is_in_force_and_every_problem() {
    let folder = folder();
    let good = say(folder.path(), &["check", "--http-port", "0", "--jwt-secret", SECRET, "--limit-max", "77"]);
    assert_eq!(good.code, Some(0), "{} {}", good.out, good.error);
    for (name, value) in [("LIMIT_MAX", "77 (flag)"), ("JWT_SECRET", "set, and not shown (flag)"), ("LOG", "info")] {
        let line = format!("\n  {name:<29} {value}\n");
        assert!(good.out.contains(&line), "{line}: {}", good.out);
    }
    assert!(good.out.ends_with("\nno problems\n"), "{}", good.out);
    let networks = ["check", "--http-port", "0", "--jwt-secret", SECRET, "--proxy-from", "10.0.0.0/8,fd00::/8"];
    let proxied = say(folder.path(), &networks);
    let line = format!("\n  {:<12} a PROXY header begins every connection from 10.0.0.0/8, fd00::/8\n", "proxy");
    assert!(proxied.code == Some(0) && proxied.out.contains(&line), "{} {}", proxied.out, proxied.error);
    assert!(!good.out.contains("PROXY header"), "{}", good.out);
    assert!(!good.out.contains(SECRET), "{}", good.out);
    assert_eq!(std::fs::read_dir(folder.path()).expect("it is there").count(), 0, "nothing was made");
    std::fs::write(folder.path().join("todos.db"), "no database, and long enough to be looked at as one")
        .expect("a file");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let admin = taken.local_addr().expect("bound").to_string();
    let arguments = ["check", "--http-host", "no.such.host.invalid", "--jwt-secret", "short", "--log", "a=b=c"];
    let bad = say(folder.path(), &[&arguments[..], &["--admin-addr", &admin]].concat());
    assert_eq!((bad.code, bad.error.as_str()), (Some(1), "todo-server: 5 problems\n"), "{}", bad.out);
    for words in [
        "problem: HTTP_HOST",
        "problem: JWT_SECRET has 5 bytes",
        "problem: LOG `a=b=c`",
        "problem: ADMIN_ADDR 127.0.0.1:",
        "is not a data file",
    ] {
        assert!(bad.out.contains(words), "{words}: {}", bad.out);
    }
    assert!(!bad.out.contains("short"), "{}", bad.out);
    // Beside a server over the same file its port and its lock are of right.
    let server = Options::new().start();
    let port = server.address.port().to_string();
    let file = server.data_file();
    let beside = ["check", "--http-port", &port, "--data-file", file.to_str().expect("text"), "--jwt-secret", SECRET];
    let beside = say(folder.path(), &beside);
    assert!(beside.code == Some(0) && beside.out.contains("100 todos"), "{} {}", beside.out, beside.error);
    // One that is told elsewhere is not the one to be replaced.
    let run_dir = folder.path().to_str().expect("text");
    let other = ["check", "--http-port", "0", "--data-file", file.to_str().expect("text"), "--jwt-secret", SECRET];
    let other = say(folder.path(), &[&other[..], &["--run-dir", run_dir]].concat());
    let held = format!("is held by another process (pid {})", server.pid().as_raw_nonzero());
    assert!(other.code == Some(1) && other.out.contains(&held), "{} {}", other.out, other.error);
}

/// Without a server there is nobody to be replaced.
#[test]
fn upgrade_without_a_server_says_so() {
    let said = say(folder().path(), &["upgrade"]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""));
    assert!(said.error.contains("is it running") && said.error.lines().count() == 1, "{}", said.error);
}

#[test]
fn a_token_is_all_that_token_prints_and_the_server_takes_it() {
    let server = Options::new().start();
    let folder = folder();
    let said = say(folder.path(), &["token", "--sub", "somebody", "--ttl", "5m", "--jwt-secret", SECRET]);
    assert_eq!((said.code, said.error.as_str()), (Some(0), ""));
    let token = said.out.strip_suffix('\n').expect("one line");
    assert!(token.split('.').count() == 3 && !token.contains(char::is_whitespace), "{token}");
    let authorization = format!("Bearer {token}");
    let post = request("POST", "/todos", &[("Authorization", &authorization)], r#"{"title":"with a printed token"}"#);
    server.connect().ask(&post).accepted();
}

/// Old tokens are good until they expire while a new secret takes the place of theirs.
#[test]
fn a_secret_is_rotated_without_a_refused_write() {
    const NEW: &str = "the new secret of the tests, over thirty-two bytes";
    let folder = folder();
    let token = |arguments: &[&str]| {
        let said = say(folder.path(), &[&["token", "--sub", "me"], arguments].concat());
        assert_eq!(said.code, Some(0), "{}", said.error);
        format!("Bearer {}", said.out.trim())
    };
    let old = token(&["--jwt-secret", SECRET, "--jwt-key-id", "a"]);
    let new = token(&["--jwt-secret", NEW, "--jwt-key-id", "b"]);
    let flags = [("--jwt-key-id", "b"), ("--jwt-secret-previous", SECRET), ("--jwt-key-id-previous", "a")];
    let options =
        flags.iter().fold(Options::default().flag("--http-port", 0).flag("--jwt-secret", NEW), |options, flag| {
            options.flag(flag.0, flag.1)
        });
    let server = options.start();
    for authorization in [old, new] {
        let post = request("POST", "/todos", &[("Authorization", &authorization)], r#"{"title":"t"}"#);
        server.connect().ask(&post).accepted();
    }
    let short = say(folder.path(), &["--http-port", "0", "--jwt-secret", NEW, "--jwt-secret-previous", "short"]);
    assert!(short.code == Some(1) && short.error.contains("at least 32"), "{}", short.error);
}

/// With no secret set, one is made, kept to its owner, and used by both commands.
#[test]
fn the_kept_secret_is_one_for_all_commands() {
    let folder = folder();
    let file = folder.path().join("todos.db");
    let file = file.to_str().expect("text");
    let first = say(folder.path(), &["token", "--sub", "me", "--data-file", file]);
    assert_eq!(first.code, Some(0), "{}", first.error);
    let kept = folder.path().join("todos.db.secret");
    assert_eq!(std::fs::metadata(&kept).expect("it is kept").permissions().mode() & 0o777, 0o600);
    let secret = std::fs::read_to_string(&kept).expect("text");
    let server = Options::new().flag("--jwt-secret", secret.trim()).start();
    let authorization = format!("Bearer {}", first.out.trim());
    let post = request("POST", "/todos", &[("Authorization", &authorization)], r#"{"title":"t"}"#);
    server.connect().ask(&post).accepted();
}

#[test]
fn seed_fills_an_empty_store_and_asks_before_it_adds() {
    let server = Options::new().flag("--seed-todos", 0).start();
    let file = server.data_file();
    let file = file.to_str().expect("text").to_owned();
    let folder = folder();
    let seed = |arguments: &[&str]| say(folder.path(), &[&["seed", "--data-file", &file], arguments].concat());
    let held = seed(&[]);
    assert!(held.code == Some(1) && held.error.contains("is held by another process (pid"), "{}", held.error);
    let server = server.stop_and_restart(|options| {
        let first = seed(&["--count", "1500"]);
        assert!(
            first.code == Some(0) && first.out.starts_with("1500 sample todos added"),
            "{}{}",
            first.out,
            first.error
        );
        let second = seed(&["--count", "10"]);
        assert_eq!(second.code, Some(1));
        assert!(second.error.contains("holds 1500 todos already: add --append"), "{}", second.error);
        let third = seed(&["--count", "10", "--append"]);
        assert!(third.code == Some(0) && third.out.contains("holds 1510"), "{}{}", third.out, third.error);
        options
    });
    let todos = Todo::list(&server.connect().ask(&get("/todos")).body);
    assert_eq!(todos.len(), 1_510);
    assert!(todos.is_sorted_by(|newer, older| newer.id > older.id));
}
