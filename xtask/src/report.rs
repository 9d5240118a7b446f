//! Named steps, each with the time it took, and the one line of totals at the end.

use std::time::Instant;

/// What one step counted. A step that is a single check counts one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u32,
    pub failed: u32,
}

impl Tally {
    /// A check that holds.
    pub const ONE: Self = Self { passed: 1, failed: 0 };
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// The account of a run. A failed step does not stop the next one.
#[derive(Default)]
pub struct Report {
    only: String,
    total: Tally,
    failures: Vec<String>,
}

impl Report {
    /// A report of the steps whose name contains `only`; the others are not run.
    pub fn new(only: &str) -> Self {
        Self { only: only.to_owned(), ..Self::default() }
    }

    /// Runs one step. `Err` is a failed check and its reason; a tally may hold failures of its own.
    pub fn step(&mut self, name: &str, check: impl FnOnce() -> Result<Tally, String>) {
        if !name.contains(&self.only) {
            return;
        }
        println!("\n== {name}");
        let started = Instant::now();
        let outcome = check();
        let seconds = started.elapsed().as_secs_f64();
        let verdict = match &outcome {
            Ok(tally) if tally.failed == 0 => "ok",
            Ok(_) | Err(_) => "FAILED",
        };
        if let Err(reason) = &outcome {
            println!("{reason}");
        }
        println!("== {name}: {verdict} in {seconds:.1} s");
        self.count(name, outcome);
    }

    /// Says what failed, then the totals alone on the last line. `true` when something passed and nothing failed.
    pub fn end(self) -> bool {
        println!();
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        println!("{} passed, {} failed", self.total.passed, self.total.failed);
        self.total.failed == 0 && self.total.passed > 0
    }

    fn count(&mut self, name: &str, outcome: Result<Tally, String>) {
        match outcome {
            Ok(tally) => {
                if tally.failed > 0 {
                    self.failures.push(format!("{name} ({} of {})", tally.failed, tally.passed + tally.failed));
                }
                self.total += tally;
            }
            Err(reason) => {
                self.failures.push(format!("{name}: {}", reason.lines().next().unwrap_or_default()));
                self.total += Tally { passed: 0, failed: 1 };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_summed_and_failures_named() {
        let mut report = Report::default();
        report.step("one check", || Ok(Tally::ONE));
        report.step("some tests", || Ok(Tally { passed: 5, failed: 2 }));
        report.step("a broken check", || Err("why\nand more".to_owned()));
        assert_eq!(report.total, Tally { passed: 6, failed: 3 });
        assert_eq!(report.failures, ["some tests (2 of 7)", "a broken check: why"]);
        assert!(!report.end());
    }

    #[test]
    fn only_the_steps_asked_for_are_run() {
        let mut report = Report::new("socket");
        report.step("format", || Err("not to be run".to_owned()));
        report.step("socket tests", || Ok(Tally::ONE));
        assert_eq!(report.total, Tally::ONE);
    }

    #[test]
    fn a_run_that_checked_nothing_has_not_passed() {
        assert!(!Report::default().end());
    }
}
