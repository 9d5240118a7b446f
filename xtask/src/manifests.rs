//! `compose.yaml`, `Dockerfile`, `k8s/` and `.env.example` fit their schemas and the programs. `manifests.py` does it, since
//! schemas and YAML are at home there; it also makes faults on purpose, and fails when it does not notice one.

use crate::command::{command, root, succeed};
use crate::libtest::Programs;
use crate::report::Tally;
use crate::tools;

/// Compares the files with the programs that the tests have built.
pub fn check(programs: &Programs) -> Result<Tally, String> {
    let server = programs.server.as_deref().ok_or("the tests have built no todo-server")?;
    let folder = server.parent().ok_or("todo-server lies in no folder")?;
    let mut check = command(tools::python(), &[]);
    succeed(check.arg(root().join("xtask/src/manifests.py")).arg(root()).arg(folder)).map(|()| Tally::ONE)
}
