//! Where CPU time goes, for some seconds: the stacks of all threads, sampled by a signal. Nothing of it is there while nobody
//! asks: no timer, no handler, no thread.
//!
//! - [`pprof`]: the form that `go tool pprof` and its like read.
//! - [`flame_graph`]: the form for people.
//!
//! The sampling is rpprof's, which keeps what it has taken in a static: hence one at a time. Why its handler may interrupt any
//! thread at any place is in decision 0032.

pub mod flame_graph;
pub mod pprof;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, SystemTime};

use rpprof::{ProfilerGuardBuilder, Report};
use tokio::sync::{Semaphore, oneshot};

use crate::http::reject::Reject;
use crate::limits::{
    PROFILE_HZ, PROFILE_HZ_MAX, PROFILE_SECONDS_FLAME_GRAPH, PROFILE_SECONDS_MAX, PROFILE_SECONDS_PPROF,
};
use crate::sys;

/// What a profile is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As `profile.proto`.
    Pprof,
    /// As a picture.
    FlameGraph,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    form: Form,
    /// 1 to [`PROFILE_SECONDS_MAX`].
    seconds: u32,
    /// 1 to [`PROFILE_HZ_MAX`].
    hz: u32,
}

/// What was taken.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Which stack was seen how often.
    pub stacks: Vec<Stack>,
    /// Samples for a second of CPU time.
    pub hz: u32,
    /// When it began.
    pub since: SystemTime,
    /// How long it was.
    pub duration: Duration,
    /// Samples that fell away because another thread's was just being kept.
    pub missed_count: u64,
}

/// One stack of one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// The thread's name.
    pub thread: String,
    /// The innermost first.
    pub frames: Vec<Frame>,
    /// In how many samples.
    pub samples_count: u64,
}

/// One return address: the function it is in, after those that were compiled into that one.
pub type Frame = Vec<Place>;

/// A line of a function.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Its name for people.
    pub function: String,
    /// As in the symbol table.
    pub symbol: String,
    /// Where it was compiled from; empty when that is not known.
    pub file: String,
    /// 0 when that is not known.
    pub line: u32,
}

/// Takes one profile at a time.
#[derive(Clone)]
pub struct Profiler {
    place: Arc<Semaphore>,
}

/// Never sent: its channel tells by its end that the client has gone.
enum Never {}

impl Form {
    /// The value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Form::Pprof => "application/octet-stream",
            Form::FlameGraph => "image/svg+xml",
        }
    }

    /// The value of `Content-Disposition`.
    pub fn disposition(self) -> &'static str {
        match self {
            Form::Pprof => "attachment; filename=\"profile.pb\"",
            Form::FlameGraph => "inline; filename=\"profile.svg\"",
        }
    }
}

impl Asked {
    /// Reads `seconds` and `hz` of a query; other parameters mean nothing, as everywhere.
    ///
    /// # Errors
    /// [`Reject::ProfileParameter`].
    pub fn parse(form: Form, query: &str) -> Result<Asked, Reject> {
        let (mut seconds, mut hz) = (None, None);
        for parameter in query.split('&') {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let (known, at_most) = match name {
                "seconds" => (&mut seconds, PROFILE_SECONDS_MAX),
                "hz" => (&mut hz, PROFILE_HZ_MAX),
                _ => continue,
            };
            // `parse` takes a sign, which is no digit.
            let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
            let number = value.parse().ok().filter(|number| is_number && (1..=at_most).contains(number));
            if known.replace(number.ok_or(Reject::ProfileParameter)?).is_some() {
                return Err(Reject::ProfileParameter);
            }
        }
        let seconds = seconds.unwrap_or(match form {
            Form::Pprof => PROFILE_SECONDS_PPROF,
            Form::FlameGraph => PROFILE_SECONDS_FLAME_GRAPH,
        });
        Ok(Asked { form, seconds, hz: hz.unwrap_or(PROFILE_HZ) })
    }
}

impl Profiler {
    /// One that rests.
    #[expect(clippy::new_without_default, reason = "two of them would share one timer")]
    pub fn new() -> Profiler {
        Profiler { place: Arc::new(Semaphore::new(1)) }
    }

    /// Takes a profile and writes it. It ends at once when this future is dropped.
    ///
    /// # Errors
    /// Another one is being taken, or none can be.
    pub async fn profile(&self, asked: Asked) -> Result<Vec<u8>, Reject> {
        let place = Arc::clone(&self.place).try_acquire_owned().map_err(|_| Reject::ProfileRunning)?;
        let (until_gone, gone) = channel::<Never>();
        let (done, is_done) = oneshot::channel();
        // A thread of its own: beginning and ending read the program's file and its tables, for up to a second of CPU time
        // that the control plane has not.
        let thread = thread::Builder::new().name("profile".to_owned()).spawn(move || {
            let taken = take(asked, &gone);
            // Before the client knows: it may ask again.
            drop(place);
            // Who has gone needs none.
            let _ = done.send(taken);
        });
        thread.map_err(refused)?;
        let taken = is_done.await.expect("the thread sends before it ends");
        drop(until_gone);
        taken
    }
}

