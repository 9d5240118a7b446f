//! `cargo xtask peers`: builds the rivals of `bench/peers`, each a program that takes `--port N --bodies DIR`.

use std::path::{Path, PathBuf};

use crate::command::{cargo, command, root, succeed, works};

/// The peers that are programs in Rust.
const IN_RUST: [&str; 4] = ["peer-minihttp", "peer-actix", "peer-axum", "peer-ntex"];
/// The peers that are a script around nginx, and where that stands below `bench/peers`.
const SCRIPTS: [(&str, &str); 2] = [("peer-nginx", "nginx/run"), ("peer-original", "original/run")];

/// Builds all of them. Gives back the directory that `todo-bench matrix --peers` takes.
pub fn build() -> Result<PathBuf, String> {
    for (program, arguments, remedy) in [
        ("nginx", &["-v"][..], "install nginx (apt install nginx; its service may stay off)"),
        ("redis-server", &["--version"], "install redis-server (apt install redis-server)"),
        ("go", &["version"], "install Go 1.24 or later (https://go.dev/dl), and put it on the PATH"),
        ("python3", &["--version"], "install python3 (apt install python3)"),
    ] {
        if !works(&mut command(program, arguments)) {
            return Err(format!("the peers need {program}: {remedy}"));
        }
    }
    let (source, directory) = (root().join("bench/peers"), root().join("target/peers"));
    let manifest = source.join("Cargo.toml");
    let mut build = cargo(&["build", "--release", "--locked"]);
    build.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(directory.join("cargo"));
    succeed(&mut build)?;
    let mut build = command("go", &["build", "-trimpath", "-o"]);
    succeed(build.arg(directory.join("original-replica")).arg(".").current_dir(source.join("original")))?;
    for name in IN_RUST {
        link(&directory.join("cargo/release").join(name), &directory.join(name))?;
    }
    for (name, script) in SCRIPTS {
        link(&source.join(script), &directory.join(name))?;
    }
    Ok(directory)
}

/// Runs `cargo xtask peers`.
pub fn run() -> Result<bool, String> {
    println!("{}", build()?.display());
    Ok(true)
}

fn link(to: &Path, from: &Path) -> Result<(), String> {
    match std::fs::remove_file(from) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("{}: {error}", from.display()));
        }
        _ => {}
    }
    std::os::unix::fs::symlink(to, from).map_err(|error| format!("{}: {error}", from.display()))
}
