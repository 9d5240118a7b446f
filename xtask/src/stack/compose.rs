//! The stack by compose, where a Docker engine answers: the ports are those of compose.yaml.

use crate::command::{command, succeed, works};
use crate::stack::{Action, DATABASE, PASSWORD, USER, print_variables};

/// Whether a Docker engine answers.
pub fn is_available() -> bool {
    works(&mut command("docker", &["compose", "version"])) && works(&mut command("docker", &["info"]))
}

/// Runs `cargo xtask stack`.
pub fn run(action: &Action) -> Result<bool, String> {
    let compose = |arguments: &[&str]| {
        let mut compose = command("docker", &["compose"]);
        // What it prints is progress; standard output is for the three lines.
        compose.args(arguments).stdout(std::io::stderr());
        compose
    };
    match action {
        Action::Up { for_tests: true } => {
            Err("the secured listeners are those of the services that `cargo xtask test` starts: run that".to_owned())
        }
        Action::Up { for_tests: false } => {
            // What ends by itself must not be waited for: compose would take its end for a failure.
            succeed(&mut compose(&["up", "--detach", "--wait", "postgres", "redis", "kafka"]))?;
            succeed(&mut compose(&["run", "--rm", "topic"]))?;
            print_variables(&[
                ("KAFKA_BROKERS", "127.0.0.1:9092".to_owned()),
                ("DATABASE_URL", format!("postgres://{USER}:{PASSWORD}@127.0.0.1:5432/{DATABASE}")),
                ("REDIS_URL", "redis://127.0.0.1:6379/0".to_owned()),
            ]);
            Ok(true)
        }
        Action::Down => succeed(&mut compose(&["down", "--volumes"])).map(|()| true),
        Action::Status => Ok(works(&mut compose(&["ps"])) && succeed(&mut compose(&["ps"])).is_ok()),
    }
}
