//! Drawings. All are 360 units wide, with names above what they name: the same drawing is read on a phone and in a grid.

use crate::report::html::Html;
use crate::report::input::{ORIGINAL, SERVER, is_peer};
use crate::report::units;
use crate::statistics::Estimate;
use std::ops::Range;

const WIDTH: f64 = 360.0;
const ROW_HEIGHT: f64 = 38.0;
const MARGIN: f64 = 8.0;

/// The colour of a kind.
pub fn class(kind: &str) -> &'static str {
    match kind {
        SERVER => "server",
        ORIGINAL => "original",
        "loop" => "loop",
        kind if is_peer(kind) => "peer",
        _ => "floor",
    }
}

/// One row of bars.
pub struct Bar {
    /// Left above the bar.
    pub label: String,
    /// Right above it.
    pub text: String,
    /// Its length.
    pub value: f64,
    /// Quartiles.
    pub whisker: Option<(f64, f64)>,
    /// Its colour.
    pub class: &'static str,
    /// Only outlined: not to be believed.
    pub is_refused: bool,
}

/// Bars from 0, all on one scale.
pub fn bars(html: &mut Html, description: &str, bars: &[Bar]) {
    let largest = bars.iter().map(|bar| bar.whisker.map_or(bar.value, |(_, upper)| upper.max(bar.value)));
    let largest = largest.fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| value.max(0.0) / largest * (WIDTH - 2.0);
    svg(html, ROW_HEIGHT * bars.len() as f64, description, |html| {
        for (index, bar) in bars.iter().enumerate() {
            let top = ROW_HEIGHT * index as f64;
            html.element("g", &[], |html| {
                html.line("title", &[], &format!("{}: {}", bar.label, bar.text));
                text(html, 0.0, top + 13.0, "start", if bar.class == "server" { "strong" } else { "" }, &bar.label);
                text(html, WIDTH, top + 13.0, "end", "", &bar.text);
                rect(html, 0.0, top + 19.0, WIDTH, 11.0, "track");
                let class = if bar.is_refused { format!("{} refused", bar.class) } else { bar.class.to_owned() };
                rect(html, 1.0, top + 19.0, x(bar.value).max(1.5), 11.0, &class);
                if let Some((lower, upper)) = bar.whisker {
                    let (left, right, middle) = (1.0 + x(lower), 1.0 + x(upper), top + 24.5);
                    let path = format!(
                        "M{left:.1} {:.1}V{:.1}M{left:.1} {middle:.1}H{right:.1}M{right:.1} {:.1}V{:.1}",
                        middle - 4.0,
                        middle + 4.0,
                        middle - 4.0,
                        middle + 4.0
                    );
                    html.leaf("path", &[("class", "whisker"), ("d", &path)]);
                }
            });
        }
    });
}

/// One row of a forest plot.
pub struct Interval {
    /// Left above it.
    pub label: String,
    /// Right above it.
    pub text: String,
    /// What is drawn.
    pub estimate: Estimate,
    /// The largest good value.
    pub gate: Option<f64>,
    /// Its colour.
    pub class: &'static str,
    /// Drawn faint.
    pub is_unjudged: bool,
}

/// A scale that many drawings share.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    range: Range<f64>,
    is_logarithmic: bool,
}

impl Axis {
    /// Holds all of these, and 1.
    pub fn around_one(values: impl IntoIterator<Item = f64>) -> Axis {
        let (low, high) =
            values.into_iter().fold((1.0_f64, 1.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        let is_logarithmic = low < 0.5 || high > 2.0;
        let range = if is_logarithmic {
            (low * 0.8).max(1e-6)..high * 1.25
        } else {
            let margin = ((high - low) * 0.06).max(0.01);
            low - margin..high + margin
        };
        Axis { range, is_logarithmic }
    }

    fn x(&self, value: f64) -> f64 {
        let Range { start, end } = self.range;
        let share = if self.is_logarithmic {
            (value.max(start) / start).ln() / (end / start).ln()
        } else {
            (value - start) / (end - start)
        };
        MARGIN + share.clamp(0.0, 1.0) * (WIDTH - 2.0 * MARGIN)
    }

    fn ticks(&self) -> Vec<f64> {
        let Range { start, end } = self.range;
        if self.is_logarithmic {
            let decades = start.log10().floor() as i32..=end.log10().ceil() as i32;
            let all = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(decade)));
            let all: Vec<f64> = all.filter(|tick| (start..end).contains(tick)).collect();
            // 1 always is one of those that stay.
            let step = all.len().div_ceil(6).max(1);
            let one = all.iter().position(|tick| (tick - 1.0).abs() < 1e-9).unwrap_or(0);
            return all
                .into_iter()
                .enumerate()
                .filter(|(index, _)| index % step == one % step)
                .map(|(_, tick)| tick)
                .collect();
        }
        let step =
            [0.01, 0.02, 0.05, 0.1, 0.2, 0.5].into_iter().find(|step| (end - start) / step <= 6.0).unwrap_or(1.0);
        let first = (start / step).ceil() as i64;
        (first..).map(|index| index as f64 * step).take_while(|&tick| tick < end).collect()
    }
}

