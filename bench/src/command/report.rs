//! `todo-bench report`: one page of a run.

use crate::command::Verdict;
use std::path::PathBuf;
use todo_bench::error::{Context, Result};
use todo_bench::report::{Comparison, Run, render};

#[derive(clap::Args)]
pub struct ReportArgs {
    /// Directory with `matrix.json`, and if there are any machine, latency, memory, writes and cluster beside it; `report.html`
    /// is written there.
    run: PathBuf,
    /// Another run: same cells are compared by their ratios.
    #[arg(long)]
    against: Option<PathBuf>,
}

/// Reads, writes the page, prints the comparison.
pub fn run(args: &ReportArgs) -> Result<Verdict> {
    let run = Run::read(&args.run)?;
    let other = args.against.as_deref().map(Run::read).transpose()?;
    let comparison = other.as_ref().map(|other| Comparison::of(&run, other));
    if let Some(comparison) = &comparison {
        print!("{comparison}");
    }
    let path = args.run.join("report.html");
    std::fs::write(&path, render(&run, comparison.as_ref())).context(format!("writing {}", path.display()))?;
    println!("{}", path.display());
    Ok(Verdict::Passed)
}
