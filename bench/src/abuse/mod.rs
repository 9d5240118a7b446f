//! Abuse: a server is attacked while others use it, and the others are asked what they noticed.
//!
//! ```text
//! for each attack, on a server of its own with the default limits:
//!     for each round:
//!         others alone: p50, p99
//!         others, and after a moment the attack beside them: p50, p99, errors, newcomers
//!         the attack ends; how long until descriptors, gauges and the others' p99 are as before?
//!     memory before, at its highest, behind
//! ```
//!
//! - `attacks` is the table of them; `crowd` is the thread that carries one out.
//! - `others` are those who use the server; `state` is what an attack may leave behind; `judge` says whether it is good.
//!
//! Attack and others share a core, the server has one of its own. The attack's thread gives way to everybody (`SCHED_IDLE`) and
//! its rate is bounded, so that the others are not late by themselves; how late they were is measured, and where that is
//! most of what a p99 grew by, no ratio is given.

pub mod attacks;
pub mod crowd;
pub mod judge;
pub mod others;
pub mod state;

use crate::clock;
use crate::error::{Error, Result};
use crate::limits::{ATTACK_AFTER, ATTACK_LOOK_EVERY, ATTACK_ROUNDS_MAX, RECOVERY_PATIENCE};
use crate::process::child::{Server, ServerOptions};
use crate::process::host;
use attacks::{Attack, Words};
use crowd::Crowd;
use judge::{Bounds, Round, Row};
use others::{Others, Window};
use state::{Resident, State};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server; its limits are the default ones.
    pub server: ServerOptions,
    /// CPU of everything else.
    pub cpu: usize,
    /// Rounds of each attack.
    pub rounds_count: usize,
    /// Others beside the attack, in each round.
    pub window: Duration,
    /// Others alone.
    pub window_without: Duration,
    /// Of what the server can answer.
    pub read_share: f64,
    /// Others' writes a second.
    pub write_rate: f64,
    /// For all that is random.
    pub seed: u64,
}

/// Reads a second that are `read_share` of what a server answers.
pub fn read_rate(options: &Options) -> Result<f64> {
    let server = Server::start(&options.server)?;
    host::pin_thread(&[options.cpu])?;
    Ok(Others::capacity(server.address(), options.cpu, options.window)? * options.read_share)
}

/// One attack, on a server of its own.
pub fn run(attack: &Attack, options: &Options, read_rate: f64, bounds: &Bounds) -> Result<Row> {
    if options.rounds_count == 0 || options.rounds_count > ATTACK_ROUNDS_MAX {
        return Err(Error::Unusable(format!("rounds are 1 to {ATTACK_ROUNDS_MAX}")));
    }
    host::need_descriptors(attack.connections_count + 256)?;
    let server = Server::start(&ServerOptions { descriptors_max: attack.descriptors_max, ..options.server.clone() })?;
    host::pin_thread(&[options.cpu])?;
    let token = server.token()?;
    let arena = Arena {
        attack,
        server: &server,
        words: Words::new(server.address().to_string(), &token),
        others: Others {
            address: server.address(),
            token,
            cpu: options.cpu,
            read_rate,
            write_rate: options.write_rate,
        },
        window: options.window,
    };
    // What the first requests make is not the attack's.
    arena.others.glance()?;
    let mut rounds = Vec::with_capacity(options.rounds_count);
    let (mut first, mut last) = (None, State::default());
    let mut peak_bytes = 0;
    for number in 0..options.rounds_count {
        let without = arena.others.window(options.window_without)?;
        let before = State::read(&server)?;
        first.get_or_insert(before);
        let (with, crowd, peak) = arena.attacked(options.seed.wrapping_add(number as u64), before.highest_bytes)?;
        peak_bytes = peak_bytes.max(peak);
        let begun_ns = clock::now_ns();
        let normal_p99_us = without.p99_us * bounds.ratio_max;
        let recovery_ms = arena.recovers(&before, normal_p99_us)?.then(|| (clock::now_ns() - begun_ns) as f64 / 1e6);
        last = State::read(&server)?;
        rounds.push(Round { without, with, crowd, recovery_ms });
    }
    let no_round = || Error::Unusable("no round was run".into());
    Row::new(attack, &rounds, first.ok_or_else(no_round)?, peak_bytes, last).ok_or_else(no_round)
}

/// Where it happens.
struct Arena<'a> {
    attack: &'a Attack,
    server: &'a Server,
    words: Words,
    others: Others,
    window: Duration,
}

impl Arena<'_> {
    /// A window of the others beside the attack, and the most memory meanwhile. Behind it no connection of the attack is left.
    fn attacked(&self, seed: u64, highest_before_bytes: u64) -> Result<(Window, Crowd, u64)> {
        let stop = &AtomicBool::new(false);
        std::thread::scope(|scope| {
            let attack = scope.spawn(move || {
                // The others are connected by then, and their window begins.
                std::thread::sleep(ATTACK_AFTER);
                crowd::attack(self.attack, self.server.address(), &self.words, seed, stop)
            });
            let memory = scope.spawn(|| self.highest_memory(stop));
            let window = self.others.window(self.window);
            stop.store(true, Ordering::Relaxed);
            let crowd = attack.join().expect("the attack panicked")?;
            let seen_bytes = memory.join().expect("the look at the memory panicked")?;
            let highest_bytes = Resident::read(self.server)?.highest_bytes;
            // The process's own record is exact, but it may be from before the attack.
            let is_new = highest_bytes > highest_before_bytes;
            Ok((window?, crowd, if is_new { highest_bytes } else { seen_bytes }))
        })
    }

    fn highest_memory(&self, stop: &AtomicBool) -> Result<u64> {
        let mut highest_bytes = 0;
        while !stop.load(Ordering::Relaxed) {
            highest_bytes = highest_bytes.max(Resident::read(self.server)?.now_bytes);
            std::thread::sleep(ATTACK_LOOK_EVERY);
        }
        Ok(highest_bytes)
    }

    /// Waits until descriptors and gauges are as before and the others' p99 is normal; false when that takes too long.
    fn recovers(&self, before: &State, normal_p99_us: f64) -> Result<bool> {
        let deadline_ns = clock::now_ns() + clock::duration_ns(RECOVERY_PATIENCE);
        // A server that is still full cannot be asked.
        while !State::read(self.server).is_ok_and(|state| state.is_back(before)) {
            if clock::now_ns() > deadline_ns {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        loop {
            let glance = self.others.glance()?;
            if glance.errors == 0 && glance.p99_us <= normal_p99_us {
                return Ok(true);
            }
            if clock::now_ns() > deadline_ns {
                return Ok(false);
            }
        }
    }
}
