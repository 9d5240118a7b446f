//! Every setting: a flag, an environment variable, a default, and what is wrong with a bad value.

#![expect(clippy::doc_markdown, reason = "these comments are help texts, read in a terminal")]

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use todo_worker::channel::QueueBounds;
use todo_worker::limits::QUEUE_COMMANDS_MAX;
use todo_worker::settings::{Connections, Secret, secret};

use crate::admission::address::parse_network;
use crate::admission::{Allowance, Kind, Limits};
use crate::control::access_log::Destination;
use crate::http::bearer::{Keys, NamedSecret};
use crate::http::cors::AllowedOrigin;
use crate::limits::{
    ACCESS_LOG_SAMPLE_DEFAULT, BODY_TIMEOUT, DRAIN_TIMEOUT_MS_DEFAULT, GROUP_WRITES_MAX, HEAD_TIMEOUT, IDLE_TIMEOUT,
    LIMIT_BURST_SECONDS_DEFAULT, LIMIT_BURST_SECONDS_MAX, LIMIT_MAX_PER_SECOND, LIST_LIMIT_MAX, PROGRESS_TIMEOUT,
    REFRESH_MS_DEFAULT, SECRET_BYTES_MIN, SHARDS_MAX, SNAPSHOT_BYTES_MAX_DEFAULT, SNAPSHOT_BYTES_MIN,
    SNAPSHOT_TODOS_MAX_DEFAULT,
};

/// A Todo API that answers reads at the speed of the network stack and loses no write.
///
/// Without a command it serves: an HTTP/1.1 server with one thread per core over one SQLite file. Start it, then try:
///
///   curl 'http://localhost:8080/todos?limit=10'
///
///   curl -X POST http://localhost:8080/todos -H "Authorization: Bearer $(todo-server token --sub me)"
///        -H 'Content-Type: application/json' -d '{"title":"Buy milk"}'
///
/// Every option is also an environment variable, named in brackets below; the option wins.
#[derive(Debug, Parser)]
#[command(name = "todo-server", version = VERSION, verbatim_doc_comment)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings of every command.
    #[command(flatten)]
    pub settings: Settings,
}

impl CommandLine {
    /// Reads flags, environment and the settings file; ends the process where clap would.
    ///
    /// # Errors
    /// The settings file.
    pub fn read() -> Result<CommandLine, SettingsError> {
        match Self::try_read()? {
            Ok(line) => Ok(line),
            Err(error) => error.exit(),
        }
    }

    /// The same, for a process that goes on whatever is wrong.
    ///
    /// # Errors
    /// The settings file; within it what is wrong with the rest.
    pub fn try_read() -> Result<Result<CommandLine, clap::Error>, SettingsError> {
        Self::try_read_from(std::env::args_os().collect())
    }

    fn try_read_from(arguments: Vec<OsString>) -> Result<Result<CommandLine, clap::Error>, SettingsError> {
        Ok(Self::with_file(arguments)?.and_then(Self::try_parse_from))
    }

    /// `arguments`, and as further flags what the settings file that they name says.
    ///
    /// # Errors
    /// The settings file; within it what is wrong with the arguments.
    pub fn with_file(mut arguments: Vec<OsString>) -> Result<Result<Vec<OsString>, clap::Error>, SettingsError> {
        let matches = match Self::command().try_get_matches_from(&arguments) {
            Ok(matches) => matches,
            Err(error) => return Ok(Err(error)),
        };
        match Self::from_arg_matches(&matches) {
            Err(error) => Ok(Err(error)),
            Ok(CommandLine { settings: Settings { settings_file: None, .. }, .. }) => Ok(Ok(arguments)),
            Ok(CommandLine { settings: Settings { settings_file: Some(path), .. }, .. }) => {
                let failed = |line, why: String| SettingsError::File { path: path.display().to_string(), line, why };
                let text = std::fs::read_to_string(&path).map_err(|error| failed(0, error.to_string()))?;
                for (number, text) in (1..).zip(text.lines()) {
                    arguments.extend(flag_of(text, &matches).map_err(|why| failed(number, why))?);
                }
                Ok(Ok(arguments))
            }
        }
    }
}

