//! The files of a run.
//!
//! Kinds and gates are read by name, not as `matrix::Kind`: a run is kept for years, and the next version must read it
//! although kinds come and go.

use crate::error::{Context, Error, Result};
use crate::limits::REQUESTS_PER_READ_TOLERANCE;
use crate::matrix::{Cell, Rounds, Ruling};
use crate::memory::MemoryReport;
use crate::process::host::Host;
use crate::process::machine::Machine;
use crate::process::memory::Memory;
use crate::statistics::{Estimate, Quartiles, bootstrap_median, paired_ratios};
use crate::writes::compare::CompareReport;
use crate::writes::durable::DurableReport;
use crate::writes::interference::InterferenceReport;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::path::{Path, PathBuf};

/// The server under test.
pub const SERVER: &str = "server";
/// The project this one was made after.
pub const ORIGINAL: &str = "peer-original";
const LOOP: &str = "loop";
const SENDFILE: &str = "floor-sendfile";
const PEER_PREFIX: &str = "peer-";

/// A run, read.
#[derive(Debug, Default)]
pub struct Run {
    /// The directory's own name.
    pub name: String,
    /// The machine, when it was kept.
    pub machine: Option<Machine>,
    /// At least one.
    pub matrices: Vec<MatrixRun>,
    /// Loads at a rate.
    pub latencies: Vec<LatencyRun>,
    /// Connections held.
    pub memories: Vec<MemoryReport>,
    /// Durable writes.
    pub writes: Vec<DurableReport>,
    /// A cluster's reads.
    pub clusters: Vec<CompareReport>,
}

/// What `matrix --json` writes.
#[derive(Debug, Deserialize)]
pub struct MatrixRun {
    /// The machine.
    pub host: Host,
    /// With its commit.
    pub server_version: String,
    /// How its shards waited.
    pub server_driver: String,
    /// Paths are left out.
    pub arguments: Vec<String>,
    /// How often and how long.
    pub rounds: Rounds,
    /// What was asked.
    pub cells: Vec<CellRun>,
    /// Bounds, and what they say.
    #[serde(default)]
    pub gates: Vec<(GateRun, Ruling)>,
    /// Reads beside writes.
    #[serde(default)]
    pub writes: Option<InterferenceReport>,
}

/// `matrix::CellReport`.
#[derive(Debug, Deserialize)]
pub struct CellRun {
    /// What was asked.
    pub cell: Cell,
    /// Of one answer, head included.
    pub response_bytes: usize,
    /// Rounds run.
    pub rounds_count: usize,
    /// One row per target.
    pub figures: Vec<FiguresRun>,
    /// The better ordinary floor.
    pub best_floor: Option<String>,
    /// It over itself.
    pub a_a: Option<Estimate>,
    /// What was judged, and what was not but can be reckoned.
    pub ratios: Vec<RatioRun>,
    /// Wrong or missing answers.
    #[serde(default)]
    pub faults: Vec<String>,
    /// After the last round.
    #[serde(default)]
    pub server_memory: Option<Memory>,
    /// Who the rows of `samples` are of.
    #[serde(default)]
    pub slots: Vec<SlotRun>,
    /// By slot, then by round.
    #[serde(default)]
    pub samples: Vec<Vec<SampleRun>>,
}

/// `matrix::Figures`.
#[derive(Debug, Deserialize)]
pub struct FiguresRun {
    /// Who.
    pub kind: String,
    /// Per checked answer.
    pub cpu_ns: Quartiles,
    /// Checked answers.
    pub responses_per_second: Quartiles,
    /// False: the generator was the limit.
    pub throughput_is_its_own: bool,
    /// Share of the generator's core.
    pub generator_busy: f64,
    /// 1 is one core.
    pub target_busy: f64,
    /// Of its CPU.
    #[serde(default)]
    pub user_share: Option<f64>,
    /// The batch it saw.
    #[serde(default)]
    pub requests_per_read: Option<f64>,
}

/// `matrix::Ratio`.
#[derive(Clone, Debug, Deserialize)]
pub struct RatioRun {
    /// Numerator.
    pub kind: String,
    /// Denominator.
    pub over: String,
    /// Of the paired ratios.
    pub estimate: Estimate,
    /// Why it must not be judged.
    #[serde(default)]
    pub unjudged: Option<String>,
}

/// `matrix::Slot`.
#[derive(Debug, Deserialize)]
pub struct SlotRun {
    /// Who.
    pub kind: String,
}

/// `matrix::Sample`, as far as it is needed.
#[derive(Debug, Deserialize)]
pub struct SampleRun {
    /// Per checked answer.
    pub cpu_ns: f64,
}

/// `matrix::Gate`.
#[derive(Debug, Deserialize)]
pub struct GateRun {
    /// Of this cell.
    pub cell: Cell,
    /// `floor`, `loop`, `sendfile`, `best-peer`, `original`, or one that is not known yet.
    pub over: String,
    /// The largest good ratio.
    pub ratio_max: f64,
}

