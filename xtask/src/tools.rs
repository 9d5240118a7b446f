//! What the commands need beyond cargo: said before it is installed, and installed only where it is missing.

use std::path::PathBuf;
use std::process::Command;

use crate::command::{command, root, succeed, works};

/// Pinned, so that a new release cannot break yesterday's commit.
const PYTHON_PACKAGES: [&str; 5] = [
    "openapi-spec-validator==0.9.0",
    "kubernetes-validate==1.37.0",
    "check-jsonschema==0.39.0",
    "schemathesis==4.32.5",
    "prometheus_client==0.26.0",
];
const CARGO_FUZZ: &str = "0.13.2";

/// Something to install.
pub struct Tool {
    name: &'static str,
    purpose: &'static str,
    present: fn() -> bool,
    install: fn() -> Vec<Command>,
}

/// What `cargo xtask test` needs.
pub const FOR_TEST: &[Tool] = &[
    Tool {
        name: "rustfmt and clippy (rustup)",
        purpose: "format and lints",
        present: || {
            works(&mut command("cargo", &["fmt", "--version"]))
                && works(&mut command("cargo", &["clippy", "--version"]))
        },
        install: || vec![command("rustup", &["component", "add", "rustfmt", "clippy"])],
    },
    Tool {
        name: "curl (apt)",
        purpose: "the commands in README.md",
        present: || works(&mut command("curl", &["--version"])),
        install: || apt(&["curl"]),
    },
    Tool {
        name: "sqlite3 (apt)",
        purpose: "the backup of a data file, as docs/operations.md says",
        present: || works(&mut command("sqlite3", &["--version"])),
        install: || apt(&["sqlite3"]),
    },
    Tool {
        name: "shellcheck, systemd (apt)",
        purpose: "the checks of tuning",
        present: || {
            works(&mut command("shellcheck", &["--version"])) && works(&mut command("systemd-analyze", &["--version"]))
        },
        install: || apt(&["shellcheck", "systemd"]),
    },
    Tool {
        name: "python3 with venv (apt)",
        purpose: "the OpenAPI check and the manifests'",
        present: || works(&mut command("python3", &["-c", "import venv, ensurepip"])),
        install: || apt(&["python3", "python3-venv"]),
    },
    Tool {
        name: "openapi-spec-validator, kubernetes-validate, check-jsonschema, schemathesis, prometheus_client (PyPI, into target/xtask/python)",
        purpose: "the checks of docs/openapi.yaml, k8s, compose.yaml and docs/monitoring",
        present: || {
            let imports = "import openapi_spec_validator, jsonschema, yaml, kubernetes_validate, check_jsonschema, \
                           schemathesis, prometheus_client";
            works(&mut command(python(), &["-c", imports]))
        },
        install: || {
            let python = python();
            let mut install = command(python, &["-m", "pip", "install", "--quiet"]);
            install.args(PYTHON_PACKAGES);
            vec![command("python3", &["-m", "venv", "target/xtask/python"]), install]
        },
    },
    Tool {
        name: "chromium (apt)",
        purpose: "the dashboard in a browser",
        present: || works(&mut command("chromium", &["--version"])),
        install: || apt(&["chromium"]),
    },
    Tool {
        name: "promtool (apt's prometheus, unpacked into target/xtask/prometheus)",
        purpose: "the rules in docs/monitoring",
        present: || works(&mut command(promtool(), &["--version"])),
        // Installed as a package it would start a service.
        install: || {
            let unpack = "mkdir -p target/xtask/prometheus && cd target/xtask/prometheus && apt-get download prometheus \
                          && dpkg -x prometheus_*.deb . && rm prometheus_*.deb";
            vec![apt_get(&["update", "--quiet"]), command("sh", &["-c", unpack])]
        },
    },
];

/// What a stack needs. Of Debian's packages only the programs are used: their services stay as they are.
pub const FOR_STACK: &[Tool] = &[
    Tool {
        name: "PostgreSQL (apt)",
        purpose: "the truth of a cluster",
        present: || crate::stack::has_postgres(),
        install: || apt(&["postgresql"]),
    },
    Tool {
        name: "redis-server (apt)",
        purpose: "the fast path of a cluster",
        present: || works(&mut command("redis-server", &["--version"])),
        install: || apt(&["redis-server"]),
    },
    Tool {
        name: "Java 17 (apt)",
        purpose: "Apache Kafka",
        present: || works(&mut command("java", &["-version"])),
        install: || apt(&["openjdk-17-jre-headless"]),
    },
    Tool {
        name: "openssl (apt)",
        purpose: "certificates for the secured listeners",
        present: || works(&mut command("openssl", &["version"])),
        install: || apt(&["openssl"]),
    },
    Tool {
        name: "curl (apt)",
        purpose: "Kafka's archives from Maven Central",
        present: || works(&mut command("curl", &["--version"])),
        install: || apt(&["curl"]),
    },
];