/// The flag that a line `NAME=value` of a settings file stands for; none where flag or variable win, and for a comment.
fn flag_of(line: &str, given: &clap::ArgMatches) -> Result<Option<OsString>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, value) = line.split_once('=').ok_or("it is no NAME=value")?;
    let command = CommandLine::command();
    let argument = command.get_arguments().find(|argument| argument.get_env().is_some_and(|known| known == name));
    let argument = argument.ok_or_else(|| format!("{name} is no setting"))?;
    let is_given = matches!(
        given.value_source(argument.get_id().as_str()),
        Some(ValueSource::CommandLine | ValueSource::EnvVariable)
    );
    let flag = argument.get_long().unwrap_or_default();
    // As in a file for systemd or compose.
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    match argument.get_action() {
        _ if is_given => Ok(None),
        ArgAction::SetTrue => match value {
            "true" | "1" => Ok(Some(format!("--{flag}").into())),
            "false" | "0" | "" => Ok(None),
            _ => Err(format!("{name} is true or false")),
        },
        _ => Ok(Some(format!("--{flag}={value}").into())),
    }
}

/// Version, commit and target, as `--version` prints them.
pub const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("BUILD_COMMIT"), ", ", env!("BUILD_TARGET"), ")");

/// Settings that hold nothing but a secret: the names of the flag and of the variable.
pub const SECRETS: [(&str, &str); 3] = [
    ("--jwt-secret", "JWT_SECRET"),
    ("--jwt-secret-previous", "JWT_SECRET_PREVIOUS"),
    ("--kafka-password", "KAFKA_PASSWORD"),
];

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve (the default)
    Serve,
    /// Fill the store with sample todos, or with those of a file
    Seed {
        /// How many
        #[arg(long, default_value_t = SEED_TODOS_DEFAULT, conflicts_with = "from", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
        count: u64,
        /// Take the todos of this file instead, one JSON object a line, as `export` writes them
        #[arg(long, value_name = "FILE.ndjson")]
        from: Option<PathBuf>,
        /// Add them to the todos that are there already
        #[arg(long)]
        append: bool,
    },
    /// Print every todo on standard output, one JSON object a line, as of one moment; a server may be running
    Export,
    /// Have the running server replaced by a new process, without a lost request or connection
    Upgrade {
        /// The program to start [default: the one that runs, as it is on disk now]
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
    },
    /// Read settings, data file, limits and services; print what is in force, every problem (exit status 1), and a
    /// warning for whatever is away and would be waited for (exit status 0)
    Check {
        /// Exit with 1 for a warning too
        #[arg(long)]
        strict: bool,
    },
    /// Print a token for writes, and nothing else, on standard output
    Token {
        /// Who it is for: the token's `sub`, 1 to 256 bytes
        #[arg(long, value_name = "NAME")]
        sub: String,
        /// How long it is valid, such as 90s, 30m, 24h or 7d
        #[arg(long, default_value = "24h", value_parser = parse_ttl)]
        ttl: u64,
    },
}

/// Default of `DATA_FILE`.
pub const DATA_FILE_DEFAULT: &str = "./todos.db";
/// Default of `SEED_TODOS`.
pub const SEED_TODOS_DEFAULT: u64 = 10_000;

/// How a port's connections reach the shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accept {
    /// A listener per shard on the same port; the kernel chooses by a hash of the addresses
    Reuseport,
    /// One acceptor that gives each connection to the shard with the fewest
    Handoff,
}

impl Accept {
    /// The way that spreads connections evenly; with one shard there is nothing to spread, and the kernel's is the cheaper
    /// one. On macOS `SO_REUSEPORT` gives everything to the last listener.
    pub fn default_for(shards_count: usize) -> Accept {
        if shards_count > 1 || cfg!(target_os = "macos") { Accept::Handoff } else { Accept::Reuseport }
    }
}

