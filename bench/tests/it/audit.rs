//! Recorded results, audited; expectations are worked out by hand beside each.
//!
//! All recordings but the two that say so are of the epoll floor and answers of 1,991 bytes (110 of head, 1,881 of body: ten
//! todos), client and floor on a core each, on a machine that others used too. `original.txt` has the figures that the
//! project this one was made after gives for itself; `inconsistent.txt` is `autocannon.txt` with four figures changed.

use todo_bench::audit::{Audit, Level, Options};

const AUTOCANNON: &str = include_str!("../audit/autocannon.txt");
const AUTOCANNON_JSON: &str = include_str!("../audit/autocannon.json");
const WRK: &str = include_str!("../audit/wrk.txt");
const H2LOAD: &str = include_str!("../audit/h2load.txt");
const H2LOAD_WARM_UP: &str = include_str!("../audit/h2load-warm-up.txt");
const INCONSISTENT: &str = include_str!("../audit/inconsistent.txt");
const ORIGINAL: &str = include_str!("../audit/original.txt");

const RECORDED: Options =
    Options { response_bytes: Some(1_991), body_bytes: None, items: None, depth: None, threads_count: None };
const TEN_TODOS: Options = Options { response_bytes: None, items: Some(10), ..RECORDED };

fn audit(text: &str, options: &Options) -> Audit {
    Audit::of(text, options).unwrap()
}

/// The finding has this level, and its line shows all these figures.
fn check(audit: &Audit, name: &str, level: Level, figures: &[&str]) {
    let finding = audit.finding(name).unwrap_or_else(|| panic!("no finding {name}: {audit:?}"));
    assert_eq!(finding.level, level, "{finding:?}");
    for figure in figures {
        assert!(finding.words.contains(figure), "{figure} is not in {finding:?}");
    }
}

#[test]
fn autocannon_text_is_consistent_and_client_bound() {
    let audit = audit(AUTOCANNON, &RECORDED);
    // 43,334.4 x 10 samples = 433,344 answered; the text counts 1,000 in flight too, and rounds to 434k.
    check(&audit, "totals", Level::Holds, &["433,344", "434,000"]);
    // 863,000,000 / 433,344 = 1,991.5.
    check(&audit, "bytes per response", Level::Holds, &["1991.5", "1991 were expected"]);
    // 100 x 10 / 43,334.4 = 23.08 ms.
    check(&audit, "Little's law", Level::Holds, &["23.1 ms", "22.9 ms"]);
    // 0.475 x 8 + 0.475 x 20 + 0.015 x 51 + 0.01 x 63 = 14.7; 0.025 x 8 + 0.475 x 20 + 0.475 x 51 + 0.015 x 63 + 0.01 x 208 = 36.95.
    check(&audit, "mean", Level::Holds, &["14.7 to 37.0", "22.93"]);
    // 43,334.4 x 9.5 us = 0.41 s, x 16 us = 0.69 s of CPU a second: of the CPU that was really used, 8.6 s in 10.2, 20 us each.
    check(&audit, "client", Level::Note, &["0.41 to 0.69", "client-bound"]);
    assert!(audit.is_consistent(), "{audit:?}");
    assert!(audit.verdict.contains("autocannon's own limit"), "{}", audit.verdict);
}

#[test]
fn autocannon_json_is_consistent() {
    let audit = audit(AUTOCANNON_JSON, &RECORDED);
    // 64 / 19,372.8 = 3.30 ms; whole milliseconds, cut, make that 2.8.
    check(&audit, "Little's law", Level::Holds, &["3.30 ms", "2.80 ms", "whole milliseconds"]);
    check(&audit, "percentiles", Level::Holds, &["p2.5 0", "p99.99 42", "max 44"]);
    // 192,876,134 / (19,372.8 x 5 = 96,864) = 1,991.2.
    check(&audit, "bytes per response", Level::Holds, &["192,876,134", "96,864", "1991.2"]);
    assert!(audit.is_consistent(), "{audit:?}");
}

#[test]
fn wrk_text_is_consistent() {
    let audit = audit(WRK, &RECORDED);
    // 26,142.45 x 8.08 = 211,231.
    check(&audit, "totals", Level::Holds, &["211,231", "211,145"]);
    // wrk's MB is 1,048,576: 400.91 x 1,048,576 / 211,145 = 1,990.98. By decimal units it would be 1,898.7.
    check(&audit, "bytes per response", Level::Holds, &["(binary)", "1991.0"]);
    // 100 / 26,142.45 = 3.825 ms, 3.16 / 3.825 = 0.826.
    check(&audit, "Little's law", Level::Note, &["3.83 ms", "3.16 ms", "17 %"]);
    assert!(audit.is_consistent(), "{audit:?}");
}

#[test]
fn h2load_text_is_consistent_when_its_depth_is_said() {
    let options = Options { depth: Some(4), ..RECORDED };
    let plain = audit(H2LOAD, &options);
    // 50 x 4 / 81,641.60 = 2.4497 ms.
    check(&plain, "Little's law", Level::Holds, &["2.45 ms"]);
    // 155.02 x 1,048,576 x 5 = 812,751,258 of 812,742,128; by decimal units 775,100,000.
    check(&plain, "units", Level::Holds, &["812,742,128", "812,751,258", "only binary"]);
    // 812,742,128 / 408,208 = 1,991 exactly.
    check(&plain, "bytes per response", Level::Holds, &["1991.0"]);
    assert!(plain.is_consistent(), "{plain:?}");
    assert!(audit(H2LOAD, &RECORDED).finding("Little's law").is_none(), "h2load does not say its depth");

    // The rate is of the 5 s after the warm-up, of the 6.01 s that are printed: 89,353.6 x 5 = 446,768.
    let warmed = audit(H2LOAD_WARM_UP, &options);
    check(&warmed, "totals", Level::Holds, &["5.00 s", "446,768"]);
    // A real contradiction of the tool: 1,026,589,608 bytes of bodies in 889,515,088 bytes in all.
    check(&warmed, "parts", Level::Doubt, &["1,026,589,608", "889,515,088"]);
    assert!(warmed.is_consistent(), "{warmed:?}");
}

