//! What goes wrong in a round, for how long, and how it is mended.

use std::time::{Duration, Instant};

use crate::chaos::arena::{Arena, set_clock};
use crate::chaos::traffic::Traffic;
use crate::cluster;
use crate::stack::proxy::Wire;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of a server, and a new start.
    KillServer,
    /// `kill -9` of a worker, and a new start.
    KillWorker,
    /// `kill -9` of a service, and a new start over the same data.
    Kill(Service),
    /// Connections are reset, and none is made.
    Cut(Side, Service),
    /// Connections stay and carry nothing.
    Freeze(Side, Service),
    /// Everything comes late.
    Delay(Side, Service),
    /// SIGSTOP for longer than a lease, then SIGCONT: a zombie.
    FreezeWorker,
    /// Redis forgets everything.
    Flush,
    /// Redis is killed and comes back with what it knew a while ago.
    OldDump,
    /// Redis cuts its subscribers off: what is published meanwhile is lost to them.
    LoseSubscribers,
    /// No room under Postgres.
    FullDisk,
    /// A server's clock jumps ahead, and back when it is set right.
    ClockAhead,
    /// A server's clock jumps back, and ahead when it is set right.
    ClockBehind,
}

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Servers,
    Workers,
}

/// To whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Kafka,
    Postgres,
    Redis,
}

use Service::{Kafka, Postgres, Redis};
use Side::{Servers, Workers};

/// How long a fault lasts, at least and at most.
const LASTS_MS: std::ops::Range<u64> = 300..2_500;
/// Longer than a lease, so that somebody else has taken the zombie's partitions when it wakes.
const ZOMBIE: Duration = Duration::from_secs(8);
const DELAY: Duration = Duration::from_millis(80);
/// Far beyond what a server puts up with before it refuses writes.
const CLOCK_OFF_SECONDS: i64 = 2 * 60 * 60;

