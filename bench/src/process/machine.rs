//! All that figures depend on and that can be asked: to be kept beside them. No host name, no path.

use crate::process::host::Host;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;

/// What is read below `/proc/sys`, dots for slashes; what the kernel does not have is left out.
const SYSCTLS: [&str; 22] = [
    "kernel.io_uring_disabled",
    "kernel.sched_autogroup_enabled",
    "net.core.busy_poll",
    "net.core.busy_read",
    "net.core.default_qdisc",
    "net.core.netdev_max_backlog",
    "net.core.rmem_default",
    "net.core.rmem_max",
    "net.core.somaxconn",
    "net.core.wmem_default",
    "net.core.wmem_max",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_autocorking",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_mem",
    "net.ipv4.tcp_notsent_lowat",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_timestamps",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_wmem",
];

/// The machine and this program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// CPUs and kernel.
    #[serde(flatten)]
    pub host: Host,
    /// A hypervisor gives the CPUs: their time may be shared with machines that cannot be seen.
    #[serde(default)]
    pub is_virtual: Option<bool>,
    /// Memory in all.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// How CPU 0 chooses its clock.
    #[serde(default)]
    pub frequency_governor: Option<String>,
    /// Whether a ring could be made: by its answer the server chooses `io_uring` or epoll.
    #[serde(default)]
    pub io_uring: Option<String>,
    /// Runnable threads over the last minute, at the look: more than none beside a bench are somebody else's.
    #[serde(default)]
    pub load_average: Option<f64>,
    /// The kernel's settings that matter.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Compiler of this program.
    #[serde(default)]
    pub compiler: Option<String>,
    /// Target of this program.
    #[serde(default)]
    pub target: Option<String>,
    /// Profile of this program.
    #[serde(default)]
    pub profile: Option<String>,
    /// Commit of this program.
    #[serde(default)]
    pub commit: Option<String>,
}

impl Machine {
    /// Looks once; what cannot be read is left out.
    pub fn read() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let loadavg = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let governor = fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        Machine {
            host: Host::read(),
            is_virtual: is_virtual(&cpuinfo),
            memory_bytes: memory_bytes(&meminfo),
            frequency_governor: governor.ok().map(|name| name.trim().to_owned()),
            io_uring: Some(io_uring()),
            load_average: loadavg.split_ascii_whitespace().next().and_then(|load| load.parse().ok()),
            sysctls: SYSCTLS.into_iter().filter_map(|name| Some((name.to_owned(), sysctl(name)?))).collect(),
            compiler: Some(env!("BUILD_COMPILER").to_owned()),
            target: Some(env!("BUILD_TARGET").to_owned()),
            profile: Some(env!("BUILD_PROFILE").to_owned()),
            commit: Some(env!("BUILD_COMMIT").to_owned()),
        }
    }

    /// Names and values in words, for tables.
    pub fn rows(&self) -> Vec<(String, String)> {
        let Host { cpu_model, cpus_count, kernel, congestion_control } = &self.host;
        let gibibytes = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
        let optional = [
            ("virtual", self.is_virtual.map(|is_virtual| if is_virtual { "yes" } else { "no" }.to_owned())),
            ("memory", self.memory_bytes.map(gibibytes)),
            ("frequency governor", self.frequency_governor.clone()),
            ("io_uring", self.io_uring.clone()),
            ("load average before", self.load_average.map(|load| format!("{load:.2}"))),
            ("compiler", self.compiler.clone()),
            ("target", self.target.clone()),
            ("profile", self.profile.clone()),
            ("commit of the bench", self.commit.clone()),
        ];
        let mut rows = vec![
            ("CPU".to_owned(), cpu_model.clone()),
            ("CPUs".to_owned(), cpus_count.to_string()),
            ("kernel".to_owned(), kernel.clone()),
            ("congestion control".to_owned(), congestion_control.clone()),
        ];
        rows.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        rows.extend(self.sysctls.clone());
        rows
    }
}

/// The flag that every hypervisor sets for its guests, where the CPU has flags.
fn is_virtual(cpuinfo: &str) -> Option<bool> {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':'))?.1;
    Some(flags.split_ascii_whitespace().any(|flag| flag == "hypervisor"))
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

fn sysctl(name: &str) -> Option<String> {
    let value = fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?;
    Some(value.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
}

fn io_uring() -> String {
    match io_uring::IoUring::new(2) {
        Ok(_) => "available".to_owned(),
        Err(error) => format!("refused: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        assert_eq!(is_virtual("model name\t: x\nflags\t\t: fpu hypervisor sse\n"), Some(true));
        assert_eq!(is_virtual("flags\t\t: fpu hypervisors\n"), Some(false));
        assert_eq!(is_virtual("Features\t: fp asimd\n"), None);
        assert_eq!(memory_bytes("MemTotal:       24634232 kB\nMemFree: 1 kB\n"), Some(24_634_232 * 1024));
        assert_eq!(sysctl("net.core.no_such_thing"), None);
    }

    #[test]
    fn this_machine_can_be_kept_and_read_again() {
        let machine = Machine::read();
        assert!(machine.sysctls.contains_key("net.core.somaxconn"), "{machine:?}");
        let text = serde_json::to_string(&machine).unwrap();
        let again: Machine = serde_json::from_str(&text).unwrap();
        assert_eq!(again.rows(), machine.rows());
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert!(!text.contains(&format!("\"{}\"", name.trim())), "no host name");
        assert!(!text.contains(env!("CARGO_MANIFEST_DIR")), "no path of this machine");
        // A run kept by an earlier version has less.
        let least = r#"{"cpu_model":"x","cpus_count":2,"kernel":"6","congestion_control":"bbr"}"#;
        assert_eq!(serde_json::from_str::<Machine>(least).unwrap().rows().len(), 4);
    }
}
