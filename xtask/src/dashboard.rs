//! The dashboard in a real browser, headless: `dashboard.py` drives it while requests run, and leaves pictures in
//! `target/dashboard`.

use crate::command::{command, root, succeed};
use crate::libtest::Programs;
use crate::report::Tally;
use crate::server::Server;
use crate::tools;

/// Starts a server of two shards and has its dashboard looked at.
pub fn check(programs: &Programs) -> Result<Tally, String> {
    let program = programs.server.as_deref().ok_or("the tests have built no todo-server")?;
    let directory = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let server =
        Server::start(program, directory.path(), &[("SEED_TODOS", "1000"), ("SHARDS", "2"), ("PIN", "false")])?;
    let token = server.token(program, directory.path())?;
    let mut look = command(tools::python(), &[]);
    look.arg(root().join("xtask/src/dashboard.py")).args([&server.port.to_string(), &token]);
    succeed(look.arg(root().join("target/dashboard")))?;
    Ok(Tally::ONE)
}
