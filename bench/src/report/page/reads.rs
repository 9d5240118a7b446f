//! Reads: CPU, ratios and gates, throughput, and what a wire lets through.

use crate::matrix::Ruling;
use crate::report::chart::{self, Axis, Bar, Interval};
use crate::report::html::Html;
use crate::report::input::{CellRun, GateRun, RatioRun, Run, SERVER, cell_name, is_peer, label};
use crate::report::page::{doubts, in_words};
use crate::report::{trust, units, wire};
use crate::statistics::{Estimate, Quartiles};

pub fn cpu(html: &mut Html, run: &Run) {
    html.line(
        "p",
        &[],
        "CPU time of all threads of a server per checked answer. Bars are medians, whiskers hold the middle half of the windows. The floor parses nothing and sends the same bytes; no server of these bytes can cost less.",
    );
    legend(html, run);
    html.element("div", &[("class", "grid")], |html| {
        for cell in run.cells() {
            html.element("figure", &[], |html| {
                html.line("h3", &[], &cell.title());
                let bars: Vec<Bar> = cell
                    .figures
                    .iter()
                    .map(|figures| Bar {
                        label: label(&figures.kind),
                        text: format!("{} ({})", units::time(figures.cpu_ns.median), between(figures.cpu_ns)),
                        value: figures.cpu_ns.median,
                        whisker: Some((figures.cpu_ns.lower, figures.cpu_ns.upper)),
                        class: chart::class(&figures.kind),
                        is_refused: false,
                    })
                    .collect();
                chart::bars(html, &format!("CPU per request, {}: {}", cell.title(), in_words(&bars)), &bars);
                let bytes = units::count(cell.response_bytes as f64);
                html.line("figcaption", &[], &format!("{bytes} bytes an answer, {} rounds", cell.rounds_count));
                doubts(html, "Not to be trusted here", &trust::doubts(run, cell));
            });
        }
    });
}

fn legend(html: &mut Html, run: &Run) {
    let has =
        |class: &str| run.cells().flat_map(|cell| &cell.figures).any(|figures| chart::class(&figures.kind) == class);
    let names = [
        ("server", "key-server", "this server"),
        ("floor", "key-floor", "floors: count bytes, send the same answer"),
        ("loop", "key-loop", "this server's own I/O around nothing"),
        ("peer", "key-peer", "peers"),
        ("original", "key-original", "the original"),
    ];
    html.element("ul", &[("class", "legend"), ("aria-label", "Colours")], |html| {
        for (_, key, name) in names.into_iter().filter(|(class, ..)| has(class)) {
            html.element("li", &[], |html| {
                html.line("span", &[("class", key), ("aria-hidden", "true")], "");
                html.text(name);
            });
        }
    });
}

pub fn ratios(html: &mut Html, run: &Run) {
    html.line(
        "p",
        &[],
        "CPU of this server over another's, round by round; the dot is the median, the line its 95 % interval. A red mark is the gate: it fails only when the whole line lies above it. Faint lines are not judged. The floor over itself shows what a difference of nothing looks like.",
    );
    let all: Vec<(&CellRun, Vec<&RatioRun>)> = run.cells().map(|cell| (cell, cell.ratios_of_server())).collect();
    let bounds = |cell: &CellRun, ratios: &[&RatioRun], peers: bool| -> Vec<f64> {
        let estimates = ratios.iter().filter(|ratio| is_peer(&ratio.over) == peers).map(|ratio| ratio.estimate);
        let estimates = estimates.chain(cell.a_a.filter(|_| !peers));
        estimates.flat_map(|estimate| [estimate.low, estimate.high]).collect()
    };
    let gates = |peers: bool| {
        run.matrices.iter().flat_map(|matrix| &matrix.gates).filter_map(move |(gate, _)| {
            (["best-peer", "original"].contains(&gate.over.as_str()) == peers).then_some(gate.ratio_max)
        })
    };
    for (peers, heading) in [(false, "Over floor and empty loop"), (true, "Over peers")] {
        if peers && !all.iter().any(|(_, ratios)| ratios.iter().any(|ratio| is_peer(&ratio.over))) {
            html.line("p", &[("class", "muted")], "No peer ran in this run.");
            continue;
        }
        html.line("h3", &[], heading);
        let axis =
            Axis::around_one(all.iter().flat_map(|(cell, ratios)| bounds(cell, ratios, peers)).chain(gates(peers)));
        html.element("div", &[("class", "grid")], |html| {
            for (cell, ratios) in &all {
                let rows = forest_rows(run, cell, ratios, peers);
                if rows.is_empty() {
                    continue;
                }
                html.element("figure", &[], |html| {
                    html.line("h3", &[], &cell.title());
                    let words: Vec<String> = rows.iter().map(|row| format!("{} {}", row.label, row.text)).collect();
                    let description = format!("Ratios, {}: {}", cell.title(), words.join("; "));
                    chart::forest(html, &description, &axis, &rows);
                });
            }
        });
    }
    gate_table(html, run);
}

