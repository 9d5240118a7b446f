//! `cargo xtask stack`: real Postgres, Redis and Apache Kafka, from one command.
//!
//! Where a Docker engine answers, `stack up` is compose's. Elsewhere, and always for tests, the three are started from the
//! system's packages and Kafka's own archives, on free loopback ports, in a folder of their own.
//!
//! - [`service`]: one process that outlives us, and how it is found, killed, frozen and started again
//! - [`kafka`], [`postgres`], [`redis`]: what each of them needs
//! - [`certificates`]: for the secured listeners
//! - [`proxy`]: a wire that can be told to fail
//! - [`compose`]: the same by compose

mod certificates;
mod compose;
mod kafka;
mod postgres;
pub mod proxy;
mod redis;
pub mod service;

use std::path::{Path, PathBuf};
use std::thread;

use clap::Subcommand;

use crate::command::root;
use crate::tools;
use certificates::Certificates;
use service::Service;

/// Who may use the stack of a developer. Test data: it protects nothing, and listens on loopback only.
pub const USER: &str = "app";
/// Of [`USER`], everywhere.
pub const PASSWORD: &str = "appsecret";
/// The database in Postgres.
pub const DATABASE: &str = "million_rps";

/// What to do with the stack.
#[derive(Subcommand)]
pub enum Action {
    /// Start Postgres, Redis and Kafka, leave them running, and print where they are.
    Up {
        /// Listen with TLS and passwords too, and print what single tests need as well.
        #[arg(long)]
        for_tests: bool,
    },
    /// End what `up` has started, and throw its data away.
    Down,
    /// Say which of them run.
    Status,
}

/// Three services in one folder.
pub struct Stack {
    pub kafka: Service,
    pub postgres: Service,
    pub redis: Service,
    certificates: Option<Certificates>,
}

/// Runs `cargo xtask stack`. `Ok(false)` when `status` finds one that does not run.
pub fn run(action: &Action) -> Result<bool, String> {
    if compose::is_available() {
        return compose::run(action);
    }
    let directory = root().join("target/stack");
    match action {
        Action::Up { for_tests } => {
            let security = if *for_tests { Security::Secured } else { Security::Open };
            let stack = match Stack::find(&directory)? {
                Some(stack) if stack.certificates.is_some() || !for_tests => stack,
                _ => {
                    Stack::end(&directory)?;
                    Stack::start(&directory, security, Life::Detached, &[])?
                }
            };
            print_variables(&if *for_tests { stack.test_variables() } else { stack.variables() });
            Ok(true)
        }
        Action::Down => Stack::end(&directory).map(|()| true),
        Action::Status => {
            let mut all = true;
            for name in [kafka::NAME, postgres::NAME, redis::NAME] {
                let found = Service::find(&directory, name)?;
                let running = found.as_ref().is_some_and(Service::is_running);
                all &= running;
                match found {
                    Some(service) if running => eprintln!("{name}: pid {}, port {}", service.pid(), service.port()),
                    Some(service) => eprintln!("{name}: has ended; its log is {}", service.log().display()),
                    None => eprintln!("{name}: not started"),
                }
            }
            Ok(all)
        }
    }
}

/// The only thing on standard output, so that a shell can take it.
#[expect(clippy::print_stdout, reason = "it is what the command is for")]
fn print_variables(variables: &[(&'static str, String)]) {
    for (name, value) in variables {
        println!("{name}={value}");
    }
}

/// Whether the programs of Postgres are installed.
pub fn has_postgres() -> bool {
    postgres::programs().is_some()
}

/// How long services are meant to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Until `stack down`, whatever happens to the terminal.
    Detached,
    /// Not longer than we: Ctrl-C is for them too.
    Ours,
}

/// One more listener of Kafka, for clients that come through a proxy: a broker tells its clients where to go.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    /// Where the broker listens.
    pub listens: u16,
    /// Where it says that it listens.
    pub says: u16,
}

/// What all services are started with.
struct Plan<'a> {
    /// Ports under which Kafka also sends its clients back: those of proxies.
    doors: &'a [Door],
    directory: &'a Path,
    certificates: Option<&'a Certificates>,
    life: Life,
}

/// Whether the services also listen with TLS and ask for a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Plain connections only.
    Open,
    /// Secured listeners beside the plain ones.
    Secured,
}

