//! From the samples of a cell to its figures and ratios: pure.

use crate::limits::{CORE_BUSY_MIN, FLOOR_USER_SHARE_MAX, REQUESTS_PER_READ_TOLERANCE};
use crate::matrix::{Cell, Kind, PEERS, Sample, Slot};
use crate::process::counters::Counters;
use crate::process::memory::Memory;
use crate::statistics::{Estimate, Quartiles, bootstrap_median, median, paired_ratios, quartiles};
use serde::Serialize;

/// All that a cell showed.
#[derive(Debug, Serialize)]
pub struct CellReport {
    /// What was asked.
    pub cell: Cell,
    /// Bytes of one answer, head included.
    pub response_bytes: usize,
    /// Rounds run.
    pub rounds_count: usize,
    /// One row per target.
    pub figures: Vec<Figures>,
    /// The better ordinary floor, by the median over all its windows.
    pub best_floor: Option<Kind>,
    /// The second window of a round over the first: of the variant when one ran, else of the better floor.
    pub a_a: Option<Estimate>,
    /// What is judged.
    pub ratios: Vec<Ratio>,
    /// Wrong or missing answers; none in a good run.
    pub faults: Vec<String>,
    /// The server's memory after the last round.
    pub server_memory: Option<Memory>,
    /// The windows themselves: one row per slot.
    pub slots: Vec<Slot>,
    /// In the order of `slots`, then by round.
    pub samples: Vec<Vec<Sample>>,
}

/// One target's row.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Who.
    pub kind: Kind,
    /// CPU of all its threads per checked answer, nanoseconds.
    pub cpu_ns: Quartiles,
    /// Checked answers per second.
    pub responses_per_second: Quartiles,
    /// False when the generator's core was the limit: then requests/s say nothing about the target.
    pub throughput_is_its_own: bool,
    /// Median share of the generator's core in use.
    pub generator_busy: f64,
    /// Median CPU over time; 1 is one core.
    pub target_busy: f64,
    /// User share of its CPU, all windows together; `None` before the first tick.
    pub user_share: Option<f64>,
    /// The batch it saw; `None` when it counted no read.
    pub requests_per_read: Option<f64>,
}

/// A target's CPU per answer over a reference's, round by round.
#[derive(Debug, Serialize)]
pub struct Ratio {
    /// Numerator.
    pub kind: Kind,
    /// Denominator.
    pub over: Kind,
    /// Median of the paired ratios with its 95 % interval.
    pub estimate: Estimate,
    /// Why it must not be judged, if so.
    pub unjudged: Option<String>,
}

impl CellReport {
    /// The peer with the least CPU per answer, the original apart.
    pub fn best_peer(&self) -> Option<Kind> {
        let peers = self.figures.iter().filter(|figures| figures.kind.is_peer() && figures.kind != Kind::PeerOriginal);
        let best = peers.min_by(|one, other| one.cpu_ns.median.total_cmp(&other.cpu_ns.median));
        best.map(|figures| figures.kind)
    }

    /// The row of a target.
    pub fn figures_of(&self, kind: Kind) -> Option<&Figures> {
        self.figures.iter().find(|figures| figures.kind == kind)
    }
}

