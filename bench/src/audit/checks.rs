//! The checks: pure, each one line of arithmetic that can be repeated by hand.

use crate::audit::claim::{Claim, Tool};
use crate::audit::figure::{Bytes, Figure, Reading};
use crate::audit::{Finding, Level, Options};
use crate::limits::{AUDIT_HEAD_BYTES_MAX, AUDIT_HEAD_BYTES_MIN, AUDIT_TODO_BYTES_MIN};

/// Totals and products may differ by this share beyond their rounding: clocks of a run start and end at different moments.
const TOLERANCE: f64 = 0.01;
/// The same for bytes: a step of the prefix is 2.4 %, and the smallest thing that must be told apart.
const UNITS_TOLERANCE: f64 = 0.008;
/// A mean latency may be off Little's law by this share: it is of other requests than the rate at both ends of a run.
const LITTLE_TOLERANCE: f64 = 0.05;
/// A client's thread that is this busy may be the limit: what a response costs it is not known better than that.
const CLIENT_BUSY_MIN: f64 = 0.65;

/// Everything that can be checked of what was said.
pub fn all(claim: &Claim, options: &Options) -> Vec<Finding> {
    let (units, read_bytes) = units(claim);
    let checks = [
        totals(claim),
        samples(claim),
        in_flight(claim),
        units,
        digits(claim),
        parts(claim),
        response_bytes(claim, options, &read_bytes),
        spreads(claim),
        little(claim),
        percentiles(claim),
        mean(claim),
        deviation(claim),
        client(claim),
        failures(claim),
    ];
    checks.into_iter().flatten().collect()
}

fn totals(claim: &Claim) -> Option<Finding> {
    let (requests, rate, seconds) = (claim.requests?, claim.rate?, claim.averaged_seconds()?);
    let product = rate.value * seconds.value;
    // Sent, but not answered any more.
    let in_flight = if claim.tool == Tool::Autocannon { claim.in_flight().unwrap_or(0.0) } else { 0.0 };
    let slack = TOLERANCE * product + requests.rounding + seconds.rounding * rate.value + in_flight;
    let holds = (product - requests.value).abs() <= slack;
    Some(Finding::new(
        "totals",
        ruling(holds),
        format!(
            "{} requests/s x {:.2} s = {}; {} were claimed ({})",
            count(rate.value),
            seconds.value,
            count(product),
            count(requests.value),
            percent_off(requests.value / product)
        ),
    ))
}

fn samples(claim: &Claim) -> Option<Finding> {
    let (samples_count, seconds) = (claim.samples_count?, claim.seconds?);
    claim.is_stalled().then(|| {
        Finding::new(
            "samples",
            Level::Doubt,
            format!(
                "{samples_count:.0} samples of one second in {:.2} s: the client's timer came late, so it had more to do than time, and averages over samples are not the run's: {} a second are",
                seconds.value,
                claim.whole_rate().map_or("-".into(), count)
            ),
        )
    })
}

/// autocannon counts what it sent.
fn in_flight(claim: &Claim) -> Option<Finding> {
    if claim.tool != Tool::Autocannon {
        return None;
    }
    let (requests, rate, seconds, in_flight) = (claim.requests?, claim.rate?, claim.seconds?, claim.in_flight()?);
    let (samples_count, is_guess) =
        claim.samples_count.map_or_else(|| (seconds.value.round(), true), |count| (count, false));
    let answered = rate.value * samples_count;
    let unsure = requests.rounding + rate.rounding * samples_count + 0.001 * answered;
    // Too few to be seen behind the rounding.
    if in_flight < 4.0 * unsure {
        return None;
    }
    let sent_only = requests.value - answered;
    let holds = (0.5 * in_flight - unsure..=1.5 * in_flight + unsure).contains(&sent_only);
    Some(Finding::new(
        "in flight",
        if holds { Level::Holds } else { Level::Doubt },
        format!(
            "autocannon's total counts what was sent: {} answered ({} x {samples_count:.0} samples{}) + {} in flight at the end = {}; {} were claimed",
            count(answered),
            count(rate.value),
            if is_guess { ", as many as seconds" } else { "" },
            count(in_flight),
            count(answered + in_flight),
            count(requests.value),
        ),
    ))
}

