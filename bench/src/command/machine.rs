//! `todo-bench machine`: what figures of this machine depend on.

use crate::command::Verdict;
use todo_bench::error::{Context, Result};
use todo_bench::process::machine::Machine;

#[derive(clap::Args)]
pub struct MachineArgs {
    /// Print JSON: the `machine.json` of a run.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &MachineArgs) -> Result<Verdict> {
    let machine = Machine::read();
    if args.json {
        let text = serde_json::to_string_pretty(&machine).map_err(std::io::Error::from).context("writing JSON")?;
        println!("{text}");
    } else {
        for (name, value) in machine.rows() {
            println!("{name:<36} {value}");
        }
    }
    Ok(Verdict::Passed)
}
