//! The page, section by section, top to bottom.

use crate::matrix::Ruling;
use crate::memory::{Held, MemoryReport};
use crate::report::chart::{self, Axis, Bar, Curve, Interval};
use crate::report::compare::{Comparison, DifferenceRuling};
use crate::report::html::Html;
use crate::report::input::{CellRun, GateRun, RatioRun, Run, SERVER, cell_name, is_peer, label};
use crate::report::{summary, trust, units, wire};
use crate::statistics::{Estimate, Quartiles};
use crate::writes::interference::Ages;

const TITLE: &str = "Todo API: what a request costs";

/// A section: its anchor, its heading, what is in it.
type Section<'r> = (&'static str, &'static str, Box<dyn FnOnce(&mut Html) + 'r>);

pub fn render(run: &Run, comparison: Option<&Comparison>) -> String {
    let sections = sections(run, comparison);
    let mut html = Html::default();
    html.element("html", &[("lang", "en")], |html| {
        html.element("head", &[], |html| {
            html.leaf("meta", &[("charset", "utf-8")]);
            html.leaf("meta", &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")]);
            html.leaf("meta", &[("name", "color-scheme"), ("content", "light dark")]);
            html.line("title", &[], TITLE);
            html.style(include_str!("style.css"));
        });
        html.element("body", &[], |html| {
            html.element("header", &[], |html| {
                html.line("h1", &[], TITLE);
                html.line("p", &[("class", "muted")], &subtitle(run));
                summary::tiles(html, run);
                summary::caveats(html, run);
                html.element("nav", &[("aria-label", "Sections")], |html| {
                    html.element("ul", &[], |html| {
                        for (anchor, heading, _) in &sections {
                            let target = format!("#{anchor}");
                            html.element("li", &[], |html| html.line("a", &[("href", &target)], heading));
                        }
                    });
                });
            });
            html.element("main", &[], |html| {
                for (anchor, heading, content) in sections {
                    html.element("section", &[("aria-labelledby", anchor)], |html| {
                        html.line("h2", &[("id", anchor)], heading);
                        content(html);
                    });
                }
            });
            html.element("footer", &[], |html| {
                html.line("p", &[], "Written by todo-bench report from the JSON files of one run.");
            });
        });
    });
    html.into_document()
}

fn subtitle(run: &Run) -> String {
    let versions = run.matrices.iter().map(|matrix| matrix.server_version.as_str());
    let mut versions: Vec<&str> = versions.collect();
    versions.dedup();
    let driver = run.matrices.first().map_or("", |matrix| matrix.server_driver.as_str());
    let name = if run.name.is_empty() { String::new() } else { format!(" Run “{}”.", run.name) };
    format!("{}, driver {driver}.{name}", versions.join(" and "))
}

fn sections<'r>(run: &'r Run, comparison: Option<&'r Comparison>) -> Vec<Section<'r>> {
    let mut sections: Vec<Section<'r>> = Vec::new();
    if let Some(comparison) = comparison {
        sections.push(("against", "Against another run", Box::new(|html| against(html, comparison))));
    }
    sections.push(("cpu", "CPU per request", Box::new(|html| cpu(html, run))));
    sections.push(("ratios", "Ratios and gates", Box::new(|html| ratios(html, run))));
    sections.push(("throughput", "Requests per second of one core", Box::new(|html| throughput(html, run))));
    sections.push(("wire", "What a wire lets through", Box::new(|html| wire_table(html, run))));
    if !run.latencies.is_empty() {
        sections.push(("latency", "Latency at a rate", Box::new(|html| latency(html, run))));
    }
    if run.interferences().next().is_some() || !run.clusters.is_empty() {
        sections.push(("age", "Reads beside writes, and the age of what is read", Box::new(|html| ages(html, run))));
    }
    if !run.writes.is_empty() {
        sections.push(("writes", "Durable writes", Box::new(|html| writes(html, run))));
    }
    if !run.memories.is_empty() || run.cells().any(|cell| cell.server_memory.is_some()) {
        sections.push(("memory", "Memory", Box::new(|html| memory(html, run))));
    }
    sections.push(("how", "What was measured, and how", Box::new(|html| how(html, run))));
    sections
}

fn cpu(html: &mut Html, run: &Run) {
    html.line(
        "p",
        &[],
        "CPU time of all threads of a server per checked answer. Bars are medians, whiskers hold the middle half of the windows. The floor parses nothing and sends the same bytes; no server of these bytes can cost less.",
    );
    legend(html, run);
    html.element("div", &[("class", "grid")], |html| {
        for cell in run.cells() {
            html.element("figure", &[], |html| {
                html.line("h3", &[], &cell_name(cell.cell));
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
                chart::bars(html, &format!("CPU per request, {}: {}", cell_name(cell.cell), in_words(&bars)), &bars);
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

fn doubts(html: &mut Html, heading: &str, doubts: &[String]) {
    if doubts.is_empty() {
        return;
    }
    html.element("div", &[("class", "doubts"), ("role", "note")], |html| {
        html.line("p", &[], heading);
        html.element("ul", &[], |html| doubts.iter().for_each(|doubt| html.line("li", &[], doubt)));
    });
}

fn ratios(html: &mut Html, run: &Run) {
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
                    html.line("h3", &[], &cell_name(cell.cell));
                    let words: Vec<String> = rows.iter().map(|row| format!("{} {}", row.label, row.text)).collect();
                    let description = format!("Ratios, {}: {}", cell_name(cell.cell), words.join("; "));
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
        run.gates_of(cell.cell).find(|(gate, _)| is_of(gate)).map(|(gate, _)| gate.ratio_max)
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
        .flat_map(|matrix| &matrix.gates)
        .map(|(gate, ruling)| {
            let ratio = run.cells().find(|cell| cell.cell == gate.cell).and_then(|cell| {
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

fn throughput(html: &mut Html, run: &Run) {
    html.line(
        "p",
        &[],
        "Checked answers per second in a closed loop. An outlined bar is generator-bound: the client's core was full and the server's was not, so the figure is the client's and is refused as the server's.",
    );
    html.element("div", &[("class", "grid")], |html| {
        for cell in run.cells() {
            html.element("figure", &[], |html| {
                html.line("h3", &[], &cell_name(cell.cell));
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
                chart::bars(
                    html,
                    &format!("Requests per second, {}: {}", cell_name(cell.cell), in_words(&bars)),
                    &bars,
                );
            });
        }
    });
}

fn wire_table(html: &mut Html, run: &Run) {
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

fn latency(html: &mut Html, run: &Run) {
    html.line(
        "p",
        &[],
        "Blocks are due at a fixed rate whatever the server does, and count from when they were due: a stall is paid by everything that it kept waiting.",
    );
    let mut runs: Vec<_> = run.latencies.iter().collect();
    runs.sort_by(|one, other| one.responses_per_second.total_cmp(&other.responses_per_second));
    if runs.len() > 1 {
        let curve = |name, class, of: fn(&super::input::PercentilesRun) -> f64| Curve {
            name,
            class,
            points: runs.iter().map(|run| (run.responses_per_second, of(&run.block_latency_us) * 1e3)).collect(),
        };
        let curves = [
            curve("p99.9", "original", |latency| latency.p999),
            curve("p99", "peer", |latency| latency.p99),
            curve("p50", "server", |latency| latency.p50),
        ];
        html.element("figure", &[], |html| {
            html.line("h3", &[], "Latency over requests per second");
            chart::curves(html, "Latency percentiles over the rate; the table below has the same figures", &curves);
        });
    }
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            let latency = &run.block_latency_us;
            let mut row = vec![units::per_second(run.rate.unwrap_or(run.responses_per_second))];
            row.push(units::per_second(run.responses_per_second));
            row.extend([latency.p50, latency.p99, latency.p999, latency.max].map(|us| units::time(us * 1e3)));
            row.push(latency_doubt(run));
            row
        })
        .collect();
    let head = ["asked for", "answered", "p50", "p99", "p99.9", "max", "trust"];
    html.table("Latency at a rate, from when a block was due to its last answer", &head, &rows);
}

fn latency_doubt(run: &super::input::LatencyRun) -> String {
    let faults = run.faults.as_ref().filter(|faults| !faults.is_empty());
    if let Some(faults) = faults {
        return format!("{} requests unanswered", units::count(faults.unanswered as f64));
    }
    if run.rate.is_some_and(|rate| run.responses_per_second < 0.98 * rate) {
        return "the rate was not reached".to_owned();
    }
    if run.generator_busy >= crate::limits::CORE_BUSY_MIN {
        return format!("generator-bound: its core was {} busy", units::percent(run.generator_busy));
    }
    // A block that left late has waited in the client.
    if run.late_us_max > run.block_latency_us.p99 {
        return format!("blocks left up to {} late", units::time(run.late_us_max * 1e3));
    }
    "yes".to_owned()
}

fn ages(html: &mut Html, run: &Run) {
    html.line(
        "p",
        &[],
        "The age of a read is the time from when a client sent the oldest write that it should have shown and did not, to when the read itself was sent; 0 when it shows all. It is taken with cores to spare: otherwise it would be the scheduler's.",
    );
    let beside = run.interferences().map(|report| ("one process".to_owned(), &report.ages, report.writes_per_second));
    let clustered = run
        .clusters
        .iter()
        .map(|report| (format!("cluster, {}", cell_name(report.cell)), &report.ages, report.server.writes_per_second));
    let all: Vec<(String, &Ages, Quartiles)> = beside.chain(clustered).collect();
    html.element("div", &[("class", "grid")], |html| {
        for (name, ages, _) in &all {
            html.element("figure", &[], |html| {
                html.line("h3", &[], name);
                let bars =
                    [("median", ages.p50_ms), ("99 %", ages.p99_ms), ("largest", ages.max_ms)].map(|(label, ms)| Bar {
                        label: label.to_owned(),
                        text: units::time(ms * 1e6),
                        value: ms,
                        whisker: None,
                        class: "server",
                        is_refused: false,
                    });
                chart::bars(html, &format!("Age of what is read, {name}: {}", in_words(&bars)), &bars);
            });
        }
    });
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|(name, ages, writes)| {
            vec![
                name.clone(),
                units::count(writes.median),
                units::per_second(ages.reads_per_second),
                units::time(ages.p50_ms * 1e6),
                units::time(ages.p99_ms * 1e6),
                units::time(ages.max_ms * 1e6),
                ages.went_back_count.to_string(),
                units::time(ages.write_latency_p99_ms * 1e6),
                format!("{:.2}", ages.idle_cores),
                age_doubt(ages),
            ]
        })
        .collect();
    let head = [
        "where",
        "writes/s",
        "reads/s",
        "age p50",
        "age p99",
        "age max",
        "went back",
        "202 p99",
        "idle cores",
        "trust",
    ];
    html.table("Age of what is read", &head, &rows);
    interference_table(html, run);
    cluster_table(html, run);
}

fn age_doubt(ages: &Ages) -> String {
    if ages.generator_busy > crate::limits::AGE_GENERATOR_BUSY_MAX {
        format!("generator-bound: it was {} busy", units::percent(ages.generator_busy))
    } else if ages.idle_cores < crate::limits::AGE_IDLE_CORES_MIN {
        "no: without an idle core this is the scheduler's age".to_owned()
    } else if ages.unreadable_count > 0 {
        format!("no: {} lists are not what was written", ages.unreadable_count)
    } else {
        "yes".to_owned()
    }
}

fn interference_table(html: &mut Html, run: &Run) {
    let rows: Vec<Vec<String>> = run
        .interferences()
        .map(|report| {
            vec![
                cell_name(report.cell),
                units::time(report.shard_ns_alone.median),
                units::time(report.shard_ns_beside.median),
                format!("{:.3} {}", report.ratio.median, units::interval(report.ratio)),
                format!("{:.3} {}", report.a_a.median, units::interval(report.a_a)),
                units::time(report.shard_ns_per_write.median),
                units::per_second(report.reads_per_second_alone.median),
                units::per_second(report.reads_per_second_beside.median),
                if report.a_a.contains(1.0) { "yes" } else { "no: A/A does not contain 1" }.to_owned(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let head = [
            "reads",
            "alone",
            "beside writes",
            "ratio",
            "A/A",
            "one write",
            "reads/s alone",
            "reads/s beside",
            "trust",
        ];
        html.table("Shard CPU of a read beside writes, the writes' own taken off", &head, &rows);
    }
}

fn cluster_table(html: &mut Html, run: &Run) {
    let shown = |estimate: Estimate| format!("{:.3} {}", estimate.median, units::interval(estimate));
    let rows: Vec<Vec<String>> = run
        .clusters
        .iter()
        .map(|report| {
            vec![
                cell_name(report.cell),
                shown(report.alone),
                shown(report.beside),
                shown(report.a_a),
                units::time(report.server.shard_ns_alone.median),
                units::time(report.peer.shard_ns_alone.median),
                if report.a_a.contains(1.0) { "yes" } else { "no: A/A does not contain 1" }.to_owned(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let head = ["reads", "cluster over file", "beside writes", "A/A", "cluster", "file", "trust"];
        html.table("Shard CPU of a read, a server on a cluster's services over one on a file", &head, &rows);
    }
}

fn writes(html: &mut Html, run: &Run) {
    html.line(
        "p",
        &[],
        "A write is answered 202 when it is on the disk. One fdatasync says what the disk allows without batches.",
    );
    let rows: Vec<Vec<String>> = run
        .writes
        .iter()
        .map(|report| {
            let load = report.rate.map_or("closed loop".to_owned(), |rate| format!("{} offered/s", units::count(rate)));
            vec![
                format!("{} connections, depth {}, {load}", report.connections_count, report.depth),
                units::per_second(report.acknowledged_per_second),
                report.commits_per_second.map_or("-".to_owned(), units::count),
                units::time(report.fdatasync_us * 1e3),
                units::time(report.latency_p50_ms * 1e6),
                units::time(report.latency_p99_ms * 1e6),
                units::time(report.server_ns_per_write),
                report.applied.as_ref().map_or("-".to_owned(), |applied| units::per_second(applied.per_second)),
                if report.faults.is_empty() && report.refused == 0 {
                    "yes".to_owned()
                } else {
                    format!("no: {} refused, {} unanswered", report.refused, report.faults.unanswered)
                },
            ]
        })
        .collect();
    let head =
        ["load", "acknowledged", "commits/s", "one fdatasync", "202 p50", "202 p99", "CPU a write", "applied", "trust"];
    html.table("Durable writes", &head, &rows);
}

fn memory(html: &mut Html, run: &Run) {
    let rows: Vec<Vec<String>> = run.memories.iter().map(memory_row).collect();
    if !rows.is_empty() {
        let head = ["connections", "process before", "process held", "each", "kernel's TCP held", "all grew by"];
        html.table("Connections held: process is resident memory and memfds", &head, &rows);
    }
    let rows: Vec<Vec<String>> = run
        .cells()
        .filter_map(|cell| {
            let memory = cell.server_memory?;
            let bytes = [memory.resident_bytes(), memory.memfd_bytes, memory.tcp_bytes];
            Some([vec![cell_name(cell.cell)], bytes.map(|count| units::bytes(count as f64)).to_vec()].concat())
        })
        .collect();
    if !rows.is_empty() {
        let head = ["after the cell", "resident", "memfds", "TCP of the host"];
        html.table("This server after each cell", &head, &rows);
    }
}

fn memory_row(report: &MemoryReport) -> Vec<String> {
    let count = units::count(report.connections_count as f64);
    let bytes = |count: u64| units::bytes(count as f64);
    vec![
        match report.connections {
            Held::Idle => format!("{count} idle"),
            Held::Stalled { limit, depth } => {
                format!("{count} that ask for limit={limit} {depth} times and never read")
            }
        },
        bytes(report.before.process_bytes()),
        bytes(report.held.process_bytes()),
        units::bytes(report.process_bytes_per_connection()),
        bytes(report.held.tcp_bytes),
        bytes(report.grown_bytes()),
    ]
}

fn against(html: &mut Html, comparison: &Comparison) {
    html.line(
        "p",
        &[],
        &format!(
            "This run beside “{}”. Ratios that were taken within each run are compared, never nanoseconds: two hours of a machine are two machines. {}",
            comparison.against,
            comparison.verdict()
        ),
    );
    doubts(html, "The two runs are not of the same", &comparison.caveats);
    let outside: Vec<&_> = comparison.outside_noise().collect();
    if !outside.is_empty() {
        html.line("h3", &[], "Outside the noise");
        html.element("ul", &[("class", "caveats")], |html| {
            for difference in outside {
                let class = if difference.ruling == DifferenceRuling::Less { "less" } else { "more" };
                html.element("li", &[], |html| {
                    html.text(&format!("{}, over {}: ", difference.cell, difference.over));
                    html.line("span", &[("class", class)], &difference.words());
                });
            }
        });
    }
    let shown = |estimate: Estimate| format!("{:.3} {}", estimate.median, units::interval(estimate));
    let rows: Vec<Vec<String>> = comparison
        .differences
        .iter()
        .map(|difference| {
            vec![
                difference.cell.clone(),
                difference.over.clone(),
                shown(difference.new),
                shown(difference.old),
                format!("{:+.1} %", difference.change() * 100.0),
                difference.words(),
            ]
        })
        .collect();
    html.table(
        "Ratios of CPU per request, cell by cell",
        &["cell", "over", "this run", "before", "change", "ruling"],
        &rows,
    );
    if !comparison.missing.is_empty() {
        html.element("ul", &[("class", "caveats")], |html| {
            comparison.missing.iter().for_each(|missing| html.line("li", &[], missing));
        });
    }
}

fn how(html: &mut Html, run: &Run) {
    html.element("ul", &[("class", "caveats")], |html| {
        for words in [
            "Each round runs every server once, in an order drawn anew, on the same core and under the same requests; a ratio is the median of the ratios within rounds, with a 95 % bootstrap interval.",
            "The floor runs twice a round. When the interval of the floor over itself does not contain 1, nothing in that cell is judged.",
            "A pair is judged only when both answered as many requests per read, and a floor only while its user time is under 5 % of its CPU.",
            "Every answer is checked; one wrong or missing answer fails the run.",
        ] {
            html.line("li", &[], words);
        }
    });
    let facts: Vec<Vec<String>> = match (&run.machine, run.host()) {
        (Some(machine), _) => machine.rows().into_iter().map(|(name, value)| vec![name, value]).collect(),
        (None, Some(host)) => [
            ("CPU", host.cpu_model.clone()),
            ("CPUs", host.cpus_count.to_string()),
            ("kernel", host.kernel.clone()),
            ("congestion control", host.congestion_control.clone()),
        ]
        .map(|(name, value)| vec![name.to_owned(), value])
        .to_vec(),
        (None, None) => Vec::new(),
    };
    html.element("div", &[("class", "facts")], |html| html.table("Machine", &["what", "value"], &facts));
    if run.machine.is_none() {
        html.line("p", &[("class", "muted")], "There is no machine.json: the kernel's settings are not known.");
    }
    for matrix in &run.matrices {
        let rounds = &matrix.rounds;
        html.line(
            "p",
            &[],
            &format!(
                "{}, driver {}; {} to {} rounds, windows of {:.2} s after {:.2} s of load, seed {}:",
                matrix.server_version,
                matrix.server_driver,
                rounds.rounds_min,
                rounds.rounds_max,
                rounds.window.as_secs_f64(),
                rounds.warmup.as_secs_f64(),
                rounds.seed
            ),
        );
        html.element("pre", &[("tabindex", "0")], |html| {
            html.line("code", &[], &format!("todo-bench {}", matrix.arguments.join(" ")));
        });
    }
}

fn between(quartiles: Quartiles) -> String {
    // One unit for both: `8.23 to 9.31 µs`.
    let (lower, upper) = (units::time(quartiles.lower), units::time(quartiles.upper));
    let same_unit = lower.rsplit(' ').next() == upper.rsplit(' ').next();
    let lower = if same_unit { lower.split(' ').next().unwrap_or_default() } else { &lower };
    format!("{lower} to {upper}")
}

fn in_words(bars: &[Bar]) -> String {
    bars.iter().map(|bar| format!("{} {}", bar.label, bar.text)).collect::<Vec<_>>().join("; ")
}
