//! The binary: reads its command line, does what it says, and ends with one plain sentence when it cannot.

#![expect(clippy::disallowed_macros, reason = "a command line talks to its terminal")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use todo_server::control::handover::command;
use todo_server::settings::{Command, CommandLine, SECRETS, Settings};
use todo_server::transfer::export;
use todo_server::transfer::seed::{ImportFile, import};
use todo_server::transfer::seed_cluster::ClusterSeed;
use todo_server::{clock, fill, serve};
use todo_worker::logging;
use todo_worker::sample::SampleTodos;
use todo_worker::sqlite::SqliteStore;
use tokio::runtime::Runtime;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    abort_on_panic();
    match CommandLine::read().map_err(Failure::from).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("todo-server: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(CommandLine { command, settings }: CommandLine) -> Result<(), Failure> {
    start_logging(&settings, command.as_ref())?;
    match command.unwrap_or(Command::Serve) {
        Command::Serve => {
            warn_of_secrets();
            Ok(serve::run(&settings)?)
        }
        Command::Seed { count, from, append } => seed(&settings, &Seed { count, from, append }),
        Command::Export => export(&settings),
        Command::Upgrade { binary } => upgrade(&settings, binary.as_deref()),
        Command::Check { strict } => todo_server::check::run(&settings, strict),
        Command::Token { sub, ttl } => token(&settings, &sub, ttl),
    }
}

/// `check` logs nothing, and looks at the filter by itself: a bad one is one of several problems.
fn start_logging(settings: &Settings, command: Option<&Command>) -> Result<(), Failure> {
    match command {
        Some(Command::Check { .. }) => Ok(()),
        _ => Ok(logging::start(&settings.log)?),
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

/// Arguments of a process can be read by everybody on its machine, as long as it runs.
fn warn_of_secrets() {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    for (flag, variable) in SECRETS {
        let is_it = |argument: &std::ffi::OsString| {
            let rest = argument.as_encoded_bytes().strip_prefix(flag.as_bytes());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"="))
        };
        if arguments.iter().any(is_it) {
            tracing::warn!(
                "{variable} was given as an argument, which everybody on this machine can read: set it in the environment, or name a file in {variable}_FILE"
            );
        }
    }
}

/// What a store is to be seeded with.
struct Seed {
    count: u64,
    from: Option<PathBuf>,
    append: bool,
}

fn seed(settings: &Settings, seed: &Seed) -> Result<(), Failure> {
    let file = seed.from.as_deref().map(ImportFile::check).transpose()?;
    match settings.connections.cluster()? {
        None => seed_file(settings, seed, file.as_ref()),
        Some(cluster) => runtime()?.block_on(seed_cluster(&cluster, seed, file.as_ref())),
    }
}

fn seed_file(settings: &Settings, seed: &Seed, file: Option<&ImportFile>) -> Result<(), Failure> {
    let store = SqliteStore::open(&settings.data_file, Arc::new(clock::wall_ms))?;
    let there = store.reader()?.count()?;
    let (path, count) = (settings.data_file.display(), file.map_or(seed.count, |file| file.todos_count));
    if there > 0 && !seed.append {
        return Err(format!("{path} holds {there} todos already: add --append to put {count} more beside them").into());
    }
    let begun_us = clock::tick_us();
    let store = match file {
        None => fill::fill(store, count)?,
        Some(file) => import(store, file)?.0,
    };
    let now = store.reader()?.count()?;
    println!("{}; {path} holds {now}", done(count, file, now - there, begun_us));
    Ok(())
}

async fn seed_cluster(
    cluster: &todo_worker::settings::Cluster,
    seed: &Seed,
    file: Option<&ImportFile>,
) -> Result<(), Failure> {
    let begun_us = clock::tick_us();
    let target = ClusterSeed::begin(cluster, seed.append).await?;
    let there = target.count().await?;
    let count = match file {
        None => target.append(SampleTodos::new(fastrand::u64(..), seed.count, target.now_ms().await?)).await?,
        Some(file) => target.append(file.commands()?).await?,
    };
    target.wait_until_applied(|what| eprintln!("todo-server: {what}")).await?;
    let now = target.count().await?;
    println!("{}; the cluster holds {now}", done(count, file, now.saturating_sub(there), begun_us));
    Ok(())
}

/// How a seeding has ended.
fn done(count: u64, file: Option<&ImportFile>, new: u64, begun_us: u64) -> String {
    let took_ms = (clock::tick_us() - begun_us) / 1_000;
    match file {
        None => format!("{count} sample todos added in {took_ms} ms"),
        Some(_) => format!("{count} todos read, {new} of them new, in {took_ms} ms"),
    }
}

fn export(settings: &Settings) -> Result<(), Failure> {
    let count = match settings.connections.cluster()? {
        None => export::from_file(&settings.data_file, std::io::stdout().lock())?,
        Some(cluster) => runtime()?.block_on(export::from_cluster(&cluster, std::io::stdout()))?,
    };
    tracing::info!(count, "exported");
    Ok(())
}

fn upgrade(settings: &Settings, binary: Option<&Path>) -> Result<(), Failure> {
    let done = command::ask(&settings.command_socket(settings.http_port), binary)?;
    println!("{done}");
    Ok(())
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn token(settings: &Settings, subject: &str, ttl_seconds: u64) -> Result<(), Failure> {
    if subject.is_empty() || subject.len() > todo_server::limits::TOKEN_SUBJECT_BYTES_MAX {
        return Err("--sub must have 1 to 256 bytes: it becomes the token's subject".into());
    }
    let keys = settings.keys(settings.connections.cluster()?.is_some())?;
    println!("{}", keys.sign(subject, clock::wall_ms() / 1_000, ttl_seconds)?);
    Ok(())
}
