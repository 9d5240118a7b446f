//! `cargo xtask test`: everything deterministic. The cheap checks come first, and one build serves all that follows.

use std::process::Command;

use crate::command::{cargo, command, follow, root, succeed};
use crate::libtest::{self, Programs};
use crate::report::{Report, Tally};
use crate::{imports, licences, links, openapi, readme, sanitizer, tools};

/// The other drivers and accept modes; the first run of all tests takes the defaults.
const SOCKET_MODES: &[(&str, &[(&str, &str)])] = &[
    ("socket tests, io_uring, handoff", &[("ACCEPT", "handoff")]),
    ("socket tests, legacy driver, reuseport", &[("MONOIO_FORCE_LEGACY_DRIVER", "1")]),
    ("socket tests, legacy driver, handoff", &[("MONOIO_FORCE_LEGACY_DRIVER", "1"), ("ACCEPT", "handoff")]),
];

/// Runs all steps. `Ok(false)` when one has failed.
pub fn run(no_install: bool) -> Result<bool, String> {
    let missing = tools::list(tools::FOR_TEST);
    if no_install {
        return Ok(true);
    }
    tools::install(&missing)?;

    let mut report = Report::default();
    report.step("format", || single(&mut cargo(&["fmt", "--all", "--check"])));
    report.step("imports: crates", imports::check_crates);
    report.step("imports: data plane", imports::check_sources);
    report.step("licences", licences::check);
    report.step("links and paths in documents", links::check);
    report.step("clippy", || {
        single(&mut cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
    });
    report.step("links in the code's documentation", || {
        let mut doc = cargo(&["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"]);
        single(doc.env("RUSTDOCFLAGS", "--deny rustdoc::broken_intra_doc_links"))
    });
    let mut programs = Programs::default();
    report.step("build", || build(&mut programs));
    report.step("tests", || libtest::run(&mut cargo(&["test", "--locked", "--workspace", "--no-fail-fast"])));
    for (name, settings) in SOCKET_MODES {
        report.step(name, || socket_tests(&programs, settings));
    }
    report.step("README.md", || readme::check(&programs));
    report.step("docs/openapi.yaml", || openapi::check(&programs));
    report.step("AddressSanitizer over server/src/sys", sanitizer::check);
    Ok(report.end())
}

/// A command that is one check.
fn single(command: &mut Command) -> Result<Tally, String> {
    succeed(command).map(|()| Tally::ONE)
}

fn build(programs: &mut Programs) -> Result<Tally, String> {
    let mut build = cargo(&["test", "--locked", "--workspace", "--no-run"]);
    let status = follow(build.arg("--message-format=json-render-diagnostics"), |line| programs.note(line))?;
    if status.success() { Ok(Tally::ONE) } else { Err(format!("the build ended with {status}")) }
}

/// The integration tests of the server once more, as cargo would start them.
fn socket_tests(programs: &Programs, settings: &[(&str, &str)]) -> Result<Tally, String> {
    let program = programs.socket_tests.as_ref().ok_or("the build made no server/tests/it")?;
    let mut tests = command(program, &[]);
    let package = root().join("server");
    tests.current_dir(&package).env("CARGO_MANIFEST_DIR", &package).envs(settings.iter().copied());
    libtest::run(&mut tests)
}
