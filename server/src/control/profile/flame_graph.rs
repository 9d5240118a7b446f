//! A profile as a picture: a box for each function, as wide as it was often seen, on top of those that called it. It needs no
//! script; a box says its name and share when the pointer rests on it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Profile;
use crate::limits::FLAME_GRAPH_SHARE_MIN;

const WIDTH: f64 = 1600.0;
const ROW_HEIGHT: usize = 18;
const HEADING_HEIGHT: usize = 34;
/// Of a letter, about.
const LETTER_WIDTH: f64 = 7.2;

/// A function as called by those below it.
#[derive(Default)]
struct Box<'p> {
    samples_count: u64,
    on_top: BTreeMap<&'p str, Box<'p>>,
}

impl<'p> Box<'p> {
    fn of(profile: &'p Profile) -> Box<'p> {
        let mut all = Box::default();
        for stack in &profile.stacks {
            let functions = stack.frames.iter().rev().flat_map(|frame| frame.iter().rev());
            all.samples_count += stack.samples_count;
            let mut on = &mut all;
            for name in std::iter::once(stack.thread.as_str()).chain(functions.map(|place| place.function.as_str())) {
                on = on.on_top.entry(name).or_default();
                on.samples_count += stack.samples_count;
            }
        }
        all
    }

    /// Rows of what is wide enough, this one not counted.
    fn rows_count(&self, samples_min: f64) -> usize {
        let on_top = self.on_top.values().filter(|above| above.samples_count as f64 >= samples_min);
        on_top.map(|above| 1 + above.rows_count(samples_min)).max().unwrap_or(0)
    }
}

/// Where boxes are drawn.
struct Drawing {
    svg: String,
    samples_count: f64,
    samples_min: f64,
    height: usize,
}

impl Drawing {
    fn draw(&mut self, below: &Box<'_>, row: usize, mut left: f64) {
        for (name, above) in &below.on_top {
            let samples_count = above.samples_count as f64;
            let width = samples_count / self.samples_count * WIDTH;
            if samples_count >= self.samples_min {
                self.one(name, above.samples_count, row, left, width);
                self.draw(above, row + 1, left);
            }
            left += width;
        }
    }

    fn one(&mut self, name: &str, samples_count: u64, row: usize, left: f64, width: f64) {
        let top = self.height - (row + 1) * ROW_HEIGHT;
        let share = samples_count as f64 / self.samples_count * 100.0;
        // Threads are grey, functions warm, each always in the same shade.
        let sum = name.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let colour = match row {
            0 => "#ccc".to_owned(),
            _ => format!("hsl({},80%,{}%)", sum % 50, 62 + sum / 64 % 16),
        };
        let full = Escaped(name);
        let letters_count = ((width - 6.0) / LETTER_WIDTH) as usize;
        let shown: String = match name.chars().count() {
            _ if letters_count < 3 => String::new(),
            count if count <= letters_count => name.to_owned(),
            _ => name.chars().take(letters_count - 1).chain(['…']).collect(),
        };
        let _ = writeln!(
            self.svg,
            "<g><title>{full} ({samples_count} samples, {share:.2} %)</title>\
             <rect x=\"{left:.2}\" y=\"{top}\" width=\"{:.2}\" height=\"{}\" rx=\"1\" fill=\"{colour}\"/>\
             <text x=\"{:.2}\" y=\"{}\">{}</text></g>",
            (width - 0.5).max(0.3),
            ROW_HEIGHT - 1,
            left + 3.0,
            top + 13,
            Escaped(&shown),
        );
    }
}

/// A text within XML.
struct Escaped<'t>(&'t str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|letter| match letter {
            '<' => formatter.write_str("&lt;"),
            '>' => formatter.write_str("&gt;"),
            '&' => formatter.write_str("&amp;"),
            '"' => formatter.write_str("&quot;"),
            // XML 1.0 has no way to say these.
            control if control.is_control() => formatter.write_char('\u{fffd}'),
            letter => formatter.write_char(letter),
        })
    }
}

/// The picture of `profile`, as SVG.
pub fn draw(profile: &Profile) -> String {
    let all = Box::of(profile);
    let samples_count = all.samples_count as f64;
    let samples_min = samples_count * FLAME_GRAPH_SHARE_MIN;
    let height = HEADING_HEIGHT + all.rows_count(samples_min) * ROW_HEIGHT;
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"3\" y=\"20\">{} samples of {} threads in {:.1} s, {} for a second of CPU time; {} missed</text>",
        all.samples_count,
        all.on_top.len(),
        profile.duration.as_secs_f64(),
        profile.hz,
        profile.missed_count,
    );
    let mut drawing = Drawing { svg, samples_count, samples_min, height };
    drawing.draw(&all, 0, 0.0);
    drawing.svg.push_str("</svg>\n");
    drawing.svg
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    /// Name, left edge and width of each box whose name holds `name`.
    fn boxes(svg: &str, name: &str) -> Vec<(f64, f64)> {
        let of_name = |line: &&str| line.starts_with("<g>") && line.contains(&format!("<title>{name}"));
        let number = |line: &str, field: &str| {
            let value = line.split(&format!("{field}=\"")).nth(1).and_then(|rest| rest.split('"').next());
            value.and_then(|value| value.parse().ok()).expect("a number")
        };
        svg.lines().filter(of_name).map(|line| (number(line, " x"), number(line, " width"))).collect()
    }

    #[test]
    fn boxes_are_as_wide_as_often_seen_and_above_their_callers() {
        let svg = draw(&example());
        let unit = WIDTH / 99.0;
        let check = |name: &str, left: f64, width: f64| {
            let found = boxes(&svg, name);
            assert_eq!(found.len(), 1, "{name}: {svg}");
            let (is_left, is_width) = found[0];
            assert!((is_left - left * unit).abs() < 0.1 && (is_width - (width * unit - 0.5)).abs() < 0.1, "{name}");
        };
        check("control ", 0.0, 9.0);
        check("shard-0 ", 9.0, 90.0);
        check("crate::turn&lt;'a&gt; ", 9.0, 90.0);
        check("crate::parse", 9.0, 30.0);
        check("crate::inlined", 9.0, 30.0);
        check("crate::write", 39.0, 60.0);
        assert!(svg.contains("99 samples of 2 threads in 2.0 s"), "{svg}");
        assert!(svg.contains("(60 samples, 60.61 %)"), "{svg}");
    }

    #[test]
    fn what_is_too_narrow_is_left_out() {
        let mut profile = example();
        profile.stacks[0].samples_count = 1_000_000;
        let svg = draw(&profile);
        assert!(!svg.contains("control") && svg.contains("crate::parse"), "{svg}");
    }

    #[test]
    fn nothing_is_a_picture_too() {
        let svg = draw(&Profile { stacks: Vec::new(), ..example() });
        assert!(svg.contains("0 samples of 0 threads") && svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{svg}");
    }
}