fn forest_rows(run: &Run, cell: &CellRun, ratios: &[&RatioRun], peers: bool) -> Vec<Interval> {
    let shown = |estimate: Estimate| format!("{:.3} {}", estimate.median, units::interval(estimate));
    let gate_over = |kind: &str| {
        let is_of = |gate: &GateRun| cell.kind_of_gate(&gate.over).as_deref() == Some(kind);
        run.gates_of(cell).find(|(gate, _)| is_of(gate)).map(|(gate, _)| gate.ratio_max)
    };
    let is_off = !cell.a_a.is_some_and(|a_a| a_a.contains(1.0));
    let rows = ratios.iter().filter(|ratio| is_peer(&ratio.over) == peers).map(|ratio| Interval {
        label: format!("over {}", label(&ratio.over)),
        text: shown(ratio.estimate),
        estimate: ratio.estimate,
        gate: gate_over(&ratio.over),
        class: if peers { chart::class(&ratio.over) } else { "server" },
        is_unjudged: ratio.unjudged.is_some() || is_off,
    });
    let a_a = cell.a_a.filter(|_| !peers).map(|estimate| Interval {
        label: "A/A: the floor over itself".to_owned(),
        text: shown(estimate),
        estimate,
        gate: None,
        class: "floor",
        is_unjudged: false,
    });
    rows.chain(a_a).collect()
}

fn gate_table(html: &mut Html, run: &Run) {
    let rows: Vec<Vec<String>> = run
        .matrices
        .iter()
        .flat_map(|matrix| matrix.gates.iter().map(move |gate| (matrix, gate)))
        .map(|(matrix, (gate, ruling))| {
            let ratio = matrix.cells.iter().find(|cell| cell.cell == gate.cell).and_then(|cell| {
                let over = cell.kind_of_gate(&gate.over)?;
                cell.ratio_over(&over)
            });
            vec![
                cell_name(gate.cell),
                gate.over.replace('-', " "),
                format!("{:.2}", gate.ratio_max),
                ratio.map_or("-".to_owned(), |ratio| {
                    format!("{:.3} {}", ratio.estimate.median, units::interval(ratio.estimate))
                }),
                match ruling {
                    Ruling::Passed => "passed".to_owned(),
                    Ruling::Failed => "FAILED".to_owned(),
                    Ruling::Unjudged(reason) => format!("not judged: {reason}"),
                },
            ]
        })
        .collect();
    if !rows.is_empty() {
        html.table("Gates", &["cell", "over", "at most", "measured", "ruling"], &rows);
    }
}

