//! Reads beside writes: what the writes cost the reads, and how old what is read is.
//!
//! A round has four windows in an order drawn anew: reads alone (twice: the A/A row), writes alone, and both. Writes
//! have a fixed rate. The shard threads' CPU in the window of both, less what as many writes cost those threads when
//! alone, is the reads' share; it is compared with the reads alone of the same round.
//!
//! Ages are taken afterwards, with reads at a rate that leaves the generator's core idle for a good part: an age taken
//! by a generator that is late with reading would be the generator's.

use crate::clock;
use crate::error::{Context, Error, Result};
use crate::limits::{AGE_CALIBRATIONS_MAX, AGE_GENERATOR_BUSY_MAX, AGE_IDLE_CORES_MIN};
use crate::load::{self, Options as LoadOptions, Outcome};
use crate::matrix::{Cell, Rounds};
use crate::process::child::Server;
use crate::process::cpu::ProcessCpu;
use crate::process::host;
use crate::statistics::{Estimate, Quartiles, bootstrap_median, paired_ratios, quartiles};
use crate::writes::age::{Created, ListObserver};
use crate::writes::plan::Mix;
use crate::writes::writer::{self, Options as WriterOptions};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The reads.
    pub cell: Cell,
    /// Writes per second.
    pub write_rate: f64,
    /// Connections that write.
    pub write_connections_count: usize,
    /// Writes in flight on each.
    pub write_depth: usize,
    /// CPU of both generators.
    pub generator_cpu: usize,
    /// `rounds_min` rounds; its width is not used.
    pub rounds: Rounds,
    /// How long ages are taken.
    pub age_window: Duration,
}

/// What it showed.
#[derive(Debug, Serialize, Deserialize)]
pub struct InterferenceReport {
    /// The reads.
    pub cell: Cell,
    /// Rounds run.
    pub rounds_count: usize,
    /// Shard CPU per read, nanoseconds, reads alone.
    pub shard_ns_alone: Quartiles,
    /// The same beside writes, their cost taken off.
    pub shard_ns_beside: Quartiles,
    /// CPU of the whole process per read, reads alone.
    pub process_ns_alone: Quartiles,
    /// The same beside writes, nothing taken off.
    pub process_ns_beside: Quartiles,
    /// Shard CPU of one write, writes alone.
    pub shard_ns_per_write: Quartiles,
    /// Checked reads per second alone.
    pub reads_per_second_alone: Quartiles,
    /// Checked reads per second beside writes.
    pub reads_per_second_beside: Quartiles,
    /// Acknowledged writes per second beside reads.
    pub writes_per_second: Quartiles,
    /// Reads alone over themselves.
    pub a_a: Estimate,
    /// Beside writes over alone: the judged figure.
    pub ratio: Estimate,
    /// Writes that were answered other than 202.
    pub writes_refused: usize,
    /// What is read.
    pub ages: Ages,
    /// Wrong or missing answers, on either side.
    pub faults: Vec<String>,
}

/// How old what was read was.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ages {
    /// Reads looked at.
    pub reads_count: u64,
    /// Reads per second that were sent.
    pub reads_per_second: f64,
    /// Share of the generator's core in use.
    pub generator_busy: f64,
    /// What was idle of the machine's CPUs, in cores.
    pub idle_cores: f64,
    /// Median age, milliseconds.
    pub p50_ms: f64,
    /// 99 % of the ages are at most this.
    pub p99_ms: f64,
    /// The largest.
    pub max_ms: f64,
    /// Reads whose newest id was older than one shown before on their connection.
    pub went_back_count: u64,
    /// Lists that could not be read, or whose newest title is not what was written under its id.
    pub unreadable_count: u64,
    /// From a write's due time to its 202, milliseconds, 99 % at most.
    pub write_latency_p99_ms: f64,
}

impl Ages {
    /// Prints them.
    pub fn print(&self) {
        println!(
            "  age of {} reads at {:.0}/s, generator {:.0} % busy, {:.2} cores idle: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            self.reads_count,
            self.reads_per_second,
            self.generator_busy * 100.0,
            self.idle_cores,
            self.p50_ms,
            self.p99_ms,
            self.max_ms
        );
        println!(
            "  newest id went back {} times; unreadable {}; writes: p99 {:.2} ms to their 202",
            self.went_back_count, self.unreadable_count, self.write_latency_p99_ms
        );
    }
}

