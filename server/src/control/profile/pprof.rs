//! A profile as `profile.proto` says (<https://github.com/google/pprof/blob/main/proto/profile.proto>): the fields of it that we
//! have something for. Programs take it with gzip and without; this is without.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::UNIX_EPOCH;

use prost::Message;

use super::{Frame, Place, Profile};

/// The whole.
#[derive(Clone, PartialEq, Message)]
pub struct Written {
    /// What the values of a sample are.
    #[prost(message, repeated, tag = "1")]
    pub sample_type: Vec<ValueType>,
    /// One for each stack.
    #[prost(message, repeated, tag = "2")]
    pub sample: Vec<Sample>,
    /// Return addresses.
    #[prost(message, repeated, tag = "4")]
    pub location: Vec<Location>,
    /// Functions.
    #[prost(message, repeated, tag = "5")]
    pub function: Vec<Function>,
    /// All texts. The first is empty.
    #[prost(string, repeated, tag = "6")]
    pub string_table: Vec<String>,
    /// When it began, since 1970.
    #[prost(int64, tag = "9")]
    pub time_nanos: i64,
    /// How long it was.
    #[prost(int64, tag = "10")]
    pub duration_nanos: i64,
    /// What `period` is.
    #[prost(message, optional, tag = "11")]
    pub period_type: Option<ValueType>,
    /// CPU time from one sample to the next.
    #[prost(int64, tag = "12")]
    pub period: i64,
    /// Texts that are shown with it.
    #[prost(int64, repeated, tag = "13")]
    pub comment: Vec<i64>,
}

/// A kind of value and its unit, as numbers of texts.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct ValueType {
    /// What.
    #[prost(int64, tag = "1")]
    pub r#type: i64,
    /// In what.
    #[prost(int64, tag = "2")]
    pub unit: i64,
}

/// A stack.
#[derive(Clone, PartialEq, Message)]
pub struct Sample {
    /// The innermost first.
    #[prost(uint64, repeated, tag = "1")]
    pub location_id: Vec<u64>,
    /// In the order of the types.
    #[prost(int64, repeated, tag = "2")]
    pub value: Vec<i64>,
    /// The thread.
    #[prost(message, repeated, tag = "3")]
    pub label: Vec<Label>,
}

/// A name and a text.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Label {
    /// The name.
    #[prost(int64, tag = "1")]
    pub key: i64,
    /// The text.
    #[prost(int64, tag = "2")]
    pub str: i64,
}

/// A return address.
#[derive(Clone, PartialEq, Message)]
pub struct Location {
    /// Not 0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The function last, before it what was compiled into it.
    #[prost(message, repeated, tag = "4")]
    pub line: Vec<Line>,
}

/// A place in a function.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Line {
    /// The function.
    #[prost(uint64, tag = "1")]
    pub function_id: u64,
    /// 0 when it is not known.
    #[prost(int64, tag = "2")]
    pub line: i64,
}

/// A function, its texts as numbers.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Function {
    /// Not 0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// For people.
    #[prost(int64, tag = "2")]
    pub name: i64,
    /// As in the symbol table.
    #[prost(int64, tag = "3")]
    pub system_name: i64,
    /// Its file.
    #[prost(int64, tag = "4")]
    pub filename: i64,
}

/// Gives equal things equal numbers, from 0.
struct Numbers<T>(HashMap<T, usize>);

impl<T: Clone + Eq + Hash> Numbers<T> {
    fn of(&mut self, thing: &T) -> usize {
        if let Some(&number) = self.0.get(thing) {
            return number;
        }
        let number = self.0.len();
        self.0.insert(thing.clone(), number);
        number
    }

    fn in_order(self) -> Vec<T> {
        let mut things: Vec<_> = self.0.into_iter().collect();
        things.sort_unstable_by_key(|&(_, number)| number);
        things.into_iter().map(|(thing, _)| thing).collect()
    }
}

/// What is written once and named by its number.
struct Tables {
    texts: Numbers<String>,
    /// By name, symbol and file, as numbers of texts.
    functions: Numbers<[i64; 3]>,
    locations: Numbers<Frame>,
}

impl Tables {
    fn text(&mut self, text: &str) -> i64 {
        self.texts.of(&text.to_owned()) as i64
    }

