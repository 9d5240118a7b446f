//! Two runs, cell by cell: by ratios that were taken within each, because two hours of a machine are two machines.

use crate::report::input::{CellRun, RatioRun, Run, label};
use crate::report::units;
use crate::statistics::Estimate;
use std::fmt;

/// A run beside an earlier one.
#[derive(Debug)]
pub struct Comparison {
    /// The other run's name.
    pub against: String,
    /// What makes the two hard to compare.
    pub caveats: Vec<String>,
    /// One for each cell and reference that both have.
    pub differences: Vec<Difference>,
    /// Cells that only one has.
    pub missing: Vec<String>,
}

/// The server over one reference, in both runs.
#[derive(Debug)]
pub struct Difference {
    /// The cell, for readers.
    pub cell: String,
    /// The reference, for readers.
    pub over: String,
    /// In this run.
    pub new: Estimate,
    /// In the other.
    pub old: Estimate,
    /// What it means.
    pub ruling: DifferenceRuling,
}

/// What a difference means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DifferenceRuling {
    /// The intervals share a value.
    WithinNoise,
    /// All of this run's interval is below the other's.
    Less,
    /// All of this run's interval is above the other's.
    More,
    /// One of the runs could not tell, for this reason.
    Unjudged(String),
}

impl Comparison {
    /// `run` beside `other`.
    pub fn of(run: &Run, other: &Run) -> Comparison {
        let mut differences = Vec::new();
        let mut missing = Vec::new();
        for cell in run.cells() {
            match other.like(cell) {
                Some(old) => differences.extend(compare_cell(cell, old)),
                None => missing.push(format!("{}: only in this run", cell.title())),
            }
        }
        let is_new = |old: &&CellRun| run.like(old).is_none();
        missing.extend(other.cells().filter(is_new).map(|old| format!("{}: only in the other run", old.title())));
        Comparison { against: other.name.clone(), caveats: caveats(run, other), differences, missing }
    }

    /// What can be relied on, first.
    pub fn outside_noise(&self) -> impl Iterator<Item = &Difference> {
        let is_outside = |ruling: &DifferenceRuling| matches!(ruling, DifferenceRuling::Less | DifferenceRuling::More);
        self.differences.iter().filter(move |difference| is_outside(&difference.ruling))
    }

    /// All of it in one sentence.
    pub fn verdict(&self) -> String {
        let unjudged = |difference: &&Difference| matches!(difference.ruling, DifferenceRuling::Unjudged(_));
        let (all, unjudged) = (self.differences.len(), self.differences.iter().filter(unjudged).count());
        let outside = self.outside_noise().count();
        let within = all - outside - unjudged;
        format!(
            "Of {all} ratios that both runs have, {outside} differ by more than the noise, {within} do not, {unjudged} cannot be compared."
        )
    }
}

impl Difference {
    /// This run's median over the other's, less 1: under 0 is less CPU.
    pub fn change(&self) -> f64 {
        self.new.median / self.old.median - 1.0
    }

    /// In plain words.
    pub fn words(&self) -> String {
        let percent = self.change().abs() * 100.0;
        match &self.ruling {
            DifferenceRuling::WithinNoise => "within the noise: the intervals overlap".to_owned(),
            DifferenceRuling::Less => format!("outside the noise: {percent:.1} % less CPU than before"),
            DifferenceRuling::More => format!("outside the noise: {percent:.1} % more CPU than before"),
            DifferenceRuling::Unjudged(reason) => format!("cannot be compared: {reason}"),
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "against {}: {}", self.against, self.verdict())?;
        for caveat in &self.caveats {
            writeln!(f, "  note: {caveat}")?;
        }
        for difference in &self.differences {
            writeln!(
                f,
                "  {}, over {}: {:.3} {} was {:.3} {}: {}",
                difference.cell,
                difference.over,
                difference.new.median,
                units::interval(difference.new),
                difference.old.median,
                units::interval(difference.old),
                difference.words()
            )?;
        }
        self.missing.iter().try_for_each(|missing| writeln!(f, "  {missing}"))
    }
}

fn compare_cell(new: &CellRun, old: &CellRun) -> Vec<Difference> {
    let mut differences = Vec::new();
    for ratio in new.ratios_of_server() {
        // The better floor may be another one than before: it is *the* floor all the same.
        let is_floor = new.best_floor.as_deref() == Some(ratio.over.as_str());
        let over = if is_floor { old.best_floor.as_deref() } else { Some(ratio.over.as_str()) };
        let Some(was) = over.and_then(|over| old.ratio_over(over)) else { continue };
        differences.push(Difference {
            cell: new.title(),
            over: if is_floor { "the floor".to_owned() } else { label(&ratio.over) },
            new: ratio.estimate,
            old: was.estimate,
            ruling: rule(new, ratio, old, was),
        });
    }
    differences
}