/// Takes and writes what was asked for; what it gives is nothing for a client that has gone.
fn take(asked: Asked, gone: &Receiver<Never>) -> Result<Vec<u8>, Reject> {
    // rpprof remembers for ever that it had no file, so it is looked for before.
    tempfile::tempfile().map_err(|error| {
        tracing::warn!(%error, folder = %std::env::temp_dir().display(), "no profile: no temporary file can be made");
        Reject::ProfileFolder
    })?;
    if is_program_replaced() {
        return Err(Reject::ProfileProgram);
    }
    tracing::info!(seconds = asked.seconds, hz = asked.hz, "a profile begins");
    let guard = ProfilerGuardBuilder::default().frequency(asked.hz as i32).build().map_err(refused)?;
    if !sys::is_profile_timer_set() {
        return Err(refused("setitimer(2) has no effect"));
    }
    match gone.recv_timeout(Duration::from_secs(asked.seconds.into())) {
        Err(RecvTimeoutError::Timeout) => {}
        Err(RecvTimeoutError::Disconnected) => return Ok(Vec::new()),
        Ok(never) => match never {},
    }
    // Before the report: while that is made every sample is missed, and none is wanted.
    let missed_count = guard.missed_samples();
    let profile = Profile::new(guard.report().build().map_err(refused)?, asked.hz, missed_count);
    drop(guard);
    tracing::info!(stacks = profile.stacks.len(), missed = profile.missed_count, "a profile was taken");
    Ok(match asked.form {
        Form::Pprof => pprof::encode(&profile),
        Form::FlameGraph => flame_graph::draw(&profile).into_bytes(),
    })
}

fn refused(error: impl std::fmt::Display) -> Reject {
    tracing::warn!(%error, "no profile");
    Reject::ProfileTimer
}

/// Whether the file that this process was started from is another one by now, or none.
fn is_program_replaced() -> bool {
    // Where there is no such link, nothing is known.
    let program: io::Result<_> = std::fs::read_link("/proc/self/exe");
    program.is_ok_and(|path| path.as_os_str().as_encoded_bytes().ends_with(b" (deleted)"))
}

impl Profile {
    fn new(report: Report, hz: u32, missed_count: u64) -> Profile {
        let (since, duration) = (report.timing.start_time, report.timing.duration);
        let stacks = report.data.into_iter().map(|(frames, count)| Stack {
            thread: frames.thread_name_or_id(),
            frames: frames.frames.iter().map(|symbols| symbols.iter().map(Place::of).collect()).collect(),
            samples_count: u64::try_from(count).unwrap_or(0),
        });
        Profile { stacks: stacks.collect(), hz, since, duration, missed_count }
    }

    /// Of all stacks.
    pub fn samples_count(&self) -> u64 {
        self.stacks.iter().map(|stack| stack.samples_count).sum()
    }
}

impl Place {
    fn of(symbol: &rpprof::Symbol) -> Place {
        Place {
            function: symbol.name(),
            symbol: symbol.sys_name().into_owned(),
            file: symbol.filename.as_ref().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default(),
            line: symbol.lineno(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two threads, one of which was seen in two stacks.
    pub(crate) fn example() -> Profile {
        let place = |name: &str, line| Place {
            function: format!("crate::{name}<'a>"),
            symbol: format!("_R{name}"),
            file: "src/main.rs".to_owned(),
            line,
        };
        let stack = |thread: &str, frames, samples_count| Stack { thread: thread.to_owned(), frames, samples_count };
        let outer = vec![place("turn", 7)];
        Profile {
            stacks: vec![
                stack("shard-0", vec![vec![place("inlined", 1), place("parse", 2)], outer.clone()], 30),
                stack("shard-0", vec![vec![place("write", 3)], outer], 60),
                stack("control", vec![vec![place("poll", 4)]], 9),
            ],
            hz: 99,
            since: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
            duration: Duration::from_secs(2),
            missed_count: 5,
        }
    }

    #[test]
    fn parameters_are_bounded_and_have_defaults() {
        let check = |form, query: &str, expected: Option<(u32, u32)>| {
            let asked = Asked::parse(form, query).ok().map(|asked| (asked.seconds, asked.hz));
            assert_eq!(asked, expected, "{query:?}");
        };
        check(Form::Pprof, "", Some((30, 99)));
        check(Form::FlameGraph, "", Some((10, 99)));
        check(Form::FlameGraph, "seconds=1", Some((1, 99)));
        check(Form::FlameGraph, "seconds=60&hz=250&else=1", Some((60, 250)));
        check(Form::Pprof, "hz=1", Some((30, 1)));
        let refused = [
            "seconds",
            "seconds=",
            "seconds=0",
            "seconds=61",
            "seconds=+1",
            "seconds=-1",
            "seconds=1.5",
            "seconds=1s",
            "seconds=99999999999",
            "seconds=1&seconds=1",
            "hz=0",
            "hz=251",
            "hz=",
            "hz=99&hz=99",
        ];
        for query in refused {
            check(Form::Pprof, query, None);
            check(Form::FlameGraph, query, None);
        }
    }
}
