//! The arguments of all runs that start the server under test themselves.

use std::path::PathBuf;
use todo_bench::error::{Error, Result};
use todo_bench::process::child::{Backing, Server, ServerOptions};
use todo_bench::process::host;

#[derive(clap::Args)]
pub struct ServerArgs {
    /// The server's binary; it is started on a data file and a port of its own.
    #[arg(long, default_value = "target/release/todo-server")]
    server: PathBuf,
    /// CPUs of the server, all its threads. References run on the first. By default the first CPU that may be used.
    #[arg(long, value_delimiter = ',')]
    server_cpus: Vec<usize>,
    /// CPU of the generators. By default the last CPU that may be used.
    #[arg(long)]
    generator_cpu: Option<usize>,
    /// Shards of the server.
    #[arg(long, default_value_t = 1)]
    shards: usize,
    /// Todos that the server starts with.
    #[arg(long, default_value_t = 10_000)]
    todos: usize,
    /// Stand the server on the services that `KAFKA_BROKERS`, `DATABASE_URL` and `REDIS_URL` name, with a todo-worker at work,
    /// instead of a data file of its own.
    #[arg(long)]
    cluster: bool,
    /// A setting of the server, `NAME=value` as in its environment; may be repeated.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Where data files are made; by default beside the server's binary. In memory an fsync would cost nothing.
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

impl ServerArgs {
    /// Starts the server, with what a run needs to know about the CPUs.
    pub fn start(&self) -> Result<Started> {
        if self.cluster { self.start_on_services() } else { self.start_on_file() }
    }

    /// The same on services, whatever the arguments say.
    pub fn start_on_services(&self) -> Result<Started> {
        self.start_on(Backing::Cluster)
    }

    /// The same on a data file, whatever the arguments say.
    pub fn start_on_file(&self) -> Result<Started> {
        self.start_on(Backing::File { todos_count: self.todos })
    }

    /// How a server on a data file would be started.
    pub fn on_file(&self) -> Result<ServerOptions> {
        Ok(self.on_file_beside()?.0)
    }

    /// The same, and the CPU of the generators.
    pub fn on_file_beside(&self) -> Result<(ServerOptions, usize)> {
        self.options(Backing::File { todos_count: self.todos })
    }

    /// Another server on a data file with these settings in the place of those of --set, on the same CPUs.
    pub fn start_variant(&self, settings: &[(String, String)]) -> Result<Server> {
        let mut options = self.on_file()?;
        options.variables = settings.to_vec();
        Server::start(&options)
    }

    fn start_on(&self, backing: Backing) -> Result<Started> {
        let (options, generator_cpu) = self.options(backing)?;
        let reference_cpu = options.cpus[0];
        Ok(Started { server: Server::start(&options)?, reference_cpu, generator_cpu })
    }

    /// The options, and the CPU of the generators.
    fn options(&self, backing: Backing) -> Result<(ServerOptions, usize)> {
        let allowed = host::allowed_cpus()?;
        let (Some(&first), Some(&last)) = (allowed.first(), allowed.last()) else {
            return Err(Error::Unusable("no CPU may be used".into()));
        };
        let cpus = if self.server_cpus.is_empty() { vec![first] } else { self.server_cpus.clone() };
        let generator_cpu = self.generator_cpu.unwrap_or(last);
        if cpus.contains(&generator_cpu) {
            eprintln!("todo-bench: server and generator share CPU {generator_cpu}: the figures mix them up");
        }
        let beside = self.server.parent().filter(|parent| !parent.as_os_str().is_empty());
        let options = ServerOptions {
            binary: self.server.clone(),
            cpus,
            shards_count: self.shards,
            accept: None,
            descriptors_max: None,
            backing,
            variables: self.settings.clone(),
            data_directory: self.data_dir.clone().or(beside.map(PathBuf::from)).unwrap_or_else(|| ".".into()),
        };
        Ok((options, generator_cpu))
    }
}

/// `NAME=value`.
pub fn setting(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a setting is written NAME=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A running server under test.
pub struct Started {
    /// Ends with this.
    pub server: Server,
    /// Where references run: the server's first CPU.
    pub reference_cpu: usize,
    /// Where generators run.
    pub generator_cpu: usize,
}
