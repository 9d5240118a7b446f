//! The binary: reads its command line, does what it says, and ends with one plain sentence when it cannot.

#![expect(clippy::disallowed_macros, reason = "a command line talks to its terminal")]

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use todo_server::http::bearer::Keys;
use todo_server::settings::{Command, CommandLine, Settings};
use todo_server::{clock, fill, serve};
use todo_worker::sqlite::SqliteStore;
use tracing_subscriber::EnvFilter;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    abort_on_panic();
    let CommandLine { command, settings } = CommandLine::parse();
    let done = start_logging(&settings).and_then(|()| match command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run(&settings).map_err(Failure::from),
        Command::Seed { count, append } => seed(&settings, count, append),
        Command::Token { sub, ttl } => token(&settings, &sub, ttl),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("todo-server: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// A broken shard takes the process down, in builds that unwind too: a half-dead server is worse than a restart.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

fn start_logging(settings: &Settings) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&settings.log).map_err(|error| {
        format!("LOG `{}` is no filter ({error}): use error, warn, info, debug or trace", settings.log)
    })?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    Ok(())
}

fn seed(settings: &Settings, count: u64, append: bool) -> Result<(), Failure> {
    let store = SqliteStore::open(&settings.data_file, Arc::new(clock::wall_ms))?;
    let there = store.reader()?.count()?;
    if there > 0 && !append {
        return Err(format!(
            "{} holds {there} todos already: add --append to put {count} more beside them",
            settings.data_file.display()
        )
        .into());
    }
    let begun_us = clock::tick_us();
    let store = fill::fill(store, count)?;
    let now = store.reader()?.count()?;
    let took_ms = (clock::tick_us() - begun_us) / 1_000;
    println!("{count} sample todos added in {took_ms} ms; {} holds {now}", settings.data_file.display());
    Ok(())
}

fn token(settings: &Settings, subject: &str, ttl_seconds: u64) -> Result<(), Failure> {
    if subject.is_empty() || subject.len() > todo_server::limits::TOKEN_SUBJECT_BYTES_MAX {
        return Err("--sub must have 1 to 256 bytes: it becomes the token's subject".into());
    }
    let secret = match settings.connections.cluster()? {
        None => settings.secret()?,
        Some(_) => settings.shared_secret()?,
    };
    let keys = Keys::new(&secret);
    println!("{}", keys.sign(subject, clock::wall_ms() / 1_000, ttl_seconds)?);
    Ok(())
}