fn rule(new: &CellRun, ratio: &RatioRun, old: &CellRun, was: &RatioRun) -> DifferenceRuling {
    for (run, cell, ratio) in [("this run", new, ratio), ("the other run", old, was)] {
        if let Some(reason) = &ratio.unjudged {
            return DifferenceRuling::Unjudged(format!("{run}: {reason}"));
        }
        if !cell.faults.is_empty() {
            return DifferenceRuling::Unjudged(format!("{run}: answers were wrong or missing"));
        }
        match cell.a_a {
            Some(a_a) if a_a.contains(1.0) => {}
            Some(a_a) => {
                return DifferenceRuling::Unjudged(format!("{run}: the floor over itself is {}", units::interval(a_a)));
            }
            None => return DifferenceRuling::Unjudged(format!("{run}: no floor ran twice")),
        }
    }
    if ratio.estimate.high < was.estimate.low {
        DifferenceRuling::Less
    } else if ratio.estimate.low > was.estimate.high {
        DifferenceRuling::More
    } else {
        DifferenceRuling::WithinNoise
    }
}

fn caveats(run: &Run, other: &Run) -> Vec<String> {
    let mut caveats = Vec::new();
    let mut differ = |what: &str, one: Option<String>, two: Option<String>| {
        if let (Some(one), Some(two)) = (one, two)
            && one != two
        {
            caveats.push(format!("{what}: {one}, it was {two}"));
        }
    };
    differ("CPU", run.host().map(|host| host.cpu_model.clone()), other.host().map(|host| host.cpu_model.clone()));
    let cpus = |run: &Run| run.host().map(|host| host.cpus_count.to_string());
    differ("number of CPUs", cpus(run), cpus(other));
    differ("kernel", run.host().map(|host| host.kernel.clone()), other.host().map(|host| host.kernel.clone()));
    let first = |run: &Run, of: fn(&crate::report::input::MatrixRun) -> String| run.matrices.first().map(of);
    differ("driver", first(run, |one| one.server_driver.clone()), first(other, |one| one.server_driver.clone()));
    for cell in run.cells() {
        if let Some(old) = other.like(cell)
            && cell.response_bytes.abs_diff(old.response_bytes) * 100 > old.response_bytes
        {
            caveats.push(format!(
                "answers of {}: {} bytes, they were {}",
                cell.title(),
                units::count(cell.response_bytes as f64),
                units::count(old.response_bytes as f64)
            ));
        }
    }
    caveats
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Cell;
    use crate::report::input::SERVER;

    fn cell(estimate: (f64, f64, f64), floor: &str) -> CellRun {
        let of = |(low, median, high)| Estimate { median, low, high };
        let quartiles = crate::statistics::Quartiles { lower: 90.0, median: 100.0, upper: 110.0 };
        let figures = |kind: &str| crate::report::input::FiguresRun {
            kind: kind.into(),
            cpu_ns: quartiles,
            responses_per_second: quartiles,
            throughput_is_its_own: true,
            generator_busy: 0.5,
            target_busy: 0.9,
            user_share: None,
            requests_per_read: None,
        };
        CellRun {
            cell: Cell { limit: 10, connections_count: 64, depth: 16 },
            response_bytes: 2_000,
            rounds_count: 20,
            figures: vec![figures(SERVER), figures(floor)],
            best_floor: Some(floor.into()),
            a_a: Some(of((0.99, 1.0, 1.01))),
            ratios: vec![RatioRun { kind: SERVER.into(), over: floor.into(), estimate: of(estimate), unjudged: None }],
            faults: Vec::new(),
            server_memory: None,
            slots: Vec::new(),
            samples: Vec::new(),
        }
    }

    #[test]
    fn rulings() {
        use DifferenceRuling::{Less, More, Unjudged, WithinNoise};
        let old = || cell((1.04, 1.05, 1.06), "floor-epoll");
        let ruling = |new: CellRun, old: CellRun| {
            let differences = compare_cell(&new, &old);
            assert_eq!(differences.len(), 1, "the floor is the floor, by epoll or by io_uring");
            differences[0].ruling.clone()
        };
        let table = [
            ("overlap", (1.05, 1.07, 1.09), WithinNoise),
            ("ends touch", (1.06, 1.08, 1.10), WithinNoise),
            ("below", (1.00, 1.02, 1.03), Less),
            ("above", (1.07, 1.08, 1.10), More),
            ("within", (1.045, 1.05, 1.055), WithinNoise),
        ];
        for (name, new, expected) in table {
            assert_eq!(ruling(cell(new, "floor-uring"), old()), expected, "{name}");
        }
        type Spoil = fn(&mut CellRun);
        let spoils: [(&str, Spoil); 4] = [
            ("A/A off", |cell| cell.a_a = Some(Estimate { median: 1.05, low: 1.01, high: 1.09 })),
            ("no A/A", |cell| cell.a_a = None),
            ("faults", |cell| cell.faults.push("lost".into())),
            ("unjudged", |cell| cell.ratios[0].unjudged = Some("batches differ".into())),
        ];
        for (name, spoil) in spoils {
            let mut spoiled = cell((1.00, 1.02, 1.03), "floor-uring");
            spoil(&mut spoiled);
            assert!(matches!(ruling(spoiled, old()), Unjudged(reason) if reason.starts_with("this run")), "{name}");
            let mut spoiled = old();
            spoil(&mut spoiled);
            let new = cell((1.00, 1.02, 1.03), "floor-uring");
            assert!(matches!(ruling(new, spoiled), Unjudged(reason) if reason.starts_with("the other run")), "{name}");
        }
    }
}
