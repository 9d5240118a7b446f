//! Schemathesis makes requests of the API's description, good and bad ones, and looks whether the answers are what it says. The
//! same requests each time: new ones belong to a soak.

use crate::command::{command, root, scratch, succeed};
use crate::libtest::Programs;
use crate::report::Tally;
use crate::server::Server;
use crate::tools;

/// For each operation and phase.
const EXAMPLES_MAX: &str = "25";

/// Runs it against a server on a file, with a token that writes need.
pub fn check(programs: &Programs) -> Result<Tally, String> {
    let program = programs.server.as_deref().ok_or("the tests have built no todo-server")?;
    let directory = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let server = Server::start(program, directory.path(), &[("SEED_TODOS", "100")])?;
    let token = server.token(program, directory.path())?;
    let address = format!("http://127.0.0.1:{}", server.port);
    let mut run = command(tools::python().with_file_name("schemathesis"), &["--config-file"]);
    run.arg(root().join("xtask/src/schemathesis.toml"));
    run.arg("run").arg(format!("{address}/openapi.json")).args(["--url", &address]);
    run.args(["--header", &format!("Authorization: Bearer {token}")]);
    run.args(["--generation-deterministic", "--max-examples", EXAMPLES_MAX]);
    // A write behind a DELETE is a command too: 202, and that there is nothing left to change is found when it is applied.
    // That a read behind it finds nothing is what server/tests/it/writes.rs checks.
    run.args(["--checks", "all", "--exclude-checks", "use_after_free"]);
    run.args(["--request-timeout", "10", "--no-color", "--warnings", "off"]);
    run.env("SCHEMATHESIS_HOOKS", root().join("xtask/src/schemathesis_hooks.py"));
    // Where it keeps what it has seen: not in the repository.
    succeed(run.current_dir(scratch("schemathesis")?))?;
    Ok(Tally::ONE)
}