/// Judges a cell. Every slot has the same number of samples, one per round.
pub fn judge(cell: Cell, slots: &[Slot], samples: Vec<Vec<Sample>>, faults: Vec<String>, seed: u64) -> CellReport {
    let mut kinds: Vec<Kind> = slots.iter().map(|slot| slot.kind).collect();
    kinds.dedup();
    let figures: Vec<Figures> = kinds.iter().filter_map(|&kind| figures(kind, slots, &samples)).collect();
    let best_floor = best_floor(slots, &samples);
    let a_a = yardstick(slots, &samples).and_then(|kind| a_a_estimate(kind, slots, &samples, seed));
    let pairs = [
        (Kind::Server, best_floor),
        (Kind::Server, Some(Kind::Loop)),
        (Kind::Server, Some(Kind::FloorSendfile)),
        (Kind::Loop, best_floor),
        (Kind::Server, Some(Kind::Variant)),
    ];
    let pairs = pairs.into_iter().chain(PEERS.map(|peer| (Kind::Server, Some(peer))));
    let ratios = pairs.filter_map(|(kind, over)| {
        let over = over?;
        let ratios = paired_ratios(&cpu_by_round(kind, slots, &samples)?, &cpu_by_round(over, slots, &samples)?);
        let estimate = bootstrap_median(&ratios, seed)?;
        Some(Ratio { kind, over, estimate, unjudged: why_unjudged(kind, over, &figures, a_a) })
    });
    CellReport {
        cell,
        response_bytes: 0,
        rounds_count: samples.first().map_or(0, Vec::len),
        best_floor,
        a_a,
        ratios: ratios.collect(),
        figures,
        faults,
        server_memory: None,
        slots: slots.to_vec(),
        samples,
    }
}

/// The ordinary floor with the lower median over all its windows.
pub fn best_floor(slots: &[Slot], samples: &[Vec<Sample>]) -> Option<Kind> {
    let medians = [Kind::FloorEpoll, Kind::FloorUring].into_iter().filter_map(|kind| {
        let all: Vec<f64> = samples_of(kind, slots, samples).flatten().map(|sample| sample.cpu_ns).collect();
        Some((kind, median(&all)?))
    });
    medians.min_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(kind, _)| kind)
}

/// Whose two windows a round make the A/A row.
pub fn yardstick(slots: &[Slot], samples: &[Vec<Sample>]) -> Option<Kind> {
    let has_variant = slots.iter().any(|slot| slot.kind == Kind::Variant);
    if has_variant { Some(Kind::Variant) } else { best_floor(slots, samples) }
}

/// A yardstick against itself.
pub fn a_a_estimate(kind: Kind, slots: &[Slot], samples: &[Vec<Sample>], seed: u64) -> Option<Estimate> {
    let mut windows = samples_of(kind, slots, samples).map(|row| row.iter().map(|sample| sample.cpu_ns).collect());
    let (first, second): (Vec<f64>, Vec<f64>) = (windows.next()?, windows.next()?);
    bootstrap_median(&paired_ratios(&second, &first), seed)
}

/// CPU per answer, one figure per round: the mean of a yardstick's two windows.
fn cpu_by_round(kind: Kind, slots: &[Slot], samples: &[Vec<Sample>]) -> Option<Vec<f64>> {
    let rows: Vec<&Vec<Sample>> = samples_of(kind, slots, samples).collect();
    let rounds_count = rows.first()?.len();
    let mean = |round: usize| rows.iter().map(|row| row[round].cpu_ns).sum::<f64>() / rows.len() as f64;
    Some((0..rounds_count).map(mean).collect())
}

fn why_unjudged(kind: Kind, over: Kind, figures: &[Figures], a_a: Option<Estimate>) -> Option<String> {
    let of = |kind| figures.iter().find(|figures| figures.kind == kind);
    let (one, other) = (of(kind)?, of(over)?);
    match a_a {
        None => return Some("no floor and no variant ran, so there is no A/A row".into()),
        Some(estimate) if !estimate.contains(1.0) => {
            return Some(format!("the yardstick against itself is {:.3} to {:.3}", estimate.low, estimate.high));
        }
        Some(_) => {}
    }
    if over.is_floor() && other.user_share.is_none_or(|share| share >= FLOOR_USER_SHARE_MAX) {
        return Some(format!("{} is no floor: too much of its CPU is user time", over.name()));
    }
    // A peer reads as it likes: that is part of what it costs. It was sent the same blocks.
    if over.is_peer() {
        return None;
    }
    match (one.requests_per_read, other.requests_per_read) {
        (Some(one), Some(other)) if (one / other - 1.0).abs() <= REQUESTS_PER_READ_TOLERANCE => None,
        (Some(one), Some(other)) => Some(format!("not comparable: {one:.1} and {other:.1} requests per read")),
        _ => Some("not comparable: requests per read are unknown".into()),
    }
}

