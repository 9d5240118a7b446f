//! Signal masks: a signal that lands on a shard would end its wait with an error that the runtime ignores.

/// Blocks every signal on the calling thread and on those it starts from now on. The control plane's thread, started
/// before, takes them all.
pub fn block_all_signals() {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigfillset` writes a whole `sigset_t` through the pointer, which is valid for that.
    let filled = unsafe { libc::sigfillset(all.as_mut_ptr()) };
    assert_eq!(filled, 0, "sigfillset fails only for an invalid pointer");
    // SAFETY: `all` was initialised by the call above; a null old set is allowed.
    let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut()) };
    assert_eq!(blocked, 0, "pthread_sigmask fails only for an invalid `how`");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_that_can_be_blocked_is() {
        let status = std::thread::spawn(|| {
            block_all_signals();
            std::fs::read_to_string("/proc/thread-self/status")
        });
        let status = status.join().expect("the thread does not panic").expect("procfs is there");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a SigBlk line").trim();
        let mask = u64::from_str_radix(mask, 16).expect("a hexadecimal mask");
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGCHLD] {
            assert_ne!(mask & 1 << (signal - 1), 0, "signal {signal} is not blocked");
        }
    }
}
