//! `todo-server check`: what is in force, and everything that would keep a server from serving, all of it at once.

#![expect(clippy::disallowed_macros, reason = "it talks to a terminal")]

use std::net::ToSocketAddrs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use clap::CommandFactory;
use clap::parser::ValueSource;
use todo_worker::logging;
use todo_worker::postgres::Database;
use todo_worker::settings::Cluster;
use todo_worker::sqlite::{OpenError, SqliteReader};

use crate::control::access_log;
use crate::control::admin;
use crate::limits::{CHECK_PATIENCE, STORE_CONNECTIONS_MAX};
use crate::settings::{Accept, CommandLine, Settings};
use crate::shard::io::probe_driver;
use crate::startup::{check_port, choose_cores, connections_per_shard, raise_descriptor_limit};

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What follows from settings and machine: a name and a value.
    pub facts: Vec<(&'static str, String)>,
    /// What would keep a server from serving, a sentence each.
    pub problems: Vec<String>,
}

/// Prints settings, facts and problems.
///
/// # Errors
/// There are problems; they were printed.
pub fn run(settings: &Settings) -> Result<(), Box<dyn std::error::Error>> {
    print_settings();
    // A server over the same file has the port and the lock of right: it is the one to be replaced.
    let is_beside = UnixStream::connect(settings.command_socket(settings.http_port)).is_ok();
    let Findings { facts, problems } = find(settings, is_beside);
    println!();
    for (name, value) in &facts {
        println!("  {name:<12} {value}");
    }
    if problems.is_empty() {
        println!("\nno problems");
        return Ok(());
    }
    println!();
    for problem in &problems {
        println!("problem: {problem}");
    }
    Err(format!("{} problems", problems.len()).into())
}

/// Looks at everything. `is_beside` when a server over the same todos is there to be replaced. Blocks.
pub fn find(settings: &Settings, is_beside: bool) -> Findings {
    let mut findings = Findings::default();
    let Findings { facts, problems } = &mut findings;
    let mut note = |fact: Result<(&'static str, String), String>| match fact {
        Ok(fact) => facts.push(fact),
        Err(problem) => problems.push(problem),
    };
    let cores = choose_cores(settings);
    let shards_count = cores.of_shard.len();
    let accept = settings.accept.unwrap_or_else(|| Accept::default_for(shards_count));
    note(Ok(("shards", format!("{shards_count} of {} CPUs, {accept:?}", cores.available))));
    let (driver, refusal) = probe_driver();
    let refusal = refusal.map_or(String::new(), |error| format!(", since io_uring is refused ({error})"));
    note(Ok(("I/O driver", format!("{}{refusal}", driver.name()))));
    let descriptors = raise_descriptor_limit();
    let connections = connections_per_shard(settings, descriptors, shards_count);
    let connections =
        connections.map(|count| ("descriptors", format!("{descriptors}, so {count} connections a shard")));
    note(connections.map_err(|error| error.to_string()));
    if let Err(error) = logging::check(&settings.log) {
        note(Err(error.to_string()));
    }
    match access_log::check(&settings.access_log) {
        Ok(None) => {}
        Ok(Some(what)) => note(Ok(("access log", what))),
        Err(error) => note(Err(error)),
    }
    if is_beside {
        note(Ok(("running", "a server answers on the command socket: its port and lock are no problem".to_owned())));
    } else {
        note(check_port(settings).map(|addresses| ("addresses", addresses)).map_err(|error| error.to_string()));
    }
    if let Some(address) = settings.admin_addr.filter(|_| !is_beside) {
        let opened = admin::listen(address).map(|_| ("admin", address.to_string()));
        note(opened.map_err(|error| format!("ADMIN_ADDR {address} cannot be opened: {error}")));
    }
    if let Some(line) = settings.proxy_line() {
        note(Ok(("proxy", line)));
    }
    let cluster = settings.connections.cluster();
    let is_cluster = !matches!(cluster, Ok(None));
    note(settings.check_secret(is_cluster).map(|what| ("JWT_SECRET", what)).map_err(|error| error.to_string()));
    match cluster {
        Ok(None) => note(data_file(&settings.data_file).map(|what| ("data file", what))),
        Ok(Some(cluster)) => services(&cluster).into_iter().for_each(note),
        Err(error) => note(Err(error.to_string())),
    }
    findings
}

