//! The tutorial of docs/benchmarks.md is typed as it stands, but for a second each and with fewer connections.

use crate::command::root;
use crate::report::Tally;
use crate::transcript::Transcript;

/// Arguments that say how long or how many, with the largest value that a replay gives them.
const SHORTENED: [(&str, u32); 7] =
    [("-d", 1), ("-D", 1), ("--seconds", 1), ("--duration", 1), ("-c", 20), ("--connections", 20), ("-p", 10)];

/// Replays it with the release build.
pub fn check() -> Result<Tally, String> {
    let release = root().join("target/release");
    let (server, bench) = (release.join("todo-server"), release.join("todo-bench"));
    Transcript { name: "docs/benchmarks.md", server: &server, bench: &bench, adapt: shorten }.replay()
}

fn shorten(command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    let mut shortened = Vec::with_capacity(words.len());
    for (position, word) in words.iter().enumerate() {
        let option = position.checked_sub(1).map(|before| words[before]);
        let largest = SHORTENED.iter().find(|(name, _)| option == Some(name)).map(|(_, largest)| *largest);
        shortened.push(match (largest, word.trim_end_matches('s').parse::<u32>()) {
            (Some(largest), Ok(value)) if value > largest => word.replace(&value.to_string(), &largest.to_string()),
            _ => (*word).to_owned(),
        });
    }
    shortened.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_durations_and_counts_are_shortened() {
        for (written, typed) in [
            (
                "npx autocannon -c 2000 -d 60 -p 80 'http://h:8080/todos?limit=10'",
                "npx autocannon -c 20 -d 1 -p 10 'http://h:8080/todos?limit=10'",
            ),
            ("wrk -t 1 -c 100 -d 10s http://h/", "wrk -t 1 -c 20 -d 1s http://h/"),
            ("autocannon -w 2 -c 8 -d 1", "autocannon -w 2 -c 8 -d 1"),
            ("taskset -c 0-1 ls", "taskset -c 0-1 ls"),
        ] {
            assert_eq!(shorten(written), typed);
        }
    }
}
