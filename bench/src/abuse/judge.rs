//! A row of the table, and whether it is good: pure.

use crate::abuse::attacks::Attack;
use crate::abuse::crowd::Crowd;
use crate::abuse::others::Window;
use crate::abuse::state::State;
use crate::matrix::mebibytes;
use crate::statistics::{median, paired_ratios};
use serde::{Deserialize, Serialize};

/// What each connection of an attack may cost: an idle one has some 620 bytes, one with a begun request its bytes beside.
const CONNECTION_BYTES: usize = 2 * 1024;
/// What may grow meanwhile without being the attack's: ready-made answers, buffers of the pool, the store's cache, the
/// others' writes.
const SLACK_BYTES: usize = 24 * 1024 * 1024;

/// What is too much.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Others' p99 with the attack over that without.
    pub ratio_max: f64,
    /// From the end of the attack until everything is as before.
    pub recovery_ms_max: f64,
}

/// What one attack did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub attack: String,
    /// Connections that it held at once.
    pub connections_count: usize,
    /// What it did in all rounds.
    pub crowd: Crowd,
    /// Others' median without it, microseconds; each figure is the median of the rounds.
    pub without_p50_us: f64,
    /// Others' p99 without it.
    pub without_p99_us: f64,
    /// Others' median with it.
    pub with_p50_us: f64,
    /// Others' p99 with it.
    pub with_p99_us: f64,
    /// Median of the rounds' ratios of p99.
    pub ratio: f64,
    /// p99 of the others' writes without it.
    pub without_write_p99_us: f64,
    /// The same with it.
    pub with_write_p99_us: f64,
    /// How late the others' own generator was without it, p99.
    pub without_late_us: f64,
    /// The same with it.
    pub with_late_us: f64,
    /// Others' answers, with it.
    pub answers: u64,
    /// Others' errors, with it and without.
    pub errors: u64,
    /// The first in words.
    pub first_error: Option<String>,
    /// Newcomers with it.
    pub newcomers: u64,
    /// Those that were not answered.
    pub turned_away: u64,
    /// They may be.
    pub may_turn_away: bool,
    /// The server before it.
    pub before: State,
    /// The most that was resident with it.
    pub peak_bytes: u64,
    /// What that may have grown by.
    pub growth_bytes_max: u64,
    /// The server behind it.
    pub after: State,
    /// The longest of the rounds; none when it did not recover.
    pub recovery_ms: Option<f64>,
}

/// One round.
#[derive(Debug)]
pub struct Round {
    /// Others alone.
    pub without: Window,
    /// Others beside the attack.
    pub with: Window,
    /// The attack.
    pub crowd: Crowd,
    /// None when the server did not recover.
    pub recovery_ms: Option<f64>,
}

/// How a row is judged.
#[derive(Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What the server did wrong.
    pub faults: Vec<String>,
    /// The ratio is too large, and half of what the p99 grew by or more is the generator's own lateness: not judged.
    pub is_generator_bound: bool,
    /// The attack made less than half of its steps, for want of CPU: whatever the figures say, it was not carried out.
    pub is_starved: bool,
}

impl Row {
    /// Of one round at least; `None` without.
    pub fn new(attack: &Attack, rounds: &[Round], before: State, peak_bytes: u64, after: State) -> Option<Row> {
        let column = |of: fn(&Round) -> f64| rounds.iter().map(of).collect::<Vec<f64>>();
        let middle = |of: fn(&Round) -> f64| median(&column(of));
        let ratios = paired_ratios(&column(|round| round.with.p99_us), &column(|round| round.without.p99_us));
        let mut crowd = Crowd::default();
        rounds.iter().for_each(|round| crowd.add(round.crowd));
        let sum = |of: fn(&Round) -> u64| rounds.iter().map(of).sum::<u64>();
        let longest = |longest: f64, round: &Round| Some(round.recovery_ms?.max(longest));
        Some(Row {
            attack: attack.name.to_owned(),
            connections_count: attack.connections_count,
            crowd,
            without_p50_us: middle(|round| round.without.p50_us)?,
            without_p99_us: middle(|round| round.without.p99_us)?,
            with_p50_us: middle(|round| round.with.p50_us)?,
            with_p99_us: middle(|round| round.with.p99_us)?,
            ratio: median(&ratios)?,
            without_write_p99_us: middle(|round| round.without.write_p99_us)?,
            with_write_p99_us: middle(|round| round.with.write_p99_us)?,
            without_late_us: middle(|round| round.without.late_p99_us)?,
            with_late_us: middle(|round| round.with.late_p99_us)?,
            answers: sum(|round| round.with.answers),
            errors: sum(|round| round.with.errors + round.without.errors),
            first_error: rounds
                .iter()
                .find_map(|round| round.with.first_error.clone().or(round.without.first_error.clone())),
            newcomers: sum(|round| round.with.newcomers),
            turned_away: sum(|round| round.with.turned_away),
            may_turn_away: attack.turns_newcomers_away,
            before,
            peak_bytes,
            growth_bytes_max: (SLACK_BYTES + attack.connections_count * CONNECTION_BYTES + attack.may_hold_bytes)
                as u64,
            after,
            recovery_ms: rounds.iter().try_fold(0.0, longest),
        })
    }

