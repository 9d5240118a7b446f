//! `todo-bench matrix`: server and references interleaved, gates judged; with `--writes` also reads beside writes.

use crate::command::load::seconds;
use crate::command::server::{ServerArgs, Started, setting};
use crate::command::{Verdict, write_json};
use std::path::PathBuf;
use std::time::Duration;
use todo_bench::error::{Context, Result};
use todo_bench::matrix::{self, Cell, CellReport, Gate, Kind, Report, Rounds, Ruling};
use todo_bench::process::host::Host;
use todo_bench::writes::interference::{self, InterferenceReport};

#[derive(clap::Args)]
pub struct MatrixArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// `limit=10,conns=64,depth=80`; may be repeated. By default the cells of the default gates.
    #[arg(long = "cell")]
    cells: Vec<Cell>,
    /// `limit=10,conns=64,depth=1,over=floor,max=1.10` (or `over=loop`, `sendfile`, `variant`); may be repeated. By default the project's own
    /// gates for the cells that are run. A gate fails only when the whole 95 % interval lies above it.
    #[arg(long = "gate")]
    gates: Vec<Gate>,
    /// What to run beside the server. By default every floor and the empty loop; beside a variant nothing.
    #[arg(long, value_delimiter = ',')]
    references: Option<Vec<Kind>>,
    /// Beside the server run it again with this setting, `NAME=value`, instead of those of --set; may be repeated. `over=variant`
    /// judges the two.
    #[arg(long = "variant", value_name = "NAME=VALUE", value_parser = setting, conflicts_with = "cluster")]
    variant: Vec<(String, String)>,
    /// The directory of the peers' programs, which `cargo xtask peers` builds: they run beside the server too.
    #[arg(long)]
    peers: Option<PathBuf>,
    /// Rounds of every cell.
    #[arg(long, default_value_t = 20)]
    rounds_min: usize,
    /// Rounds of a cell at most, with --aa-width.
    #[arg(long, default_value_t = 100)]
    rounds_max: usize,
    /// Go on until the A/A interval lies within 1 +- this. Gates under 1.05 need 0.01, and get it by default.
    #[arg(long)]
    aa_width: Option<f64>,
    /// The measured window, in seconds.
    #[arg(long, default_value_t = 0.6)]
    seconds: f64,
    /// Load before each window, in seconds.
    #[arg(long, default_value_t = 0.2)]
    warmup: f64,
    /// Decides the order of the windows and the resampling.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Afterwards read beside this many writes a second.
    #[arg(long)]
    writes: Option<f64>,
    /// The reads beside writes.
    #[arg(long, default_value = "limit=10,conns=64,depth=16")]
    writes_cell: Cell,
    /// Connections that write.
    #[arg(long, default_value_t = 64)]
    writes_connections: usize,
    /// Writes in flight on each of them.
    #[arg(long, default_value_t = 1)]
    writes_depth: usize,
    /// No reads but those beside writes.
    #[arg(long, requires = "writes", conflicts_with_all = ["cells", "gates"])]
    writes_only: bool,
    /// How long ages are taken, in seconds.
    #[arg(long, default_value_t = 10.0)]
    age_seconds: f64,
    /// Largest good ratio of shard CPU per read beside writes over alone.
    #[arg(long, default_value_t = 1.05)]
    writes_ratio_max: f64,
    /// Largest good p99 age.
    #[arg(long, default_value_t = 20.0)]
    age_p99_ms_max: f64,
    /// Write the whole result here.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A ratio gate below this needs a narrow A/A interval.
const NARROW_GATE_MAX: f64 = 1.05;
const NARROW_WIDTH: f64 = 0.01;
const REFERENCES: [Kind; 4] = [Kind::FloorEpoll, Kind::FloorUring, Kind::FloorSendfile, Kind::Loop];

pub fn run(args: &MatrixArgs) -> Result<Verdict> {
    let started = args.server.start()?;
    let cells = args.cells_to_run();
    let gates = args.gates_to_judge(&cells);
    let host = Host::read();
    let (server_version, server_driver) = (started.server.version()?, started.server.driver()?);
    println!("{}, {} CPUs, Linux {}", host.cpu_model, host.cpus_count, host.kernel);
    println!("server {server_version}, driver {server_driver}, congestion control {}", host.congestion_control);

    let variant = if args.variant.is_empty() { None } else { Some(args.server.start_variant(&args.variant)?) };

    let mut reports = Vec::new();
    for cell in cells {
        let options = matrix::Options {
            reference_cpu: started.reference_cpu,
            generator_cpu: started.generator_cpu,
            program: std::env::current_exe().context("looking for this program")?,
            references: args.references(),
            variant: variant.as_ref(),
            peers: args.peers.clone(),
            cells: vec![cell],
            rounds: args.rounds(&gates, cell)?,
        };
        reports.extend(matrix::run(&started.server, &options, matrix::print_cell)?);
    }
    let gates: Vec<(Gate, Ruling)> = gates.into_iter().map(|gate| (gate, gate.rule(&reports))).collect();
    matrix::print_gates(&gates);
    let writes = args.writes.map(|rate| args.run_writes(rate, &started)).transpose()?;

    let verdict = args.verdict(&reports, &gates, writes.as_ref());
    if let Some(path) = &args.json {
        let report = Report {
            host,
            server_version,
            server_driver,
            arguments: arguments(),
            rounds: args.rounds(&[], args.writes_cell)?,
            cells: reports,
            gates,
            writes,
        };
        write_json(&report, path)?;
    }
    Ok(verdict)
}

