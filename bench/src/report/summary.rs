//! The first screen: a few figures, and what they do not say.

use crate::report::html::Html;
use crate::report::input::{CellRun, ORIGINAL, RatioRun, Run, SERVER, cell_name, label};
use crate::report::units;
use crate::writes::interference::Ages;

/// A big figure.
struct Tile {
    name: &'static str,
    /// `None`: not measured, or not to be believed.
    figure: Option<String>,
    detail: String,
}

/// The tiles.
pub fn tiles(html: &mut Html, run: &Run) {
    let tiles = [
        ratio_tile(run, "CPU per request, floor = 1", "No floor ran.", |cell| cell.best_floor.clone()),
        ratio_tile(run, "CPU per request, best peer = 1", "No peer ran.", |cell| {
            cell.best_peer().map(|figures| figures.kind.clone())
        }),
        ratio_tile(run, "CPU per request, the original = 1", "The original did not run.", |cell| {
            cell.figures_of(ORIGINAL).map(|figures| figures.kind.clone())
        }),
        throughput_tile(run),
        age_tile(run),
    ];
    html.element("ul", &[("class", "tiles")], |html| {
        for Tile { name, figure, detail } in tiles {
            html.element("li", &[], |html| {
                html.line("span", &[("class", "name")], name);
                match figure {
                    Some(figure) => html.line("span", &[("class", "figure")], &figure),
                    None => html.line("span", &[("class", "figure absent")], "no figure"),
                }
                html.line("span", &[("class", "detail")], &detail);
            });
        }
    });
}

/// What must be known before a figure is repeated elsewhere.
pub fn caveats(html: &mut Html, run: &Run) {
    html.line("h3", &[], "Before you repeat a figure");
    html.element("ul", &[("class", "caveats")], |html| {
        for caveat in caveat_words(run) {
            html.line("li", &[], &caveat);
        }
    });
}

fn ratio_tile(run: &Run, name: &'static str, absent: &str, over: impl Fn(&CellRun) -> Option<String>) -> Tile {
    let all: Vec<(&CellRun, &RatioRun)> =
        run.cells().filter_map(|cell| Some((cell, cell.ratio_over(&over(cell)?)?))).collect();
    if all.is_empty() {
        return Tile { name, figure: None, detail: absent.to_owned() };
    }
    let is_judged = |(cell, ratio): &&(&CellRun, &RatioRun)| {
        ratio.unjudged.is_none() && cell.faults.is_empty() && cell.a_a.is_some_and(|a_a| a_a.contains(1.0))
    };
    let judged: Vec<&(&CellRun, &RatioRun)> = all.iter().filter(is_judged).collect();
    // The plainest question there is: ten todos, one request at a time.
    let plainest =
        judged.iter().min_by_key(|(cell, _)| (cell.cell.depth, cell.cell.limit, cell.cell.connections_count));
    let Some((cell, ratio)) = plainest else {
        let detail = format!("None of {} cells can be judged: see below.", all.len());
        return Tile { name, figure: None, detail };
    };
    let time_of =
        |kind: &str| cell.figures_of(kind).map_or("-".to_owned(), |figures| units::time(figures.cpu_ns.median));
    let medians = || judged.iter().map(|(_, ratio)| ratio.estimate.median);
    let range = match judged.len() {
        1 => String::new(),
        count => format!(
            " {} to {} over {count} cells.",
            units::ratio(medians().fold(f64::INFINITY, f64::min)),
            units::ratio(medians().fold(0.0, f64::max))
        ),
    };
    Tile {
        name,
        figure: Some(format!("{} ×", units::ratio(ratio.estimate.median))),
        detail: format!(
            "{}: {} against {} of {}, 95 % {}.{range}",
            cell_name(cell.cell),
            time_of(SERVER),
            time_of(&ratio.over),
            label(&ratio.over),
            units::interval(ratio.estimate)
        ),
    }
}

