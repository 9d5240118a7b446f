//! AddressSanitizer over the only unsafe code, `server/src/sys`: its unit tests, and in the soak the socket tests, in
//! which the kernel really holds the buffers.
//!
//! Only the server's own crate is instrumented: the flag goes to the last compilation alone, and the unstable switch to
//! this workspace's crates alone, through a wrapper around their compiler. So the dependencies of the ordinary tests
//! serve here too, and the step costs half a minute instead of a second build of everything.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::command::{cargo, command, follow, scratch};
use crate::libtest::{self, Programs};
use crate::report::Tally;

/// Makes the stable compiler take an unstable flag.
const WRAPPER: &str = "#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec \"$@\"\n";
/// The same, and instruments every crate of this workspace: the server of the socket tests is a program of its own. Not by
/// sh, which drops variables with a hyphen in their name: cargo tells a test where its server is in such a one.
const INSTRUMENTING_WRAPPER: &str = "#!/bin/bash\nRUSTC_BOOTSTRAP=1 exec \"$@\" -Zsanitizer=address\n";
/// Socket tests that weigh the server: freed memory, which the sanitizer keeps for a while, would be counted.
const WEIGHING_TESTS: &[&str] = &[
    "backpressure::a_client_that_takes_a_byte_a_second_is_cut_and_costs_nothing",
    "backpressure::a_long_list_read_slowly_is_one_version_of_it",
];

/// Runs the unit tests of the unsafe modules.
///
/// # Errors
/// The build or a test fails, or the program is not instrumented.
pub fn check() -> Result<Tally, String> {
    let wrapper = write_wrapper("rustc", WRAPPER)?;
    let mut build = cargo(&["rustc", "--locked", "--package", "todo-server", "--lib", "--profile", "test"]);
    build.args(["--message-format=json-render-diagnostics", "--", "-Zsanitizer=address"]);
    build.env("RUSTC_WORKSPACE_WRAPPER", &wrapper);
    let mut programs = Programs::default();
    let status = follow(&mut build, |line| programs.note(line))?;
    let program = programs.server_library.filter(|_| status.success());
    let program = program.ok_or_else(|| format!("the build ended with {status}"))?;

    // Only an instrumented program knows these options: a proof that what follows is watched at all.
    let help = command(&program, &["--list"]).env("ASAN_OPTIONS", "help=1").output();
    let help = help.map_err(|error| format!("cannot start {}: {error}", program.display()))?;
    if !String::from_utf8_lossy(&help.stderr).contains("AddressSanitizer") {
        return Err(format!("{} is not instrumented", program.display()));
    }
    libtest::run(&mut command(&program, &["sys::"]))
}

/// Runs the socket tests against a sanitized server.
///
/// # Errors
/// The build or a test fails.
pub fn check_sockets() -> Result<Tally, String> {
    let mut test = cargo(&["test", "--locked", "--package", "todo-server", "--test", "it", "--"]);
    test.args(WEIGHING_TESTS.iter().flat_map(|name| ["--skip", name]));
    test.env("RUSTC_WORKSPACE_WRAPPER", write_wrapper("rustc-instrumenting", INSTRUMENTING_WRAPPER)?);
    // What lives until the process ends is no leak here, and would turn every good exit status into a bad one.
    libtest::run(test.env("ASAN_OPTIONS", "detect_leaks=0"))
}

fn write_wrapper(name: &str, script: &str) -> Result<PathBuf, String> {
    let wrapper = scratch("sanitizer")?.join(name);
    std::fs::write(&wrapper, script).map_err(|error| format!("cannot write {}: {error}", wrapper.display()))?;
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&wrapper, executable).map_err(|error| format!("{}: {error}", wrapper.display()))?;
    Ok(wrapper)
}