/// Settings of every command.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Addresses or names to listen on, separated by commas; localhost means 127.0.0.1 and ::1
    #[arg(long, env, global = true, default_value = "localhost", value_name = "HOST,…")]
    pub http_host: String,

    /// Port to listen on; 0 lets the system choose one, which start-up prints
    #[arg(long, env, global = true, default_value_t = 8080, value_name = "PORT")]
    pub http_port: u16,

    /// Threads that serve, one per core [default: the CPUs this process may use, less one from four on]
    #[arg(long, env, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=SHARDS_MAX as i64))]
    pub shards: Option<u16>,

    /// Pin each shard to a core of its own [default: on, but off under a CPU quota]
    #[arg(long, env, global = true, value_name = "BOOL")]
    pub pin: Option<bool>,

    /// How connections reach the shards [default: handoff; reuseport for one shard]
    #[arg(long, env, global = true, value_name = "HOW")]
    pub accept: Option<Accept>,

    /// Address for metrics and dashboard, such as 127.0.0.1:9091 [default: none, they are on the port of the API]
    #[arg(long, env, global = true, value_name = "ADDRESS:PORT")]
    pub admin_addr: Option<SocketAddr>,

    /// Origins whose pages may call from a browser, such as https://app.example, several with commas [default: none]
    #[arg(long, env, global = true, value_delimiter = ',', value_name = "ORIGIN", value_parser = AllowedOrigin::parse)]
    pub cors_origins: Vec<AllowedOrigin>,

    /// Networks of proxies that begin each connection with a PROXY header (v1 or v2), such as 10.0.0.0/8,fd00::/8 [default: none]
    #[arg(long, env, global = true, value_delimiter = ',', value_name = "NETWORK", value_parser = parse_network)]
    pub proxy_from: Vec<IpNet>,

    /// The SQLite file that holds the todos
    #[arg(long, env, global = true, default_value = DATA_FILE_DEFAULT, value_name = "FILE")]
    pub data_file: PathBuf,

    /// File of further settings, a NAME=value in each line; flags and variables win. SIGHUP reads it again: log, limits, timeouts, keys
    #[arg(long, env, global = true, value_name = "FILE")]
    pub settings_file: Option<PathBuf>,

    /// Directory of the socket that `upgrade` speaks to [default: beside the data file; in a cluster the temporary directory]
    #[arg(long, env, global = true, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,

    /// Key of the HS256 tokens that writes need, at least 32 bytes [default: random, kept beside the data file]
    #[arg(long, env, global = true, hide_env_values = true, value_name = "SECRET")]
    pub jwt_secret: Option<Secret>,

    /// File that holds the JWT_SECRET
    #[arg(long, env, global = true, value_name = "FILE")]
    pub jwt_secret_file: Option<PathBuf>,

    /// Name of the JWT_SECRET, the `kid` of its tokens [default: none, good for every `kid`]
    #[arg(long, env, global = true, value_name = "ID")]
    pub jwt_key_id: Option<String>,

    /// The JWT_SECRET before this one: its tokens are good too until they expire
    #[arg(long, env, global = true, hide_env_values = true, value_name = "SECRET")]
    pub jwt_secret_previous: Option<Secret>,

    /// File that holds the JWT_SECRET_PREVIOUS
    #[arg(long, env, global = true, value_name = "FILE")]
    pub jwt_secret_previous_file: Option<PathBuf>,

    /// Name of the JWT_SECRET_PREVIOUS
    #[arg(long, env, global = true, value_name = "ID")]
    pub jwt_key_id_previous: Option<String>,

    /// Accept a JWT_SECRET under 32 bytes, which can be guessed: for experiments only
    #[arg(long, env, global = true)]
    pub allow_weak_secret: bool,

    /// Sample todos that an empty store is filled with at start; 0 starts empty
    #[arg(long, env, global = true, default_value_t = SEED_TODOS_DEFAULT, value_name = "N")]
    pub seed_todos: u64,

    /// Newest todos held in memory; older ones are read from the file
    #[arg(long, env, global = true, default_value_t = SNAPSHOT_TODOS_MAX_DEFAULT, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub snapshot_todos_max: u64,

    /// Bytes of JSON held in memory
    #[arg(long, env, global = true, default_value_t = SNAPSHOT_BYTES_MAX_DEFAULT, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(SNAPSHOT_BYTES_MIN..))]
    pub snapshot_bytes_max: u64,

    /// Largest limit that a list may ask for
    #[arg(long, env, global = true, default_value_t = LIST_LIMIT_MAX, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub limit_max: u32,

    /// Shortest time between two snapshots, in milliseconds
    #[arg(long, env, global = true, default_value_t = REFRESH_MS_DEFAULT, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=1_000))]
    pub refresh_ms: u64,

    /// Writes that wait for the data file, or are on their way into it; more are refused at once. A cluster bounds bytes instead
    #[arg(long, env, global = true, default_value_t = QUEUE_COMMANDS_MAX as u64, value_name = "N", value_parser = clap::value_parser!(u64).range(GROUP_WRITES_MAX as u64..=1_000_000))]
    pub writes_waiting_max: u64,

    /// Connections of each shard [default: what the descriptor limit allows]
    #[arg(long, env, global = true, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub connections_max: Option<u64>,

    /// Time for a whole request head from its first byte, in milliseconds
    #[arg(long, env, global = true, default_value_t = HEAD_TIMEOUT.as_millis() as u64, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub head_timeout_ms: u64,

    /// Time for a whole request body from its head, in milliseconds
    #[arg(long, env, global = true, default_value_t = BODY_TIMEOUT.as_millis() as u64, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub body_timeout_ms: u64,

    /// Time that a connection may be idle between requests, in milliseconds
    #[arg(long, env, global = true, default_value_t = IDLE_TIMEOUT.as_millis() as u64, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=86_400_000))]
    pub idle_timeout_ms: u64,

    /// Time in which a client must take 64 KiB, or all it is owed, in milliseconds
    #[arg(long, env, global = true, default_value_t = PROGRESS_TIMEOUT.as_millis() as u64, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub progress_timeout_ms: u64,

    /// Connections that one address may have open, all shards together; 0 is no limit. An IPv6 address is its /64
    #[arg(long, env, global = true, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(LIMIT_MAX_PER_SECOND)))]
    pub connections_per_address: u32,

    /// Connections that one address may open in a second; 0 is no limit
    #[arg(long, env, global = true, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(LIMIT_MAX_PER_SECOND)))]
    pub new_connections_per_second: u32,

    /// Requests that one address may make in a second; 0 is no limit
    #[arg(long, env, global = true, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(LIMIT_MAX_PER_SECOND)))]
    pub requests_per_second: u32,

    /// Writes that one `sub` may make in a second, from wherever; 0 is no limit
    #[arg(long, env, global = true, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(LIMIT_MAX_PER_SECOND)))]
    pub writes_per_second_per_subject: u32,

    /// Seconds for which an unused limit is saved up, to be spent at once
    #[arg(long, env, global = true, default_value_t = LIMIT_BURST_SECONDS_DEFAULT, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=i64::from(LIMIT_BURST_SECONDS_MAX)))]
    pub limit_burst_seconds: u32,

    /// Networks whose connections and requests are not limited, such as 10.0.0.0/8, several with commas [default: none]
    #[arg(long, env, global = true, value_delimiter = ',', value_name = "NETWORK", value_parser = parse_network)]
    pub trusted_networks: Vec<IpNet>,

    /// Time for connections and writes to end at SIGTERM, in milliseconds
    #[arg(long, env, global = true, default_value_t = DRAIN_TIMEOUT_MS_DEFAULT, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=3_600_000))]
    pub drain_timeout_ms: u64,

    /// Time from SIGTERM, when /ready fails, until nothing more is accepted, in milliseconds
    #[arg(long, env, global = true, default_value_t = 0, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=3_600_000))]
    pub drain_lead_ms: u64,

    /// Send large ready-made answers from files in memory, without a copy; Linux only
    #[arg(long, env, global = true, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub sendfile: bool,

    /// Send and receive buffer of each connection, in bytes [default: the system's]
    #[arg(long, env, global = true, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=1_073_741_824))]
    pub socket_buffer_bytes: Option<u32>,

    /// Where requests are logged, a line of JSON each: off, stderr, or a file, which SIGHUP opens anew. All errors, and some of the rest
    #[arg(long, env, global = true, default_value = "off", value_name = "off|stderr|FILE", value_parser = Destination::parse)]
    pub access_log: Destination,

    /// One request in so many is in the ACCESS_LOG; 0 for errors only
    #[arg(long, env, global = true, default_value_t = ACCESS_LOG_SAMPLE_DEFAULT, value_name = "N")]
    pub access_log_sample: u32,

    /// Where the services of a cluster are.
    #[command(flatten)]
    pub connections: Connections,

    /// What is logged to standard error: error, warn, info, debug, trace, or per module as in warn,todo_server::control=debug
    #[arg(long, env, global = true, default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// Why settings cannot be used, as one plain sentence with its remedy.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Too short a key.
    #[error(
        "JWT_SECRET has {bytes} bytes, but HS256 needs at least 32 (RFC 7518 3.2): make one with `openssl rand -hex 32`, or allow it for an experiment with --allow-weak-secret"
    )]
    WeakSecret {
        /// What it has.
        bytes: usize,
    },
    /// A settings file that cannot be read.
    #[error("SETTINGS_FILE {path}{}: {why}", if *line > 0 { format!(", line {line}") } else { String::new() })]
    File {
        /// Where it is.
        path: String,
        /// Line, from 1; 0 for all of it.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// No key where each server must have the same.
    #[error(
        "JWT_SECRET is not set: in a cluster every server needs the same one, so make one with `openssl rand -hex 32`"
    )]
    NoSecret,
    /// A key in two places, or a file that cannot be read.
    #[error(transparent)]
    Secret(#[from] todo_worker::settings::SettingsError),
    /// The kept key cannot be read or made.
    #[error("the key file {path} cannot be used ({source}): mend it, or set JWT_SECRET")]
    SecretFile {
        /// Where it is kept.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
}

impl Settings {
    /// What may wait for the data file.
    pub fn queue_bounds(&self) -> QueueBounds {
        let commands_max = usize::try_from(self.writes_waiting_max).expect("its range is a million");
        QueueBounds { commands_max, ..QueueBounds::default() }
    }

    /// The keys of tokens, of which a cluster's must be set.
    ///
    /// # Errors
    /// As [`Settings::secret`] and [`Settings::shared_secret`]; a weak previous key that is not allowed.
    pub fn keys(&self, is_cluster: bool) -> Result<Keys, SettingsError> {
        let secret = if is_cluster { self.shared_secret()? } else { self.secret()? };
        Ok(Keys::rotating(NamedSecret { secret, id: self.jwt_key_id.clone() }, self.previous()?))
    }

    fn previous(&self) -> Result<Option<NamedSecret>, SettingsError> {
        let file = self.jwt_secret_previous_file.as_deref();
        let secret = secret_of("JWT_SECRET_PREVIOUS", self.jwt_secret_previous.as_ref(), file)?;
        let secret = secret.map(|secret| self.strong(secret)).transpose()?;
        Ok(secret.map(|secret| NamedSecret { secret, id: self.jwt_key_id_previous.clone() }))
    }

    /// The key of tokens: the one that is set, else the one kept beside the data file, made at random when there is none.
    ///
    /// # Errors
    /// A weak key that is not allowed; a key file that cannot be read or made.
    pub fn secret(&self) -> Result<Vec<u8>, SettingsError> {
        match self.set_secret()? {
            Some(secret) => self.strong(secret),
            None => self.strong(kept_secret(&secret_file(&self.data_file))?),
        }
    }

    /// The key of tokens, which every server of a cluster must be given.
    ///
    /// # Errors
    /// There is none, or a weak one that is not allowed; its file cannot be read.
    pub fn shared_secret(&self) -> Result<Vec<u8>, SettingsError> {
        self.strong(self.set_secret()?.ok_or(SettingsError::NoSecret)?)
    }

    /// Looks at the key of tokens without making one; where it comes from.
    ///
    /// # Errors
    /// As [`secret`](Settings::secret) and [`shared_secret`](Settings::shared_secret).
    pub fn check_secret(&self, is_shared: bool) -> Result<String, SettingsError> {
        let previous = self.previous()?.map_or("", |_| ", and the one before");
        if let Some(secret) = self.set_secret()? {
            return self.strong(secret).map(|secret| format!("{} bytes, as set{previous}", secret.len()));
        }
        if is_shared {
            return Err(SettingsError::NoSecret);
        }
        let path = secret_file(&self.data_file);
        match std::fs::read(&path) {
            Ok(secret) => self
                .strong(secret.trim_ascii().to_vec())
                .map(|secret| format!("{} bytes of {}", secret.len(), path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(format!("{} will be made", path.display()))
            }
            Err(source) => Err(SettingsError::SecretFile { path: path.display().to_string(), source }),
        }
    }

    /// What is said of proxies; `None` where there are none.
    pub fn proxy_line(&self) -> Option<String> {
        let networks: Vec<String> = self.proxy_from.iter().map(IpNet::to_string).collect();
        (!networks.is_empty()).then(|| format!("a PROXY header begins every connection from {}", networks.join(", ")))
    }

    /// What addresses and subjects may do on so many shards, from `begun_ms` on: with full buckets, or, in the place of
    /// another process, with those of one second.
    pub fn limits(&self, shards_count: usize, begun_ms: u64, is_successor: bool) -> Limits {
        let shards_count = u16::try_from(shards_count).expect("SHARDS_MAX is less");
        let rate = |per_second: u32| {
            // What lies on other shards is never all of it.
            let burst = (per_second * self.limit_burst_seconds).max(u32::from(shards_count));
            let at_begin = if is_successor { per_second.min(burst) } else { burst };
            (per_second > 0).then_some(Allowance { per_second, burst, at_begin, begun_ms, shards_count })
        };
        let burst = self.connections_per_address;
        let open = Allowance { per_second: 0, burst, at_begin: burst, begun_ms, shards_count };
        let mut limits = Limits {
            trusted: self.trusted_networks.clone(),
            subject_keys: (fastrand::u64(..), fastrand::u64(..)),
            ..Limits::default()
        };
        limits.allowances[Kind::Open as usize] = (burst > 0).then_some(open);
        limits.allowances[Kind::Begun as usize] = rate(self.new_connections_per_second);
        limits.allowances[Kind::Requests as usize] = rate(self.requests_per_second);
        limits.allowances[Kind::Writes as usize] = rate(self.writes_per_second_per_subject);
        limits
    }

    /// Where a server on `port` hears commands: beside its data file, or by its port in `RUN_DIR`; in a cluster, where there
    /// is no file, in the temporary directory.
    pub fn command_socket(&self, port: u16) -> PathBuf {
        let by_port = || PathBuf::from(format!("todo-server-{port}.sock"));
        match &self.run_dir {
            Some(directory) => directory.join(by_port()),
            None if self.connections.is_cluster() => std::env::temp_dir().join(by_port()),
            None => beside(&self.data_file, ".sock"),
        }
    }

    fn set_secret(&self) -> Result<Option<Vec<u8>>, SettingsError> {
        secret_of("JWT_SECRET", self.jwt_secret.as_ref(), self.jwt_secret_file.as_deref())
    }

    fn strong(&self, secret: Vec<u8>) -> Result<Vec<u8>, SettingsError> {
        if secret.len() < SECRET_BYTES_MIN && !self.allow_weak_secret {
            return Err(SettingsError::WeakSecret { bytes: secret.len() });
        }
        Ok(secret)
    }
}

/// A key that is set, in one place or the other.
fn secret_of(
    name: &'static str,
    value: Option<&Secret>,
    file: Option<&Path>,
) -> Result<Option<Vec<u8>>, SettingsError> {
    Ok(secret(name, value, file)?.map(|secret| secret.reveal().as_bytes().to_vec()))
}

/// Where the random key of a data file is kept.
pub fn secret_file(data_file: &Path) -> PathBuf {
    beside(data_file, ".secret")
}

fn beside(data_file: &Path, ending: &str) -> PathBuf {
    let mut name = data_file.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Reads the key in `path`, or makes one there that only its owner can read.
fn kept_secret(path: &Path) -> Result<Vec<u8>, SettingsError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    let failed = |source| SettingsError::SecretFile { path: path.display().to_string(), source };
    match std::fs::read(path) {
        Ok(secret) => return Ok(secret.trim_ascii().to_vec()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let secret = random_hex().map_err(failed)?;
    // Written whole under a name of its own, then linked into place: another process that starts at the same time sees
    // a whole key or none, and the first one's key is everybody's.
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let written = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
    let mut file = written.map_err(failed)?;
    file.write_all(&secret).and_then(|()| file.sync_all()).map_err(failed)?;
    let linked = std::fs::hard_link(&unfinished, path);
    std::fs::remove_file(&unfinished).map_err(failed)?;
    match linked {
        Ok(()) => Ok(secret),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            Ok(std::fs::read(path).map_err(failed)?.trim_ascii().to_vec())
        }
        Err(error) => Err(failed(error)),
    }
}

/// 256 bits from the kernel's generator, as 64 hexadecimal digits.
fn random_hex() -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut random = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect())
}

/// Seconds of a duration such as `90s`, `30m`, `24h`, `7d`.
fn parse_ttl(text: &str) -> Result<u64, String> {
    let remedy = || format!("`{text}` is not a duration: write a whole number and s, m, h or d, such as 24h");
    let unit_seconds = match text.bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3_600,
        Some(b'd') => 86_400,
        _ => return Err(remedy()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| remedy())?;
    number.checked_mul(unit_seconds).filter(|seconds| *seconds > 0).ok_or_else(remedy)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn durations() {
        let good = [("1s", 1), ("30m", 1_800), ("24h", 86_400), ("7d", 604_800)];
        for (text, seconds) in good {
            assert_eq!(parse_ttl(text), Ok(seconds), "{text}");
        }
        for text in ["", "h", "24", "-1h", "0s", "1.5h", "24 h", "99999999999999999999d", "999999999999999999d"] {
            assert!(parse_ttl(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_settings_file_fills_what_flags_leave_open() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("settings");
        let read = |text: &str| {
            std::fs::write(&path, text).expect("a file");
            let file = format!("--settings-file={}", path.display());
            CommandLine::try_read_from(["todo-server", "--limit-max", "7", "check", &file].map(OsString::from).to_vec())
        };
        let text = "# a comment\n\nLOG=\"warn\"\nLIMIT_MAX=9\nHTTP_PORT=81\nALLOW_WEAK_SECRET=true\nSENDFILE=false\n";
        let settings = read(text).expect("the file").expect("the rest").settings;
        assert_eq!((settings.log.as_str(), settings.limit_max, settings.http_port), ("warn", 7, 81));
        assert!(settings.allow_weak_secret && !settings.sendfile);
        let table = [("LOG", "line 1: it is no NAME=value"), ("A=1\n", "line 1: A is no setting")];
        for (text, words) in table {
            let error = read(text).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert!(read("HTTP_PORT=eighty").expect("the file").is_err(), "a value is judged like a flag's");
    }

    #[test]
    fn a_kept_secret_is_made_once_and_private() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.secret");
        let first = kept_secret(&path).expect("it is made");
        assert_eq!(first.len(), 64);
        assert_eq!(kept_secret(&path).expect("it is read"), first);
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 1, "nothing else is left behind");
    }

    #[test]
    fn limits_follow_the_settings() {
        let limits = |arguments: &[&str], shards_count, is_successor| {
            let line = CommandLine::parse_from(["todo-server"].iter().chain(arguments));
            line.settings.limits(shards_count, 5, is_successor)
        };
        assert_eq!(limits(&[], 8, false).allowances, [None; Kind::ALL.len()], "off unless set");
        let set = ["--requests-per-second=10", "--limit-burst-seconds=3", "--connections-per-address=4"];
        let fresh = limits(&set, 2, false);
        let requests = Allowance { per_second: 10, burst: 30, at_begin: 30, begun_ms: 5, shards_count: 2 };
        assert_eq!(fresh.of(Kind::Requests), Some(&requests));
        let open = Allowance { per_second: 0, burst: 4, at_begin: 4, begun_ms: 5, shards_count: 2 };
        assert_eq!(fresh.of(Kind::Open), Some(&open));
        assert!(fresh.of(Kind::Begun).is_none() && fresh.of(Kind::Writes).is_none());
        let successor = limits(&set, 2, true);
        assert_eq!(successor.of(Kind::Requests), Some(&Allowance { at_begin: 10, ..requests }));
        assert_eq!(successor.of(Kind::Open), Some(&open), "moved connections are counted, so nothing is missing");
        let few = limits(&["--new-connections-per-second=1", "--limit-burst-seconds=1"], 8, false);
        assert_eq!(few.of(Kind::Begun).map(|begun| begun.burst), Some(8), "one for each shard");
        let trusted = ["--trusted-networks=10.0.0.0/8,fd00::/8"];
        assert_eq!(limits(&trusted, 1, false).trusted.len(), 2);
        assert!(CommandLine::try_parse_from(["todo-server", "--trusted-networks=10.0.0.1/8"]).is_err());
    }

    #[test]
    fn a_short_secret_is_refused_unless_allowed() {
        let check = |arguments: &[&str]| {
            let line = ["todo-server", "--jwt-secret", "change-me"].iter().chain(arguments);
            CommandLine::parse_from(line).settings.secret()
        };
        assert!(matches!(check(&[]), Err(SettingsError::WeakSecret { bytes: 9 })));
        assert_eq!(check(&["--allow-weak-secret"]).expect("allowed"), b"change-me");
    }
}