/// Intervals around 1, with gates.
pub fn forest(html: &mut Html, description: &str, axis: &Axis, rows: &[Interval]) {
    let bottom = ROW_HEIGHT * rows.len() as f64;
    svg(html, bottom + 20.0, description, |html| {
        for tick in axis.ticks() {
            let is_one = (tick - 1.0).abs() < 1e-9;
            // Beside the intervals only: across the figures above them lines would be read as digits.
            for index in 0..rows.len() {
                let top = ROW_HEIGHT * index as f64;
                vertical(html, axis.x(tick), top + 17.0, top + 33.0, if is_one { "one" } else { "grid-line" });
            }
            let words = format!("{tick:.3}");
            let words = words.trim_end_matches('0').trim_end_matches('.');
            text(html, axis.x(tick), bottom + 12.0, "middle", "small", words);
        }
        for (index, row) in rows.iter().enumerate() {
            let top = ROW_HEIGHT * index as f64;
            let middle = top + 25.0;
            let attributes = [("class", if row.is_unjudged { "unjudged" } else { "judged" })];
            html.element("g", &attributes, |html| {
                html.line("title", &[], &format!("{}: {}", row.label, row.text));
                text(html, 0.0, top + 13.0, "start", "", &row.label);
                text(html, WIDTH, top + 13.0, "end", "", &row.text);
                let Estimate { median, low, high } = row.estimate;
                let [y, left, right, at] =
                    [middle, axis.x(low), axis.x(high), axis.x(median)].map(|value| format!("{value:.1}"));
                let class = format!("{} interval", row.class);
                html.leaf("line", &[("class", &class), ("x1", &left), ("x2", &right), ("y1", &y), ("y2", &y)]);
                html.leaf("circle", &[("class", row.class), ("cx", &at), ("cy", &y), ("r", "4.5")]);
                if let Some(gate) = row.gate {
                    vertical(html, axis.x(gate), middle - 8.0, middle + 8.0, "gate");
                }
            });
        }
    });
}

/// One curve: its name, its colour, its points.
pub struct Curve {
    /// Beside its last point.
    pub name: &'static str,
    /// Its colour.
    pub class: &'static str,
    /// Rate, and nanoseconds.
    pub points: Vec<(f64, f64)>,
}

