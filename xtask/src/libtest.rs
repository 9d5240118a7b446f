//! What `cargo test` prints: totals of each test program, and where the programs are.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::command::{follow, line_of};
use crate::report::Tally;

/// The programs that later steps start themselves, from the build that the tests made.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Programs {
    /// The server as its integration tests start it.
    pub server: Option<PathBuf>,
    /// The worker of a cluster, as its integration tests start it.
    pub worker: Option<PathBuf>,
    /// The load generator.
    pub bench: Option<PathBuf>,
    /// The server's integration tests (`server/tests/it`).
    pub socket_tests: Option<PathBuf>,
}

impl Programs {
    /// Takes note of one line of `cargo test --no-run --message-format=json-render-diagnostics`.
    pub fn note(&mut self, line: &str) {
        let Ok(message) = serde_json::from_str::<Value>(line) else { return };
        let Some(executable) = message["executable"].as_str() else { return };
        let manifest = Path::new(message["manifest_path"].as_str().unwrap_or_default());
        let package = manifest.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
        let kind = message["target"]["kind"][0].as_str().unwrap_or_default();
        let name = message["target"]["name"].as_str().unwrap_or_default();
        let harness = message["profile"]["test"].as_bool().unwrap_or_default();
        let place = match (package, kind, name, harness) {
            ("server", "bin", "todo-server", false) => &mut self.server,
            ("worker", "bin", "todo-worker", false) => &mut self.worker,
            ("bench", "bin", "todo-bench", false) => &mut self.bench,
            ("server", "test", "it", true) => &mut self.socket_tests,
            _ => return,
        };
        *place = Some(PathBuf::from(executable));
    }
}

/// Tests at once for each CPU. Most of them wait for a server's deadline and need none: with one a CPU, which is what they
/// take by themselves, a run takes twice as long.
const TESTS_PER_CPU: usize = 3;

/// Runs test programs and sums what they report, echoing all but the tests that passed. A command that fails without
/// a failed test (a crash, a compile error) is an error, and so are ignored tests: there are none here.
pub fn run(command: &mut Command) -> Result<Tally, String> {
    let cpus = std::thread::available_parallelism().map_err(|error| format!("how many CPUs there are: {error}"))?;
    command.env("RUST_TEST_THREADS", (cpus.get() * TESTS_PER_CPU).to_string());
    let mut sum = Sum::default();
    let status = follow(command, |line| {
        sum.note(line);
        if !(line.starts_with("test ") && line.ends_with(" ... ok")) {
            println!("{line}");
        }
    })?;
    if sum.ignored > 0 {
        return Err(format!("{} tests are ignored: delete them, or make them run", sum.ignored));
    }
    if sum.tally.failed == 0 && !status.success() {
        return Err(format!("{} ended with {status} and no failed test: a crash, or a build error", line_of(command)));
    }
    if sum.tally == Tally::default() {
        return Err(format!("{} ran no test", line_of(command)));
    }
    Ok(sum.tally)
}

#[derive(Default)]
struct Sum {
    tally: Tally,
    ignored: u32,
}

impl Sum {
    /// Adds up a line like `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn note(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let words: Vec<&str> = result.split([' ', ';']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<u32>() else { continue };
            match pair[1] {
                "passed" => self.tally.passed += count,
                "failed" => self.tally.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::command;

    #[test]
    fn totals_are_summed() {
        let mut sum = Sum::default();
        sum.note("running 3 tests");
        sum.note("test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.00s");
        sum.note("test result: FAILED. 10 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.20s");
        assert_eq!((sum.tally, sum.ignored), (Tally { passed: 13, failed: 2 }, 1));
    }

    #[test]
    fn what_a_command_prints_decides() {
        let check = |script: &str| run(&mut command("sh", &["-c", script]));
        assert_eq!(check("echo 'test result: ok. 2 passed; 0 failed; 0 ignored'"), Ok(Tally { passed: 2, failed: 0 }));
        assert_eq!(
            check("echo 'test result: FAILED. 2 passed; 1 failed; 0 ignored'; exit 101"),
            Ok(Tally { passed: 2, failed: 1 })
        );
        assert!(check("echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; exit 134").is_err(), "a crash after it");
        assert!(check("echo 'test result: ok. 2 passed; 0 failed; 1 ignored'").is_err(), "an ignored test");
        assert!(check("true").is_err(), "nothing ran");
    }

    #[test]
    fn programs_are_found_in_the_build_messages() {
        let message = |package: &str, kind: &str, name: &str, harness: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/r/{package}/Cargo.toml","target":{{"kind":["{kind}"],"name":"{name}"}},"profile":{{"test":{harness}}},"executable":"/t/{name}-{harness}"}}"#
            )
        };
        let mut programs = Programs::default();
        programs.note(&message("server", "bin", "todo-server", true));
        assert_eq!(programs, Programs::default(), "the unit tests of the binary are not the server");
        programs.note(&message("worker", "test", "it", true));
        assert_eq!(programs, Programs::default(), "another crate's integration tests");
        programs.note(&message("server", "bin", "todo-server", false));
        programs.note(&message("bench", "bin", "todo-bench", false));
        programs.note(&message("server", "test", "it", true));
        programs.note(r#"{"reason":"build-finished","success":true}"#);
        assert_eq!(programs.server.as_deref(), Some(Path::new("/t/todo-server-false")));
        assert_eq!(programs.bench.as_deref(), Some(Path::new("/t/todo-bench-false")));
        assert_eq!(programs.socket_tests.as_deref(), Some(Path::new("/t/it-true")));
    }
}
