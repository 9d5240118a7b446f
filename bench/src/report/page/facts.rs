//! Beside another run, and how it all was measured.

use crate::report::compare::{Comparison, DifferenceRuling};
use crate::report::html::Html;
use crate::report::input::Run;
use crate::report::page::doubts;
use crate::report::units;
use crate::statistics::Estimate;

pub fn against(html: &mut Html, comparison: &Comparison) {
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

pub fn how(html: &mut Html, run: &Run) {
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
