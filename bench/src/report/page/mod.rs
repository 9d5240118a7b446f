//! The page, section by section, top to bottom.

mod facts;
mod loads;
mod reads;

use crate::report::chart::Bar;
use crate::report::compare::Comparison;
use crate::report::html::Html;
use crate::report::input::Run;
use crate::report::summary;

const TITLE: &str = "Todo API: what a request costs";

/// A section: its anchor, its heading, what is in it.
type Section<'r> = (&'static str, &'static str, Box<dyn FnOnce(&mut Html) + 'r>);

/// Everything, from doctype to end.
pub fn render(run: &Run, comparison: Option<&Comparison>) -> String {
    let sections = sections(run, comparison);
    let mut html = Html::default();
    html.element("html", &[("lang", "en")], |html| {
        html.element("head", &[], |html| {
            html.leaf("meta", &[("charset", "utf-8")]);
            html.leaf("meta", &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")]);
            html.leaf("meta", &[("name", "color-scheme"), ("content", "light dark")]);
            html.line("title", &[], TITLE);
            html.style(include_str!("../style.css"));
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
        sections.push(("against", "Against another run", Box::new(|html| facts::against(html, comparison))));
    }
    sections.push(("cpu", "CPU per request", Box::new(|html| reads::cpu(html, run))));
    sections.push(("ratios", "Ratios and gates", Box::new(|html| reads::ratios(html, run))));
    sections.push(("throughput", "Requests per second of one core", Box::new(|html| reads::throughput(html, run))));
    sections.push(("wire", "What a wire lets through", Box::new(|html| reads::wire_table(html, run))));
    if !run.latencies.is_empty() {
        sections.push(("latency", "Latency at a rate", Box::new(|html| loads::latency(html, run))));
    }
    if run.interferences().next().is_some() || !run.clusters.is_empty() {
        sections.push((
            "age",
            "Reads beside writes, and the age of what is read",
            Box::new(|html| loads::ages(html, run)),
        ));
    }
    if !run.writes.is_empty() {
        sections.push(("writes", "Durable writes", Box::new(|html| loads::writes(html, run))));
    }
    if !run.memories.is_empty() || run.cells().any(|cell| cell.server_memory.is_some()) {
        sections.push(("memory", "Memory", Box::new(|html| loads::memory(html, run))));
    }
    sections.push(("how", "What was measured, and how", Box::new(|html| facts::how(html, run))));
    sections
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

fn in_words(bars: &[Bar]) -> String {
    bars.iter().map(|bar| format!("{} {}", bar.label, bar.text)).collect::<Vec<_>>().join("; ")
}
