//! `todo-bench abuse`: attacks on a server while others use it.

use crate::command::load::seconds;
use crate::command::server::ServerArgs;
use crate::command::{Verdict, write_json};
use std::path::PathBuf;
use todo_bench::abuse::attacks::{ATTACKS, Attack};
use todo_bench::abuse::judge::{self, Bounds};
use todo_bench::abuse::{self, Options};
use todo_bench::error::{Error, Result};

#[derive(clap::Args)]
pub struct AbuseArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Only this one; may be repeated. All when absent.
    #[arg(long = "attack", value_name = "NAME")]
    names: Vec<String>,
    /// Say what each attack does, and what the server should do about it; run none.
    #[arg(long)]
    list: bool,
    /// How long each attack lasts, in each of its rounds.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// The others alone before it; as long when absent.
    #[arg(long)]
    seconds_without: Option<f64>,
    /// Rounds of each attack.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The others' reads, as a share of what the server answers to as many connections.
    #[arg(long, default_value_t = 0.2)]
    read_share: f64,
    /// The others' writes a second.
    #[arg(long, default_value_t = 200.0)]
    write_rate: f64,
    /// The others' p99 may become so many times as large.
    #[arg(long, default_value_t = 2.0)]
    ratio_max: f64,
    /// Until everything is as before.
    #[arg(long, default_value_t = 1_000.0)]
    recovery_ms_max: f64,
    /// For all that is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the whole result here.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Fails when the others see an error, wait too long, or the server does not keep its bounds or does not recover.
pub fn run(args: &AbuseArgs) -> Result<Verdict> {
    let attacks = chosen(&args.names)?;
    if args.list {
        println!("| attack | what it does | what the server does |\n| --- | --- | --- |");
        for Attack { name, what, defence, .. } in attacks {
            println!("| {name} | {what} | {defence} |");
        }
        return Ok(Verdict::Passed);
    }
    let (server, cpu) = args.server.on_file_beside()?;
    let options = Options {
        server,
        cpu,
        rounds_count: args.rounds,
        window: seconds(args.seconds)?,
        window_without: seconds(args.seconds_without.unwrap_or(args.seconds))?,
        read_share: args.read_share,
        write_rate: args.write_rate,
        seed: args.seed,
    };
    let bounds = Bounds { ratio_max: args.ratio_max, recovery_ms_max: args.recovery_ms_max };
    let read_rate = abuse::read_rate(&options)?;
    println!(
        "others: {read_rate:.0} reads/s ({:.0} % of what 32 connections get), {:.0} writes/s, a newcomer each 20 ms; {} rounds of {} s\n",
        args.read_share * 100.0,
        args.write_rate,
        args.rounds,
        args.seconds
    );
    println!("{}", judge::TABLE_HEAD);
    let (mut rows, mut faults, mut is_unjudged) = (Vec::new(), Vec::new(), false);
    for attack in attacks {
        let row = abuse::run(attack, &options, read_rate, &bounds)?;
        println!("{}", judge::line(&row, &bounds));
        let judgement = row.judge(&bounds);
        faults.extend(judgement.faults.into_iter().map(|fault| format!("{}: {fault}", attack.name)));
        is_unjudged |= judgement.is_generator_bound || judgement.is_starved;
        rows.push(row);
    }
    for fault in &faults {
        println!("FAILED {fault}");
    }
    if let Some(path) = &args.json {
        write_json(&rows, path)?;
    }
    Ok(match (faults.is_empty(), is_unjudged) {
        (false, _) => Verdict::Failed,
        (true, true) => Verdict::Unjudged,
        (true, false) => Verdict::Passed,
    })
}

fn chosen(names: &[String]) -> Result<Vec<&'static Attack>> {
    if names.is_empty() {
        return Ok(ATTACKS.iter().collect());
    }
    let find = |name: &String| {
        let all = || ATTACKS.iter().map(|attack| attack.name).collect::<Vec<_>>().join(", ");
        let unknown = || Error::Unusable(format!("no attack is called {name}; there are {}", all()));
        ATTACKS.iter().find(|attack| attack.name == name).ok_or_else(unknown)
    };
    names.iter().map(find).collect()
}