fn throughput_tile(run: &Run) -> Tile {
    let name = "Requests per second of one core";
    let figures = |cell: &CellRun| {
        let figures =
            cell.figures_of(SERVER).filter(|figures| figures.throughput_is_its_own && cell.faults.is_empty())?;
        Some(figures.responses_per_second.median)
    };
    let own: Vec<(&CellRun, f64)> = run.cells().filter_map(|cell| Some((cell, figures(cell)?))).collect();
    let Some(&(best, rate)) = own.iter().max_by(|(_, one), (_, other)| one.total_cmp(other)) else {
        return Tile { name, figure: None, detail: "The generator was the limit in every cell.".to_owned() };
    };
    let plain = own.iter().filter(|(cell, _)| cell.cell.depth == 1 && cell.cell.limit == best.cell.limit);
    let plain = plain.map(|&(_, rate)| rate).reduce(f64::max).filter(|_| best.cell.depth > 1);
    let plain = plain.map_or_else(
        || if best.cell.depth > 1 { " At depth 1 no figure is the server's own.".to_owned() } else { String::new() },
        |rate| format!(" At depth 1: {}.", units::amount(rate)),
    );
    let batch = if best.cell.depth > 1 { " So many at once are no browser's." } else { "" };
    Tile {
        name,
        figure: Some(units::per_second(rate)),
        detail: format!("{}, every answer checked.{batch}{plain}", cell_name(best.cell)),
    }
}

fn age_tile(run: &Run) -> Tile {
    let name = "Age of what is read, under writes";
    let beside = run.interferences().map(|report| (&report.ages, report.writes_per_second.median, "one process"));
    let clustered =
        run.clusters.iter().map(|report| (&report.ages, report.server.writes_per_second.median, "a cluster"));
    let mut all: Vec<(&Ages, f64, &str)> = beside.chain(clustered).collect();
    if all.is_empty() {
        return Tile { name, figure: None, detail: "Nobody wrote in this run.".to_owned() };
    }
    let (ages, writes, of) = all.remove(0);
    let back = if ages.went_back_count == 0 { "never".to_owned() } else { format!("{} times", ages.went_back_count) };
    Tile {
        name,
        figure: Some(units::time(ages.p99_ms * 1e6)),
        detail: format!(
            "p99 of {} reads beside {} writes/s, {of}; median {}. The newest id went back {back}.",
            units::amount(ages.reads_count as f64),
            units::count(writes),
            units::time(ages.p50_ms * 1e6)
        ),
    }
}

fn caveat_words(run: &Run) -> Vec<String> {
    let mut words = vec![
        "Over loopback: no card, no wire, no interrupt, no loss. What a card lets through is in the wire table."
            .to_owned(),
    ];
    if let Some(host) = run.host() {
        let few = if host.cpus_count <= 2 { ": one for the server, one for what asks it" } else { "" };
        words.push(format!("On {} CPUs of {}, Linux {}{few}.", host.cpus_count, host.cpu_model, host.kernel));
    }
    if let Some(machine) = &run.machine {
        if machine.is_virtual == Some(true) {
            words.push("A virtual machine: who else uses its cores cannot be seen, and its speed drifts between hours. Compare ratios, not nanoseconds.".to_owned());
        }
        if let Some(load) = machine.load_average.filter(|&load| load > 0.5) {
            words.push(format!("The machine was not idle before the run: load average {load:.2}."));
        }
        if machine.profile.as_deref().is_some_and(|profile| profile != "release") {
            words.push("The bench was a debug build: floors and generators are dearer than they must be.".to_owned());
        }
    }
    let (all, off) = run
        .cells()
        .fold((0, 0), |(all, off), cell| (all + 1, off + usize::from(!cell.a_a.is_some_and(|a_a| a_a.contains(1.0)))));
    if off > 0 {
        words.push(format!("In {off} of {all} cells the floor differs from itself, so they judge nothing."));
    }
    if run.cells().any(|cell| cell.cell.depth > 1) {
        words.push("Depth is requests in flight on one connection, sent at once. Ordinary clients have 1; a rate at depth 80 says what parsing and answering cost, not what users will see.".to_owned());
    }
    words.push("Requests per second are a closed loop's and depend on the client; CPU per request does not. Latency is only given at a fixed rate.".to_owned());
    words
}
