//! `tuning/tune`: shellcheck, and that undo puts back exactly what apply found, in a made-up tree and in a real network
//! namespace.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::command::{command, root, succeed, works};
use crate::report::Tally;

/// A host with a card of two queues, on which nearly everything differs from what is advised.
const TREE: [(&str, &str); 16] = [
    ("proc/sys/net/core/somaxconn", "128\n"),
    ("proc/sys/net/core/busy_read", "0\n"),
    ("proc/sys/net/core/busy_poll", "0\n"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "8192\n"),
    ("proc/sys/net/ipv4/tcp_migrate_req", "0\n"),
    ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
    ("proc/sys/kernel/io_uring_disabled", "2\n"),
    ("proc/irq/24/eth0-TxRx-0/x", ""),
    ("proc/irq/24/smp_affinity_list", "0-1\n"),
    ("proc/irq/25/eth0-TxRx-1/x", ""),
    ("proc/irq/25/smp_affinity_list", "0-1\n"),
    ("sys/class/net/eth0/device/msi_irqs/24", "msi\n"),
    ("sys/class/net/eth0/device/msi_irqs/25", "msi\n"),
    ("sys/class/net/eth0/queues/tx-0/xps_cpus", "01\n"),
    ("sys/class/net/eth0/queues/tx-1/xps_cpus", "00\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n"),
];
/// What the bench profile makes of it.
const APPLIED: [(&str, &str); 10] = [
    ("proc/sys/net/core/somaxconn", "4096"),
    ("proc/sys/net/core/busy_read", "50"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "8192"),
    ("proc/sys/net/ipv4/ip_local_port_range", "1024 65535"),
    ("proc/sys/kernel/io_uring_disabled", "0"),
    ("proc/irq/24/smp_affinity_list", "0"),
    ("proc/irq/25/smp_affinity_list", "1"),
    ("sys/class/net/eth0/queues/tx-0/xps_cpus", "01"),
    ("sys/class/net/eth0/queues/tx-1/xps_cpus", "2"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance"),
];

/// Runs all.
pub fn check() -> Result<Tally, String> {
    succeed(command("shellcheck", &["tuning/tune"]).current_dir(root()))?;
    units()?;
    let checks: [fn() -> Result<(), String>; 4] = [apply_and_undo, a_second_apply, what_cannot_be_changed, namespace];
    for check in checks {
        check()?;
    }
    Ok(Tally { passed: 6, failed: 0 })
}

/// systemd reads its units as we mean them; it asks for the program itself, so there is one in its place.
fn units() -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    for name in ["todo-server.service", "todo-worker.service"] {
        let unit = root().join("tuning").join(name);
        let text = std::fs::read_to_string(&unit).map_err(|error| format!("{}: {error}", unit.display()))?;
        let copy = directory.path().join(name);
        write(&copy, &text.replace("/usr/local/bin/", "/usr/bin/env "))?;
        let verify = command("systemd-analyze", &["verify", "--man=no"]).arg(&copy).output();
        let verify = verify.map_err(|error| format!("systemd-analyze: {error}"))?;
        let said = String::from_utf8_lossy(&verify.stderr);
        // What it does not understand it names and goes on without.
        if !verify.status.success() || said.contains(name) {
            return Err(format!("systemd-analyze verify {name} ended with {}:\n{said}", verify.status));
        }
    }
    Ok(())
}

fn apply_and_undo() -> Result<(), String> {
    let host = Host::new()?;
    let (before, said) = (host.contents()?, host.says("check bench", &[1])?);
    host.says("apply bench", &[0])?;
    let applied = host.contents()?;
    for (file, value) in APPLIED {
        if applied.get(file).map(|text| text.trim_end()) != Some(value) {
            return Err(format!("apply left {file} as {:?}, not {value}", applied.get(file)));
        }
    }
    // The limit of descriptors is that of whoever runs this.
    let differs = |line: &&str| line.starts_with("differs") && !line.contains("nofile");
    if let Some(line) = host.says("check bench", &[0, 1])?.lines().find(differs) {
        return Err(format!("after apply: {line}"));
    }
    host.says("undo", &[0])?;
    same(&said, &host.says("check bench", &[1])?)?;
    // The kernel writes its lists with tabs; it takes blanks for the same.
    same_values(&before, &host.contents()?)
}