/// Which meaning of the units makes total and rate agree. Also: the bytes read, once per meaning that is left.
fn units(claim: &Claim) -> (Option<Finding>, Vec<(Reading, f64)>) {
    let Some(read) = &claim.read else { return (None, Vec::new()) };
    let all: Vec<(Reading, f64)> = read.readings().into_iter().map(|reading| (reading, read.bytes(reading))).collect();
    let (Some(transfer), Some(seconds)) = (&claim.transfer, claim.averaged_seconds()) else { return (None, all) };
    let tolerance = (read.figure.rounding_share() + transfer.figure.rounding_share() + seconds.rounding_share())
        .max(UNITS_TOLERANCE);
    let is_open = read.reading.is_none() || transfer.reading.is_none();
    // One tool writes all its units in one way.
    let meanings = if is_open { &[Reading::Decimal, Reading::Binary][..] } else { &[Reading::Decimal][..] };
    let mut words = Vec::new();
    let mut agreeing = Vec::new();
    for &reading in meanings {
        let (product, bytes) = (transfer.bytes(reading) * seconds.value, read.bytes(reading));
        let name = if is_open { format!("{}: ", reading.name()) } else { String::new() };
        let product_words = if read.power == 0 {
            format!("{} B", count(product))
        } else {
            format!("{:.2} {}", product * read.figure.value / bytes, read.unit)
        };
        words.push(format!(
            "{name}{}/s x {:.2} s = {product_words} ({})",
            written(transfer),
            seconds.value,
            percent_off(product / bytes)
        ));
        if (product / bytes - 1.0).abs() <= tolerance {
            agreeing.push(reading);
        }
    }
    // The same unit in both: the meaning cancels.
    if is_open && read.unit == transfer.unit {
        words.truncate(1);
        words[0] = words[0].replacen("decimal: ", "", 1);
    }
    let of = |reading: Reading| all.iter().copied().filter(|&(left, _)| left == reading || all.len() == 1).collect();
    let usual = usual_reading(claim.tool);
    let habit = format!("{} writes {} units", claim.tool.name(), usual.name());
    let (level, rest, left) = match agreeing[..] {
        [] => (Level::Contradiction, "no meaning of the units makes them agree".to_owned(), all),
        [reading] if is_open => {
            let level = if reading == usual { Level::Holds } else { Level::Doubt };
            let unit = if read.reading.is_none() { &read.unit } else { &transfer.unit };
            let is = match reading {
                Reading::Binary => format!("{unit} is {}, powers of 1,024", unit.replace('B', "iB")),
                Reading::Decimal => format!("{unit} is a power of 1,000"),
            };
            (level, format!("only {} units agree: {is}; {habit}", reading.name()), of(reading))
        }
        [_] => (Level::Holds, "they agree".to_owned(), all),
        // The tool's own habit decides.
        _ => (Level::Holds, format!("agrees whatever the unit means; {habit}"), of(usual)),
    };
    let finding = Finding::new("units", level, format!("{} read; {}: {rest}", written(read), words.join(", ")));
    (Some(finding), left)
}

/// autocannon uses `pretty-bytes`; wrk and h2load divide by 1,024.
fn usual_reading(tool: Tool) -> Reading {
    match tool {
        Tool::Autocannon => Reading::Decimal,
        Tool::Wrk | Tool::H2load => Reading::Binary,
    }
}

/// autocannon writes three significant digits.
fn digits(claim: &Claim) -> Option<Finding> {
    let read = claim.read.as_ref().filter(|read| claim.tool == Tool::Autocannon && read.power > 0)?;
    let figure = read.figure;
    // The last of three significant digits is at least a thousandth of the value.
    (figure.rounding * 2.0 < figure.value.abs() / 1_000.0).then(|| {
        Finding::new(
            "digits",
            Level::Doubt,
            format!("autocannon writes sizes with three digits: {} was written by something else", written(read)),
        )
    })
}