/// What `cargo xtask chaos` needs beside a stack.
pub const FOR_CHAOS: &[Tool] = &[Tool {
    name: "faketime (apt)",
    purpose: "a server whose clock jumps",
    present: || works(&mut command("faketime", &["now", "true"])),
    install: || apt(&["faketime"]),
}];

/// What `cargo xtask soak` needs.
pub const FOR_SOAK: &[Tool] = &[
    // Three, for whoever has Node.js from elsewhere cannot have Debian's npm.
    Tool {
        name: "npm (apt)",
        purpose: "the tutorial of docs/benchmarks.md; npx fetches autocannon",
        present: || is_on_path("npx"),
        install: || apt(&["npm"]),
    },
    Tool {
        name: "wrk (apt)",
        purpose: "the tutorial of docs/benchmarks.md",
        present: || is_on_path("wrk"),
        install: || apt(&["wrk"]),
    },
    Tool {
        name: "h2load (apt)",
        purpose: "the tutorial of docs/benchmarks.md",
        present: || is_on_path("h2load"),
        install: || apt(&["nghttp2-client"]),
    },
    Tool {
        name: "g++ (apt)",
        purpose: "libFuzzer is C++",
        present: || works(&mut command("c++", &["--version"])),
        install: || apt(&["g++"]),
    },
    Tool {
        name: "cargo-fuzz 0.13.2 (crates.io, into target/xtask/cargo)",
        purpose: "fuzzing",
        present: || works(&mut command(cargo_fuzz(), &["--version"])),
        install: || {
            let mut install = command("cargo", &["install", "--locked", "cargo-fuzz", "--version", CARGO_FUZZ]);
            install.args(["--root", "target/xtask/cargo"]);
            vec![install]
        },
    },
];

/// The Python that has what the checks import.
pub fn python() -> PathBuf {
    root().join("target/xtask/python/bin/python3")
}

/// Prometheus' checker of rules.
pub fn promtool() -> PathBuf {
    root().join("target/xtask/prometheus/usr/bin/promtool")
}

/// cargo's fuzzing subcommand.
pub fn cargo_fuzz() -> PathBuf {
    root().join("target/xtask/cargo/bin/cargo-fuzz")
}

/// Lists the tools with what is missing, one a line, and gives back those.
pub fn list(tools: &'static [Tool]) -> Vec<&'static Tool> {
    let missing = list_missing(tools);
    for tool in tools {
        let state = if missing.iter().any(|other| other.name == tool.name) { "to install" } else { "present" };
        println!("{state:>10}: {}, for {}", tool.name, tool.purpose);
    }
    missing
}

/// Those that are missing, without a word.
pub fn list_missing(tools: &'static [Tool]) -> Vec<&'static Tool> {
    tools.iter().filter(|tool| !(tool.present)()).collect()
}

/// Installs them.
pub fn install(missing: &[&Tool]) -> Result<(), String> {
    for tool in missing {
        for mut command in (tool.install)() {
            // Progress: standard output may be for a shell.
            succeed(command.stdout(std::io::stderr()))
                .map_err(|reason| format!("installing {}: {reason}", tool.name))?;
        }
        if !(tool.present)() {
            return Err(format!("{} was installed and is still not found", tool.name));
        }
    }
    Ok(())
}

/// For programs whose exit status says nothing of them.
fn is_on_path(program: &str) -> bool {
    works(&mut command("sh", &["-c", &format!("command -v {program}")]))
}

/// Debian's packages, by sudo unless we are root.
fn apt(packages: &[&str]) -> Vec<Command> {
    let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    vec![apt_get(&["update", "--quiet"]), apt_get(&install)]
}

fn apt_get(arguments: &[&str]) -> Command {
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if root { command("apt-get", arguments) } else { command("sudo", &[&["apt-get"], arguments].concat()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GONE: &[Tool] =
        &[Tool { name: "a tool", purpose: "a test", present: || false, install: || vec![command("true", &[])] }];

    #[test]
    fn what_is_missing_is_listed_and_must_be_there_after_installing() {
        let missing = list(GONE);
        assert_eq!(missing.len(), 1);
        assert!(install(&missing).expect_err("it is still gone").contains("a tool"));
        assert!(install(&[]).is_ok());
    }
}
