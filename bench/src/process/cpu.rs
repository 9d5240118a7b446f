//! CPU time of another process, thread by thread.
//!
//! `schedstat` counts nanoseconds; the user/system split exists in clock ticks only, so it is judged over many windows.

use rustix::process::Pid;
use std::fs;
use std::io;
use std::ops::{Add, Sub};

/// Threads of the data plane are named so, with the shard's number behind.
const SHARD_THREAD_PREFIX: &str = "shard-";

/// CPU time used since the process started, or between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessCpu {
    /// Threads named `shard-N`.
    pub shard_ns: u64,
    /// All other threads. One that has ended is no longer counted: servers start theirs before they serve.
    pub other_ns: u64,
    /// User time, clock ticks.
    pub user_ticks: u64,
    /// System time, clock ticks.
    pub system_ticks: u64,
}

impl ProcessCpu {
    /// Reads the counters of a running process and of all that it has started: a peer may be several.
    pub fn read(pid: Pid) -> io::Result<ProcessCpu> {
        let mut cpu = ProcessCpu::default();
        let mut family = vec![pid.as_raw_nonzero().get()];
        let mut next = 0;
        while let Some(&member) = family.get(next) {
            match ProcessCpu::read_one(member, &mut family) {
                Ok(one) => cpu = cpu + one,
                // A child that has ended since it was listed; what was asked for must be there.
                Err(error) if next > 0 && error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            next += 1;
        }
        Ok(cpu)
    }

    /// One process; its children are added to `family`.
    fn read_one(pid: i32, family: &mut Vec<i32>) -> io::Result<ProcessCpu> {
        let directory = format!("/proc/{pid}");
        let mut cpu = ProcessCpu::default();
        for task in fs::read_dir(format!("{directory}/task"))? {
            let task = task?.path();
            let Some((name, ns)) = thread_cpu(&task)? else { continue };
            if name.starts_with(SHARD_THREAD_PREFIX) {
                cpu.shard_ns += ns;
            } else {
                cpu.other_ns += ns;
            }
            // Not there in kernels without checkpointing; then a peer of several processes would seem to cost nothing, and
            // starting one says so.
            if let Ok(children) = fs::read_to_string(task.join("children")) {
                family.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<i32>().ok()));
            }
        }
        let stat = fs::read_to_string(format!("{directory}/stat"))?;
        (cpu.user_ticks, cpu.system_ticks) = ticks(&stat).ok_or(io::ErrorKind::InvalidData)?;
        Ok(cpu)
    }

    /// All threads.
    pub fn total_ns(&self) -> u64 {
        self.shard_ns + self.other_ns
    }

    /// Share of user time, 0 to 1; `None` before the first tick.
    pub fn user_share(&self) -> Option<f64> {
        let ticks = self.user_ticks + self.system_ticks;
        (ticks > 0).then(|| self.user_ticks as f64 / ticks as f64)
    }
}

impl Sub for ProcessCpu {
    type Output = ProcessCpu;

    /// Saturates: a thread that ended in between took its nanoseconds along.
    fn sub(self, earlier: ProcessCpu) -> ProcessCpu {
        ProcessCpu {
            shard_ns: self.shard_ns.saturating_sub(earlier.shard_ns),
            other_ns: self.other_ns.saturating_sub(earlier.other_ns),
            user_ticks: self.user_ticks.saturating_sub(earlier.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(earlier.system_ticks),
        }
    }
}

impl Add for ProcessCpu {
    type Output = ProcessCpu;

    fn add(self, other: ProcessCpu) -> ProcessCpu {
        ProcessCpu {
            shard_ns: self.shard_ns + other.shard_ns,
            other_ns: self.other_ns + other.other_ns,
            user_ticks: self.user_ticks + other.user_ticks,
            system_ticks: self.system_ticks + other.system_ticks,
        }
    }
}

/// Name and CPU time of one thread; `None` when it has ended meanwhile.
fn thread_cpu(task: &std::path::Path) -> io::Result<Option<(String, u64)>> {
    let read = |file: &str| match fs::read_to_string(task.join(file)) {
        Ok(text) => Ok(Some(text)),
        // ESRCH: the directory was still open when the thread went.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    };
    let (Some(name), Some(schedstat)) = (read("comm")?, read("schedstat")?) else { return Ok(None) };
    let ns = schedstat.split_ascii_whitespace().next().and_then(|field| field.parse().ok());
    Ok(Some((name, ns.ok_or(io::ErrorKind::InvalidData)?)))
}

/// Fields 14 and 15 of `/proc/PID/stat`; the name in field 2 may hold spaces and parentheses.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tick_fields() {
        let table = [
            ("42 (name) S 1 2 3 4 5 6 7 8 9 10 71 72 0 0", Some((71, 72))),
            ("42 (a) b) S 1 2 3 4 5 6 7 8 9 10 71 72 0 0", Some((71, 72))),
            ("42 (name) S 1 2", None),
            ("", None),
        ];
        for (stat, expected) in table {
            assert_eq!(ticks(stat), expected, "{stat}");
        }
    }

    #[test]
    fn own_cpu_by_thread_name() {
        let spin = || {
            let start = crate::clock::thread_cpu_ns();
            while crate::clock::thread_cpu_ns() - start < 30_000_000 {
                std::hint::spin_loop();
            }
            ProcessCpu::read(rustix::process::getpid()).unwrap()
        };
        let thread = std::thread::Builder::new().name("shard-7".into()).spawn(spin).unwrap();
        let cpu = thread.join().unwrap();
        // The kernel brings a running thread's figure up to date at each tick only, 10 ms at most.
        assert!(cpu.shard_ns >= 20_000_000, "{cpu:?}");
        assert!(cpu.user_share().is_some(), "{cpu:?}");
    }

    #[test]
    fn a_process_counts_with_what_it_has_started() {
        use std::process::{Command, Stdio};
        // The shell waits for a child that works, and then for the end of its input.
        let script = "sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done; echo done; read end'";
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{script}; true")]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(shell.stdout.take().unwrap()), &mut line).unwrap();
        assert_eq!(line, "done\n");
        let pid = Pid::from_child(&shell);
        let all = ProcessCpu::read(pid).unwrap();
        let alone = ProcessCpu::read_one(pid.as_raw_nonzero().get(), &mut Vec::new()).unwrap();
        assert!(all.total_ns() > 10 * alone.total_ns(), "{all:?} of which {alone:?}");
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }
}
