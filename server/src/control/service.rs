//! What a service manager is told: systemd's protocol (`sd_notify(3)`), and nothing where `NOTIFY_SOCKET` is not set.

use sd_notify::NotifyState;

/// The process serves.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A successor is being started.
pub fn reloading() {
    // Without the time systemd would take the reload for one that never ends.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "no time for the service manager"),
    }
}

/// Another process serves, and is the service from here on.
pub fn main_pid(pid: u32) {
    tell(&[NotifyState::MainPid(pid), NotifyState::Ready]);
}

/// The process is going.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager is not told");
    }
}