/// What `load --json` prints. Which rate was asked for, and in what shape, is newer than the rest.
#[derive(Debug, Deserialize)]
pub struct LatencyRun {
    /// Reached.
    pub responses_per_second: f64,
    /// From when a block was due.
    pub block_latency_us: PercentilesRun,
    /// The latest that a block left.
    pub late_us_max: f64,
    /// Share of the generator's cores.
    pub generator_busy: f64,
    /// Of the server.
    #[serde(default)]
    pub server_ns_per_response: Option<f64>,
    /// Asked for.
    #[serde(default)]
    pub rate: Option<f64>,
    /// In all.
    #[serde(default, alias = "connections_count")]
    pub connections: Option<usize>,
    /// Requests in a block.
    #[serde(default)]
    pub depth: Option<usize>,
    /// Wrong or missing answers.
    #[serde(default)]
    pub faults: Option<crate::load::Faults>,
}

/// Microseconds.
#[derive(Debug, Deserialize)]
pub struct PercentilesRun {
    /// Median.
    pub p50: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// The largest.
    pub max: f64,
}

impl Run {
    /// Reads a directory.
    ///
    /// # Errors
    /// It has no matrix, or a file that is not what its name says.
    pub fn read(directory: &Path) -> Result<Run> {
        let mut names: Vec<PathBuf> = fs::read_dir(directory)
            .context(format!("reading {}", directory.display()))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<_>>()
            .context(format!("reading {}", directory.display()))?;
        names.sort();
        let mut run = Run {
            name: directory.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            machine: results(&names, "machine")?.pop(),
            matrices: results(&names, "matrix")?,
            latencies: results(&names, "latency")?,
            memories: results(&names, "memory")?,
            writes: results(&names, "writes")?,
            clusters: results(&names, "cluster")?,
        };
        if run.matrices.iter().all(|matrix| matrix.cells.is_empty()) {
            return Err(Error::Unusable(format!(
                "{} has no matrix.json with a cell: `todo-bench matrix --json` writes one",
                directory.display()
            )));
        }
        for matrix in &mut run.matrices {
            let seed = matrix.rounds.seed;
            matrix.cells.iter_mut().for_each(|cell| cell.add_missing_ratios(seed));
        }
        Ok(run)
    }

    /// The cell that asked the same: of the same servers if there is one, else of others.
    pub fn like(&self, cell: &CellRun) -> Option<&CellRun> {
        let same = || self.cells().filter(|other| other.cell == cell.cell);
        same().find(|other| other.has_peers() == cell.has_peers()).or_else(|| same().next())
    }

    /// All cells of all matrices.
    pub fn cells(&self) -> impl Iterator<Item = &CellRun> {
        self.matrices.iter().flat_map(|matrix| &matrix.cells)
    }

    /// Reads beside writes, of all matrices.
    pub fn interferences(&self) -> impl Iterator<Item = &InterferenceReport> {
        self.matrices.iter().filter_map(|matrix| matrix.writes.as_ref())
    }

    /// The gates of a cell: those of its own matrix, because another may have run the same cell for another gate.
    pub fn gates_of<'r>(&'r self, cell: &'r CellRun) -> impl Iterator<Item = &'r (GateRun, Ruling)> {
        let is_of = |matrix: &&MatrixRun| matrix.cells.iter().any(|other| std::ptr::eq(other, cell));
        let gates = self.matrices.iter().find(is_of).map_or(&[][..], |matrix| &matrix.gates);
        gates.iter().filter(|(gate, _)| gate.cell == cell.cell)
    }

    /// The machine as far as it is known.
    pub fn host(&self) -> Option<&Host> {
        let of_matrix = || self.matrices.first().map(|matrix| &matrix.host);
        self.machine.as_ref().map(|machine| &machine.host).or_else(of_matrix)
    }
}

/// The results in `NAME.json` and all `NAME-*.json`, each one or a list.
fn results<T: DeserializeOwned>(paths: &[PathBuf], name: &str) -> Result<Vec<T>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Some<T> {
        List(Vec<T>),
        One(T),
    }
    let is_named = |path: &&PathBuf| {
        let stem = path.file_name().and_then(|file| file.to_str()).and_then(|file| file.strip_suffix(".json"));
        stem.and_then(|stem| stem.strip_prefix(name)).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let mut all = Vec::new();
    for path in paths.iter().filter(is_named) {
        let text = fs::read_to_string(path).context(format!("reading {}", path.display()))?;
        // By itself first: "did not match any variant" would not say which field is missing.
        let parsed = if text.trim_start().starts_with('[') {
            serde_json::from_str(&text).map(Some::List)
        } else {
            serde_json::from_str(&text).map(Some::One)
        };
        match parsed.map_err(|error| Error::Unusable(format!("{}: {error}", path.display())))? {
            Some::List(list) => all.extend(list),
            Some::One(one) => all.push(one),
        }
    }
    Ok(all)
}

impl CellRun {
    /// The row of a target.
    pub fn figures_of(&self, kind: &str) -> Option<&FiguresRun> {
        self.figures.iter().find(|figures| figures.kind == kind)
    }