pub fn throughput(html: &mut Html, run: &Run) {
    html.line(
        "p",
        &[],
        "Checked answers per second in a closed loop. An outlined bar is generator-bound: the client's core was full and the server's was not, so the figure is the client's and is refused as the server's.",
    );
    html.element("div", &[("class", "grid")], |html| {
        for cell in run.cells() {
            html.element("figure", &[], |html| {
                html.line("h3", &[], &cell.title());
                let bars: Vec<Bar> = cell
                    .figures
                    .iter()
                    .map(|figures| {
                        let rate = figures.responses_per_second;
                        Bar {
                            label: label(&figures.kind),
                            text: if figures.throughput_is_its_own {
                                format!(
                                    "{}, core {}",
                                    units::per_second(rate.median),
                                    units::percent(figures.target_busy)
                                )
                            } else {
                                "generator-bound".to_owned()
                            },
                            value: rate.median,
                            whisker: figures.throughput_is_its_own.then_some((rate.lower, rate.upper)),
                            class: chart::class(&figures.kind),
                            is_refused: !figures.throughput_is_its_own,
                        }
                    })
                    .collect();
                chart::bars(html, &format!("Requests per second, {}: {}", cell.title(), in_words(&bars)), &bars);
            });
        }
    });
}

pub fn wire_table(html: &mut Html, run: &Run) {
    html.line(
        "p",
        &[],
        "Arithmetic, not measurement: 1,448 bytes of an answer take 1,538 on the wire (TCP 20 and timestamps 12, IP 20, Ethernet 18, preamble 8, gap 12). At depth 1 each answer has segments of its own; pipelined answers fill them. Beside it what one core of this server was measured to serve, over loopback.",
    );
    let mut shapes: Vec<(usize, usize, bool)> =
        run.cells().map(|cell| (cell.cell.limit, cell.response_bytes, cell.cell.depth > 1)).collect();
    shapes.sort_unstable();
    // Titles and times of a body differ by some bytes from cell to cell: one row for each limit and way.
    shapes.dedup_by_key(|&mut (limit, _, is_pipelined)| (limit, is_pipelined));
    let rows: Vec<Vec<String>> = shapes
        .into_iter()
        .map(|(limit, bytes, is_pipelined)| {
            let wire_bytes = if is_pipelined { wire::streamed_bytes(bytes) } else { wire::alone_bytes(bytes) };
            let mut row = vec![
                format!("limit={limit}, {}", if is_pipelined { "pipelined" } else { "depth 1" }),
                units::count(bytes as f64),
                units::count(wire_bytes),
            ];
            row.extend(wire::CARDS_GBE.map(|card| units::per_second(wire::responses_per_second(card, wire_bytes))));
            let measured = run.cells().filter(|cell| cell.cell.limit == limit && (cell.cell.depth > 1) == is_pipelined);
            let own = measured.filter_map(|cell| {
                let figures = cell.figures_of(SERVER).filter(|figures| figures.throughput_is_its_own)?;
                Some((cell.cell.depth, figures.responses_per_second.median))
            });
            match own.max_by(|(_, one), (_, other)| one.total_cmp(other)) {
                None => row.extend(["generator-bound".to_owned(), "-".to_owned()]),
                Some((depth, rate)) => {
                    let gbe = wire::gbe_needed(rate, wire_bytes);
                    row.push(format!("{} at depth {depth}", units::per_second(rate)));
                    row.push(match wire::card_for(gbe) {
                        Some(card) => format!("{gbe:.1} Gb/s: fits {card} GbE"),
                        None => format!("{gbe:.1} Gb/s: more than 100 GbE"),
                    });
                }
            }
            row
        })
        .collect();
    let head = ["answers", "bytes", "on the wire", "10 GbE", "25 GbE", "100 GbE", "one core", "that needs"];
    html.table("Answers per second that a card lets through, and one core", &head, &rows);
}

fn between(quartiles: Quartiles) -> String {
    // One unit for both: `8.23 to 9.31 µs`.
    let (lower, upper) = (units::time(quartiles.lower), units::time(quartiles.upper));
    let same_unit = lower.rsplit(' ').next() == upper.rsplit(' ').next();
    let lower = if same_unit { lower.split(' ').next().unwrap_or_default() } else { &lower };
    format!("{lower} to {upper}")
}
