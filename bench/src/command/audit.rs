//! `todo-bench audit`: does another client's result agree with itself?

use crate::command::Verdict;
use std::io::Read;
use std::path::PathBuf;
use todo_bench::audit::{self, Audit, Options};
use todo_bench::error::{Context, Result};

#[derive(clap::Args)]
pub struct AuditArgs {
    /// What autocannon (text or --json), wrk or h2load printed; `-` is the standard input.
    file: PathBuf,
    /// Bytes of one answer, head included.
    #[arg(long)]
    response_bytes: Option<u64>,
    /// Bytes of one answer's body.
    #[arg(long, conflicts_with = "response_bytes")]
    body_bytes: Option<u64>,
    /// Todos in one answer, when its length is not known.
    #[arg(long, conflicts_with_all = ["response_bytes", "body_bytes"])]
    items: Option<u64>,
    /// Requests that each connection has in flight: h2load's -m, or what a script of wrk pipelines.
    #[arg(long)]
    depth: Option<u64>,
    /// Threads or processes of the client, when the result does not say it.
    #[arg(long)]
    threads: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Fails when two figures exclude each other.
pub fn run(args: &AuditArgs) -> Result<Verdict> {
    let text = if args.file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("reading the standard input")?;
        text
    } else {
        std::fs::read_to_string(&args.file).context(format!("reading {}", args.file.display()))?
    };
    let options = Options {
        response_bytes: args.response_bytes,
        body_bytes: args.body_bytes,
        items: args.items,
        depth: args.depth,
        threads_count: args.threads,
    };
    let audit = Audit::of(&text, &options)?;
    if args.json {
        let text = serde_json::to_string_pretty(&audit).map_err(std::io::Error::from).context("writing JSON")?;
        println!("{text}");
    } else {
        audit::print(&audit);
    }
    Ok(Verdict::of(audit.is_consistent()))
}