/// Runs the rounds, then takes ages.
pub fn run(server: &Server, options: &Options) -> Result<InterferenceReport> {
    let bench = Bench::new(server, options)?;
    let mut faults = Vec::new();
    let mut windows: [Vec<Window>; 4] = Default::default();
    let mut random = fastrand::Rng::with_seed(options.rounds.seed);
    let mut order = [0, 1, 2, 3];
    for _ in 0..options.rounds.rounds_min {
        random.shuffle(&mut order);
        for index in order {
            let window = match index {
                0 | 1 => bench.reads(&mut faults)?,
                2 => bench.writes(&mut faults)?,
                _ => bench.both(&mut faults)?,
            };
            windows[index].push(window);
        }
    }
    let [alone, again, writes, both] = windows;
    let shard_ns_alone = column(&alone, &Window::shard_ns_per_read);
    let shard_ns_again = column(&again, &Window::shard_ns_per_read);
    let shard_ns_per_write = column(&writes, &Window::shard_ns_per_write);
    let shard_ns_beside: Vec<f64> =
        both.iter().zip(&shard_ns_per_write).map(|(window, &ns)| window.shard_ns_per_read_without(ns)).collect();
    let alone_mean: Vec<f64> =
        shard_ns_alone.iter().zip(&shard_ns_again).map(|(first, second)| f64::midpoint(*first, *second)).collect();
    let estimate = |numerators: &[f64], denominators: &[f64]| estimate(numerators, denominators, options.rounds.seed);
    let reads_per_second_beside = spread(&column(&both, &Window::reads_per_second))?;
    let ages = bench.ages(reads_per_second_beside.median, &mut faults)?;
    Ok(InterferenceReport {
        cell: options.cell,
        rounds_count: alone.len(),
        a_a: estimate(&shard_ns_again, &shard_ns_alone)?,
        ratio: estimate(&shard_ns_beside, &alone_mean)?,
        shard_ns_alone: spread(&alone_mean)?,
        shard_ns_beside: spread(&shard_ns_beside)?,
        process_ns_alone: spread(&column(&alone, &Window::process_ns_per_read))?,
        process_ns_beside: spread(&column(&both, &Window::process_ns_per_read))?,
        shard_ns_per_write: spread(&shard_ns_per_write)?,
        reads_per_second_alone: spread(&column(&alone, &Window::reads_per_second))?,
        reads_per_second_beside,
        writes_per_second: spread(&column(&both, &Window::writes_per_second))?,
        writes_refused: writes.iter().chain(&both).map(|window| window.writes_refused).sum(),
        ages,
        faults,
    })
}

/// One figure of each window.
pub(super) fn column(windows: &[Window], of: &dyn Fn(&Window) -> f64) -> Vec<f64> {
    windows.iter().map(of).collect()
}

/// The median of ratios, round by round.
pub(super) fn estimate(numerators: &[f64], denominators: &[f64], seed: u64) -> Result<Estimate> {
    bootstrap_median(&paired_ratios(numerators, denominators), seed).ok_or_else(no_rounds)
}

/// Median and quartiles.
pub(super) fn spread(samples: &[f64]) -> Result<Quartiles> {
    quartiles(samples).ok_or_else(no_rounds)
}

fn no_rounds() -> Error {
    Error::Unusable("no round was run".into())
}

/// What one window showed.
pub(super) struct Window {
    seconds: f64,
    reads: u64,
    /// Acknowledged within it.
    writes: usize,
    writes_refused: usize,
    cpu: ProcessCpu,
}

impl Window {
    pub(super) fn shard_ns_per_read(&self) -> f64 {
        self.cpu.shard_ns as f64 / self.reads as f64
    }

    pub(super) fn shard_ns_per_write(&self) -> f64 {
        self.cpu.shard_ns as f64 / self.writes as f64
    }

    pub(super) fn shard_ns_per_read_without(&self, ns_per_write: f64) -> f64 {
        (self.cpu.shard_ns as f64 - ns_per_write * self.writes as f64) / self.reads as f64
    }

    pub(super) fn process_ns_per_read(&self) -> f64 {
        self.cpu.total_ns() as f64 / self.reads as f64
    }

    pub(super) fn reads_per_second(&self) -> f64 {
        self.reads as f64 / self.seconds
    }

    pub(super) fn writes_per_second(&self) -> f64 {
        self.writes as f64 / self.seconds
    }

    pub(super) fn writes_refused(&self) -> usize {
        self.writes_refused
    }
}

/// While ages are taken.
struct Busy {
    /// Share of the generator's core that this whole process used.
    generator: f64,
    /// What all CPUs together left idle, in cores.
    idle_cores: f64,
}

