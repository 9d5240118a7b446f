//! The page of a recorded run, and what it says about it. The run is a real matrix whose machine has another name, with peers,
//! faults of measurement and the other files made up.

use std::path::{Path, PathBuf};
use todo_bench::matrix::{self, Cell, Kind, Rounds, Sample, Slot};
use todo_bench::process::counters::Counters;
use todo_bench::process::host::Host;
use todo_bench::report::compare::DifferenceRuling;
use todo_bench::report::input::{MatrixRun, ORIGINAL};
use todo_bench::report::{Comparison, Run, render};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report").join(name)
}

fn run() -> Run {
    Run::read(&fixture("run")).unwrap()
}

fn page() -> String {
    let run = run();
    render(&run, Some(&Comparison::of(&run, &Run::read(&fixture("before")).unwrap())))
}

/// Every tag is closed by its own, in order; no attribute holds what could end it.
fn check_well_formed(page: &str) {
    let body = page.strip_prefix("<!DOCTYPE html>\n").expect("a doctype");
    let mut open: Vec<&str> = Vec::new();
    let mut rest = body;
    while let Some((text, after)) = rest.split_once('<') {
        assert!(!text.contains('>') || open.last() == Some(&"style"), "a bare > in {text:?}");
        let (tag, after) = after.split_once('>').expect("a tag that ends");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            open.push(tag.split(' ').next().unwrap());
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn the_page_is_well_formed_and_loads_nothing() {
    let page = page();
    check_well_formed(&page);
    for forbidden in ["<script", "http://", "https://", "url(", "@import", "src=", "<link", "javascript:"] {
        let found = page.find(forbidden);
        assert_eq!(found.map(|at| &page[at..(at + 80).min(page.len())]), None, "{forbidden}");
    }
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("width=device-width"));
    let drawings = page.matches("<svg").count();
    assert!(drawings > 10 && page.matches("role=\"img\"").count() == drawings, "every drawing has words");
    // Anchors lead somewhere.
    for target in page.split("href=\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(page.contains(&format!("id=\"{target}\"")), "{target}");
    }
}

#[test]
fn the_first_screen_has_the_figures() {
    let page = page();
    let first = page.split("<nav").next().unwrap();
    // Medians of the fixture: 1.030 over the floor, 0.566 over may-minihttp, 0.071 over the original, all at depth 1; 2.02
    // million at depth 80 and 108 thousand at depth 1 are the server's own, p99 of the ages is 16.89 ms.
    for figure in ["1.03 ×", "0.57 ×", "may-minihttp", "0.071 ×", "2.02 M/s", "At depth 1: 108 thousand", "16.9 ms"]
    {
        assert!(first.contains(figure), "{figure} is not in {first}");
    }
    for caveat in ["Over loopback", "On 2 CPUs", "virtual machine", "In 1 of 5 cells"] {
        assert!(first.contains(caveat), "{caveat}");
    }
}

#[test]
fn what_was_not_measured_is_said() {
    let mut run = run();
    run.latencies.clear();
    run.machine = None;
    for matrix in &mut run.matrices {
        matrix.writes = None;
        for cell in &mut matrix.cells {
            cell.figures.retain(|figures| !figures.kind.starts_with("peer-"));
        }
    }
    run.clusters.clear();
    let page = render(&run, None);
    check_well_formed(&page);
    for words in ["No peer ran.", "The original did not run.", "Nobody wrote in this run.", "There is no machine.json"]
    {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("id=\"latency\"") && !page.contains("id=\"against\""));
}

#[test]
fn every_reason_not_to_trust_shows() {
    let page = page();
    for reason in [
        "A/A does not contain 1: the floor over itself is [0.882, 0.971]",
        "Requests/s are generator-bound, so they are the client&#39;s: this server (core 94 % busy, the generator&#39;s 99 %)",
        "Spread too wide, half of the windows lie outside: this server",
        "Spread too wide: the interval over floor holds both 1 and its gate 1.1",
        // limit=1000 at 26,793/s: 188,789 bytes in 131 segments are 200,579; x 26,793 x 8 = 43.0 Gb/s.
        "Wire limit: these requests/s need 43.0 Gb/s, it takes a card of 100 GbE",
        "The gate over sendfile is not judged: the reference was not run.",
        "the rate was not reached",
        "without an idle core this is the scheduler&#39;s age",
    ] {
        assert!(page.contains(reason), "{reason}");
    }
    let mut run = run();
    run.matrices[0].cells[0].faults.push("server: 3 lost".into());
    run.matrices[0].cells[0].ratios[0].unjudged = Some("16.0 and 12.0 requests per read".into());
    run.matrices[0].cells[1].a_a = None;
    run.latencies[0].generator_busy = 0.99;
    run.latencies[1].late_us_max = 1e6;
    let page = render(&run, None);
    for reason in [
        "Answers were wrong or missing: server: 3 lost.",
        "Not judged: this server over floor, uring: 16.0 and 12.0 requests per read.",
        "No floor ran twice",
        "generator-bound: its core was 99 % busy",
        "blocks left up to 1.00 s late",
    ] {
        assert!(page.contains(reason), "{reason}");
    }
}

