//! What documents show as typed is real: the commands in their `console` blocks are run and their output compared.
//!
//! A line that begins with `$ ` is a command, continued by lines that begin with `> `; what follows is its output, up
//! to the next command. `…` stands for what varies: within a line for anything, alone on a line for any number of
//! lines. A command without output shown must succeed; what it prints is not compared.
//!
//! The command that ends in `cargo run --release` is the server: it is started first, on a free port instead of 8080. All
//! other commands run in one shell, in order, with programs that are built in place of `cargo run`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::command::root;
use crate::report::Tally;
use crate::server::{Server, settings};

const SERVE: &str = "cargo run --release";
const DOCUMENTED_PORT: &str = "8080";
/// Printed by the shell after each command, with its status. No command of a document prints this.
const MARK: &str = "\u{1}status";

/// A document, and how its commands are run.
pub struct Transcript<'a> {
    /// From the root.
    pub name: &'static str,
    /// Takes the place of `cargo run --release`.
    pub server: &'a Path,
    /// Takes the place of `cargo run --release -p todo-bench`.
    pub bench: &'a Path,
    /// Of each command, before it is run.
    pub adapt: fn(&str) -> String,
}

impl Transcript<'_> {
    /// Replays it.
    pub fn replay(&self) -> Result<Tally, String> {
        let text =
            std::fs::read_to_string(root().join(self.name)).map_err(|error| format!("{}: {error}", self.name))?;
        let entries = parse(&text)?;
        let (served, typed): (Vec<&Entry>, Vec<&Entry>) =
            entries.iter().partition(|entry| entry.command.ends_with(SERVE));
        let [start] = served[..] else { return Err(format!("{} starts {} servers, not one", self.name, served.len())) };

        let directory = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
        let running = Server::start(self.server, directory.path(), &[])?;
        let port = running.port.to_string();
        let with_port = |text: &str| text.replace(DOCUMENTED_PORT, &port);
        let command = |entry: &&Entry| with_built(&with_port(&(self.adapt)(&entry.command)), self.server, self.bench);
        let commands: Vec<String> = typed.iter().map(command).collect();
        let results = type_in(&commands, directory.path(), running.port)?;
        if results.len() != typed.len() {
            return Err(format!("the shell ended after {} of {} commands", results.len(), typed.len()));
        }

        let mut faults = Vec::new();
        let start_up = Outcome { status: 0, output: lines_of(&running.log()) };
        for (entry, outcome) in typed.iter().zip(&results).chain([(&start, &start_up)]) {
            let expected: Vec<String> = entry.output.iter().map(|line| with_port(line)).collect();
            if let Err(reason) = compare(&expected, outcome) {
                faults.push(format!("{}: `{}`: {reason}", self.name, entry.command));
            }
        }
        let count = typed.len();
        println!("{}: {count} commands", self.name);
        if faults.is_empty() { Ok(Tally::ONE) } else { Err(faults.join("\n")) }
    }
}

/// A command of the transcript and the output shown.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entry {
    command: String,
    output: Vec<String>,
}

/// What a command did.
struct Outcome {
    status: i32,
    output: Vec<String>,
}

fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if inside && let Some(command) = line.strip_prefix("$ ") {
            entries.push(Entry { command: command.to_owned(), output: Vec::new() });
        } else if inside {
            let entry = entries.last_mut().ok_or_else(|| format!("output without a command: {line}"))?;
            match line.strip_prefix("> ") {
                Some(more) if entry.output.is_empty() => entry.command = format!("{}\n{more}", entry.command),
                Some(_) | None => entry.output.push(line.to_owned()),
            }
        }
    }
    for entry in &mut entries {
        trim_end(&mut entry.output);
    }
    Ok(entries)
}

/// The command with the built programs in place of `cargo run --release`.
fn with_built(command: &str, server: &Path, bench: &Path) -> String {
    command
        .replace("cargo run --release -p todo-bench --", &bench.to_string_lossy())
        .replace("cargo run --release --", &server.to_string_lossy())
}

/// Runs the commands in one shell, so that variables last. Gives back fewer outcomes when the shell ends early.
fn type_in(commands: &[String], directory: &Path, port: u16) -> Result<Vec<Outcome>, String> {
    let mut script = String::from("exec 2>&1\n");
    for command in commands {
        writeln!(script, "{command}\nprintf '\\n{MARK} %s\\n' \"$?\"").map_err(|error| error.to_string())?;
    }
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]).current_dir(directory).envs(settings(directory, port)).stdin(Stdio::null());
    let output = shell.output().map_err(|error| format!("cannot start bash: {error}"))?;
    outcomes(&String::from_utf8_lossy(&output.stdout))
}

