//! The binary of a cluster's write side: reads its command line, does what it says, and ends with one plain sentence when
//! it cannot.

use std::process::ExitCode;

use clap::Parser;
use todo_proto::fold::DeadReason;
use todo_worker::command_line::{Command, CommandLine, DeadLettersAction, Settings};
use todo_worker::kafka::Kafka;
use todo_worker::postgres::Database;
use todo_worker::service::{self, adopt, letters, replay};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

type Failure = Box<dyn std::error::Error>;

/// A human's commands ask one thing after the other.
const COMMAND_CONNECTIONS_MAX: usize = 2;

fn main() -> ExitCode {
    let CommandLine { command, settings } = CommandLine::parse();
    let done = start_logging(&settings).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            match command.unwrap_or(Command::Run) {
                Command::Run => work(&settings).await,
                Command::DeadLetters { action } => dead_letters(&settings, action).await,
                Command::AdoptTopic { yes } => adopt_topic(&settings, yes).await,
            }
        })
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("todo-worker: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn start_logging(settings: &Settings) -> Result<(), Failure> {
    // The clients say much of what is only theirs; who wants to hear it says so after these.
    let filter = EnvFilter::try_new(format!("rskafka=warn,fred=warn,{}", settings.log)).map_err(|error| {
        format!("LOG `{}` is no filter ({error}): use error, warn, info, debug or trace", settings.log)
    })?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    Ok(())
}

async fn work(settings: &Settings) -> Result<(), Failure> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!("{name}: finishing the batches that have begun, and giving the partitions back");
        stop.send_replace(true);
        // Kept: without a sender everybody would take it for the end.
        std::future::pending::<()>().await;
    });
    service::run(settings, stopping).await.map_err(Failure::from)
}

async fn dead_letters(settings: &Settings, action: DeadLettersAction) -> Result<(), Failure> {
    let cluster = service::cluster(settings)?;
    let database = Database::new(&cluster.database, COMMAND_CONNECTIONS_MAX)?;
    database.find_store().await?;
    match action {
        DeadLettersAction::List { reason } => {
            let reason = reason.map(|name| reason_of(&name)).transpose()?;
            for letter in database.dead_letters().list(reason).await? {
                println!("{}", letters::line(&letter));
            }
        }
        DeadLettersAction::Show { part, position } => {
            let letter = database.dead_letters().show(part, position).await?;
            let letter = letter.ok_or_else(|| format!("there is no dead letter of partition {part} at {position}"))?;
            println!("{}", letters::text(&letter));
        }
        DeadLettersAction::Replay { part, position, .. } => {
            let kafka = Kafka::new(&cluster.kafka)?;
            let count = match part.zip(position) {
                Some((part, position)) => replay::one(&database, &kafka, part, position).await.map(|()| 1)?,
                None => replay::all(&database, &kafka).await?,
            };
            println!("{count} replayed: they are in the log, and a worker writes them now");
        }
    }
    Ok(())
}

fn reason_of(name: &str) -> Result<DeadReason, Failure> {
    let reasons = [DeadReason::KeyReused, DeadReason::TooOld, DeadReason::Undecodable, DeadReason::Refused];
    let names = reasons.map(DeadReason::name).join(", ");
    let reason = reasons.into_iter().find(|reason| reason.name() == name);
    reason.ok_or_else(|| format!("`{name}` is no reason of a dead letter: the reasons are {names}").into())
}

async fn adopt_topic(settings: &Settings, yes: bool) -> Result<(), Failure> {
    let cluster = service::cluster(settings)?;
    let database = Database::new(&cluster.database, COMMAND_CONNECTIONS_MAX)?;
    let kafka = Kafka::new(&cluster.kafka)?;
    let strange = adopt::look(&database, &kafka).await?;
    for adopt::Strange { partition, next_offset } in &strange {
        let (part, position) = (partition.part, partition.position());
        println!("partition {part} goes on at offset {next_offset}; its position stays {position}");
    }
    if yes {
        adopt::adopt(&database, &cluster.kafka.topic, &strange).await?;
        println!("{} partitions adopted", strange.len());
    } else {
        println!(
            "{} partitions are not the ones that were applied; nothing was changed. Do it with --yes",
            strange.len()
        );
    }
    Ok(())
}