/// The windows of one server.
pub(super) struct Bench<'a> {
    server: &'a Server,
    options: &'a Options,
    token: String,
}

impl<'a> Bench<'a> {
    pub(super) fn new(server: &'a Server, options: &'a Options) -> Result<Bench<'a>> {
        Ok(Bench { server, options, token: server.token()? })
    }

    pub(super) fn reads(&self, faults: &mut Vec<String>) -> Result<Window> {
        let outcome = load::run(&self.load_options(None, self.options.rounds.window))?;
        note_faults("reads", &outcome.faults, faults);
        read_window(&outcome, None)
    }

    pub(super) fn writes(&self, faults: &mut Vec<String>) -> Result<Window> {
        let rounds = &self.options.rounds;
        let look = || ProcessCpu::read(self.server.pid()).context("reading the server's CPU time");
        let (looks, report) = self.beside_writes(|| {
            std::thread::sleep(rounds.warmup);
            let begin = (clock::now_ns(), look()?);
            std::thread::sleep(rounds.window);
            Ok((begin, (clock::now_ns(), look()?)))
        })?;
        let ((begin_ns, begin), (end_ns, end)) = looks;
        note_faults("writes alone", &report.faults, faults);
        let writes = report.acknowledged_within(begin_ns, end_ns).count();
        if writes == 0 {
            return Err(Error::Unusable(format!("no write was acknowledged: {:?}", report.faults)));
        }
        let seconds = (end_ns - begin_ns) as f64 / 1e9;
        Ok(Window { seconds, reads: 0, writes, writes_refused: report.refused_count(), cpu: end - begin })
    }

    pub(super) fn both(&self, faults: &mut Vec<String>) -> Result<Window> {
        let options = self.load_options(None, self.options.rounds.window);
        let (outcome, report) = self.beside_writes(|| load::run(&options))?;
        note_faults("reads beside writes", &outcome.faults, faults);
        note_faults("writes beside reads", &report.faults, faults);
        read_window(&outcome, Some(&report))
    }

    /// First finds the rate, then looks.
    pub(super) fn ages(&self, reads_per_second: f64, faults: &mut Vec<String>) -> Result<Ages> {
        let mut rate = reads_per_second / 2.0;
        for _ in 0..AGE_CALIBRATIONS_MAX {
            let (Busy { generator, idle_cores }, outcome, ..) = self.observe(rate, self.options.rounds.window)?;
            let is_on_time = outcome.late_ns_max < 20_000_000;
            if generator <= AGE_GENERATOR_BUSY_MAX && idle_cores >= AGE_IDLE_CORES_MIN && is_on_time {
                break;
            }
            rate *= (0.9 * AGE_GENERATOR_BUSY_MAX / generator).min(0.8);
        }
        let (busy, outcome, observers, report) = self.observe(rate, self.options.age_window)?;
        let Busy { generator: generator_busy, idle_cores } = busy;
        note_faults("reads for ages", &outcome.faults, faults);
        note_faults("writes for ages", &report.faults, faults);
        if generator_busy > AGE_GENERATOR_BUSY_MAX {
            faults.push(format!("the generator was {:.0} % busy while ages were taken", generator_busy * 100.0));
        }
        let created = Created::new(&report.writes);
        let (mut ages_ns, mut write_latency_ns) = (load::latency_histogram(), load::latency_histogram());
        let mut unreadable_count: u64 = observers.iter().map(|observer| observer.unreadable_count).sum();
        for seen in observers.iter().flat_map(|observer| &observer.observations) {
            ages_ns.saturating_record_n(created.age_ns(seen.newest, seen.sent_ns), seen.reads_count);
            // A title under one of our ids that says another time: some bytes are not what was written.
            let sent_ns = created.sent_ns(seen.newest);
            unreadable_count += u64::from(sent_ns.is_some() && sent_ns != seen.title_ns) * seen.reads_count;
        }
        for write in report.writes.iter().filter(|write| write.is_acknowledged()) {
            write_latency_ns.saturating_record(write.answered_ns - write.due_ns);
        }
        let milliseconds = |ns: u64| ns as f64 / 1e6;
        Ok(Ages {
            reads_count: ages_ns.len(),
            reads_per_second: outcome.responses_per_second(),
            generator_busy,
            idle_cores,
            p50_ms: milliseconds(ages_ns.value_at_quantile(0.5)),
            p99_ms: milliseconds(ages_ns.value_at_quantile(0.99)),
            max_ms: milliseconds(ages_ns.max()),
            went_back_count: observers.iter().map(|observer| observer.went_back_count).sum(),
            unreadable_count,
            write_latency_p99_ms: milliseconds(write_latency_ns.value_at_quantile(0.99)),
        })
    }

    /// Reads at a rate, looked at, beside writes; with how busy everything was.
    fn observe(&self, rate: f64, window: Duration) -> Result<(Busy, Outcome, Vec<ListObserver>, writer::Report)> {
        let options = self.load_options(Some(rate), window);
        let ((busy, outcome, observers), report) = self.beside_writes(|| {
            let (begin_ns, begin_cpu_ns, begin_idle) = (clock::now_ns(), clock::process_cpu_ns(), host::idle_ticks()?);
            let (outcome, observers) = load::run_with(&options, ListObserver::new)?;
            let (cpu_ns, idle) = (clock::process_cpu_ns() - begin_cpu_ns, host::idle_ticks()? - begin_idle);
            let took_ns = (clock::now_ns() - begin_ns) as f64;
            let idle_ns = idle as f64 * 1e9 / rustix::param::clock_ticks_per_second() as f64;
            Ok((Busy { generator: cpu_ns as f64 / took_ns, idle_cores: idle_ns / took_ns }, outcome, observers))
        })?;
        Ok((busy, outcome, observers, report))
    }

    /// Does something while the writer writes.
    fn beside_writes<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, writer::Report)> {
        let options = WriterOptions {
            address: self.server.address(),
            token: self.token.clone(),
            connections_count: self.options.write_connections_count,
            depth: self.options.write_depth,
            rate: Some(self.options.write_rate),
            mix: Mix::All,
            cpu: Some(self.options.generator_cpu),
            seed: self.options.rounds.seed,
        };
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| writer::run(&options, &stop));
            let result = work();
            stop.store(true, Ordering::Relaxed);
            let report = writer.join().expect("the writer panicked");
            Ok((result?, report?))
        })
    }

    fn load_options(&self, rate: Option<f64>, window: Duration) -> LoadOptions {
        LoadOptions {
            address: self.server.address(),
            request: self.options.cell.request(),
            status_expected: 200,
            connections_count: self.options.cell.connections_count,
            depth: self.options.cell.depth,
            warmup: self.options.rounds.warmup,
            window,
            cpus: vec![self.options.generator_cpu],
            rate,
            trickle: false,
            progress: None,
            server: Some(self.server.pid()),
        }
    }
}

