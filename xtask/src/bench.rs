//! `cargo xtask bench`: the matrix of `todo-bench` over a release build.

use crate::command::{cargo, command, root, succeed};

/// Builds the server and the generator with the release profile and runs `todo-bench matrix`.
pub fn run(arguments: &[String]) -> Result<bool, String> {
    succeed(&mut cargo(&["build", "--release", "--package", "todo-server", "--package", "todo-bench"]))?;
    let release = root().join("target/release");
    let mut matrix = command(release.join("todo-bench"), &["matrix", "--server"]);
    matrix.arg(release.join("todo-server")).args(arguments);
    succeed(&mut matrix)?;
    Ok(true)
}
