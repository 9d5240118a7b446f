//! Todos in and out, and from one store into the other.

use std::path::Path;
use std::process::Output;

use crate::harness::{Cluster, Options, Todo, get, run};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn good(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_file_is_exported_while_it_is_served_and_imported_into_another() {
    let server = Options::new().start();
    let mut client = server.connect();
    client.ask(&server.post("made \"here\"")).accepted();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let from = server.data_file();
    let exported = good(&run(folder.path(), &["export", "--data-file", path(&from)]));
    assert_eq!(exported.lines().count(), 101);
    assert!(exported.lines().all(|line| line.starts_with("{\"id\":\"") && line.contains(",\"born\":\"")));
    let file = folder.path().join("todos.ndjson");
    std::fs::write(&file, &exported).expect("writable");

    let copy = folder.path().join("copy.db");
    let seed = |arguments: &[&str]| run(folder.path(), &[&["seed", "--data-file", path(&copy)], arguments].concat());
    let said = good(&seed(&["--from", path(&file)]));
    assert!(said.starts_with("101 todos read, 101 of them new"), "{said}");
    assert_eq!(good(&run(folder.path(), &["export", "--data-file", path(&copy)])), exported, "nothing is lost");
    let again = good(&seed(&["--from", path(&file), "--append"]));
    assert!(again.starts_with("101 todos read, 0 of them new"), "{again}");

    std::fs::write(&file, format!("{exported}{{\"title\":\"no id\"}}\n")).expect("writable");
    let refused = seed(&["--from", path(&file), "--append"]);
    let error = text(&refused.stderr);
    assert!(refused.status.code() == Some(1) && error.contains("line 102 of"), "{error}");
    let both = seed(&["--from", path(&file), "--count", "5"]);
    assert_eq!(both.status.code(), Some(2), "one or the other");
    let nowhere = run(folder.path(), &["export", "--data-file", "nowhere.db"]);
    let error = text(&nowhere.stderr);
    assert!(nowhere.status.code() == Some(1) && error.contains("there is no data file"), "{error}");
    assert!(!folder.path().join("nowhere.db").exists(), "nothing was made");
}

#[test]
fn a_file_moves_into_a_cluster_and_out_again() {
    let cluster = Cluster::new();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("todos.ndjson");
    let data_file = folder.path().join("todos.db");
    good(&run(folder.path(), &["seed", "--count", "2000", "--data-file", path(&data_file)]));
    let exported = good(&run(folder.path(), &["export", "--data-file", path(&data_file)]));
    std::fs::write(&file, &exported).expect("writable");

    let missing = cluster.run(&["seed", "--from", path(&file)]);
    let error = text(&missing.stderr);
    assert!(missing.status.code() == Some(1) && error.contains("start a todo-worker"), "{error}");
    let _worker = cluster.worker();
    let server = cluster.server();
    let said = good(&cluster.run(&["seed", "--from", path(&file)]));
    assert!(said.starts_with("2000 todos read, 2000 of them new") && said.contains("holds 2000"), "{said}");
    assert_eq!(good(&cluster.run(&["export"])), exported);
    let held = cluster.run(&["seed", "--count", "5"]);
    assert!(held.status.code() == Some(1) && text(&held.stderr).contains("holds 2000 todos already"), "{held:?}");
    let mut client = server.connect();
    let listed = Todo::list(&client.ask(&get("/todos?limit=2000")).body);
    let line = exported.lines().next().expect("a line");
    assert!(listed.len() == 2_000 && line.contains(&listed[0].id), "{line}");
}

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}
