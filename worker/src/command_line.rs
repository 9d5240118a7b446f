//! What `todo-worker` is told: its commands and settings.

#![expect(clippy::doc_markdown, reason = "these comments are help texts, read in a terminal")]

use clap::{Args, Parser, Subcommand};

use crate::settings::Connections;

/// Applies the writes of a cluster: commands out of Kafka, into Postgres, and on to Redis for the servers.
///
/// Without a command it runs until SIGTERM. Several may run at once: they share the partitions.
///
/// Every option is also an environment variable, named in brackets below; the option wins.
#[derive(Debug, Parser)]
#[command(name = "todo-worker", version)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings of every command.
    #[command(flatten)]
    pub settings: Settings,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Apply writes (the default)
    Run,
    /// Look at commands that had no effect and were kept aside
    DeadLetters {
        /// What to do with them.
        #[command(subcommand)]
        action: DeadLettersAction,
    },
    /// Go on with a topic that was made anew: its records are applied from its first one, and positions do not go back
    AdoptTopic {
        /// Do it; without this it only says what it would do
        #[arg(long)]
        yes: bool,
    },
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLettersAction {
    /// The newest, one a line: partition, position, time, reason, replayed, what it was
    List {
        /// Only those of one reason: key-reused, too-old, undecodable or refused
        #[arg(long, value_name = "REASON")]
        reason: Option<String>,
    },
    /// One, with all that it holds
    Show {
        /// Its partition
        part: u32,
        /// Its position
        position: u64,
    },
    /// Write todos whose creation came too late after all (too-old): one, or with --all every one not replayed yet
    Replay {
        /// Its partition
        #[arg(required_unless_present = "all", requires = "position")]
        part: Option<u32>,
        /// Its position
        position: Option<u64>,
        /// Every one that was not replayed yet
        #[arg(long, conflicts_with = "part")]
        all: bool,
    },
}

/// Settings of every command.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Where the services are.
    #[command(flatten)]
    pub connections: Connections,

    /// Address to listen on for /health, /ready and /metrics
    #[arg(long, env, global = true, default_value = "127.0.0.1", value_name = "HOST")]
    pub worker_host: String,

    /// Port to listen on; 0 lets the system choose one, which start-up prints
    #[arg(long, env, global = true, default_value_t = 8081, value_name = "PORT")]
    pub worker_port: u16,

    /// Batches that are applied at once, each over a connection of its own; more make them smaller and Postgres slower
    #[arg(long, env, global = true, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub worker_pool_size: u32,

    /// What is logged to standard error: error, warn, info, debug, trace, or per module as in warn,todo_worker::apply=debug
    #[arg(long, env, global = true, default_value = "info", value_name = "FILTER")]
    pub log: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }

    #[test]
    fn one_dead_letter_is_replayed_or_all() {
        let parse = |arguments: &str| CommandLine::try_parse_from(arguments.split(' ')).is_ok();
        for (arguments, expected) in [
            ("todo-worker dead-letters replay 3 17", true),
            ("todo-worker dead-letters replay --all", true),
            ("todo-worker dead-letters replay", false),
            ("todo-worker dead-letters replay 3", false),
            ("todo-worker dead-letters replay 3 17 --all", false),
        ] {
            assert_eq!(parse(arguments), expected, "{arguments}");
        }
    }
}
