//! Which CPUs a process that already runs may use, with all its threads and descendants.

use std::collections::HashMap;

use crate::command::{capture, command};

/// Keeps a process, its threads, what it has started and what that starts from now on to one CPU.
///
/// # Errors
/// `taskset` refused; who ended meanwhile is none.
pub fn keep_to(pid: u32, cpu: usize) -> Result<(), String> {
    for member in family(pid)? {
        let words = ["--all-tasks", "--cpu-list", "--pid", &cpu.to_string(), &member.to_string()];
        if let Err(reason) = capture(&mut command("taskset", &words))
            && parent(member).is_some()
        {
            return Err(reason);
        }
    }
    Ok(())
}

/// A process and its descendants.
fn family(pid: u32) -> Result<Vec<u32>, String> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))? {
        let name = entry.map_err(|error| format!("/proc: {error}"))?.file_name();
        if let Some(child) = name.to_str().and_then(|name| name.parse().ok())
            && let Some(parent) = parent(child)
        {
            children.entry(parent).or_default().push(child);
        }
    }
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(member) = family.get(next) {
        family.extend(children.remove(member).unwrap_or_default());
        next += 1;
    }
    Ok(family)
}

/// From `/proc/PID/stat`: the second field after the name, which stands in parentheses and may hold anything (proc(5)).
fn parent(pid: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_family_is_kept_to_a_cpu() {
        let mut shell = Command::new("sh").args(["-c", "cat; true"]).stdin(Stdio::piped()).spawn().unwrap();
        let child = loop {
            if let [_, child] = family(shell.id()).unwrap()[..] {
                break child;
            }
            std::thread::yield_now();
        };
        keep_to(shell.id(), 0).unwrap();
        for pid in [shell.id(), child] {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
        }
        drop(shell.stdin.take());
        assert!(shell.wait().unwrap().success());
    }
}