/// Every setting, its value and where that comes from; secrets only as being set.
fn print_settings() {
    let command = CommandLine::command();
    // The command line was read before, so this reads it again without a surprise.
    let given = command.clone().get_matches();
    let arguments = CommandLine::with_file(std::env::args_os().collect()).ok().and_then(Result::ok);
    let matches = arguments.and_then(|arguments| command.clone().try_get_matches_from(arguments).ok());
    let matches = matches.unwrap_or_else(|| given.clone());
    println!("settings:");
    for argument in command.get_arguments() {
        let Some(name) = argument.get_env().map(|name| name.to_string_lossy()) else { continue };
        let id = argument.get_id().as_str();
        let values = matches.get_raw(id).into_iter().flatten();
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        let value = match (values.is_empty(), argument.is_hide_env_values_set()) {
            (true, _) => "unset".to_owned(),
            (false, true) => "set, and not shown".to_owned(),
            (false, false) => values.join(","),
        };
        let source = match (given.value_source(id), matches.value_source(id)) {
            (Some(ValueSource::CommandLine), _) => " (flag)",
            (Some(ValueSource::EnvVariable), _) => " (environment)",
            (_, Some(ValueSource::CommandLine)) => " (file)",
            _ => "",
        };
        println!("  {name:<29} {value}{source}");
    }
}

/// What is in the data file.
fn data_file(path: &Path) -> Result<String, String> {
    match SqliteReader::open_beside(path) {
        Ok(mut reader) => match reader.count() {
            Ok(count) => Ok(format!("{}, {count} todos", path.display())),
            Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
        },
        Err(OpenError::Missing { path }) => {
            let folder = path.parent().unwrap_or(Path::new("."));
            match rustix::fs::access(folder, rustix::fs::Access::WRITE_OK) {
                Ok(()) => Ok(format!("{}, which will be made", path.display())),
                Err(error) => {
                    Err(format!("{} cannot be made: {} is not writable ({error})", path.display(), folder.display()))
                }
            }
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Whether the services of a cluster are there.
fn services(cluster: &Cluster) -> Vec<Result<(&'static str, String), String>> {
    let mut found = vec![postgres(cluster)];
    for broker in &cluster.kafka.brokers {
        found
            .push(reach(broker).map(|()| ("Kafka", broker.clone())).map_err(|why| format!("Kafka at {broker}: {why}")));
    }
    let redis = todo_worker::redis::Redis::new(&cluster.redis);
    found.push(
        redis
            .map(|_| ("Redis", "its address makes sense; it is not needed to serve".to_owned()))
            .map_err(|error| error.to_string()),
    );
    found
}

fn postgres(cluster: &Cluster) -> Result<(&'static str, String), String> {
    let database = Database::new(&cluster.database, STORE_CONNECTIONS_MAX).map_err(|error| error.to_string())?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let found = runtime.block_on(async { tokio::time::timeout(CHECK_PATIENCE, database.find_store()).await });
    match found {
        Ok(Ok(_)) => Ok(("Postgres", database.place().to_owned())),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("Postgres at {} does not answer in {} s", database.place(), CHECK_PATIENCE.as_secs())),
    }
}

fn reach(address: &str) -> Result<(), String> {
    let addresses = address.to_socket_addrs().map_err(|error| error.to_string())?;
    let mut why = "it resolves to nothing".to_owned();
    for address in addresses {
        match std::net::TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
            Ok(_) => return Ok(()),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}
