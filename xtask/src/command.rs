//! Running other programs: from the root of the repository, with an error that names the command line.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// The root of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or_else(|| here.to_path_buf(), Path::to_path_buf)
}

/// Where everything made by these commands goes: below `target/`, so that `cargo clean` takes it along.
pub fn scratch(name: &str) -> Result<PathBuf, String> {
    let directory = root().join("target/xtask").join(name);
    std::fs::create_dir_all(&directory).map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
    Ok(directory)
}

/// `program` with `arguments`, to be run in the root.
pub fn command(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

/// The cargo that runs us, with `arguments`. Without what it says of us in the environment: build scripts that look at
/// those variables would run again, and everything above them, each time somebody changes between `cargo build` and us.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), arguments);
    for (name, _) in std::env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|of_us| text.starts_with(of_us)) {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// Builds every program of the workspace with the release profile. Always all of them: a choice of packages is a choice of
/// their dependencies' features, and each choice builds those dependencies anew.
pub fn build_release() -> Result<(), String> {
    succeed(&mut cargo(&["build", "--locked", "--release", "--workspace"]))
}

/// Whether the program can be started and succeeds; what it prints is thrown away.
pub fn works(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs to the end, output going where ours goes. An error when it cannot start or fails.
pub fn succeed(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    judge(command, status)
}

/// Runs to the end and gives back what it printed on standard output. An error when it cannot start or fails.
pub fn capture(command: &mut Command) -> Result<String, String> {
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| cannot_start(command, &error))?;
    judge(command, output.status)?;
    String::from_utf8(output.stdout).map_err(|_| format!("{} printed no UTF-8", line_of(command)))
}

/// Runs to the end, handing each line of standard output to `take` as it comes. The status is for the caller to judge.
pub fn follow(command: &mut Command, mut take: impl FnMut(&str)) -> Result<ExitStatus, String> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| cannot_start(command, &error))?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.map_err(|error| format!("reading from {}: {error}", line_of(command)))?;
            take(&String::from_utf8_lossy(&line));
        }
    }
    child.wait().map_err(|error| format!("waiting for {}: {error}", line_of(command)))
}

/// The command as one would type it; for messages only, nothing is quoted.
pub fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn judge(command: &Command, status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", line_of(command))) }
}

fn cannot_start(command: &Command, error: &std::io::Error) -> String {
    format!("cannot start {}: {error}", line_of(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().join("Cargo.lock").is_file());
    }

    #[test]
    fn a_failure_names_the_command() {
        let error = succeed(&mut command("false", &["--certainly"])).expect_err("false fails");
        assert!(error.contains("false --certainly"), "{error}");
        assert!(capture(&mut command("no-such-program-at-all", &[])).is_err());
    }

    #[test]
    fn lines_arrive_one_by_one() {
        let mut lines = Vec::new();
        let status = follow(&mut command("printf", &["one\\ntwo"]), |line| lines.push(line.to_owned())).expect("runs");
        assert!(status.success());
        assert_eq!(lines, ["one", "two"]);
    }
}
