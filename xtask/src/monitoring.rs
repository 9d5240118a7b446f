//! What Prometheus and Grafana are given (`docs/monitoring`) and the list of all series (`docs/metrics.md`), checked against what
//! the programs really export: a server on a file, a server of a cluster and a worker. Pages are read by the parsers of
//! Prometheus' Python client, rules by promtool.

use std::path::Path;
use std::process::Command;

use crate::command::{command, root, scratch, succeed};
use crate::http::Client;
use crate::libtest::Programs;
use crate::report::Tally;
use crate::server::Server;
use crate::tools;

/// For tests: it protects nothing.
const SECRET: &str = "a secret of the monitoring check, thirty-two bytes";
const TODO: &str = r#"{"title":"Look at the figures"}"#;

/// Compares names and labels, reads both formats strictly, and runs the rules' tests.
pub fn check(programs: &Programs, services: &[(&'static str, String)]) -> Result<Tally, String> {
    let server = programs.server.as_deref().ok_or("the tests have built no todo-server")?;
    let worker = programs.worker.as_deref().ok_or("the tests have built no todo-worker")?;
    let pages = scratch("monitoring")?;
    on_a_file(server, &pages)?;
    of_a_cluster(server, worker, services, &pages)?;
    let mut names = command(tools::python(), &[]);
    succeed(names.arg(root().join("xtask/src/monitoring.py")).arg(&pages))?;
    let rules = root().join("docs/monitoring");
    succeed(command(tools::promtool(), &["check", "rules"]).arg(rules.join("alerts.yaml")))?;
    succeed(command(tools::promtool(), &["test", "rules"]).arg(rules.join("alerts_test.yaml")))?;
    Ok(Tally { passed: 3, failed: 0 })
}

fn on_a_file(program: &Path, pages: &Path) -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let server = Server::start(program, directory.path(), &[("SEED_TODOS", "100")])?;
    let token = server.token(program, directory.path())?;
    use_and_save(server.port, &token, "file", pages)
}

fn of_a_cluster(server: &Path, worker: &Path, services: &[(&'static str, String)], pages: &Path) -> Result<(), String> {
    let folders = [tempfile::tempdir(), tempfile::tempdir()].map(|folder| folder.map_err(|error| error.to_string()));
    let [worker_folder, server_folder] = folders;
    let (worker_folder, server_folder) = (worker_folder?, server_folder?);
    let services = services.iter().filter(|(name, _)| !name.starts_with("TEST_"));
    // It listens where a server would have.
    let mut words = Command::new("sh");
    words.args(["-c", "WORKER_PORT=$HTTP_PORT exec \"$0\""]).arg(worker);
    let worker = Server::start_command(with(words, services.clone()), worker_folder.path())?;
    let process = Server::start_command(with(Command::new(server), services), server_folder.path())?;
    process.wait_until("/ready", |body| String::from_utf8_lossy(body).contains("\"writes\":true"))?;
    let mut words = Command::new(server);
    words.env("JWT_SECRET", SECRET);
    let token = process.token_by(words, server_folder.path())?;
    use_and_save(process.port, &token, "cluster", pages)?;
    save(worker.port, "worker", pages)
}

fn with<'a>(mut command: Command, services: impl Iterator<Item = &'a (&'static str, String)>) -> Command {
    command.env("JWT_SECRET", SECRET).envs(services.map(|(name, place)| (*name, place)));
    command
}

/// Asks for something of each kind, so that every series is there, then keeps the page.
fn use_and_save(port: u16, token: &str, name: &str, pages: &Path) -> Result<(), String> {
    let mut client = Client::connect(port)?;
    let bearer = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
    for (method, target, headers, body, expected) in [
        ("GET", "/todos?limit=10", "", "", 200),
        ("GET", "/nothing", "", "", 404),
        ("POST", "/todos", &bearer, TODO, 202),
    ] {
        let answer = client.request(method, target, headers, body)?;
        if answer.status != expected {
            return Err(format!("{name}: {method} {target}: {} instead of {expected}", answer.status));
        }
    }
    save(port, name, pages)
}

fn save(port: u16, name: &str, pages: &Path) -> Result<(), String> {
    let mut client = Client::connect(port)?;
    for (kind, accept, media_type) in [
        (
            "open",
            "Accept: application/openmetrics-text; version=1.0.0\r\n",
            "application/openmetrics-text; version=1.0.0;",
        ),
        ("text", "", "text/plain; version=0.0.4;"),
    ] {
        let page = client.request("GET", "/metrics", accept, "")?;
        if page.status != 200 || !page.header("content-type").is_some_and(|found| found.starts_with(media_type)) {
            return Err(format!("{name}: {kind}: {} {:?}", page.status, page.headers));
        }
        let path = pages.join(format!("{name}.{kind}"));
        std::fs::write(&path, page.body).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}