    /// What is wrong with it.
    pub fn judge(&self, bounds: &Bounds) -> Judgement {
        let mut faults = Vec::new();
        if self.errors > 0 {
            let first = self.first_error.as_deref().unwrap_or("not said");
            faults.push(format!("{} errors of others, the first: {first}", self.errors));
        }
        if self.turned_away > 0 && !self.may_turn_away {
            faults.push(format!("{} of {} newcomers were turned away", self.turned_away, self.newcomers));
        }
        let is_slower = self.ratio > bounds.ratio_max;
        // By the ratio and not by the medians, which may be of different rounds.
        let grown_us = self.without_p99_us * (self.ratio - 1.0);
        let own_us = self.with_late_us - self.without_late_us;
        let is_generator_bound = is_slower && own_us * 2.0 >= grown_us;
        if is_slower && !is_generator_bound {
            faults.push(format!("others' p99 is {:.2} times that without it", self.ratio));
        }
        let grown_bytes = self.peak_bytes.saturating_sub(self.before.resident_bytes);
        if grown_bytes > self.growth_bytes_max {
            let (grown, bound) = (mebibytes(grown_bytes), mebibytes(self.growth_bytes_max));
            faults.push(format!("memory grew by {grown:.0} MiB, its bounds allow {bound:.0}"));
        }
        match self.recovery_ms {
            None => faults.push(format!("no recovery: {:?} before, {:?} behind", self.before, self.after)),
            Some(took_ms) if took_ms > bounds.recovery_ms_max => {
                faults.push(format!("recovery took {took_ms:.0} ms"));
            }
            Some(_) => {}
        }
        let is_starved = self.crowd.steps * 2 < self.crowd.steps_due;
        Judgement { faults, is_generator_bound, is_starved }
    }
}

/// The head of the table, as Markdown.
pub const TABLE_HEAD: &str = "\
| attack | connections, opened | it sent, read | others' p50, p99 without | with | ratio | generator late, p99 | errors of others | newcomers turned away | memory before, peak, after | recovery |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

