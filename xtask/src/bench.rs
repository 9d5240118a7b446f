//! `cargo xtask bench`: the matrix of `todo-bench` over a release build.

use crate::command::{build_release, command, root, succeed};

/// Builds the server and the generator with the release profile and runs `todo-bench matrix`.
pub fn run(arguments: &[String]) -> Result<bool, String> {
    build_release()?;
    let release = root().join("target/release");
    let mut matrix = command(release.join("todo-bench"), &["matrix", "--server"]);
    matrix.arg(release.join("todo-server")).args(arguments);
    succeed(&mut matrix)?;
    Ok(true)
}
