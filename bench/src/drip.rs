//! Clients that take a byte a second of the whole list while writes run: when the server ends them, and what they cost.

use crate::clock;
use crate::error::{Context, Error, Result};
use crate::limits::{DRIP_BYTE_INTERVAL, DRIP_CLIENTS_MAX, SINGLE_REQUEST_TIMEOUT};
use crate::load::{Faults, socket};
use crate::process::child::Server;
use crate::process::counters::metric_sum;
use crate::process::memory::Memory;
use crate::request;
use crate::single::SingleClient;
use crate::writes::plan::Mix;
use crate::writes::writer::{self, Options as WriterOptions};
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between two looks at the server: how sharp the time of a cut is.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Connections that the server has ended by a deadline or a bound.
const CUT_METRIC: &str = "todo_cut_total";
/// What can wait in the sockets of a connection that was cut, and more.
const REST_BYTES: usize = 64 * 1024;

/// How many, and beside what.
#[derive(Clone, Debug)]
pub struct Options {
    /// Clients, 1 to `DRIP_CLIENTS_MAX`.
    pub clients_count: usize,
    /// Writes per second, open loop: creates, changes and deletes.
    pub writes_rate: f64,
    /// Connections that write.
    pub connections_count: usize,
    /// CPU of the writer.
    pub cpu: usize,
    /// Writes before the clients come, so that what writing itself takes is there.
    pub warmup: Duration,
    /// Clients that are not cut by then are given up.
    pub patience: Duration,
}

/// What it showed.
#[derive(Debug, Serialize, Deserialize)]
pub struct DripReport {
    /// Clients that dripped.
    pub clients_count: usize,
    /// Bytes of the list that each asked for.
    pub list_bytes: usize,
    /// Bytes that they took in all before they were cut.
    pub taken_bytes: u64,
    /// From the request until the server had cut one, seconds; `None` when it cut none.
    pub first_cut_seconds: Option<f64>,
    /// The same until it had cut all.
    pub last_cut_seconds: Option<f64>,
    /// Clients that found a reset then; an orderly end would look like a whole answer.
    pub resets_count: usize,
    /// 202 per second from the requests until all were cut.
    pub acknowledged_per_second: f64,
    /// Answered other than 202.
    pub refused: usize,
    /// Lost connections and missing answers of the writer.
    pub faults: Faults,
    /// Memory beside writes, before the clients came.
    pub before: Memory,
    /// Each part's peak while they were there.
    pub held: Memory,
}

impl DripReport {
    /// All that was added while they were there, by writing too.
    pub fn grown_bytes(&self) -> u64 {
        self.held.total_bytes().saturating_sub(self.before.total_bytes())
    }

    /// All were cut, by a reset, within so many seconds.
    pub fn are_cut_within(&self, seconds: f64) -> bool {
        self.resets_count == self.clients_count && self.last_cut_seconds.is_some_and(|last| last <= seconds)
    }
}

/// Writes, lets the clients come, and waits until they are cut.
pub fn run(server: &Server, run: &Options) -> Result<DripReport> {
    if run.clients_count == 0 || run.clients_count > DRIP_CLIENTS_MAX {
        return Err(Error::Unusable(format!("1 to {DRIP_CLIENTS_MAX} clients take a byte a second")));
    }
    let writes = WriterOptions {
        address: server.address(),
        token: server.token()?,
        connections_count: run.connections_count,
        depth: 1,
        rate: Some(run.writes_rate),
        mix: Mix::All,
        cpu: Some(run.cpu),
        seed: 1,
    };
    let stop = AtomicBool::new(false);
    let (report, dripped) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| writer::run(&writes, &stop));
        std::thread::sleep(run.warmup);
        let dripped = Dripped::watch(server, run);
        stop.store(true, Ordering::Relaxed);
        (writer.join().expect("the writer panicked"), dripped)
    });
    let (report, dripped) = (report?, dripped?);
    let Dripped { began_ns, ended_ns, .. } = dripped;
    Ok(DripReport {
        clients_count: run.clients_count,
        list_bytes: dripped.list_bytes,
        taken_bytes: dripped.taken_bytes,
        first_cut_seconds: dripped.first_cut_seconds,
        last_cut_seconds: dripped.last_cut_seconds,
        resets_count: dripped.resets_count,
        acknowledged_per_second: report.acknowledged_within(began_ns, ended_ns).count() as f64
            / ((ended_ns - began_ns) as f64 / 1e9),
        refused: report.refused_count(),
        faults: report.faults,
        before: dripped.before,
        held: dripped.held,
    })
}

