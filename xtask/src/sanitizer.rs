//! AddressSanitizer over the only unsafe code, `server/src/sys`: its unit tests, and in the soak the socket tests, in
//! which the ring really holds the buffers.
//!
//! Only this workspace's crates are instrumented, through a wrapper around their compiler: this very program, told so by
//! a variable. (A shell would lose the variables that cargo names with a hyphen.) So the dependencies of the ordinary
//! tests serve here too, and a step costs half a minute instead of a second build of everything.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::command::cargo;
use crate::libtest;
use crate::report::Tally;

/// Set for the compilers that cargo starts through this program.
const WRAPS: &str = "XTASK_WRAPS_RUSTC";

/// The socket tests in which buffers are in the ring's hands in every way there is. The others weigh memory, CPU time or
/// latencies, all of which the sanitizer multiplies.
const RING_TESTS: [&str; 4] = ["api::", "closing::", "visibility::", "writes::"];

/// Becomes the compiler, with the sanitizer, when cargo has started this program as its wrapper; else returns.
///
/// # Errors
/// The compiler cannot be started.
pub fn wrap_if_asked() -> Result<(), String> {
    if std::env::var_os(WRAPS).is_none() {
        return Ok(());
    }
    let mut arguments = std::env::args_os().skip(1);
    let compiler = arguments.next().ok_or("cargo names no compiler")?;
    // The flag is unstable; this makes the stable compiler take it.
    let mut compile = Command::new(compiler);
    compile.args(arguments).arg("-Zsanitizer=address").env("RUSTC_BOOTSTRAP", "1");
    Err(format!("the compiler cannot be started: {}", compile.exec()))
}

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
    let mut tests = sanitized("--test=it")?;
    // What a server still holds when it is killed is no leak.
    tests.arg("--").args(RING_TESTS).env("ASAN_OPTIONS", "detect_leaks=0");
    libtest::run(&mut tests)
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
    let wrapper = std::env::current_exe().map_err(|error| format!("this program has no path: {error}"))?;
    let mut test = cargo(&["test", "--locked", "--package", "todo-server", program]);
    test.env("RUSTC_WORKSPACE_WRAPPER", wrapper).env(WRAPS, "1");
    Ok(test)
}
