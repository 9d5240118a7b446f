//! What of a cell not to believe, and why.

use crate::matrix::Ruling;
use crate::report::input::{CellRun, FiguresRun, Run, SERVER, label};
use crate::report::units;
use crate::report::wire;

/// Quartiles further apart than this share of their median: a figure of this machine in this hour.
const SPREAD_MAX: f64 = 0.20;

/// All reasons, one sentence each; none for a cell that can be believed.
pub fn doubts(run: &Run, cell: &CellRun) -> Vec<String> {
    let mut doubts = Vec::new();
    if !cell.faults.is_empty() {
        doubts.push(format!("Answers were wrong or missing: {}.", cell.faults.join("; ")));
    }
    match cell.a_a {
        None => doubts.push("No floor ran twice, so nothing says what a difference of nothing looks like.".to_owned()),
        Some(a_a) if !a_a.contains(1.0) => doubts.push(format!(
            "A/A does not contain 1: the floor over itself is {}, so the machine changed within rounds and no ratio is judged.",
            units::interval(a_a)
        )),
        Some(_) => {}
    }
    let bound = cell.figures.iter().filter(|figures| !figures.throughput_is_its_own).map(|figures| {
        let (target, generator) = (units::percent(figures.target_busy), units::percent(figures.generator_busy));
        format!("{} (core {target} busy, the generator's {generator})", label(&figures.kind))
    });
    doubts.extend(listed("Requests/s are generator-bound, so they are the client's", bound));
    let wide = cell.figures.iter().filter(|figures| spread(figures) > SPREAD_MAX).map(|figures| {
        format!(
            "{} ({} to {})",
            label(&figures.kind),
            units::time(figures.cpu_ns.lower),
            units::time(figures.cpu_ns.upper)
        )
    });
    doubts.extend(listed("Spread too wide, half of the windows lie outside", wide));
    // When the floor differs from itself, all ratios say so once more.
    let unjudged = cell.ratios.iter().filter_map(|ratio| {
        let reason = ratio.unjudged.as_ref().filter(|reason| !is_of_a_a(cell, reason))?;
        Some(format!("{} over {}: {reason}", label(&ratio.kind), label(&ratio.over)))
    });
    doubts.extend(listed("Not judged", unjudged));
    for (gate, ruling) in run.gates_of(cell) {
        let ratio = cell.kind_of_gate(&gate.over).and_then(|kind| cell.ratio_over(&kind));
        let is_wide =
            ratio.is_some_and(|ratio| ratio.estimate.contains(1.0) && ratio.estimate.contains(gate.ratio_max));
        match ruling {
            Ruling::Unjudged(reason) if is_of_a_a(cell, reason) => {}
            Ruling::Unjudged(reason) => doubts.push(format!("The gate over {} is not judged: {reason}.", gate.over)),
            Ruling::Passed | Ruling::Failed if is_wide => doubts.push(format!(
                "Spread too wide: the interval over {} holds both 1 and its gate {}.",
                gate.over, gate.ratio_max
            )),
            Ruling::Passed | Ruling::Failed => {}
        }
    }
    doubts.extend(wire_limit(cell));
    doubts
}

/// `words: one, another.`, or nothing.
fn listed(words: &str, all: impl Iterator<Item = String>) -> Option<String> {
    let all: Vec<String> = all.collect();
    (!all.is_empty()).then(|| format!("{words}: {}.", all.join(", ")))
}

/// The judge's reason when the floor differs from itself.
fn is_of_a_a(cell: &CellRun, reason: &str) -> bool {
    cell.a_a.is_some_and(|a_a| !a_a.contains(1.0)) && reason.contains("against itself")
}

/// Loopback carries what a card does not.
fn wire_limit(cell: &CellRun) -> Option<String> {
    let figures = cell.figures_of(SERVER).filter(|figures| figures.throughput_is_its_own)?;
    let wire_bytes = wire::bytes_at_depth(cell.response_bytes, cell.cell.depth);
    let gbe = wire::gbe_needed(figures.responses_per_second.median, wire_bytes);
    let largest = match wire::card_for(gbe) {
        Some(card) if card <= wire::CARDS_GBE[0] => return None,
        Some(card) => format!("it takes a card of {card} GbE"),
        None => "more than a card of 100 GbE lets through".to_owned(),
    };
    Some(format!("Wire limit: these requests/s need {gbe:.1} Gb/s, {largest}; they were measured over loopback."))
}

fn spread(figures: &FiguresRun) -> f64 {
    (figures.cpu_ns.upper - figures.cpu_ns.lower) / figures.cpu_ns.median
}