fn figures(kind: Kind, slots: &[Slot], samples: &[Vec<Sample>]) -> Option<Figures> {
    let all: Vec<&Sample> = samples_of(kind, slots, samples).flatten().collect();
    let column = |of: fn(&Sample) -> f64| all.iter().map(|&sample| of(sample)).collect::<Vec<f64>>();
    let (generator_busy, target_busy) =
        (median(&column(|sample| sample.generator_busy))?, median(&column(|sample| sample.target_busy))?);
    let (user, system) =
        all.iter().fold((0, 0), |(user, system), sample| (user + sample.user_ticks, system + sample.system_ticks));
    let counters = all.iter().fold(Counters::default(), |sum, sample| Counters {
        requests: sum.requests + sample.counters.requests,
        reads: sum.reads + sample.counters.reads,
    });
    Some(Figures {
        kind,
        cpu_ns: quartiles(&column(|sample| sample.cpu_ns))?,
        responses_per_second: quartiles(&column(|sample| sample.responses_per_second))?,
        throughput_is_its_own: generator_busy < CORE_BUSY_MIN || target_busy >= CORE_BUSY_MIN,
        generator_busy,
        target_busy,
        user_share: (user + system > 0).then(|| user as f64 / (user + system) as f64),
        requests_per_read: counters.requests_per_read(),
    })
}

