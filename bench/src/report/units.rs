//! Numbers for readers.

use crate::statistics::Estimate;

/// `473 ns`, `8.82 µs`, `1.20 ms`.
pub fn time(ns: f64) -> String {
    match ns {
        ns if ns < 999.5 => format!("{} ns", count(ns)),
        ns if ns < 1e6 => format!("{} µs", three_digits(ns / 1e3)),
        ns if ns < 1e9 => format!("{} ms", three_digits(ns / 1e6)),
        ns => format!("{} s", three_digits(ns / 1e9)),
    }
}

/// `2.02 million`, `108 thousand`, `734`.
pub fn amount(value: f64) -> String {
    match value {
        value if value >= 999_500.0 => format!("{} million", three_digits(value / 1e6)),
        value if value >= 9_995.0 => format!("{} thousand", three_digits(value / 1e3)),
        value => count(value),
    }
}

/// The same where there is little room: `2.02 M/s`.
pub fn per_second(value: f64) -> String {
    match value {
        value if value >= 999_500.0 => format!("{} M/s", three_digits(value / 1e6)),
        value if value >= 9_995.0 => format!("{} k/s", three_digits(value / 1e3)),
        value => format!("{}/s", count(value)),
    }
}

/// `1.03`, and `0.083` below a tenth.
pub fn ratio(value: f64) -> String {
    if value < 0.1 { format!("{value:.3}") } else { format!("{value:.2}") }
}

/// `[0.987, 1.103]`.
pub fn interval(estimate: Estimate) -> String {
    format!("[{:.3}, {:.3}]", estimate.low, estimate.high)
}

/// `17.3 MiB`, `1,005 bytes`.
pub fn bytes(bytes: f64) -> String {
    match bytes {
        bytes if bytes < 10_240.0 => format!("{} bytes", count(bytes)),
        bytes if bytes < 1_048_576.0 => format!("{:.1} KiB", bytes / 1_024.0),
        bytes if bytes < 1_073_741_824.0 => format!("{:.2} MiB", bytes / 1_048_576.0),
        bytes => format!("{:.2} GiB", bytes / 1_073_741_824.0),
    }
}

/// `30,001,407`.
pub fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `12 %`.
pub fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn three_digits(value: f64) -> String {
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let table = [
            (time(473.4), "473 ns"),
            (time(1_104.0), "1.10 µs"),
            (time(8_820.0), "8.82 µs"),
            (time(35_600.0), "35.6 µs"),
            (time(16.9e6), "16.9 ms"),
            (amount(2_021_000.0), "2.02 million"),
            (amount(108_271.0), "108 thousand"),
            (amount(9_994.0), "9,994"),
            (amount(999_600.0), "1.00 million"),
            (per_second(25_431.0), "25.4 k/s"),
            (ratio(1.0305), "1.03"),
            (ratio(0.0829), "0.083"),
            (bytes(1_005.0), "1,005 bytes"),
            (bytes(18_182_308.0), "17.34 MiB"),
            (count(-1_234.0), "-1,234"),
            (count(30_001_407.0), "30,001,407"),
        ];
        for (shown, expected) in table {
            assert_eq!(shown, expected);
        }
    }
}
