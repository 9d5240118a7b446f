//! `cargo xtask abuse`: `todo-bench abuse` over a release build. The server has the first CPU that may be used, attack and
//! others the last; only loopback is used, and everything that was started ends with it.

use crate::command::{build_release, command, line_of, root};

/// What a window on a busy machine may show without anything being wrong: the soak judges errors and memory, not speed.
const SOAK_MARGIN: [&str; 2] = ["--ratio-max=20", "--recovery-ms-max=10000"];
/// Each attack once.
const SOAK_LENGTH: [&str; 3] = ["--seconds=2", "--seconds-without=1", "--rounds=1"];

/// Which, and how long.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only this one; may be repeated. `todo-bench abuse --list` says what there is.
    #[arg(long = "attack", value_name = "NAME")]
    names: Vec<String>,
    /// How long each attack lasts, in each of its rounds.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Rounds of each attack: others alone, then beside it.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Take the release builds that are there.
    #[arg(long)]
    built: bool,
    /// Handed to `todo-bench abuse` as they are.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Runs the attacks. `Ok(false)` when somebody was hurt, or it cannot be told.
pub fn run(arguments: &Arguments) -> Result<bool, String> {
    if !arguments.built {
        build_release()?;
    }
    let mut words = vec![format!("--seconds={}", arguments.seconds), format!("--rounds={}", arguments.rounds)];
    words.extend(arguments.names.iter().map(|name| format!("--attack={name}")));
    words.extend(arguments.rest.iter().cloned());
    attack(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Every attack once, with what is built already. Judged with a margin of ten, but for errors and memory.
pub fn short() -> Result<bool, String> {
    attack(&[&SOAK_LENGTH[..], &SOAK_MARGIN[..]].concat())
}

fn attack(words: &[&str]) -> Result<bool, String> {
    let mut abuse = command(root().join("target/release/todo-bench"), &["abuse"]);
    abuse.args(words);
    let status = abuse.status().map_err(|error| format!("cannot start {}: {error}", line_of(&abuse)))?;
    match status.code() {
        Some(0) => Ok(true),
        // The server's fault, and what cannot be judged.
        Some(1 | 3) => Ok(false),
        _ => Err(format!("{} ended with {status}", line_of(&abuse))),
    }
}
