//! AddressSanitizer over the only unsafe code, `server/src/sys`: its unit tests, and in the soak the socket tests, in
//! which the ring really holds the buffers.
//!
//! Only this workspace's crates are instrumented, through a wrapper around their compiler. So the dependencies of the
//! ordinary tests serve here too, and a step costs half a minute instead of a second build of everything.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::command::{cargo, scratch};
use crate::libtest;
use crate::report::Tally;

/// Makes the stable compiler take the unstable flag, for the crates that it is asked to wrap.
const WRAPPER: &str = "#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec \"$@\" -Zsanitizer=address\n";

/// Runs the unit tests of the unsafe modules.
///
/// # Errors
/// The build or a test fails, or the programs are not instrumented.
pub fn check_units() -> Result<Tally, String> {
    prove_instrumented()?;
    libtest::run(sanitized("--lib")?.args(["--", "sys::"]))
}

/// Runs the socket tests against a sanitized server.
///
/// # Errors
/// The build or a test fails.
pub fn check_sockets() -> Result<Tally, String> {
    libtest::run(&mut sanitized("--test=it")?)
}

/// Only an instrumented program knows these options: a proof that what follows is watched at all.
fn prove_instrumented() -> Result<(), String> {
    let mut list = sanitized("--lib")?;
    let listed = list.args(["--", "--list"]).env("ASAN_OPTIONS", "help=1").output();
    let listed = listed.map_err(|error| format!("cannot start cargo: {error}"))?;
    let said = String::from_utf8_lossy(&listed.stderr);
    if said.contains("flags for AddressSanitizer") {
        return Ok(());
    }
    Err(format!("the tests are not instrumented, or were not built:\n{said}"))
}

/// `cargo test` of the server with the sanitizer, for one of its test programs.
fn sanitized(program: &str) -> Result<Command, String> {
    let wrapper = scratch("sanitizer")?.join("rustc");
    let named = |error: std::io::Error| format!("{}: {error}", wrapper.display());
    std::fs::write(&wrapper, WRAPPER).map_err(named)?;
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).map_err(named)?;
    let mut test = cargo(&["test", "--locked", "--package", "todo-server", program]);
    test.env("RUSTC_WORKSPACE_WRAPPER", &wrapper);
    Ok(test)
}