    fn line(&mut self, place: &Place) -> Line {
        let function = [&place.function, &place.symbol, &place.file].map(|text| self.text(text));
        Line { function_id: self.functions.of(&function) as u64 + 1, line: place.line.into() }
    }
}

/// The bytes of `profile`.
pub fn encode(profile: &Profile) -> Vec<u8> {
    let none = || Numbers(HashMap::new());
    let mut tables = Tables { texts: none(), functions: Numbers(HashMap::new()), locations: Numbers(HashMap::new()) };
    // The first text must be empty.
    tables.text("");
    let samples = ValueType { r#type: tables.text("samples"), unit: tables.text("count") };
    let cpu = ValueType { r#type: tables.text("cpu"), unit: tables.text("nanoseconds") };
    let thread = tables.text("thread");
    let missed = tables.text(&format!("{} samples missed", profile.missed_count));
    let period = 1_000_000_000 / i64::from(profile.hz);
    let sample = profile.stacks.iter().map(|stack| Sample {
        location_id: stack.frames.iter().map(|frame| tables.locations.of(frame) as u64 + 1).collect(),
        value: vec![stack.samples_count as i64, stack.samples_count as i64 * period],
        label: vec![Label { key: thread, str: tables.text(&stack.thread) }],
    });
    let sample = sample.collect();
    let frames = std::mem::replace(&mut tables.locations, Numbers(HashMap::new())).in_order();
    let location = frames.iter().enumerate().map(|(number, frame)| Location {
        id: number as u64 + 1,
        line: frame.iter().map(|place| tables.line(place)).collect(),
    });
    let location = location.collect();
    let function = tables.functions.in_order().into_iter().enumerate().map(|(number, texts)| {
        let [name, system_name, filename] = texts;
        Function { id: number as u64 + 1, name, system_name, filename }
    });
    Written {
        sample_type: vec![samples, cpu],
        sample,
        location,
        function: function.collect(),
        string_table: tables.texts.in_order(),
        time_nanos: profile.since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64),
        duration_nanos: profile.duration.as_nanos() as i64,
        period_type: Some(cpu),
        period,
        comment: vec![missed],
    }
    .encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    #[test]
    fn what_is_written_says_what_was_taken() {
        let written = Written::decode(encode(&example()).as_slice()).expect("it is well-formed");
        let text = |number: i64| written.string_table[number as usize].as_str();
        assert_eq!(text(0), "");
        let types: Vec<_> = written.sample_type.iter().map(|of| (text(of.r#type), text(of.unit))).collect();
        assert_eq!(types, [("samples", "count"), ("cpu", "nanoseconds")]);
        let stacks: Vec<_> = written
            .sample
            .iter()
            .map(|sample| {
                let names =
                    sample.location_id.iter().flat_map(|&id| &written.location[id as usize - 1].line).map(|line| {
                        let function = written.function[line.function_id as usize - 1];
                        assert_eq!((function.id, text(function.filename)), (line.function_id, "src/main.rs"));
                        (text(function.name).to_owned(), text(function.system_name).to_owned(), line.line)
                    });
                (text(sample.label[0].str), sample.value.clone(), names.collect::<Vec<_>>())
            })
            .collect();
        let name = |name: &str, line| (format!("crate::{name}<'a>"), format!("_R{name}"), line);
        let (turn, period) = (name("turn", 7), 1_000_000_000 / 99);
        assert_eq!(
            stacks,
            [
                ("shard-0", vec![30, 30 * period], vec![name("inlined", 1), name("parse", 2), turn.clone()]),
                ("shard-0", vec![60, 60 * period], vec![name("write", 3), turn]),
                ("control", vec![9, 9 * period], vec![name("poll", 4)]),
            ]
        );
        assert_eq!((written.location.len(), written.function.len()), (4, 5), "what is equal is there once");
        assert_eq!((written.time_nanos, written.duration_nanos), (1_000_000_000, 2_000_000_000));
        assert_eq!(text(written.comment[0]), "5 samples missed");
    }

    #[test]
    fn bytes_are_as_the_format_says() {
        // The first field: number 1, length-delimited, 4 bytes: a type of text 1 and a unit of text 2.
        assert!(encode(&example()).starts_with(&[0x0a, 4, 0x08, 1, 0x10, 2, 0x0a, 4, 0x08, 3, 0x10, 4, 0x12]));
    }
}
