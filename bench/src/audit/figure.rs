//! Figures as they were written: a value, and how far the digits that were left out may have moved it.

use serde::Serialize;

/// A written number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// As read.
    pub value: f64,
    /// Half a unit of its last digit.
    pub rounding: f64,
}

impl Figure {
    /// Exactly this.
    pub fn exact(value: f64) -> Figure {
        Figure { value, rounding: 0.0 }
    }

    /// The number at the front of `text`, thousands set apart by commas or not, and what follows it.
    pub fn at_front(text: &str) -> Option<(Figure, &str)> {
        let text = text.trim_start();
        let end = text.find(|c: char| !(c.is_ascii_digit() || c == ',' || c == '.')).unwrap_or(text.len());
        let (digits, rest) = text.split_at(end);
        let digits: String = digits.chars().filter(|&c| c != ',').collect();
        let decimals_count = digits.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        let value = digits.parse().ok()?;
        Some((Figure { value, rounding: 0.5 * 0.1_f64.powi(i32::try_from(decimals_count).ok()?) }, rest.trim_start()))
    }

    /// A count that may end in `k` or `M`: `30,001k`.
    pub fn count(text: &str) -> Option<Figure> {
        let (figure, rest) = Figure::at_front(text)?;
        match rest.chars().next() {
            Some('k') => Some(figure.times(1e3)),
            Some('M') => Some(figure.times(1e6)),
            Some('G') => Some(figure.times(1e9)),
            // A whole number without a suffix was counted, not rounded.
            _ if figure.value.fract() == 0.0 && !text.contains('.') => Some(Figure::exact(figure.value)),
            _ => Some(figure),
        }
    }

    /// A length of time in milliseconds: `13 ms`, `3.25ms`, `424us`, `1.2s`, `1.50m`.
    pub fn milliseconds(text: &str) -> Option<Figure> {
        let (figure, unit) = Figure::at_front(text)?;
        let word = unit.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default();
        let factor = match word {
            "us" => 1e-3,
            "ms" => 1.0,
            "s" => 1e3,
            "m" | "min" => 60e3,
            "h" => 3_600e3,
            _ => return None,
        };
        Some(figure.times(factor))
    }

    /// In another unit.
    pub fn times(self, factor: f64) -> Figure {
        Figure { value: self.value * factor, rounding: self.rounding * factor }
    }

    /// The rounding as a share of the value.
    pub fn rounding_share(self) -> f64 {
        if self.value == 0.0 { 0.0 } else { self.rounding / self.value }
    }
}

/// What the prefix of a byte unit may mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reading {
    /// MB is 1,000,000 bytes.
    Decimal,
    /// MB is 1,048,576 bytes: MiB.
    Binary,
}

impl Reading {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Reading::Decimal => "decimal",
            Reading::Binary => "binary",
        }
    }
}

/// A written number of bytes, or of bytes per second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bytes {
    /// The number before the unit.
    pub figure: Figure,
    /// The unit without what follows it: `MB`.
    pub unit: String,
    /// 0 for bytes, 1 for kB, 2 for MB.
    pub power: i32,
    /// The one meaning of the unit, where it has only one: `MiB`, or bytes.
    pub reading: Option<Reading>,
}

impl Bytes {
    /// So many bytes exactly.
    pub fn exact(count: f64) -> Bytes {
        Bytes { figure: Figure::exact(count), unit: "B".into(), power: 0, reading: Some(Reading::Decimal) }
    }

    /// `11.45 GB`, `389.26MB`, `195.40 MB/s`, `3 MiB`.
    pub fn parse(text: &str) -> Option<Bytes> {
        let (figure, rest) = Figure::at_front(text)?;
        let unit: String = rest.chars().take_while(char::is_ascii_alphabetic).collect();
        let prefix = unit.strip_suffix('B')?;
        let (prefix, is_binary) = prefix.strip_suffix('i').map_or((prefix, false), |prefix| (prefix, true));
        let power = match prefix {
            "" => 0,
            "k" | "K" => 1,
            "M" => 2,
            "G" => 3,
            "T" => 4,
            _ => return None,
        };
        let reading = match (power, is_binary) {
            (0, _) => Some(Reading::Decimal),
            (_, true) => Some(Reading::Binary),
            (_, false) => None,
        };
        Some(Bytes { figure, unit, power, reading })
    }

    /// In bytes, by this reading or by the unit's own.
    pub fn bytes(&self, reading: Reading) -> f64 {
        let step: f64 = match self.reading.unwrap_or(reading) {
            Reading::Decimal => 1_000.0,
            Reading::Binary => 1_024.0,
        };
        self.figure.value * step.powi(self.power)
    }

    /// The readings that the unit leaves open.
    pub fn readings(&self) -> Vec<Reading> {
        self.reading.map_or_else(|| vec![Reading::Decimal, Reading::Binary], |reading| vec![reading])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_near(figure: Option<Figure>, value: f64, rounding: f64) -> bool {
        figure.is_some_and(|figure| {
            (figure.value - value).abs() < 1e-9 * value.max(1.0) && (figure.rounding - rounding).abs() < 1e-6
        })
    }

    #[test]
    fn figures() {
        let counts = [
            ("30,001k", 30_001_000.0, 500.0),
            ("452k requests", 452_000.0, 500.0),
            ("25.69k", 25_690.0, 5.0),
            ("446768 total", 446_768.0, 0.0),
            ("500,023.45", 500_023.45, 0.005),
        ];
        for (text, value, rounding) in counts {
            assert!(is_near(Figure::count(text), value, rounding), "{text}: {:?}", Figure::count(text));
        }
        let times = [
            ("13 ms", 13.0, 0.5),
            ("3.25ms", 3.25, 0.005),
            ("424us", 0.424, 0.000_5),
            ("1.2s,", 1_200.0, 50.0),
            ("1.50m", 90_000.0, 300.0),
        ];
        for (text, value, rounding) in times {
            assert!(is_near(Figure::milliseconds(text), value, rounding), "{text}: {:?}", Figure::milliseconds(text));
        }
        for text in ["", "ms", "-", "1.2.3ms"] {
            assert_eq!(Figure::milliseconds(text), None, "{text}");
        }
    }

    #[test]
    fn bytes() {
        let table = [
            ("11.45 GB", 11.45e9, 11.45 * 1_073_741_824.0),
            ("389.26MB", 389.26e6, 389.26 * 1_048_576.0),
            ("195.40 MB/s", 195.40e6, 195.40 * 1_048_576.0),
            ("3 MiB", 3.0 * 1_048_576.0, 3.0 * 1_048_576.0),
            ("512 B", 512.0, 512.0),
        ];
        for (text, decimal, binary) in table {
            let bytes = Bytes::parse(text).unwrap();
            assert!((bytes.bytes(Reading::Decimal) - decimal).abs() < 1.0, "{text}: {bytes:?}");
            assert!((bytes.bytes(Reading::Binary) - binary).abs() < 1.0, "{text}: {bytes:?}");
        }
        assert_eq!(Bytes::parse("3 apples"), None);
    }
}