/// Prints it.
pub fn print(report: &DripReport) {
    let mebibytes = crate::matrix::mebibytes;
    let seconds = |time: Option<f64>| time.map_or("never".to_owned(), |seconds| format!("after {seconds:.1} s"));
    println!(
        "{} clients took {} bytes of {:.1} MiB each, a byte a second",
        report.clients_count,
        report.taken_bytes,
        mebibytes(report.list_bytes as u64)
    );
    println!(
        "  the first was cut {}, the last {}; {} found a reset",
        seconds(report.first_cut_seconds),
        seconds(report.last_cut_seconds),
        report.resets_count
    );
    println!(
        "  {:.0} writes acknowledged a second meanwhile, {} refused{}",
        report.acknowledged_per_second,
        report.refused,
        report.faults.first.as_ref().map_or(String::new(), |first| format!(", and a fault: {first}"))
    );
    println!(
        "  memory {:.1} MiB before, {:.1} MiB at most, so {:.1} MiB more, what was written included",
        mebibytes(report.before.total_bytes()),
        mebibytes(report.held.total_bytes()),
        mebibytes(report.grown_bytes())
    );
}

struct Dripped {
    list_bytes: usize,
    began_ns: u64,
    ended_ns: u64,
    taken_bytes: u64,
    first_cut_seconds: Option<f64>,
    last_cut_seconds: Option<f64>,
    resets_count: usize,
    before: Memory,
    held: Memory,
}

impl Dripped {
    fn watch(server: &Server, run: &Options) -> Result<Dripped> {
        let list_bytes = SingleClient::connect(server.address())?.get_ok("/todos")?.body().len();
        let look = || Memory::read(server.pid()).context("reading the server's memory");
        let cut_count = || -> Result<usize> {
            let count = metric_sum(&server.metrics()?, CUT_METRIC);
            let count = count.ok_or_else(|| Error::Unusable(format!("the server does not tell {CUT_METRIC}")))?;
            Ok(usize::try_from(count).unwrap_or(usize::MAX))
        };
        let (before, cut_before) = (look()?, cut_count()?);
        let (began, began_ns) = (Instant::now(), clock::now_ns());
        let connect = |_| connect(server.address()).context("connecting a client that takes a byte a second");
        let mut clients = (0..run.clients_count).map(connect).collect::<Result<Vec<_>>>()?;
        let mut dripped = Dripped {
            list_bytes,
            began_ns,
            ended_ns: began_ns,
            taken_bytes: 0,
            first_cut_seconds: None,
            last_cut_seconds: None,
            resets_count: 0,
            before,
            held: before,
        };
        let mut next_byte = DRIP_BYTE_INTERVAL;
        while dripped.last_cut_seconds.is_none() && began.elapsed() < run.patience {
            std::thread::sleep(LOOK_INTERVAL);
            dripped.held = dripped.held.peak(look()?);
            let cut_count = cut_count()?.saturating_sub(cut_before);
            let seconds = began.elapsed().as_secs_f64();
            if cut_count > 0 {
                dripped.first_cut_seconds.get_or_insert(seconds);
            }
            if cut_count >= run.clients_count {
                dripped.last_cut_seconds = Some(seconds);
            }
            if began.elapsed() >= next_byte {
                next_byte += DRIP_BYTE_INTERVAL;
                // Behind a cut there may be bytes left, or none: the server knows, and is asked above.
                dripped.taken_bytes +=
                    clients.iter_mut().map(|client| client.read(&mut [0]).unwrap_or(0) as u64).sum::<u64>();
            }
        }
        dripped.ended_ns = clock::now_ns();
        dripped.resets_count = clients.into_iter().map(|mut client| usize::from(is_reset(&mut client))).sum();
        Ok(dripped)
    }
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut client = socket::open_slow(address, SINGLE_REQUEST_TIMEOUT)?;
    client.set_read_timeout(Some(LOOK_INTERVAL))?;
    client.write_all(&request::get(&address.to_string(), "/todos"))?;
    Ok(client)
}

/// Reads what is left; whether a reset comes behind it.
fn is_reset(client: &mut TcpStream) -> bool {
    let mut rest = vec![0; REST_BYTES];
    loop {
        match client.read(&mut rest) {
            Ok(1..) => {}
            Ok(0) => return false,
            Err(error) => return error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_must_be_cut_in_time_and_by_a_reset() {
        let report = |resets_count, last_cut_seconds| DripReport {
            clients_count: 2,
            list_bytes: 0,
            taken_bytes: 0,
            first_cut_seconds: Some(30.0),
            last_cut_seconds,
            resets_count,
            acknowledged_per_second: 0.0,
            refused: 0,
            faults: Faults::default(),
            before: Memory { tcp_bytes: 5, ..Memory::default() },
            held: Memory { anonymous_bytes: 3, tcp_bytes: 6, ..Memory::default() },
        };
        for (resets_count, last, expected) in
            [(2, Some(59.9), true), (2, Some(60.1), false), (1, Some(31.0), false), (2, None, false)]
        {
            assert_eq!(report(resets_count, last).are_cut_within(60.0), expected, "{resets_count} {last:?}");
        }
        assert_eq!(report(0, None).grown_bytes(), 4);
    }
}
