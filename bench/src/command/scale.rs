//! `todo-bench scale`: what another shard adds.

use crate::command::load::seconds;
use crate::command::server::ServerArgs;
use crate::command::{Verdict, write_json};
use std::path::PathBuf;
use todo_bench::error::Result;
use todo_bench::matrix::{Cell, Rounds};
use todo_bench::scaling::{self, Options};

#[derive(clap::Args)]
pub struct ScaleArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Shards of the servers that are compared; the first is 1 in the ratios.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8])]
    of_shards: Vec<usize>,
    /// The load of one shard.
    #[arg(long, default_value = "limit=10,conns=64,depth=16")]
    cell: Cell,
    /// Rounds of all of them.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// The measured window, in seconds.
    #[arg(long, default_value_t = 0.6)]
    seconds: f64,
    /// Load before each window, in seconds.
    #[arg(long, default_value_t = 0.2)]
    warmup: f64,
    /// Decides the order of the windows and the resampling.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the whole result here.
    #[arg(long)]
    json: Option<PathBuf>,
}

pub fn run(args: &ScaleArgs) -> Result<Verdict> {
    let rounds = Rounds {
        rounds_min: args.rounds,
        rounds_max: args.rounds,
        a_a_width: None,
        warmup: seconds(args.warmup)?,
        window: seconds(args.seconds)?,
        seed: args.seed,
    };
    let options =
        Options { server: args.server.on_file()?, shards_counts: args.of_shards.clone(), cell: args.cell, rounds };
    let scales = scaling::run(&options)?;
    scaling::print(&scales, args.rounds);
    if let Some(path) = &args.json {
        write_json(&scales, path)?;
    }
    Ok(Verdict::of(scales.iter().all(|scale| scale.faults.is_empty())))
}