impl Fault {
    /// All of them.
    pub const ALL: &'static [Fault] = &[
        Fault::KillServer,
        Fault::KillWorker,
        Fault::Kill(Kafka),
        Fault::Kill(Postgres),
        Fault::Kill(Redis),
        Fault::Cut(Servers, Kafka),
        Fault::Cut(Servers, Postgres),
        Fault::Cut(Servers, Redis),
        Fault::Cut(Workers, Kafka),
        Fault::Cut(Workers, Postgres),
        Fault::Cut(Workers, Redis),
        Fault::Freeze(Servers, Kafka),
        Fault::Freeze(Servers, Postgres),
        Fault::Freeze(Servers, Redis),
        Fault::Freeze(Workers, Kafka),
        Fault::Freeze(Workers, Postgres),
        Fault::Freeze(Workers, Redis),
        Fault::Delay(Servers, Kafka),
        Fault::Delay(Servers, Postgres),
        Fault::Delay(Servers, Redis),
        Fault::Delay(Workers, Kafka),
        Fault::Delay(Workers, Postgres),
        Fault::Delay(Workers, Redis),
        Fault::FreezeWorker,
        Fault::Flush,
        Fault::OldDump,
        Fault::LoseSubscribers,
        Fault::FullDisk,
        Fault::ClockAhead,
        Fault::ClockBehind,
    ];

    /// What the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Fault::KillServer => "kill -9 of a server",
            Fault::KillWorker => "kill -9 of a worker",
            Fault::Kill(Kafka) => "kill -9 of Kafka",
            Fault::Kill(Postgres) => "kill -9 of Postgres",
            Fault::Kill(Redis) => "kill -9 of Redis",
            Fault::Cut(Servers, Kafka) => "servers cut off from Kafka",
            Fault::Cut(Servers, Postgres) => "servers cut off from Postgres",
            Fault::Cut(Servers, Redis) => "servers cut off from Redis",
            Fault::Cut(Workers, Kafka) => "workers cut off from Kafka",
            Fault::Cut(Workers, Postgres) => "workers cut off from Postgres",
            Fault::Cut(Workers, Redis) => "workers cut off from Redis",
            Fault::Freeze(Servers, Kafka) => "silence between servers and Kafka",
            Fault::Freeze(Servers, Postgres) => "silence between servers and Postgres",
            Fault::Freeze(Servers, Redis) => "silence between servers and Redis",
            Fault::Freeze(Workers, Kafka) => "silence between workers and Kafka",
            Fault::Freeze(Workers, Postgres) => "silence between workers and Postgres",
            Fault::Freeze(Workers, Redis) => "silence between workers and Redis",
            Fault::Delay(Servers, Kafka) => "80 ms between servers and Kafka",
            Fault::Delay(Servers, Postgres) => "80 ms between servers and Postgres",
            Fault::Delay(Servers, Redis) => "80 ms between servers and Redis",
            Fault::Delay(Workers, Kafka) => "80 ms between workers and Kafka",
            Fault::Delay(Workers, Postgres) => "80 ms between workers and Postgres",
            Fault::Delay(Workers, Redis) => "80 ms between workers and Redis",
            Fault::FreezeWorker => "a worker frozen beyond its lease",
            Fault::Flush => "Redis FLUSHALL",
            Fault::OldDump => "Redis back from an old dump",
            Fault::LoseSubscribers => "subscribers cut off, messages lost",
            Fault::FullDisk => "full disk under Postgres",
            Fault::ClockAhead => "a server's clock two hours ahead",
            Fault::ClockBehind => "a server's clock two hours behind",
        }
    }

    /// Lets it happen, and mends it. Returns when that was.
    pub fn happen(self, arena: &mut Arena, traffic: &Traffic, random: &mut fastrand::Rng) -> Result<Instant, String> {
        let lasts = Duration::from_millis(random.u64(LASTS_MS));
        let wait = || std::thread::sleep(lasts);
        let on_wire = |side, service, wire| {
            arena.set(side, service, wire);
            wait();
            arena.set(side, service, Wire::Whole);
        };
        match self {
            Fault::Cut(side, service) => on_wire(side, service, Wire::Cut),
            Fault::Freeze(side, service) => on_wire(side, service, Wire::Frozen),
            Fault::Delay(side, service) => on_wire(side, service, Wire::Slow(DELAY)),
            Fault::KillServer => {
                let victim = random.usize(..arena.servers.len());
                traffic.set_away(victim, true);
                arena.servers[victim].kill()?;
                wait();
                let mended = Instant::now();
                arena.servers[victim].restart()?;
                cluster::wait_until_ready(&arena.servers[victim])?;
                traffic.set_away(victim, false);
                return Ok(mended);
            }
            Fault::KillWorker => {
                let victim = random.usize(..arena.workers.len());
                arena.workers[victim].kill()?;
                wait();
                arena.workers[victim].restart()?;
            }
            Fault::Kill(service) => {
                arena.service(service).kill()?;
                wait();
                arena.service(service).restart()?;
            }
            Fault::FreezeWorker => {
                let victim = random.usize(..arena.workers.len());
                arena.workers[victim].pause()?;
                std::thread::sleep(ZOMBIE);
                arena.workers[victim].resume()?;
            }
            Fault::Flush => arena.redis(&["FLUSHALL"])?,
            Fault::OldDump => {
                arena.redis(&["SAVE"])?;
                wait();
                arena.service(Redis).kill()?;
                arena.service(Redis).restart()?;
            }
            Fault::LoseSubscribers => {
                for _ in 0..10 {
                    arena.redis(&["CLIENT", "KILL", "TYPE", "pubsub"])?;
                    std::thread::sleep(lasts / 10);
                }
            }
            Fault::FullDisk => {
                let disk = arena.disk.as_ref().ok_or("there is no small disk")?;
                disk.fill()?;
                wait();
                disk.free()?;
                // Without room for its own log it ends, and is started by whoever made room.
                if !arena.service(Postgres).is_running() {
                    arena.service(Postgres).restart()?;
                }
            }
            Fault::ClockAhead | Fault::ClockBehind => {
                let off_seconds = if self == Fault::ClockAhead { CLOCK_OFF_SECONDS } else { -CLOCK_OFF_SECONDS };
                set_clock(&arena.clock, off_seconds)?;
                // It looks at the file once a second: a shorter fault would be none.
                cluster::wait_until_refusing(arena.server_with_clock(), "clock is")?;
                wait();
                set_clock(&arena.clock, 0)?;
            }
        }
        Ok(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_is_cut_silent_and_slow_and_each_kind_has_a_name_of_its_own() {
        for side in [Servers, Workers] {
            for service in [Kafka, Postgres, Redis] {
                for fault in [Fault::Cut(side, service), Fault::Freeze(side, service), Fault::Delay(side, service)] {
                    assert!(Fault::ALL.contains(&fault), "{fault:?}");
                }
            }
        }
        let mut names: Vec<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Fault::ALL.len());
    }
}