fn samples_of<'s>(kind: Kind, slots: &[Slot], samples: &'s [Vec<Sample>]) -> impl Iterator<Item = &'s Vec<Sample>> {
    let is_of_kind: Vec<bool> = slots.iter().map(|slot| slot.kind == kind).collect();
    samples.iter().zip(is_of_kind).filter_map(|(row, is_of_kind)| is_of_kind.then_some(row))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub const CELL: Cell = Cell { limit: 10, connections_count: 64, depth: 80 };

    pub fn sample(cpu_ns: f64) -> Sample {
        Sample {
            cpu_ns,
            shard_cpu_ns: cpu_ns,
            responses_per_second: 1e9 / cpu_ns,
            generator_busy: 0.9,
            target_busy: 1.0,
            user_ticks: 1,
            system_ticks: 59,
            counters: Counters { requests: 800, reads: 10 },
        }
    }

    /// Slots and 20 rounds of a server `server` times as dear as its floor; the machine drifts between rounds.
    pub fn lineup(server: f64) -> (Vec<Slot>, Vec<Vec<Sample>>) {
        let slot = |kind, repeat| Slot { kind, repeat };
        let slots = vec![
            slot(Kind::Server, 0),
            slot(Kind::FloorEpoll, 0),
            slot(Kind::FloorEpoll, 1),
            slot(Kind::FloorUring, 0),
            slot(Kind::FloorUring, 1),
        ];
        let factors = [server, 1.2, 1.2, 1.0, 1.0];
        let row = |slot: usize| {
            let noise = |round: usize| 1.0 + 0.001 * ((round * 7 + slot * 3) % 5) as f64;
            (0..20).map(|round| sample(100.0 * (1.0 + round as f64 / 20.0) * factors[slot] * noise(round))).collect()
        };
        (slots, (0..factors.len()).map(row).collect())
    }

    #[test]
    fn ratios_are_over_the_better_floor_of_the_same_round() {
        let (slots, samples) = lineup(1.1);
        let report = judge(CELL, &slots, samples, Vec::new(), 1);
        assert_eq!((report.rounds_count, report.best_floor), (20, Some(Kind::FloorUring)));
        let [ratio] = &report.ratios[..] else { panic!("{:?}", report.ratios) };
        assert_eq!((ratio.kind, ratio.over, &ratio.unjudged), (Kind::Server, Kind::FloorUring, &None));
        // Rounds drift by a factor of two, the ratio by the noise only.
        assert!(ratio.estimate.is_within(0.006, 1.1), "{:?}", ratio.estimate);
        assert!(report.a_a.unwrap().contains(1.0), "{:?}", report.a_a);
    }

    #[test]
    fn what_is_not_judged() {
        type Spoil = fn(&mut [Vec<Sample>]);
        let table: [(&str, Spoil, &str); 4] = [
            ("other batches", |rows| rows[0][0].counters.reads = 30, "requests per read"),
            ("no reads counted", |rows| rows[0].iter_mut().for_each(|one| one.counters.reads = 0), "unknown"),
            ("user time", |rows| rows[3].iter_mut().for_each(|one| one.user_ticks = 20), "user time"),
            ("A/A off", |rows| rows[4].iter_mut().for_each(|one| one.cpu_ns *= 1.05), "against itself"),
        ];
        for (name, spoil, expected) in table {
            let (slots, mut samples) = lineup(1.1);
            spoil(&mut samples);
            let report = judge(CELL, &slots, samples, Vec::new(), 1);
            let reason = report.ratios[0].unjudged.as_deref().unwrap_or_default();
            assert!(reason.contains(expected), "{name}: {reason}");
        }
    }

    #[test]
    fn throughput_is_refused_when_the_generator_was_the_limit() {
        for (generator_busy, target_busy, expected) in
            [(0.98, 0.8, false), (0.98, 0.98, true), (0.8, 0.8, true), (0.8, 1.0, true)]
        {
            let (slots, mut samples) = lineup(1.1);
            for one in &mut samples[0] {
                (one.generator_busy, one.target_busy) = (generator_busy, target_busy);
            }
            let report = judge(CELL, &slots, samples, Vec::new(), 1);
            let figures = report.figures_of(Kind::Server).unwrap();
            assert_eq!(figures.throughput_is_its_own, expected, "{generator_busy} {target_busy}");
        }
    }

    #[test]
    fn a_variant_is_the_yardstick_of_its_server() {
        let (_, samples) = lineup(1.02);
        let slots = [(Kind::Server, 0), (Kind::Variant, 0), (Kind::Variant, 1)];
        let slots = slots.map(|(kind, repeat)| Slot { kind, repeat });
        let rows = vec![samples[0].clone(), samples[3].clone(), samples[4].clone()];
        let report = judge(CELL, &slots, rows, Vec::new(), 1);
        let [ratio] = &report.ratios[..] else { panic!("{:?}", report.ratios) };
        assert_eq!((ratio.over, &ratio.unjudged, report.best_floor), (Kind::Variant, &None, None));
        assert!(ratio.estimate.is_within(0.006, 1.02), "{:?}", ratio.estimate);
        assert!(report.a_a.unwrap().contains(1.0), "{:?}", report.a_a);
    }

    #[test]
    fn peers_are_compared_whatever_they_read() {
        let (mut slots, mut samples) = lineup(1.1);
        for (kind, factor) in [(Kind::PeerOriginal, 0.5), (Kind::PeerAxum, 4.0), (Kind::PeerMinihttp, 2.2)] {
            slots.push(Slot { kind, repeat: 0 });
            let row = samples[3].iter().map(|floor| Sample {
                cpu_ns: floor.cpu_ns * factor,
                counters: Counters::default(),
                ..*floor
            });
            samples.push(row.collect());
        }
        let report = judge(CELL, &slots, samples, Vec::new(), 1);
        assert_eq!(report.best_peer(), Some(Kind::PeerMinihttp));
        let ratio = report.ratios.iter().find(|ratio| ratio.over == Kind::PeerMinihttp).unwrap();
        assert!(ratio.unjudged.is_none() && ratio.estimate.is_within(0.006, 0.5), "{ratio:?}");
    }
}