    /// Whether servers of others ran beside it: a run has some cells with and without them.
    pub fn has_peers(&self) -> bool {
        self.figures.iter().any(|figures| is_peer(&figures.kind))
    }

    /// As a heading.
    pub fn title(&self) -> String {
        cell_name(self.cell) + if self.has_peers() { ", with peers" } else { "" }
    }

    /// The peer with the least CPU, the original apart: it has a figure of its own.
    pub fn best_peer(&self) -> Option<&FiguresRun> {
        let peers = self.figures.iter().filter(|figures| is_peer(&figures.kind) && figures.kind != ORIGINAL);
        peers.min_by(|one, other| one.cpu_ns.median.total_cmp(&other.cpu_ns.median))
    }

    /// The server over this kind.
    pub fn ratio_over(&self, over: &str) -> Option<&RatioRun> {
        self.ratios.iter().find(|ratio| ratio.kind == SERVER && ratio.over == over)
    }

    /// The server over everything beside which it ran: floor, loop, sendfile, then peers.
    pub fn ratios_of_server(&self) -> Vec<&RatioRun> {
        let rank = |kind: &str| (is_peer(kind), kind == LOOP || kind == SENDFILE);
        let mut kinds: Vec<&str> = self.figures.iter().map(|figures| figures.kind.as_str()).collect();
        kinds.sort_by_key(|kind| rank(kind));
        kinds.into_iter().filter_map(|kind| self.ratio_over(kind)).collect()
    }

    /// Where nobody judged the server over a kind, its samples say it.
    fn add_missing_ratios(&mut self, seed: u64) {
        let is_wanted = |kind: &str| kind == LOOP || kind == SENDFILE || is_peer(kind);
        let missing = self.figures.iter().filter(|figures| is_wanted(&figures.kind));
        let missing = missing.filter(|figures| self.ratio_over(&figures.kind).is_none());
        let added: Vec<RatioRun> = missing.filter_map(|figures| self.ratio_of_samples(figures, seed)).collect();
        self.ratios.extend(added);
    }

    fn ratio_of_samples(&self, over: &FiguresRun, seed: u64) -> Option<RatioRun> {
        let ratios = paired_ratios(&self.cpu_by_round(SERVER)?, &self.cpu_by_round(&over.kind)?);
        let estimate = bootstrap_median(&ratios, seed)?;
        let batches = self.figures_of(SERVER).and_then(|server| server.requests_per_read).zip(over.requests_per_read);
        let unjudged = batches
            .filter(|(one, other)| (one / other - 1.0).abs() > REQUESTS_PER_READ_TOLERANCE)
            .map(|(one, other)| format!("not comparable: {one:.1} and {other:.1} requests per read"));
        Some(RatioRun { kind: SERVER.into(), over: over.kind.clone(), estimate, unjudged })
    }

    /// What a gate's word stands for in this cell.
    pub fn kind_of_gate(&self, over: &str) -> Option<String> {
        match over {
            "floor" => self.best_floor.clone(),
            "loop" => Some(LOOP.to_owned()),
            "sendfile" => Some(SENDFILE.to_owned()),
            "best-peer" => self.best_peer().map(|figures| figures.kind.clone()),
            "original" => Some(ORIGINAL.to_owned()),
            _ => None,
        }
    }

    /// The mean of a kind's windows of each round.
    fn cpu_by_round(&self, kind: &str) -> Option<Vec<f64>> {
        let rows: Vec<&Vec<SampleRun>> =
            self.slots.iter().zip(&self.samples).filter(|(slot, _)| slot.kind == kind).map(|(_, row)| row).collect();
        let rounds_count = rows.iter().map(|row| row.len()).min().filter(|&count| count > 0)?;
        (rounds_count == self.rounds_count).then_some(())?;
        let mean = |round: usize| rows.iter().map(|row| row[round].cpu_ns).sum::<f64>() / rows.len() as f64;
        Some((0..rounds_count).map(mean).collect())
    }
}

/// Another project's server.
pub fn is_peer(kind: &str) -> bool {
    kind.starts_with(PEER_PREFIX)
}

/// For readers: `peer-ntex` is `ntex`, `peer-original` is `the original`.
pub fn label(kind: &str) -> String {
    match kind {
        ORIGINAL => "the original".to_owned(),
        SERVER => "this server".to_owned(),
        LOOP => "empty loop".to_owned(),
        _ => match (kind.strip_prefix(PEER_PREFIX), kind.strip_prefix("floor-")) {
            (Some(peer), _) => peer.to_owned(),
            (_, Some(way)) => format!("floor, {way}"),
            _ => kind.to_owned(),
        },
    }
}

/// For readers.
pub fn cell_name(cell: Cell) -> String {
    let connections = match cell.connections_count {
        1 => "1 connection".to_owned(),
        count => format!("{} connections", super::units::count(count as f64)),
    };
    format!("limit={}, {connections}, depth {}", cell.limit, cell.depth)
}
