//! Signal masks: a signal that lands on a shard ends its wait with an error that the runtime ignores.

use std::mem::MaybeUninit;

/// Blocks every signal but SIGPROF on the calling thread and on those it starts from now on. The control plane's thread,
/// started before, takes them all.
///
/// SIGPROF must come through: the kernel gives it to the thread that has spent the CPU time, and to another, which would be
/// blamed, when that one blocks it. It comes only while a profile is taken. A wait that it ends is begun anew by the runtime, on
/// both drivers; what is submitted to a ring stays submitted.
pub fn block_signals() {
    let mut blocked = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigfillset` writes a whole `sigset_t` through the pointer, which is valid for that.
    let filled = unsafe { libc::sigfillset(blocked.as_mut_ptr()) };
    assert_eq!(filled, 0, "sigfillset fails only for an invalid pointer");
    // SAFETY: `blocked` was initialised by the call above.
    let removed = unsafe { libc::sigdelset(blocked.as_mut_ptr(), libc::SIGPROF) };
    assert_eq!(removed, 0, "sigdelset fails only for an invalid signal");
    // SAFETY: `blocked` was initialised by the first call; a null old set is allowed.
    let set = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, blocked.as_ptr(), std::ptr::null_mut()) };
    assert_eq!(set, 0, "pthread_sigmask fails only for an invalid `how`");
}

/// Whether the timer that sends SIGPROF runs. The profiler does not say when the kernel has refused it.
pub fn is_profile_timer_set() -> bool {
    let mut timer = MaybeUninit::<libc::itimerval>::zeroed();
    // SAFETY: `getitimer` writes at most a whole `itimerval` through the pointer, which is valid for that.
    let got = unsafe { libc::getitimer(libc::ITIMER_PROF, timer.as_mut_ptr()) };
    // SAFETY: an `itimerval` is four integers, for which zeroes are valid too.
    let timer = unsafe { timer.assume_init() };
    got == 0 && (timer.it_interval.tv_sec, timer.it_interval.tv_usec) != (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_that_can_be_blocked_is_but_for_that_of_profiles() {
        let status = std::thread::spawn(|| {
            block_signals();
            std::fs::read_to_string("/proc/thread-self/status")
        });
        let status = status.join().expect("the thread does not panic").expect("procfs is there");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a SigBlk line").trim();
        let mask = u64::from_str_radix(mask, 16).expect("a hexadecimal mask");
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGCHLD] {
            assert_ne!(mask & 1 << (signal - 1), 0, "signal {signal} is not blocked");
        }
        assert_eq!(mask & 1 << (libc::SIGPROF - 1), 0, "SIGPROF is blocked");
    }
}