/// The first record wins; a line that a kill cut off stands for nothing that was changed.
fn a_second_apply() -> Result<(), String> {
    let host = Host::new()?;
    let before = host.contents()?;
    host.says("apply safe", &[0])?;
    let somaxconn = host.root().join("proc/sys/net/core/somaxconn");
    write(&somaxconn, "64\n")?;
    host.says("apply bench", &[0])?;
    let record = host.record();
    let text = std::fs::read_to_string(&record).map_err(|error| format!("{}: {error}", record.display()))?;
    write(&record, &format!("{text}{}/proc/sys/net/core/som", host.root().display()))?;
    host.says("undo", &[0])?;
    same_values(&before, &host.contents()?)?;
    if record.exists() { Err("undo left its record".to_owned()) } else { Ok(()) }
}

/// A file that nobody can write is said and kept; the others are changed and put back all the same.
fn what_cannot_be_changed() -> Result<(), String> {
    let host = Host::new()?;
    let somaxconn = host.root().join("proc/sys/net/core/somaxconn");
    std::fs::remove_file(&somaxconn).map_err(|error| error.to_string())?;
    std::os::unix::fs::symlink("/proc/version", &somaxconn).map_err(|error| error.to_string())?;
    let before = host.contents()?;
    let said = host.says("apply safe", &[1])?;
    if !said.contains("refused  net.core.somaxconn") {
        return Err(format!("not a word of what cannot be changed:\n{said}"));
    }
    host.says("undo", &[0])?;
    same_values(&before, &host.contents()?)
}

/// The kernel's own files, in a network namespace of this test's own, so that the host keeps its values.
fn namespace() -> Result<(), String> {
    let ways: [&[&str]; 2] = [&["--user", "--map-root-user", "--net"], &["--net"]];
    let way = ways
        .into_iter()
        .find(|way| works(command("unshare", way).arg("true")))
        .ok_or("the kernel gives this user no network namespace: run as root, or allow user namespaces")?;
    let directory = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    // What is not of the network is refused in there, and that is no failure of this test.
    let script = "set -u; t=$1; $t check bench >before; $t apply bench >applied 2>refused; $t check bench >after;
        $t undo >undone 2>left; $t check bench >again; cmp before again && ! cmp -s before after";
    let mut shell = command("unshare", way);
    shell.args(["sh", "-c", script, "sh"]).arg(root().join("tuning/tune"));
    shell.current_dir(directory.path()).env("TUNING_RECORD", directory.path().join("record"));
    succeed(&mut shell)
}

struct Host {
    directory: tempfile::TempDir,
}

impl Host {
    fn new() -> Result<Host, String> {
        let directory = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
        for (file, text) in TREE {
            let path = directory.path().join("root").join(file);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
            }
            write(&path, text)?;
        }
        Ok(Host { directory })
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn record(&self) -> PathBuf {
        self.directory.path().join("state/record")
    }

    /// Runs `tune`, which must end with one of the codes, and gives back what it said.
    fn says(&self, words: &str, codes: &[i32]) -> Result<String, String> {
        let mut tune = Command::new(root().join("tuning/tune"));
        tune.args(words.split(' ')).env("TUNING_ROOT", self.root()).env("TUNING_RECORD", self.record());
        tune.env("TUNING_CPUS", "2");
        let Output { status, stdout, stderr } = tune.output().map_err(|error| format!("tuning/tune: {error}"))?;
        let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        if codes.iter().any(|code| status.code() == Some(*code)) {
            Ok(said)
        } else {
            Err(format!("tune {words} ended with {status}:\n{said}"))
        }
    }

    fn contents(&self) -> Result<BTreeMap<&'static str, String>, String> {
        TREE.into_iter()
            .map(|(file, _)| {
                let text = std::fs::read_to_string(self.root().join(file));
                text.map(|text| (file, text)).map_err(|error| format!("{file}: {error}"))
            })
            .collect()
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn same(before: &str, after: &str) -> Result<(), String> {
    if before == after { Ok(()) } else { Err(format!("check said before:\n{before}\nand after undo:\n{after}")) }
}

fn same_values(before: &BTreeMap<&str, String>, after: &BTreeMap<&str, String>) -> Result<(), String> {
    for (file, text) in before {
        let values = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        if values(text) != values(&after[file]) {
            return Err(format!("{file} was {text:?} and is {:?}", after[file]));
        }
    }
    Ok(())
}
