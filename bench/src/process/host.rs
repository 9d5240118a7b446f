//! The machine: CPUs to run on, descriptors to use, and what a report says about it.

use crate::error::{Context, Error, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

/// What figures depend on. No host name, no path.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// As `/proc/cpuinfo` names it.
    pub cpu_model: String,
    /// CPUs this process may use.
    pub cpus_count: usize,
    /// Kernel release.
    pub kernel: String,
    /// The congestion control new sockets get.
    pub congestion_control: String,
}

impl Host {
    /// Looks once; what cannot be read is `unknown`.
    pub fn read() -> Host {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let control = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
        Host {
            cpu_model: model.map_or("unknown", |(_, name)| name).to_owned(),
            cpus_count: allowed_cpus().map_or(0, |cpus| cpus.len()),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            congestion_control: control.map_or("unknown".into(), |name| name.trim().to_owned()),
        }
    }
}

/// Moves the calling thread, and the processes and threads it starts from now on, to these CPUs.
pub fn pin_thread(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CpuSet::MAX_CPU {
            return Err(Error::Unusable(format!("no CPU {cpu}")));
        }
        set.set(cpu);
    }
    sched_setaffinity(None, &set).context(format!("pinning to CPUs {cpus:?}"))
}

/// The CPUs that the calling thread may use, ascending.
pub fn allowed_cpus() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None).context("reading the affinity mask")?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// Clock ticks in which the CPUs that may be used did nothing, since the machine was started (`proc_stat(5)`).
pub fn idle_ticks() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    Ok(idle_ticks_of(&text, &allowed_cpus()?))
}

/// Fields 4 and 5 of the lines `cpuN`: idle, and waiting for a disk.
fn idle_ticks_of(stat: &str, cpus: &[usize]) -> u64 {
    let idle = |line: &str| -> Option<u64> {
        let (number, fields) = line.strip_prefix("cpu")?.split_once(' ')?;
        cpus.contains(&number.parse().ok()?).then_some(())?;
        Some(fields.split_ascii_whitespace().skip(3).take(2).filter_map(|field| field.parse::<u64>().ok()).sum())
    };
    stat.lines().filter_map(idle).sum()
}

/// Raises the soft descriptor limit to the hard one and refuses a run that needs more.
pub fn need_descriptors(count: usize) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("raising the descriptor limit")?;
    match limit.maximum {
        Some(maximum) if maximum < count as u64 => Err(Error::Unusable(format!(
            "{count} descriptors are needed, {maximum} are allowed: raise the hard limit (`ulimit -Hn`)"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_of_some_cpus() {
        let stat =
            "cpu  9 9 9 900 90 0 0\ncpu0 1 2 3 400 50 0 0\ncpu1 1 2 3 60 7 0 0\ncpu10 1 2 3 8 9 0 0\nintr 5 5 5 5 5\n";
        assert_eq!(idle_ticks_of(stat, &[0, 1]), 400 + 50 + 60 + 7);
        assert_eq!(idle_ticks_of(stat, &[10]), 17);
        assert_eq!(idle_ticks_of(stat, &[]), 0);
        assert!(idle_ticks().unwrap() > 0);
    }
}