fn read_window(outcome: &Outcome, writes: Option<&writer::Report>) -> Result<Window> {
    let (Some(cpu), 1..) = (outcome.server, outcome.responses) else {
        return Err(Error::Unusable(format!("the server gave no good answer: {:?}", outcome.faults)));
    };
    Ok(Window {
        seconds: outcome.seconds(),
        reads: outcome.responses,
        writes: writes.map_or(0, |report| report.acknowledged_within(outcome.begin_ns, outcome.end_ns).count()),
        writes_refused: writes.map_or(0, writer::Report::refused_count),
        cpu,
    })
}

fn note_faults(who: &str, faults: &load::Faults, all: &mut Vec<String>) {
    if !faults.is_empty() {
        all.push(format!("{who}: {faults:?}"));
    }
}

/// Prints the report.
pub fn print(report: &InterferenceReport) {
    let cell = report.cell;
    println!(
        "\nreads beside writes: limit={}, {} connections, depth {}, {:.0} acknowledged writes/s, {} rounds",
        cell.limit, cell.connections_count, cell.depth, report.writes_per_second.median, report.rounds_count
    );
    println!("  {:<34} {:>9} {:>9}", "medians", "alone", "beside");
    let row = |name: &str, alone: Quartiles, beside: Quartiles| {
        println!("  {name:<34} {:>9.0} {:>9.0}", alone.median, beside.median);
    };
    row("shard CPU ns/read, writes taken off", report.shard_ns_alone, report.shard_ns_beside);
    row("process CPU ns/read, all in", report.process_ns_alone, report.process_ns_beside);
    row("reads/s", report.reads_per_second_alone, report.reads_per_second_beside);
    println!("  shard CPU of one write {:.0} ns", report.shard_ns_per_write.median);
    let Estimate { median, low, high } = report.ratio;
    println!("  beside over alone {median:.3}  [{low:.3}, {high:.3}]");
    println!("  A/A: alone over itself {:.3}  [{:.3}, {:.3}]", report.a_a.median, report.a_a.low, report.a_a.high);
    report.ages.print();
    println!("  writes answered other than 202: {}", report.writes_refused);
    for fault in &report.faults {
        println!("  FAILED: {fault}");
    }
}
