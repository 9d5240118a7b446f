//! `cargo xtask test`: everything deterministic. The cheap checks come first, and one build serves all that follows.

use std::cell::LazyCell;
use std::process::Command;

use clap::Args;

use crate::command::{cargo, command, follow, root, succeed};
use crate::libtest::{self, Programs};
use crate::report::{Report, Tally};
use crate::stack::{Scoped, Security};
use crate::{
    dashboard, imports, licences, links, manifests, monitoring, openapi, readme, sanitizer, schemathesis, tools, tuning,
};

/// The other drivers and accept modes; the first run of all tests takes the defaults, io_uring and handoff.
const SOCKET_MODES: &[(&str, &[(&str, &str)])] = &[
    ("socket tests, io_uring, reuseport", &[("ACCEPT", "reuseport")]),
    ("socket tests, legacy driver, reuseport", &[("MONOIO_FORCE_LEGACY_DRIVER", "1"), ("ACCEPT", "reuseport")]),
    ("socket tests, legacy driver, handoff", &[("MONOIO_FORCE_LEGACY_DRIVER", "1"), ("ACCEPT", "handoff")]),
];

type Build = LazyCell<Result<Programs, String>>;
type Services = LazyCell<Result<Scoped, String>>;

/// What to do.
#[derive(Args)]
pub struct Arguments {
    /// List what would be installed, and stop.
    #[arg(long)]
    no_install: bool,
    /// Only the steps whose name contains this, with what they need.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    only: String,
}

/// Runs the steps. `Ok(false)` when one has failed.
pub fn run(arguments: &Arguments) -> Result<bool, String> {
    let missing = tools::list(tools::FOR_TEST);
    if arguments.no_install {
        return Ok(true);
    }
    tools::install(&missing)?;

    // One build for all, made when the first step asks for it.
    let programs: Build = LazyCell::new(build);
    // So are the services, real ones on ports of their own; they end with this function.
    let services: Services = LazyCell::new(|| Scoped::start("test-stack", Security::Secured));
    let mut report = Report::new(&arguments.only);
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
    report.step("build", || built(&programs).map(|_| Tally::ONE));
    report.step("tests", || {
        let mut tests = cargo(&["test", "--locked", "--workspace", "--no-fail-fast"]);
        libtest::run(tests.envs(variables(&services)?))
    });
    for (name, settings) in SOCKET_MODES {
        report.step(name, || socket_tests(built(&programs)?, &services, settings));
    }
    report.step("README.md", || readme::check(built(&programs)?));
    report.step("docs/openapi.yaml", || openapi::check(built(&programs)?));
    report.step("schemathesis", || schemathesis::check(built(&programs)?));
    report.step("dashboard in a browser", || dashboard::check(built(&programs)?));
    report.step("compose.yaml, Dockerfile, k8s", || manifests::check(built(&programs)?));
    report.step("docs/monitoring", || {
        let services = services.as_ref().map_err(Clone::clone)?;
        monitoring::check(built(&programs)?, &services.stack.variables())
    });
    report.step("tuning", tuning::check);
    report.step("AddressSanitizer over server/src/sys", sanitizer::check_units);
    Ok(report.end())
}

/// A command that is one check.
fn single(command: &mut Command) -> Result<Tally, String> {
    succeed(command).map(|()| Tally::ONE)
}

fn build() -> Result<Programs, String> {
    let mut programs = Programs::default();
    let mut build = cargo(&["test", "--locked", "--workspace", "--no-run"]);
    let status = follow(build.arg("--message-format=json-render-diagnostics"), |line| programs.note(line))?;
    if status.success() { Ok(programs) } else { Err(format!("the build ended with {status}")) }
}

/// A failed build fails every step that needs it.
fn built(programs: &Build) -> Result<&Programs, String> {
    programs.as_ref().map_err(Clone::clone)
}

/// Where the services are; started when the first step asks.
fn variables(services: &Services) -> Result<Vec<(&'static str, String)>, String> {
    services.as_ref().map(|services| services.stack.test_variables()).map_err(Clone::clone)
}

/// The integration tests of the server once more, as cargo would start them.
fn socket_tests(programs: &Programs, services: &Services, settings: &[(&str, &str)]) -> Result<Tally, String> {
    let program = programs.socket_tests.as_ref().ok_or("the build made no server/tests/it")?;
    let mut tests = command(program, &[]);
    let package = root().join("server");
    tests.current_dir(&package).env("CARGO_MANIFEST_DIR", &package).envs(settings.iter().copied());
    // What a cluster does is the control plane's and the same in every mode. Tests elsewhere that need the services (`away`,
    // `backup`, `transfer`) replace and restart servers, so they run in each.
    tests.args(["--skip", "cluster::"]).envs(variables(services)?);
    libtest::run(&mut tests)
}