/// Times over a rate, times on a logarithmic scale; the highest curve comes first.
pub fn curves(html: &mut Html, description: &str, curves: &[Curve]) {
    const HEIGHT: f64 = 230.0;
    let (left, right, bottom) = (58.0, WIDTH - 44.0, HEIGHT - 34.0);
    let points = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let rate_max = points().map(|(rate, _)| rate).fold(f64::MIN_POSITIVE, f64::max);
    let time_max = points().map(|(_, ns)| ns).fold(10.0, f64::max);
    let time_min = points().map(|(_, ns)| ns.max(1.0)).fold(time_max, f64::min);
    let decades = time_min.log10().floor() as i32..=time_max.log10().ceil() as i32;
    let span = f64::from((decades.end() - decades.start()).max(1));
    let x = |rate: f64| left + rate / rate_max * (right - left);
    let y = |ns: f64| bottom - (ns.max(1.0).log10() - f64::from(*decades.start())) / span * (bottom - 12.0);
    svg(html, HEIGHT, description, |html| {
        for decade in decades.clone() {
            let ns = 10_f64.powi(decade);
            let [at, from, to] = [y(ns), left, right].map(|value| format!("{value:.1}"));
            html.leaf("line", &[("class", "grid-line"), ("x1", &from), ("x2", &to), ("y1", &at), ("y2", &at)]);
            text(html, left - 6.0, y(ns) + 4.0, "end", "small", &decade_name(decade));
        }
        for (share, anchor) in [(0.0, "start"), (0.5, "middle"), (1.0, "end")] {
            text(html, x(rate_max * share), bottom + 16.0, anchor, "small", &units::per_second(rate_max * share));
        }
        let mut name_bottom = f64::NEG_INFINITY;
        for curve in curves {
            let path: Vec<String> =
                curve.points.iter().map(|&(rate, ns)| format!("{:.1} {:.1}", x(rate), y(ns))).collect();
            let class = format!("{} curve", curve.class);
            html.leaf("path", &[("class", &class), ("style", "fill:none"), ("d", &format!("M{}", path.join("L")))]);
            for &(rate, ns) in &curve.points {
                html.element(
                    "circle",
                    &[
                        ("class", curve.class),
                        ("cx", &format!("{:.1}", x(rate))),
                        ("cy", &format!("{:.1}", y(ns))),
                        ("r", "3.5"),
                    ],
                    |html| {
                        let words = format!("{} at {}: {}", curve.name, units::per_second(rate), units::time(ns));
                        html.line("title", &[], &words);
                    },
                );
            }
            if let Some(&(rate, ns)) = curve.points.last() {
                // Highest first: a name that would cover the one before goes below it.
                let name_y = (y(ns) + 4.0).max(name_bottom + 12.0);
                name_bottom = name_y;
                text(html, x(rate) + 8.0, name_y, "start", "small", curve.name);
            }
        }
    });
}

fn decade_name(decade: i32) -> String {
    let unit = ["ns", "µs", "ms", "s"][decade.clamp(0, 11) as usize / 3];
    format!("{} {unit}", 10_u32.pow((decade.clamp(0, 11) % 3) as u32))
}

fn svg(html: &mut Html, height: f64, description: &str, content: impl FnOnce(&mut Html)) {
    let view = format!("0 0 {WIDTH} {height}");
    html.element("svg", &[("viewBox", &view), ("role", "img"), ("aria-label", description)], |html| {
        html.line("title", &[], description);
        content(html);
    });
}

fn text(html: &mut Html, x: f64, y: f64, anchor: &str, class: &str, words: &str) {
    let [x, y] = [x, y].map(|value| format!("{value:.1}"));
    html.line("text", &[("x", &x), ("y", &y), ("text-anchor", anchor), ("class", class)], words);
}

fn rect(html: &mut Html, x: f64, y: f64, width: f64, height: f64, class: &str) {
    let [x, y, width, height] = [x, y, width, height].map(|value| format!("{value:.1}"));
    html.leaf("rect", &[("class", class), ("x", &x), ("y", &y), ("width", &width), ("height", &height), ("rx", "2")]);
}

fn vertical(html: &mut Html, x: f64, from: f64, to: f64, class: &str) {
    let [x, from, to] = [x, from, to].map(|value| format!("{value:.1}"));
    html.leaf("line", &[("class", class), ("x1", &x), ("x2", &x), ("y1", &from), ("y2", &to)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes() {
        let narrow = Axis::around_one([0.97, 1.1]);
        assert!(!narrow.is_logarithmic && narrow.range.contains(&0.97) && narrow.range.contains(&1.1), "{narrow:?}");
        assert!(narrow.ticks().iter().any(|tick| (tick - 1.0).abs() < 1e-9), "{:?}", narrow.ticks());
        let wide = Axis::around_one([0.08, 0.9]);
        assert!(wide.is_logarithmic && wide.range.contains(&0.08), "{wide:?}");
        assert!(wide.ticks().iter().any(|tick| (tick - 1.0).abs() < 1e-9), "{:?}", wide.ticks());
        for axis in [narrow, wide] {
            assert!(axis.ticks().len() <= 7, "{:?}", axis.ticks());
            assert_eq!((axis.x(1e-9), axis.x(1e9)), (MARGIN, WIDTH - MARGIN), "what lies outside stays on the paper");
        }
    }

    #[test]
    fn decades() {
        assert_eq!([0, 4, 6, 9].map(decade_name), ["1 ns", "10 µs", "1 ms", "1 s"]);
    }
}