/// A line of it.
pub fn line(row: &Row, bounds: &Bounds) -> String {
    let judgement = row.judge(bounds);
    let ratio = if judgement.is_starved {
        format!("not carried out ({:.2})", row.ratio)
    } else if judgement.is_generator_bound {
        format!("generator-bound ({:.2})", row.ratio)
    } else {
        format!("{:.2}", row.ratio)
    };
    format!(
        "| {} | {}, {} | {:.1}, {:.1} MiB | {:.0}, {:.0} us | {:.0}, {:.0} us | {ratio} | {:.0}, {:.0} us | {} of {} | {} of {} | {:.0}, {:.0}, {:.0} MiB | {} |",
        row.attack,
        row.connections_count,
        row.crowd.opened,
        mebibytes(row.crowd.sent_bytes),
        mebibytes(row.crowd.read_bytes),
        row.without_p50_us,
        row.without_p99_us,
        row.with_p50_us,
        row.with_p99_us,
        row.without_late_us,
        row.with_late_us,
        row.errors,
        row.answers,
        row.turned_away,
        row.newcomers,
        mebibytes(row.before.resident_bytes),
        mebibytes(row.peak_bytes),
        mebibytes(row.after.resident_bytes),
        row.recovery_ms.map_or("none".into(), |took_ms| format!("{took_ms:.0} ms")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abuse::attacks::ATTACKS;

    const BOUNDS: Bounds = Bounds { ratio_max: 2.0, recovery_ms_max: 1_000.0 };

    fn round(without_us: f64, with_us: f64) -> Round {
        Round {
            without: Window { p99_us: without_us, late_p99_us: 50.0, ..Window::default() },
            with: Window { p99_us: with_us, late_p99_us: 60.0, newcomers: 10, ..Window::default() },
            crowd: Crowd::default(),
            recovery_ms: Some(150.0),
        }
    }

    fn row(rounds: &[Round]) -> Row {
        let before = State { resident_bytes: 1 << 20, ..State::default() };
        Row::new(&ATTACKS[0], rounds, before, 2 << 20, before).expect("there is a round")
    }

    #[test]
    fn a_row_is_made_of_medians_and_of_the_longest_recovery() {
        let late = Round { recovery_ms: Some(900.0), ..round(100.0, 190.0) };
        let row = row(&[round(100.0, 110.0), late, round(200.0, 240.0)]);
        assert_eq!((row.without_p99_us, row.with_p99_us), (100.0, 190.0));
        assert!((row.ratio - 1.2).abs() < 1e-9, "{}", row.ratio);
        assert_eq!((row.recovery_ms, row.newcomers), (Some(900.0), 30));
        assert_eq!(row.judge(&BOUNDS), Judgement { faults: vec![], is_generator_bound: false, is_starved: false });
        assert!(line(&row, &BOUNDS).starts_with("| slow-head | 1000, 0 |"), "{}", line(&row, &BOUNDS));
        let lost = Round { recovery_ms: None, ..round(1.0, 1.0) };
        assert_eq!(self::row(&[lost, round(1.0, 1.0)]).recovery_ms, None);
        assert!(Row::new(&ATTACKS[0], &[], State::default(), 0, State::default()).is_none());
    }

    #[test]
    fn each_fault_is_found() {
        let good = row(&[round(100.0, 150.0)]);
        let table: [(Row, &str); 6] = [
            (
                Row { errors: 1, first_error: Some("reset".into()), ..good.clone() },
                "1 errors of others, the first: reset",
            ),
            (Row { turned_away: 1, ..good.clone() }, "1 of 10 newcomers"),
            (Row { ratio: 2.1, with_p99_us: 210.0, ..good.clone() }, "2.10 times"),
            (Row { peak_bytes: 1 << 30, ..good.clone() }, "memory grew by 1023 MiB"),
            (Row { recovery_ms: Some(1_001.0), ..good.clone() }, "recovery took 1001 ms"),
            (Row { recovery_ms: None, ..good.clone() }, "no recovery"),
        ];
        for (row, expected) in table {
            let Judgement { faults, is_generator_bound, .. } = row.judge(&BOUNDS);
            assert!(faults.len() == 1 && faults[0].contains(expected), "{faults:?}");
            assert!(!is_generator_bound);
        }
        assert!(Row { turned_away: 1, may_turn_away: true, ..good }.judge(&BOUNDS).faults.is_empty());
    }

    #[test]
    fn an_attack_that_was_not_carried_out_proves_nothing() {
        let mut row = row(&[round(100.0, 100.0)]);
        row.crowd = Crowd { steps_due: 100, steps: 49, ..Crowd::default() };
        assert!(row.judge(&BOUNDS).is_starved && line(&row, &BOUNDS).contains("not carried out (1.00)"));
        row.crowd.steps = 50;
        assert!(!row.judge(&BOUNDS).is_starved);
    }

    /// 120 us more, of which the generator itself was 70 late: that says nothing about the server.
    #[test]
    fn a_late_generator_is_not_the_servers_fault() {
        let row = Row { with_late_us: 120.0, ..row(&[round(100.0, 220.0)]) };
        assert_eq!(row.judge(&BOUNDS), Judgement { faults: vec![], is_generator_bound: true, is_starved: false });
        assert!(line(&row, &BOUNDS).contains("generator-bound (2.20)"));
        assert!(!row.judge(&Bounds { ratio_max: 20.0, ..BOUNDS }).is_generator_bound);
    }
}