impl Stack {
    /// Starts all three at once and returns when all answer. What was started before an error is ended again; the logs,
    /// which the error names, stay.
    pub fn start(directory: &Path, security: Security, life: Life, doors: &[Door]) -> Result<Stack, String> {
        tools::install(&tools::list_missing(tools::FOR_STACK))?;
        std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let certificates = match security {
            Security::Open => None,
            Security::Secured => Some(Certificates::make(directory)?),
        };
        let plan = Plan { directory, certificates: certificates.as_ref(), life, doors };
        let (kafka, postgres, redis) = thread::scope(|scope| {
            let kafka = scope.spawn(|| kafka::start(&plan));
            let postgres = scope.spawn(|| postgres::start(&plan));
            let redis = redis::start(&plan);
            (joined(kafka), joined(postgres), redis)
        });
        match (kafka, postgres, redis) {
            (Ok(kafka), Ok(postgres), Ok(redis)) => Ok(Stack { kafka, postgres, redis, certificates }),
            (kafka, postgres, redis) => {
                let reasons: Vec<String> = [kafka.err(), postgres.err(), redis.err()].into_iter().flatten().collect();
                Self::end_services(directory)?;
                Err(reasons.join("; "))
            }
        }
    }

    /// The stack in `directory`, if all of it runs.
    fn find(directory: &Path) -> Result<Option<Stack>, String> {
        let running = |name| Service::find(directory, name).map(|found| found.filter(Service::is_running));
        let found = (running(kafka::NAME)?, running(postgres::NAME)?, running(redis::NAME)?);
        Ok(match found {
            (Some(kafka), Some(postgres), Some(redis)) => {
                Some(Stack { kafka, postgres, redis, certificates: Certificates::find(directory) })
            }
            _ => None,
        })
    }

    /// Ends what runs in `directory`, and removes it.
    pub fn end(directory: &Path) -> Result<(), String> {
        Self::end_services(directory)?;
        match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("{}: {error}", directory.display()))
            }
            _ => Ok(()),
        }
    }

    fn end_services(directory: &Path) -> Result<(), String> {
        for name in [kafka::NAME, postgres::NAME, redis::NAME] {
            if let Some(mut service) = Service::find(directory, name)? {
                service.kill()?;
                service.remove_folder()?;
            }
        }
        Ok(())
    }

    /// Where the services are, in the words of servers and workers.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("KAFKA_BROKERS", format!("127.0.0.1:{}", self.kafka.port())),
            ("DATABASE_URL", database_url(self.postgres.port())),
            ("REDIS_URL", format!("redis://127.0.0.1:{}/0", self.redis.port())),
        ]
    }

    /// The same, and where the secured listeners are: what tests need.
    pub fn test_variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = self.variables();
        if let Some(certificates) = &self.certificates {
            let secured = |service: &Service| service.secured_port().to_string();
            let postgres = self.postgres.port();
            variables.extend([
                ("TEST_CA_FILE", certificates.authority.display().to_string()),
                ("TEST_KAFKA_SASL_BROKERS", format!("localhost:{}", secured(&self.kafka))),
                ("TEST_KAFKA_USERNAME", USER.to_owned()),
                ("TEST_KAFKA_PASSWORD", PASSWORD.to_owned()),
                ("TEST_KAFKA_ARCHIVES", kafka::archives_folder().display().to_string()),
                ("TEST_POSTGRES_PROGRAMS", postgres::programs().unwrap_or_default().display().to_string()),
                ("TEST_REDIS_TLS_URL", format!("rediss://{USER}:{PASSWORD}@localhost:{}/0", secured(&self.redis))),
                (
                    "TEST_DATABASE_TLS_URL",
                    format!("{}?sslmode=require", database_url(postgres).replace("127.0.0.1", "localhost")),
                ),
            ]);
        }
        variables
    }
}

/// A stack that ends with the value: for tests.
pub struct Scoped {
    pub stack: Stack,
    directory: PathBuf,
}

impl Scoped {
    /// Starts one in `target/xtask/NAME`, in place of one that was left behind there.
    pub fn start(name: &str, security: Security) -> Result<Scoped, String> {
        Stack::end(&root().join("target/xtask").join(name))?;
        Self::start_over(name, security, &[])
    }

    /// The same over what is in the folder already, with doors for proxies.
    pub fn start_over(name: &str, security: Security, doors: &[Door]) -> Result<Scoped, String> {
        let directory = root().join("target/xtask").join(name);
        Stack::start(&directory, security, Life::Ours, doors).map(|stack| Scoped { stack, directory })
    }
}

impl Drop for Scoped {
    fn drop(&mut self) {
        if let Err(reason) = Stack::end(&self.directory) {
            eprintln!("the stack in {} was not ended: {reason}", self.directory.display());
        }
    }
}

fn database_url(port: u16) -> String {
    format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{port}/{DATABASE}")
}

fn joined<R>(thread: thread::ScopedJoinHandle<'_, Result<R, String>>) -> Result<R, String> {
    thread.join().map_err(|_| "a thread has panicked".to_owned())?
}