fn outcomes(printed: &str) -> Result<Vec<Outcome>, String> {
    let mut outcomes = Vec::new();
    let mut output = Vec::new();
    for line in printed.lines() {
        if let Some(status) = line.strip_prefix(MARK) {
            let status = status.trim().parse().map_err(|_| format!("no exit status: {line}"))?;
            trim_end(&mut output);
            outcomes.push(Outcome { status, output: std::mem::take(&mut output) });
        } else {
            output.push(line.to_owned());
        }
    }
    Ok(outcomes)
}

fn compare(expected: &[String], outcome: &Outcome) -> Result<(), String> {
    if outcome.status != 0 {
        return Err(format!("ended with status {}:\n{}", outcome.status, outcome.output.join("\n")));
    }
    if expected.is_empty() || lines_match(expected, &outcome.output) {
        return Ok(());
    }
    Err(format!("documented:\n{}\nprinted:\n{}", expected.join("\n"), outcome.output.join("\n")))
}

/// Line by line; a line of `…` alone stands for any number of lines.
fn lines_match(expected: &[String], actual: &[String]) -> bool {
    match expected.split_first() {
        None => actual.is_empty(),
        Some((line, rest)) if line.trim() == "…" => (0..=actual.len()).any(|skip| lines_match(rest, &actual[skip..])),
        Some((line, rest)) => {
            actual.split_first().is_some_and(|(first, others)| line_matches(line, first) && lines_match(rest, others))
        }
    }
}

/// `…` stands for any text within the line; blanks at the end do not count.
fn line_matches(expected: &str, actual: &str) -> bool {
    let (expected, actual) = (expected.trim_end(), actual.trim_end());
    let mut parts = expected.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = actual.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

fn lines_of(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    trim_end(&mut lines);
    lines
}

fn trim_end(lines: &mut Vec<String>) {
    while lines.last().is_some_and(|line| line.trim().is_empty()) {
        lines.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[&str]) -> Vec<String> {
        text.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn commands_and_their_output() {
        let text = "Text\n```sh\n$ not this\n```\n```console\n$ one\n> two\nout\n> more\n\n$ three\n```\n$ nor this\n";
        assert_eq!(
            parse(text),
            Ok(vec![
                Entry { command: "one\ntwo".to_owned(), output: lines(&["out", "> more"]) },
                Entry { command: "three".to_owned(), output: Vec::new() },
            ])
        );
        assert!(parse("```console\nlost output\n```").is_err());
    }

    #[test]
    fn built_programs_take_the_place_of_cargo_run() {
        let check = |command: &str| with_built(command, Path::new("/t/todo-server"), Path::new("/t/todo-bench"));
        assert_eq!(check("T=$(cargo run --release -- token --sub me)"), "T=$(/t/todo-server token --sub me)");
        assert_eq!(check("cargo run --release -p todo-bench -- load"), "/t/todo-bench load");
    }

    #[test]
    fn an_ellipsis_stands_for_what_varies() {
        for (expected, actual, matches) in [
            ("a b", "a b  ", true),
            ("a b", "a c", false),
            ("a…", "a", true),
            ("a…c", "abc", true),
            ("a…c", "abcd", false),
            (r#"{"id":"…","title":"…"}"#, r#"{"id":"1","title":"x"}"#, true),
            (r#"{"id":"…","title":"…"}"#, r#"{"id":"1","name":"x"}"#, false),
            ("…", "anything", true),
        ] {
            assert_eq!(line_matches(expected, actual), matches, "{expected} / {actual}");
        }
        assert!(lines_match(&lines(&["a", "…", "d"]), &lines(&["a", "b", "c", "d"])));
        assert!(lines_match(&lines(&["a", "…"]), &lines(&["a"])));
        assert!(!lines_match(&lines(&["a", "…", "d"]), &lines(&["a", "b", "c"])));
        assert!(!lines_match(&lines(&["a"]), &lines(&["a", "b"])));
    }

    #[test]
    fn one_shell_runs_all_commands() {
        let directory = tempfile::tempdir().expect("a directory");
        let commands = ["A=3", "echo $A; echo to stderr >&2", "printf no-newline", "false"].map(str::to_owned);
        let results = type_in(&commands, directory.path(), 1).expect("bash runs");
        let seen: Vec<(i32, String)> =
            results.iter().map(|outcome| (outcome.status, outcome.output.join("|"))).collect();
        let expected = [(0, ""), (0, "3|to stderr"), (0, "no-newline"), (1, "")];
        assert_eq!(seen, expected.map(|(status, output)| (status, output.to_owned())));
        assert!(compare(&[], &results[3]).is_err(), "a failing command is a fault even without output shown");
    }
}
