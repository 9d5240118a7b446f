//! `todo-server check`: what is in force, and everything that would keep a server from serving, all of it at once.
//!
//! A *problem* does not pass by itself: serving with it would fail, or be wrong. A *warning* is what is away just now, and what a
//! server that starts would wait for or show at `/ready`.

#![expect(clippy::disallowed_macros, reason = "it talks to a terminal")]

use std::os::unix::net::UnixStream;
use std::path::Path;

use clap::CommandFactory;
use clap::parser::ValueSource;
use futures_util::future::join_all;
use todo_worker::kafka::{Kafka, KafkaError};
use todo_worker::logging;
use todo_worker::messages::{Heard, MessageSource};
use todo_worker::postgres::{Database, OpenError as StoreError};
use todo_worker::redis::Redis;
use todo_worker::settings::{Cluster, DatabaseSettings, KafkaSettings, RedisSettings};
use todo_worker::sqlite::{OpenError, SqliteReader, SqliteStore};
use tokio::net::TcpStream;
use tokio::time::timeout;

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
    /// What is away now, and would be waited for or shown at `/ready`: a sentence each, with what to do.
    pub warnings: Vec<String>,
    /// What would keep a server from serving, or from serving right, a sentence each.
    pub problems: Vec<String>,
}

/// One of them.
enum Finding {
    Fact(&'static str, String),
    Warning(String),
    Problem(String),
}

/// Prints settings, facts, problems and warnings.
///
/// # Errors
/// There are problems, or with `is_strict` warnings; they were printed.
pub fn run(settings: &Settings, is_strict: bool) -> Result<(), Box<dyn std::error::Error>> {
    print_settings();
    // A server over the same file has the port and the lock of right: it is the one to be replaced.
    let is_beside = UnixStream::connect(settings.command_socket(settings.http_port)).is_ok();
    let Findings { facts, warnings, problems } = find(settings, is_beside);
    println!();
    for (name, value) in &facts {
        println!("  {name:<12} {value}");
    }
    println!();
    for problem in &problems {
        println!("problem: {problem}");
    }
    for warning in &warnings {
        println!("warning: {warning}");
    }
    match (problems.len(), warnings.len()) {
        (0, 0) => println!("no problems"),
        (0, warnings) if is_strict => {
            return Err(format!("{warnings} warnings, which --strict does not let pass").into());
        }
        (0, warnings) => println!("no problems, {warnings} warnings"),
        (problems, _) => return Err(format!("{problems} problems").into()),
    }
    Ok(())
}

/// Looks at everything. `is_beside` when a server over the same todos is there to be replaced. Blocks.
pub fn find(settings: &Settings, is_beside: bool) -> Findings {
    let mut findings = Findings::default();
    let mut note = |fact: Result<(&'static str, String), String>| match fact {
        Ok((name, value)) => findings.facts.push((name, value)),
        Err(problem) => findings.problems.push(problem),
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
        Ok(None) => note(data_file(&settings.data_file, is_beside).map(|what| ("data file", what))),
        Ok(Some(cluster)) => {
            for finding in services(&cluster) {
                match finding {
                    Finding::Fact(name, value) => findings.facts.push((name, value)),
                    Finding::Warning(warning) => findings.warnings.push(warning),
                    Finding::Problem(problem) => findings.problems.push(problem),
                }
            }
        }
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

/// What is in the data file, which nobody else may have, unless it is the one to be replaced.
fn data_file(path: &Path, is_beside: bool) -> Result<String, String> {
    if !is_beside {
        SqliteStore::check_free(path).map_err(|error| error.to_string())?;
    }
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

/// Whether the services of a cluster are there, and are what the settings say. Asks all at once: those that swallow what is
/// sent to them take [`CHECK_PATIENCE`] together.
fn services(cluster: &Cluster) -> Vec<Finding> {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![Finding::Problem(format!("a runtime cannot be started: {error}"))],
    };
    let Cluster { kafka: log, database, redis: channel } = cluster;
    let (postgres, kafka, redis) =
        runtime.block_on(async { tokio::join!(postgres(database, log), kafka(log), redis(channel)) });
    // A name that is still being looked up has no limit of its own, and nobody waits for it.
    runtime.shutdown_background();
    let mut found = vec![postgres];
    found.extend(kafka);
    found.push(redis);
    found
}

async fn postgres(settings: &DatabaseSettings, log: &KafkaSettings) -> Finding {
    let database = match Database::new(settings, STORE_CONNECTIONS_MAX) {
        Ok(database) => database,
        Err(error) => return Finding::Problem(error.to_string()),
    };
    let away = |what: String| {
        Finding::Warning(format!(
            "{what}: a server waits for it and answers 503 until it has loaded; see that it runs, and that DATABASE_URL names it"
        ))
    };
    let place = database.place();
    let found = timeout(CHECK_PATIENCE, database.find_store()).await;
    match found.map(|found| found.and_then(|store| store.check(log.partitions, &log.topic))) {
        Ok(Ok(())) => Finding::Fact("Postgres", place.to_owned()),
        Ok(Err(error @ StoreError::Away { .. })) => away(error.to_string()),
        // No worker has been here yet; the sentence says to start one.
        Ok(Err(error)) if error.passes() => Finding::Warning(error.to_string()),
        Ok(Err(error)) => Finding::Problem(error.to_string()),
        Err(_) => away(format!("Postgres at {place} does not answer in {} s", CHECK_PATIENCE.as_secs())),
    }
}

/// Each broker, and by those that answer the topic.
async fn kafka(settings: &KafkaSettings) -> Vec<Finding> {
    let kafka = match Kafka::new(settings) {
        Ok(kafka) => kafka,
        Err(error) => return vec![Finding::Problem(format!("TLS to Kafka cannot be set up: {error}"))],
    };
    let brokers = join_all(settings.brokers.iter().map(|broker| reach(broker)));
    let (reached, topic) = tokio::join!(brokers, timeout(CHECK_PATIENCE, kafka.has_topic()));
    let are_all_away = reached.iter().all(Result::is_err);
    let mut found: Vec<Finding> = settings.brokers.iter().zip(reached).map(|(broker, reached)| {
        let meanwhile = if are_all_away { "writes are answered 503 until one answers" } else { "another one answers" };
        match reached {
            Ok(()) => Finding::Fact("Kafka", broker.clone()),
            Err(why) => Finding::Warning(format!(
                "the Kafka broker {broker} is away ({why}), and {meanwhile}: see that it runs, and that KAFKA_BROKERS names it"
            )),
        }
    }).collect();
    let name = &settings.topic;
    match topic {
        Ok(Ok(true)) => found.push(Finding::Fact("topic", format!("{name}, {} partitions", settings.partitions))),
        Ok(Ok(false)) => found.push(Finding::Warning(format!(
            "there is no topic {name} yet: make it with Kafka's own tool, or whoever needs it first makes it with the broker's defaults"
        ))),
        Ok(Err(error)) if error.is_refused_login() => found.push(Finding::Problem(format!(
            "Kafka refuses the login: check KAFKA_USERNAME, KAFKA_PASSWORD and KAFKA_SASL_MECHANISM ({error})"
        ))),
        Ok(Err(error @ KafkaError::PartitionCount { .. })) => found.push(Finding::Problem(error.to_string())),
        // Said above of each of them.
        _ if are_all_away => {}
        Ok(Err(error)) => found.push(untold(name, &error.to_string())),
        Err(_) => found.push(untold(name, &format!("no answer in {} s", CHECK_PATIENCE.as_secs()))),
    }
    found
}

fn untold(topic: &str, why: &str) -> Finding {
    Finding::Warning(format!(
        "Kafka does not tell of the topic {topic}, and writes are answered 503 until it does: see the brokers' logs, and KAFKA_TLS and KAFKA_SASL_MECHANISM ({why})"
    ))
}

async fn redis(settings: &RedisSettings) -> Finding {
    let redis = match Redis::new(settings) {
        Ok(redis) => redis,
        Err(error) => return Finding::Problem(error.to_string()),
    };
    let place = redis.place();
    let mut subscription = redis.subscription();
    let why = match timeout(CHECK_PATIENCE, subscription.next()).await {
        Ok(Heard::Away(why)) => why,
        Ok(Heard::Subscribed | Heard::Message(_) | Heard::Missed) => return Finding::Fact("Redis", place),
        Err(_) => format!("no answer in {} s", CHECK_PATIENCE.as_secs()),
    };
    // The words with which Redis begins such an error.
    if ["WRONGPASS", "NOAUTH"].iter().any(|refusal| why.contains(refusal)) {
        return Finding::Problem(format!("Redis at {place} refuses the login: check REDIS_URL ({why})"));
    }
    Finding::Warning(format!(
        "Redis at {place} is away ({why}), and what others write is seen within a second instead of at once: see that it runs, and that REDIS_URL names it"
    ))
}

async fn reach(address: &str) -> Result<(), String> {
    match timeout(CHECK_PATIENCE, TcpStream::connect(address)).await {
        Ok(connected) => connected.map(drop).map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer in {} s", CHECK_PATIENCE.as_secs())),
    }
}