#[test]
fn what_was_changed_is_found() {
    let audit = audit(INCONSISTENT, &RECORDED);
    // 434k became 868k, 863 MB became 863 GB, p99 and p97.5 changed places, and the mean became 7.93 ms.
    check(&audit, "totals", Level::Contradiction, &["433,344", "868,000", "100.30 % more"]);
    check(&audit, "units", Level::Contradiction, &["no meaning"]);
    check(&audit, "bytes per response", Level::Contradiction, &["1991489.4"]);
    check(&audit, "percentiles", Level::Contradiction, &["p97.5 63", "p99 51"]);
    // 7.93 / 23.08 = 0.344 of what must be in flight.
    check(&audit, "Little's law", Level::Contradiction, &["34.4 %"]);
    check(&audit, "mean", Level::Contradiction, &["7.93"]);
    assert!(!audit.is_consistent() && audit.verdict.starts_with("Inconsistent"), "{}", audit.verdict);
}

#[test]
fn the_original_has_one_figure_in_binary_units_and_no_ten_todos() {
    let audit = audit(ORIGINAL, &TEN_TODOS);
    // 195.40 x 60.01 = 11,725.95 MB = 11.73 GB, 2.41 % more than 11.45; 11,725.95 / 1,024 = 11.451 GiB.
    check(&audit, "units", Level::Doubt, &["11.73 GB (2.41 % more)", "11.45 GB (0.01 % more)", "GB is GiB"]);
    // 11.45 x 1,073,741,824 = 12,294,343,885; / 30,001,000 = 409.8. Ten of the shortest todos: 10 x 38 + 9 commas + 2 brackets
    // + 40 of head = 431. (409.8 - 40 - 1) / 39 = 9.4.
    check(&audit, "bytes per response", Level::Contradiction, &["12,294,343,885", "409.8", "= 431", "room for 9"]);
    // 2,000 x 80 / 500,023.45 = 0.31998 s.
    check(&audit, "Little's law", Level::Holds, &["320.0 ms", "320.1 ms"]);
    // 500,023.45 x 60 = 30,001,407: the total is what was answered, but autocannon prints what was sent.
    check(&audit, "in flight", Level::Doubt, &["30,001,407", "160,000", "30,161,407", "30,001,000"]);
    // pretty-bytes would have written 11.5 GB.
    check(&audit, "digits", Level::Doubt, &["11.45 GB"]);
    // 500,023.45 x 9.5 us = 4.75 s, x 16 us = 8.00 s of CPU each second, in one thread.
    check(&audit, "client", Level::Doubt, &["4.75 to 8.00", "2.0 us"]);
    // 12,500 / 500,023.45 = 2.50 %; 4.8 / 195.4 = 2.46 %.
    check(&audit, "spreads", Level::Holds, &["2.50 %", "2.46 %"]);
    // 0.475 x 180 + 0.475 x 305 + 0.015 x 490 + 0.01 x 560 = 243.3;
    // 0.025 x 180 + 0.475 x 305 + 0.475 x 490 + 0.015 x 560 + 0.01 x 1,120 = 401.7.
    check(&audit, "mean", Level::Holds, &["243.3 to 401.7", "320.12"]);
    check(&audit, "totals", Level::Holds, &["30,006,407", "30,001,000"]);
    check(&audit, "percentiles", Level::Holds, &["p2.5 180 <= p50 305 <= p97.5 490 <= p99 560 <= max 1120"]);
    assert!(!audit.is_consistent());
}

#[test]
fn a_client_whose_timer_is_late_is_judged_by_the_whole_run() {
    // 2,000 connections x 80: 14.95 million answers in 229 s, two samples; 65,284 a second, not 7.5 million.
    let text = "Running 20s test @ http://127.0.0.1:8080/todos?limit=10\n2000 connections with 80 pipelining factor\n\
        │ Stat │ 50% │ Avg │ Max │\n│ Latency │ 2400 ms │ 2450 ms │ 4000 ms │\n│ Stat │ Avg │\n│ Req/Sec │ 7,395,000 │\n\
        # of samples: 2\n14950k requests in 229s, 29.4 GB read\n";
    let audit = audit(text, &Options { items: Some(10), ..TEN_TODOS });
    check(&audit, "samples", Level::Doubt, &["2 samples", "229.00 s", "65,284"]);
    // 160,000 / 65,284 = 2.451 s.
    check(&audit, "Little's law", Level::Holds, &["2450.8 ms"]);
    check(&audit, "client", Level::Note, &["65,284"]);
}

#[test]
fn bodies_need_a_head() {
    // 1,991.0 bytes: a body of 1,881 and a head of 110.
    let of_body = |bytes| audit(WRK, &Options { response_bytes: None, body_bytes: Some(bytes), ..RECORDED });
    check(&of_body(1_881), "bytes per response", Level::Holds, &["1921 to 2905"]);
    check(&of_body(2_001), "bytes per response", Level::Contradiction, &["2041 to 3025"]);
    check(&of_body(900), "bytes per response", Level::Contradiction, &["940 to 1924"]);
}
