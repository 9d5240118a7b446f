//! A thread that runs only where nobody else wants to.

#![expect(unsafe_code, reason = "neither rustix nor std sets a scheduling policy; a nice value still takes turns")]

use std::io;

/// From here on the calling thread runs only while its CPU has nothing else to do (`SCHED_IDLE`): whoever becomes ready there
/// takes its place at once.
pub fn be_idle() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a live value of the type that the call reads, and 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_the_threads_own() {
        std::thread::spawn(|| {
            be_idle().unwrap();
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // Field 41, counted from behind the name (`proc_pid_stat(5)`).
            let policy = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(38).unwrap();
            assert_eq!(policy, libc::SCHED_IDLE.to_string());
        })
        .join()
        .unwrap();
    }
}
