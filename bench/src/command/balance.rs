//! `todo-bench balance`: how evenly the shards share connections.

use crate::command::server::ServerArgs;
use crate::command::{Verdict, write_json};
use serde::Serialize;
use std::path::PathBuf;
use todo_bench::balance::{self, ChurnCost, Spread, WAYS};
use todo_bench::error::Result;

#[derive(clap::Args)]
pub struct BalanceArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Shards; more than there are cores are oversubscribed, which changes no count.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8])]
    of_shards: Vec<usize>,
    /// Connections open at once.
    #[arg(long, value_delimiter = ',', default_values_t = [4, 16, 64, 2_000])]
    connections: Vec<usize>,
    /// Trials of each; a quarter as many from 1,000 connections on.
    #[arg(long, default_value_t = 20)]
    trials: usize,
    /// Short-lived connections in a round of each way.
    #[arg(long, default_value_t = 2_000)]
    churn: usize,
    /// Rounds of them, with as many shards as `--shards` says.
    #[arg(long, default_value_t = 20)]
    churn_rounds: usize,
    /// Write the whole result here.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Balance {
    spreads: Vec<Spread>,
    churn: Vec<ChurnCost>,
}

pub fn run(args: &BalanceArgs) -> Result<Verdict> {
    let options = args.server.on_file()?;
    let trials = |connections_count| if connections_count < 1_000 { args.trials } else { args.trials.div_ceil(4) };
    let mut spreads = Vec::new();
    for accept in WAYS {
        for &shards_count in &args.of_shards {
            let mut options = options.clone();
            options.shards_count = shards_count;
            spreads.extend(balance::spread(&options, accept, &args.connections, trials)?);
        }
    }
    balance::print_spreads(&spreads);
    let churn = balance::churn_costs(&options, args.churn, args.churn_rounds, 1)?;
    balance::print_churn(&churn);
    if let Some(path) = &args.json {
        write_json(&Balance { spreads, churn }, path)?;
    }
    Ok(Verdict::Passed)
}
