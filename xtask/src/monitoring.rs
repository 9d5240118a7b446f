//! `docs/monitoring`: every metric that an alert or a panel names is exported by a server or a worker that runs.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::SECRET;
use crate::command::root;
use crate::http;
use crate::libtest::Programs;
use crate::report::Tally;
use crate::server::Server;
use crate::stack::service::free_ports;

const FILES: [&str; 2] = ["docs/monitoring/alerts.yaml", "docs/monitoring/grafana.json"];
const PREFIX: &str = "todo_";
/// A debug build on a busy machine; a worker makes its topic first.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Starts a server over a file, one over the services and a worker, and compares.
pub fn check(programs: &Programs, services: &[(&'static str, String)]) -> Result<Tally, String> {
    let server = programs.server.as_deref().ok_or("the tests have built no todo-server")?;
    let directory = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let mut variables: Vec<(&str, &str)> = services.iter().map(|(name, value)| (*name, value.as_str())).collect();
    variables.push(("JWT_SECRET", SECRET));

    let mut exported = BTreeSet::new();
    for (name, settings) in [("file", &[][..]), ("cluster", &variables)] {
        let place = directory.path().join(name);
        std::fs::create_dir(&place).map_err(|error| format!("{}: {error}", place.display()))?;
        exported.extend(names_of(&page(Server::start(server, &place, settings)?.port)?)?);
    }
    exported.extend(names_of(&worker_page(&server.with_file_name("todo-worker"), &variables)?)?);

    let mut faults = Vec::new();
    let mut count = 0;
    for file in FILES {
        let text = std::fs::read_to_string(root().join(file)).map_err(|error| format!("{file}: {error}"))?;
        let named = names_in(&text);
        count += named.len();
        faults.extend(named.difference(&exported).map(|name| format!("{file}: nobody exports {name}")));
    }
    println!("{count} names in {} files, {} exported", FILES.len(), exported.len());
    if !faults.is_empty() {
        return Err(faults.join("\n"));
    }
    if count == 0 { Err("no file names a metric".to_owned()) } else { Ok(Tally::ONE) }
}

fn page(port: u16) -> Result<String, String> {
    let response = http::exchange(port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    String::from_utf8(response.body).map_err(|error| format!("/metrics: {error}"))
}

fn worker_page(program: &Path, variables: &[(&str, &str)]) -> Result<String, String> {
    let [port] = free_ports()?;
    let mut worker = Command::new(program);
    worker.envs(variables.iter().copied()).env("WORKER_PORT", port.to_string());
    worker.env("WORKER_HOST", Ipv4Addr::LOCALHOST.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
    let mut worker = Ended(worker.spawn().map_err(|error| format!("cannot start {}: {error}", program.display()))?);
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match page(port) {
            // A part's series are there once the worker has taken a lease.
            Ok(page) if page.contains("todo_worker_lag{") => return Ok(page),
            _ if Instant::now() > deadline => return Err("the worker has no part after a minute".to_owned()),
            _ => {}
        }
        if let Ok(Some(status)) = worker.0.try_wait() {
            return Err(format!("the worker ended with {status}"));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Ends with the value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The names of a page's families, as series have them: `# TYPE name kind`.
fn names_of(page: &str) -> Result<BTreeSet<String>, String> {
    let mut names = BTreeSet::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').ok_or_else(|| format!("# TYPE {line}: no kind"))?;
        let endings: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        names.extend(endings.iter().map(|ending| format!("{name}{ending}")));
    }
    Ok(names)
}

/// Every word of a text that begins like a metric.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with(PREFIX)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_page_are_those_of_its_series() {
        let page =
            "# HELP todo_a A.\n# TYPE todo_a counter\ntodo_a_total 1\n# TYPE todo_b histogram\n# TYPE todo_c gauge\n";
        let names: Vec<String> = names_of(page).expect("names").into_iter().collect();
        assert_eq!(names, ["todo_a_total", "todo_b_bucket", "todo_b_count", "todo_b_sum", "todo_c"]);
        assert!(names_of("# TYPE todo_a\n").is_err());
    }

    #[test]
    fn names_in_an_expression() {
        let names: Vec<String> =
            names_in("rate(todo_a_total{x=\"y\"}[5m]) / todo_b > 0.1 * mytodo_c").into_iter().collect();
        assert_eq!(names, ["todo_a_total", "todo_b"]);
    }
}