/// h2load counts bodies by themselves.
fn parts(claim: &Claim) -> Option<Finding> {
    let (whole, bodies) = (claim.read.as_ref()?, claim.bodies.as_ref()?);
    let (whole, bodies) = (whole.bytes(Reading::Binary), bodies.bytes(Reading::Binary));
    Some(if bodies > whole {
        Finding::new(
            "parts",
            Level::Doubt,
            format!(
                "{} bytes of bodies in {} bytes of traffic: h2load leaves the warm-up's bodies in one and not in the other",
                count(bodies),
                count(whole)
            ),
        )
    } else {
        Finding::new("parts", Level::Holds, format!("{} bytes of bodies in {} of traffic", count(bodies), count(whole)))
    })
}

fn response_bytes(claim: &Claim, options: &Options, read_bytes: &[(Reading, f64)]) -> Option<Finding> {
    let answers = claim.answers().filter(|&answers| answers > 0.0)?;
    let read = claim.read.as_ref()?;
    let (largest, arithmetic) = largest_response(answers, read_bytes)?;
    let tolerance = TOLERANCE + read.figure.rounding_share();
    let any_within = |low: f64, high: f64| {
        read_bytes
            .iter()
            .any(|(_, bytes)| (low * (1.0 - tolerance)..=high * (1.0 + tolerance)).contains(&(bytes / answers)))
    };
    let (level, words) = if let Some(expected) = options.response_bytes {
        let expected = expected as f64;
        (ruling(any_within(expected, expected)), format!("{expected} were expected"))
    } else if let Some(body) = options.body_bytes {
        let (low, high) = (body as f64 + AUDIT_HEAD_BYTES_MIN, body as f64 + AUDIT_HEAD_BYTES_MAX);
        (ruling(any_within(low, high)), format!("a body of {body} and a head make {low} to {high}"))
    } else if let Some(items) = options.items {
        // `[`, `]`, and a comma between two.
        let least = |items: f64| AUDIT_HEAD_BYTES_MIN + 2.0 + items * (AUDIT_TODO_BYTES_MIN + 1.0) - 1.0;
        let least_bytes = least(items as f64);
        let room = ((largest - least(0.0)) / (AUDIT_TODO_BYTES_MIN + 1.0)).floor().max(0.0);
        let is_possible = largest * (1.0 + tolerance) >= least_bytes;
        let arithmetic = format!(
            "{items} todos need at least {items} x {AUDIT_TODO_BYTES_MIN} + {} + a head of {AUDIT_HEAD_BYTES_MIN} = {least_bytes}",
            items + 1
        );
        let words = if is_possible {
            arithmetic
        } else {
            format!("{arithmetic}: these cannot be {items} todos, there is room for {room} of the shortest")
        };
        (ruling(is_possible), words)
    } else {
        (Level::Note, "say --body-bytes, --response-bytes or --items to have it judged".to_owned())
    };
    Some(Finding::new("bytes per response", level, format!("{arithmetic}; {words}")))
}

/// By the meaning of the units that gives most, and how all of them were reckoned.
fn largest_response(answers: f64, read_bytes: &[(Reading, f64)]) -> Option<(f64, String)> {
    let words: Vec<String> = read_bytes
        .iter()
        .map(|(reading, bytes)| {
            format!("{} bytes ({}) / {} = {:.1}", count(*bytes), reading.name(), count(answers), bytes / answers)
        })
        .collect();
    let largest = read_bytes.iter().map(|(_, bytes)| bytes / answers).reduce(f64::max)?;
    Some((largest, words.join(" or ")))
}

/// When all answers are as long, bytes vary as requests do.
fn spreads(claim: &Claim) -> Option<Finding> {
    let (rate, deviation) = (claim.rate?, claim.rate_deviation?);
    let (transfer, transfer_deviation) = (claim.transfer.as_ref()?, claim.transfer_deviation.as_ref()?);
    let of = |bytes: &Bytes| bytes.bytes(Reading::Decimal);
    let (of_rate, of_transfer) = (deviation.value / rate.value, of(transfer_deviation) / of(transfer));
    let unsure = transfer_deviation.figure.rounding_share() + transfer.figure.rounding_share() + 0.1;
    let holds = (of_rate / of_transfer - 1.0).abs() <= unsure;
    Some(Finding::new(
        "spreads",
        if holds { Level::Holds } else { Level::Doubt },
        format!(
            "standard deviation over mean: requests {} / {} = {:.2} %, bytes {} / {} = {:.2} %: {}",
            count(deviation.value),
            count(rate.value),
            of_rate * 100.0,
            written(transfer_deviation),
            written(transfer),
            of_transfer * 100.0,
            if holds {
                "as it must be when all answers are as long"
            } else {
                "answers of one length cannot differ like that"
            }
        ),
    ))
}