impl MatrixArgs {
    fn references(&self) -> Vec<Kind> {
        let by_default: &[Kind] = if self.variant.is_empty() { &REFERENCES } else { &[] };
        self.references.clone().unwrap_or_else(|| by_default.to_vec())
    }

    fn cells_to_run(&self) -> Vec<Cell> {
        let mut cells = self.cells.clone();
        if cells.is_empty() && !self.writes_only {
            let gates = if self.gates.is_empty() { matrix::issue_gates() } else { self.gates.clone() };
            cells = gates.iter().map(|gate| gate.cell).collect();
            cells.dedup();
        }
        cells
    }

    fn gates_to_judge(&self, cells: &[Cell]) -> Vec<Gate> {
        if self.gates.is_empty() {
            // Peers run without some references, and for a question of their own.
            let gates = if self.peers.is_some() { matrix::peer_gates() } else { matrix::issue_gates() };
            gates.into_iter().filter(|gate| cells.contains(&gate.cell)).collect()
        } else {
            self.gates.clone()
        }
    }

    fn rounds(&self, gates: &[Gate], cell: Cell) -> Result<Rounds> {
        let is_narrow = gates.iter().any(|gate| gate.cell == cell && gate.ratio_max < NARROW_GATE_MAX);
        Ok(Rounds {
            rounds_min: self.rounds_min,
            rounds_max: self.rounds_max,
            a_a_width: self.aa_width.or(is_narrow.then_some(NARROW_WIDTH)),
            warmup: seconds(self.warmup)?,
            window: seconds(self.seconds)?,
            seed: self.seed,
        })
    }

    fn run_writes(&self, rate: f64, started: &Started) -> Result<InterferenceReport> {
        let report = interference::run(
            &started.server,
            &interference::Options {
                cell: self.writes_cell,
                write_rate: rate,
                write_connections_count: self.writes_connections,
                write_depth: self.writes_depth,
                generator_cpu: started.generator_cpu,
                rounds: self.rounds(&[], self.writes_cell)?,
                age_window: seconds(self.age_seconds)?.max(Duration::from_millis(100)),
            },
        )?;
        interference::print(&report);
        Ok(report)
    }

    fn verdict(
        &self,
        reports: &[CellReport],
        gates: &[(Gate, Ruling)],
        writes: Option<&InterferenceReport>,
    ) -> Verdict {
        let mut verdict = Verdict::Passed;
        let mut fail = |is_failed: bool, words: String| {
            if is_failed {
                println!("{words}");
                verdict = Verdict::Failed;
            }
        };
        fail(reports.iter().any(|report| !report.faults.is_empty()), "FAILED: wrong or missing answers".into());
        fail(gates.iter().any(|(_, ruling)| *ruling == Ruling::Failed), "FAILED: a gate".into());
        if let Some(writes) = writes {
            let (ratio, ages) = (&writes.ratio, &writes.ages);
            let ratio_max = self.writes_ratio_max;
            fail(
                writes.a_a.contains(1.0) && ratio.low > ratio_max,
                format!("FAILED: writes cost reads over {ratio_max}"),
            );
            fail(ages.p99_ms > self.age_p99_ms_max, format!("FAILED: p99 age {:.1} ms", ages.p99_ms));
            fail(ages.went_back_count > 0, "FAILED: the newest id went back".into());
            fail(ages.unreadable_count > 0, "FAILED: lists that are not what was written".into());
            fail(!writes.faults.is_empty(), "FAILED: wrong or missing answers beside writes".into());
        }
        let is_unjudged = gates.iter().any(|(_, ruling)| matches!(ruling, Ruling::Unjudged(_)))
            || writes.is_some_and(|writes| !writes.a_a.contains(1.0));
        match verdict {
            Verdict::Passed if is_unjudged => Verdict::Unjudged,
            verdict => verdict,
        }
    }
}

/// As given, but without paths: results are kept and published.
fn arguments() -> Vec<String> {
    let is_path = |argument: &String| argument.contains('/');
    std::env::args().skip(1).map(|argument| if is_path(&argument) { "PATH".into() } else { argument }).collect()
}
