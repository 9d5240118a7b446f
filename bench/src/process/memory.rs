//! Memory of a process and of the kernel's TCP, each part by itself.

use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

/// Bytes in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident memory that only this process has.
    pub anonymous_bytes: u64,
    /// Resident pages of files: the program itself, mostly.
    pub file_bytes: u64,
    /// Resident shared memory: memfds that are mapped.
    pub shared_bytes: u64,
    /// Memory of the memfds that the process holds open, mapped or not.
    pub memfd_bytes: u64,
    /// The kernel's TCP buffers of the whole host, both ends of each connection.
    pub tcp_bytes: u64,
}

impl Memory {
    /// Looks at a running process.
    pub fn read(pid: Pid) -> io::Result<Memory> {
        let directory = format!("/proc/{}", pid.as_raw_nonzero());
        let status = fs::read_to_string(format!("{directory}/status"))?;
        let resident = |name| kibibytes(&status, name).map(|count| count * 1024).ok_or(io::ErrorKind::InvalidData);
        let sockstat = fs::read_to_string("/proc/net/sockstat")?;
        Ok(Memory {
            anonymous_bytes: resident("RssAnon:")?,
            file_bytes: resident("RssFile:")?,
            shared_bytes: resident("RssShmem:")?,
            memfd_bytes: memfd_bytes(&directory)?,
            tcp_bytes: tcp_pages(&sockstat).ok_or(io::ErrorKind::InvalidData)? * rustix::param::page_size() as u64,
        })
    }

    /// Resident set size: what `ps` calls RSS.
    pub fn resident_bytes(&self) -> u64 {
        self.anonymous_bytes + self.file_bytes + self.shared_bytes
    }

    /// The process's own: resident, plus memfds that are not mapped.
    pub fn process_bytes(&self) -> u64 {
        self.resident_bytes() + self.memfd_bytes.saturating_sub(self.shared_bytes)
    }

    /// Everything a server makes the host hold.
    pub fn total_bytes(&self) -> u64 {
        self.process_bytes() + self.tcp_bytes
    }

    /// Each part's larger value.
    pub fn peak(self, other: Memory) -> Memory {
        Memory {
            anonymous_bytes: self.anonymous_bytes.max(other.anonymous_bytes),
            file_bytes: self.file_bytes.max(other.file_bytes),
            shared_bytes: self.shared_bytes.max(other.shared_bytes),
            memfd_bytes: self.memfd_bytes.max(other.memfd_bytes),
            tcp_bytes: self.tcp_bytes.max(other.tcp_bytes),
        }
    }
}

fn memfd_bytes(directory: &str) -> io::Result<u64> {
    let mut seen = Vec::new();
    for descriptor in fs::read_dir(format!("{directory}/fd"))? {
        let path = descriptor?.path();
        // A descriptor closed meanwhile holds nothing.
        let Ok(link) = fs::read_link(&path) else { continue };
        if link.to_string_lossy().starts_with("/memfd:")
            && let Ok(metadata) = fs::metadata(&path)
        {
            // Two descriptors of one memfd are one memory.
            seen.push((metadata.dev(), metadata.ino(), metadata.blocks() * 512));
        }
    }
    seen.sort_unstable();
    seen.dedup();
    Ok(seen.iter().map(|(_, _, bytes)| bytes).sum())
}

/// What a line of `/proc/PID/status` says in kB.
pub(crate) fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn tcp_pages(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut fields = line.split_ascii_whitespace().skip_while(|&field| field != "mem");
    fields.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, memfd_create};

    #[test]
    fn fields() {
        assert_eq!(kibibytes("Name:\tx\nRssAnon:\t   12 kB\nRssFile:\t 3 kB\n", "RssAnon:"), Some(12));
        assert_eq!(kibibytes("Name:\tx\n", "RssAnon:"), None);
        let sockstat = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 2 alloc 7 mem 33\nUDP: inuse 0 mem 1\n";
        assert_eq!(tcp_pages(sockstat), Some(33));
        assert_eq!(tcp_pages("TCP: inuse 5\n"), None);
    }

    #[test]
    fn a_memfd_is_counted_once() {
        let pid = rustix::process::getpid();
        let before = Memory::read(pid).unwrap();
        let memfd = memfd_create("counted", MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&memfd, &[1; 1 << 20]).unwrap();
        let twice = memfd.try_clone().unwrap();
        let after = Memory::read(pid).unwrap();
        assert!(after.memfd_bytes >= before.memfd_bytes + (1 << 20), "{before:?} {after:?}");
        assert!(after.memfd_bytes < before.memfd_bytes + (2 << 20), "{before:?} {after:?}");
        drop(twice);
    }
}