fn little(claim: &Claim) -> Option<Finding> {
    let (connections, depth, mean) = (claim.connections_count?, claim.depth?, claim.latency.mean?);
    let rate = claim.whole_rate()?;
    let expected_ms = connections * depth / rate * 1e3;
    let arithmetic = format!(
        "{} connections x {depth} in flight / {} per second = {expected_ms:.*} ms; the mean is said to be {:.*} ms",
        count(connections),
        count(rate),
        decimals(expected_ms),
        decimals(mean.value),
        mean.value
    );
    let cut_ms = if claim.tool == Tool::Autocannon { 1.0 } else { 0.0 };
    let slack_ms = expected_ms * LITTLE_TOLERANCE + mean.rounding;
    let share = mean.value / expected_ms;
    let (level, words) = if mean.value > expected_ms + slack_ms {
        (Level::Contradiction, "more would be in flight than there are".to_owned())
    } else if mean.value >= expected_ms - slack_ms {
        (Level::Holds, format!("they agree to {:.1} %", (share - 1.0).abs() * 100.0))
    } else if mean.value >= expected_ms - slack_ms - cut_ms {
        (Level::Holds, "they agree: autocannon cuts latencies to whole milliseconds".to_owned())
    } else if claim.tool == Tool::Wrk {
        // Between an answer and the next request wrk counts nothing.
        let words = "of a connection's time is not in its latency: that is the client's own turn";
        (Level::Note, format!("{:.0} % {words}", (1.0 - share) * 100.0))
    } else if share >= 0.5 {
        (Level::Doubt, format!("only {:.0} % of the requests would be in flight", share * 100.0))
    } else {
        let words = "of the requests would be in flight, and this client sends the next when one is answered";
        (Level::Contradiction, format!("only {:.1} % {words}", share * 100.0))
    };
    Some(Finding::new("Little's law", level, format!("{arithmetic}: {words}")))
}

fn percentiles(claim: &Claim) -> Option<Finding> {
    let latency = &claim.latency;
    let mut points = latency.percentiles.clone();
    points.extend(latency.max.map(|max| (100.0, max)));
    let words = |(percent, figure): &(f64, Figure)| {
        let name = if *percent >= 100.0 { "max".to_owned() } else { format!("p{percent}") };
        format!("{name} {}", trimmed(figure.value))
    };
    let falls = points.windows(2).find(|pair| {
        let [(low, one), (high, other)] = pair else { return false };
        low > high || one.value > other.value + one.rounding + other.rounding
    });
    let is_known = points.len() >= 2;
    match falls {
        Some([one, other]) => Some(Finding::new(
            "percentiles",
            Level::Contradiction,
            format!("{} ms is followed by {} ms: percentiles cannot fall", words(one), words(other)),
        )),
        _ if is_known => {
            let all: Vec<String> = points.iter().map(words).collect();
            Some(Finding::new("percentiles", Level::Holds, format!("{} ms: none falls", all.join(" <= "))))
        }
        _ => None,
    }
}

/// The mean that percentiles allow: everything at the lower or at the upper end of its step.
fn mean(claim: &Claim) -> Option<Finding> {
    let latency = &claim.latency;
    let (mean, max) = (latency.mean?, latency.max?);
    if latency.percentiles.is_empty() {
        return None;
    }
    let (mut below, mut low, mut high) = ((0.0, 0.0), 0.0, 0.0);
    let steps = latency.percentiles.iter().map(|&(percent, figure)| (percent / 100.0, figure.value));
    for (share, value) in steps.chain([(1.0, max.value)]) {
        low += (share - below.0) * below.1;
        high += (share - below.0) * value;
        below = (share, value);
    }
    // Steps are rounded too; autocannon cuts them.
    let rounding = latency.percentiles.iter().map(|(_, figure)| figure.rounding).fold(mean.rounding, f64::max);
    let slack = 2.0 * rounding + 0.01 * mean.value;
    let holds = (low - slack..=high + slack).contains(&mean.value);
    Some(Finding::new(
        "mean",
        if holds { Level::Holds } else { Level::Contradiction },
        format!(
            "the percentiles allow a mean of {low:.1} to {high:.1} ms; it is said to be {} ms",
            trimmed(mean.value)
        ),
    ))
}