#[test]
fn text_of_a_file_is_no_markup() {
    let mut run = run();
    let hostile = "\"><script>alert('&')</script>";
    run.name = hostile.into();
    run.matrices[0].server_version = hostile.into();
    run.matrices[0].arguments = vec![hostile.into()];
    run.matrices[0].host.cpu_model = hostile.into();
    run.machine = None;
    for cell in &mut run.matrices[0].cells {
        cell.figures[0].kind = format!("peer-{hostile}");
        cell.faults.push(hostile.into());
    }
    let page = render(&run, Some(&Comparison::of(&run, &run)));
    check_well_formed(&page);
    assert!(!page.contains("<script") && page.contains("&quot;&gt;&lt;script&gt;alert(&#39;&amp;&#39;)"));
}

#[test]
fn two_runs_are_compared_by_their_ratios() {
    let run = run();
    let comparison = Comparison::of(&run, &Run::read(&fixture("before")).unwrap());
    let outside: Vec<(&str, &str, &DifferenceRuling)> = comparison
        .outside_noise()
        .map(|difference| (difference.cell.as_str(), difference.over.as_str(), &difference.ruling))
        .collect();
    // [1.026, 1.085] is all below [1.121, 1.162]; [0.976, 1.057] is all above [0.941, 0.969].
    assert_eq!(
        outside,
        [
            ("limit=10, 64 connections, depth 80, with peers", "the floor", &DifferenceRuling::Less),
            ("limit=1000, 64 connections, depth 1", "the floor", &DifferenceRuling::More),
        ]
    );
    let text = comparison.to_string();
    // 1.066 / 1.140 = 0.935.
    assert!(text.contains("outside the noise: 6.5 % less CPU than before"), "{text}");
    assert!(text.contains("cannot be compared: this run: the floor against itself is 0.882 to 0.971"), "{text}");
    assert!(text.contains("kernel: 6.18.0, it was 6.12.0"), "{text}");
    assert!(text.contains("limit=10, 2,000 connections, depth 80: only in this run"), "{text}");
    assert!(page().contains("outside the noise: 5.8 % more CPU than before"));
    // Nothing differs from itself.
    assert_eq!(Comparison::of(&run, &run).outside_noise().count(), 0);
}

#[test]
fn a_ratio_that_nobody_judged_is_taken_from_the_samples() {
    let run = run();
    let cell = run.cells().next().unwrap();
    assert!(!std::fs::read_to_string(fixture("run").join("matrix.json")).unwrap().contains("\"over\": \"peer-"));
    let ratio = cell.ratio_over(ORIGINAL).unwrap().estimate;
    // The fixture's original costs 14 times 0.95 to 1.06 as much in each round: 1/14.84 to 1/13.3.
    assert!((0.0673..=0.0752).contains(&ratio.median) && ratio.low <= ratio.median, "{ratio:?}");
    assert_eq!(cell.best_peer().map(|figures| figures.kind.as_str()), Some("peer-may-minihttp"));
}

#[test]
fn what_a_matrix_writes_today_can_be_read() {
    let cell = Cell { limit: 10, connections_count: 64, depth: 16 };
    let slots = [Kind::Server, Kind::FloorEpoll, Kind::FloorEpoll].into_iter().enumerate();
    let slots: Vec<Slot> = slots.map(|(index, kind)| Slot { kind, repeat: index / 2 }).collect();
    let sample = |cpu_ns| Sample {
        cpu_ns,
        shard_cpu_ns: cpu_ns,
        responses_per_second: 1e9 / cpu_ns,
        generator_busy: 0.5,
        target_busy: 0.99,
        user_ticks: 1,
        system_ticks: 99,
        counters: Counters { requests: 160, reads: 10 },
    };
    let samples = [110.0, 100.0, 100.0].map(|ns| vec![sample(ns); 4]).to_vec();
    let report = matrix::judge(cell, &slots, samples, Vec::new(), 1);
    let gates = matrix::issue_gates().into_iter().filter(|gate| gate.cell == cell);
    let gates = gates.map(|gate| (gate, gate.rule(std::slice::from_ref(&report)))).collect();
    let second = std::time::Duration::from_secs(1);
    let report = matrix::Report {
        host: Host::read(),
        server_version: "todo-server 0.1.0".into(),
        server_driver: "epoll".into(),
        arguments: vec!["matrix".into()],
        rounds: Rounds { rounds_min: 4, rounds_max: 4, a_a_width: None, warmup: second, window: second, seed: 1 },
        cells: vec![report],
        gates,
        writes: None,
    };
    let text = serde_json::to_string(&report).unwrap();
    let matrix: MatrixRun = serde_json::from_str(&text).unwrap();
    let ratio = matrix.cells[0].ratio_over("floor-epoll").unwrap();
    assert!((ratio.estimate.median - 1.1).abs() < 1e-9 && ratio.unjudged.is_none(), "{ratio:?}");
    assert_eq!(matrix.gates.len(), 2, "over the floor and over loop");
    check_well_formed(&render(&Run { matrices: vec![matrix], ..Run::default() }, None));
}

#[test]
fn a_directory_that_is_no_run() {
    let directory = tempfile::tempdir().unwrap();
    let error = || Run::read(directory.path()).unwrap_err().to_string();
    assert!(error().contains("no matrix.json"), "{}", error());
    std::fs::write(directory.path().join("matrix.json"), "{\"host\": 3}").unwrap();
    assert!(error().contains("matrix.json: "), "{}", error());
    // Only NAME.json and NAME-*.json are read.
    std::fs::write(directory.path().join("matrixes.json"), "no JSON").unwrap();
    std::fs::copy(fixture("run").join("matrix.json"), directory.path().join("matrix-first.json")).unwrap();
    std::fs::remove_file(directory.path().join("matrix.json")).unwrap();
    assert_eq!(Run::read(directory.path()).unwrap().cells().count(), 5);
}
