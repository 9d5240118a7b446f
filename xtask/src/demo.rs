//! `cargo xtask demo`: the whole cluster on this machine. Writes go to one server and are read at another.

use std::time::{Duration, Instant};

use crate::cluster::{self, Ended, Places};
use crate::command::{build_release, scratch};
use crate::http::Client;
use crate::stack::{Scoped, Security};

const WRITES: usize = 1_000;
/// A write that is not seen for so long is lost.
const SEEN_TIMEOUT: Duration = Duration::from_secs(30);
/// What the demo is to show: median and 99th percentile from the 202 until the write is seen.
const GOALS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(50));

/// Runs it. `Ok(false)` when a write took longer than the goals; slower machines may.
#[expect(clippy::print_stdout, reason = "it is what the command is for")]
pub fn run() -> Result<bool, String> {
    build_release()?;
    let scoped = Scoped::start("demo-stack", Security::Open)?;
    let places = Places::of(&scoped.stack);
    let directory = scratch("demo")?;
    let worker = Ended(cluster::start_worker("worker", &directory, &places)?);
    let writer = Ended(cluster::start_server("server-1", &directory, &places)?);
    let reader = Ended(cluster::start_server("server-2", &directory, &places)?);
    cluster::wait_until_writing(&writer.0)?;
    println!("a stack, a worker (port {}) and two servers run", worker.0.port());
    println!(
        "{WRITES} times: POST at port {}, then GET at port {} until it is there",
        writer.0.port(),
        reader.0.port()
    );

    let headers = format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", cluster::token()?);
    let mut writes = Client::connect(writer.0.port())?;
    let mut reads = Client::connect(reader.0.port())?;
    let (mut acknowledged, mut seen) = (Vec::with_capacity(WRITES), Vec::with_capacity(WRITES));
    for number in 0..WRITES {
        let begun = Instant::now();
        let response = writes.request("POST", "/todos", &headers, &format!(r#"{{"title":"Write {number}"}}"#))?;
        if response.status != 202 {
            return Err(format!("POST: {} {}", response.status, String::from_utf8_lossy(&response.body)));
        }
        let location = response.header("location").ok_or("a 202 without Location")?.to_owned();
        let taken = Instant::now();
        while reads.request("GET", &location, "", "")?.status != 200 {
            if taken.elapsed() > SEEN_TIMEOUT {
                return Err(format!("{location} was answered 202 and is not seen after {SEEN_TIMEOUT:?}"));
            }
        }
        acknowledged.push(taken - begun);
        seen.push(taken.elapsed());
    }
    let (median, worst) = (percentile(&mut seen, 50), percentile(&mut seen, 99));
    println!(
        "POST to 202:          median {:?}, p99 {:?}",
        percentile(&mut acknowledged, 50),
        percentile(&mut acknowledged, 99)
    );
    println!("202 to seen elsewhere: median {median:?}, p99 {worst:?} (goals {:?}, {:?})", GOALS.0, GOALS.1);
    Ok(median <= GOALS.0 && worst <= GOALS.1)
}

fn percentile(samples: &mut [Duration], percent: usize) -> Duration {
    samples.sort_unstable();
    samples[(samples.len() * percent / 100).min(samples.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let mut samples: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut samples, 50), Duration::from_millis(51));
        assert_eq!(percentile(&mut samples, 99), Duration::from_millis(100));
        assert_eq!(percentile(&mut samples[..1], 99), Duration::from_millis(1));
    }
}
