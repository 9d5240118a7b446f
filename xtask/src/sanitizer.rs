//! AddressSanitizer over the only unsafe code, `server/src/sys`: its unit tests, and in the soak the socket tests, in
//! which the ring really holds the buffers.
//!
//! In a target directory of its own: the flags would else rebuild everything else each time. The whole library is
//! built for it (1 min 45 s from nothing on two cores), which keeps the modules free to use the rest of the crate; the
//! unit tests themselves take no time.

use std::process::Command;

use crate::command::{capture, cargo, command};
use crate::libtest;
use crate::report::Tally;

/// Runs the unit tests of the unsafe modules.
pub fn check_units() -> Result<Tally, String> {
    libtest::run(sanitized(&["--lib"])?.args(["--", "sys::"]))
}

/// Runs the socket tests against a sanitized server.
pub fn check_sockets() -> Result<Tally, String> {
    libtest::run(&mut sanitized(&["--test", "it"])?)
}

/// `cargo test` of the server with the sanitizer, for some of its test programs.
fn sanitized(programs: &[&str]) -> Result<Command, String> {
    let version = capture(&mut command("rustc", &["--version", "--verbose"]))?;
    // Sanitizers need the target spelled out: then build scripts and macros stay free of them.
    let target = host(&version).ok_or("rustc does not say which target is its host")?;
    let mut test = cargo(&["test", "--locked", "--package", "todo-server", "--target", target]);
    test.args(["--target-dir", "target/xtask/sanitizer"]).args(programs);
    // The flag is unstable; this makes the stable compiler take it.
    test.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address");
    Ok(test)
}

fn host(version: &str) -> Option<&str> {
    version.lines().find_map(|line| line.strip_prefix("host: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_named_by_rustc() {
        assert_eq!(host("rustc 1.95.0\nbinary: rustc\nhost: a-b-c\nrelease: 1.95.0\n"), Some("a-b-c"));
        assert_eq!(host("rustc 1.95.0\n"), None);
    }
}