/// Of values between 0 and max with this mean, the widest spread has all of them at the two ends.
fn deviation(claim: &Claim) -> Option<Finding> {
    let latency = &claim.latency;
    let (mean, max, deviation) = (latency.mean?.value, latency.max?.value, latency.deviation?);
    let widest = (mean * (max - mean).max(0.0)).sqrt();
    let holds = deviation.value <= widest * 1.01 + deviation.rounding;
    let level = if holds { Level::Holds } else { Level::Contradiction };
    (!holds || mean > 0.0).then(|| {
        Finding::new(
            "deviation",
            level,
            format!(
                "latencies from 0 to {} ms around {} ms deviate by at most {widest:.1} ms; {} ms are claimed",
                trimmed(max),
                trimmed(mean),
                trimmed(deviation.value)
            ),
        )
    })
}

/// CPU of one thread per response, microseconds, least and most.
///
/// Measured by this project over a server of 2 KB answers: autocannon 9.5 to 16 us in hours of an own machine (20 in one that
/// others used too), wrk 9.1 in a quick hour and 17 in a slow one, h2load 5 in a slow one. The lower ends of the last two are
/// half of what was seen, for machines twice as fast.
fn client_us(tool: Tool) -> (f64, f64) {
    match tool {
        Tool::Autocannon => (9.5, 16.0),
        Tool::Wrk => (4.5, 17.0),
        Tool::H2load => (2.5, 6.0),
    }
}

fn client(claim: &Claim) -> Option<Finding> {
    let rate = claim.whole_rate()?;
    let threads_count = claim.threads_count.filter(|&count| count > 0.0)?;
    let per_thread = rate / threads_count;
    let (low_us, high_us) = client_us(claim.tool);
    let (low, high) = (per_thread * low_us / 1e6, per_thread * high_us / 1e6);
    let arithmetic = format!(
        "{} requests/s / {threads_count:.0} thread{} x {low_us} to {high_us} us of CPU that {} spends on one = {low:.2} to {high:.2} cores for each thread",
        count(rate),
        if threads_count == 1.0 { "" } else { "s" },
        claim.tool.name(),
    );
    let (level, words) = if low > 1.5 {
        (
            Level::Doubt,
            format!(
                "a thread has one; {:.1} us a request is {:.1} to {:.1} times as fast as that was measured, so more processes ran, or another tool, or it was not measured",
                1e6 / per_thread,
                low,
                high
            ),
        )
    } else if low > 1.0 {
        (
            Level::Doubt,
            "a thread has one: the machine is faster than those that was measured on, and client-bound".to_owned(),
        )
    } else if high >= CLIENT_BUSY_MIN {
        (Level::Note, "client-bound is likely: this is what the client can do, not the server".to_owned())
    } else {
        (Level::Holds, "the client had time to spare".to_owned())
    };
    Some(Finding::new("client", level, format!("{arithmetic}: {words}")))
}

fn failures(claim: &Claim) -> Option<Finding> {
    (claim.failures_count > 0.0).then(|| {
        let words = format!("{} errors or answers other than 2xx are in the figures", count(claim.failures_count));
        Finding::new("failures", Level::Doubt, words)
    })
}

fn ruling(holds: bool) -> Level {
    if holds { Level::Holds } else { Level::Contradiction }
}

/// `11.45 GB`, or exact bytes.
fn written(bytes: &Bytes) -> String {
    match bytes.power {
        0 => format!("{} B", count(bytes.figure.value)),
        _ => format!("{:.*} {}", usize::from(bytes.figure.value < 1_000.0) * 2, bytes.figure.value, bytes.unit),
    }
}

/// `2.4 % more`.
fn percent_off(ratio: f64) -> String {
    let percent = (ratio - 1.0) * 100.0;
    format!("{:.2} % {}", percent.abs(), if percent < 0.0 { "less" } else { "more" })
}

fn decimals(milliseconds: f64) -> usize {
    if milliseconds < 10.0 { 2 } else { 1 }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `30,001,407`.
fn count(value: f64) -> String {
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
