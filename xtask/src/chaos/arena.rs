//! The cluster under attack: two servers, two workers, the three services, and a proxy on every way between them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::chaos::fault::{Fault, Service as Target, Side};
use crate::chaos::history::Todo;
use crate::cluster::{self, Places};
use crate::command::{capture, command, root, scratch, succeed, works};
use crate::stack::proxy::{Proxy, Wire};
use crate::stack::service::{Service, free_ports};
use crate::stack::{DATABASE, Door, PASSWORD, Scoped, Security, USER};
use crate::tools;

/// Room of the small disk that Postgres gets, where one can be made: enough for its logs, and soon filled.
const SMALL_DISK_MB: u32 = 700;

/// What fights.
pub struct Arena {
    /// The small disk, where one could be made. It goes before the stack, whose end removes the folder that it lies on.
    pub disk: Option<Mounted>,
    pub scoped: Scoped,
    pub servers: Vec<Service>,
    pub workers: Vec<Service>,
    server_wires: Wires,
    worker_wires: Wires,
    ports: Vec<u16>,
    /// What the second server takes for the time.
    pub clock: PathBuf,
}

/// From one side to the services.
struct Wires {
    kafka: Proxy,
    postgres: Proxy,
    redis: Proxy,
}

impl Arena {
    /// Starts everything.
    pub fn start() -> Result<Arena, String> {
        tools::install(&tools::list_missing(tools::FOR_CHAOS))?;
        let name = "chaos-stack";
        let [servers_listen, servers_say, workers_listen, workers_say] = free_ports()?;
        let doors =
            [Door { listens: servers_listen, says: servers_say }, Door { listens: workers_listen, says: workers_say }];
        let directory = root().join("target/xtask").join(name);
        crate::stack::Stack::end(&directory)?;
        let disk = Mounted::below(&directory.join("postgres"))?;
        let scoped = Scoped::start_over(name, Security::Open, &doors)?;
        let wires = |door: &Door| -> Result<Wires, String> {
            Ok(Wires {
                kafka: Proxy::start_at(door.says, door.listens)?,
                postgres: Proxy::start(scoped.stack.postgres.port())?,
                redis: Proxy::start(scoped.stack.redis.port())?,
            })
        };
        let (server_wires, worker_wires) = (wires(&doors[0])?, wires(&doors[1])?);
        let programs = scratch("chaos")?;
        let clock = programs.join("clock");
        set_clock(&clock, 0)?;
        let workers = ["worker-1", "worker-2"];
        let workers = workers.map(|name| cluster::start_worker(name, &programs, &worker_wires.places()));
        let first = cluster::start_server("server-1", &programs, &server_wires.places())?;
        let second = cluster::start_server_with_clock("server-2", &programs, &server_wires.places(), &clock)?;
        let servers = vec![first, second];
        let ports = servers.iter().map(Service::port).collect();
        let workers = workers.into_iter().collect::<Result<_, _>>()?;
        Ok(Arena { disk, scoped, servers, workers, server_wires, worker_wires, ports, clock })
    }

    /// Every fault that can happen here.
    pub fn faults(&self) -> Vec<Fault> {
        Fault::ALL.iter().copied().filter(|fault| self.disk.is_some() || *fault != Fault::FullDisk).collect()
    }

    /// Where the servers listen.
    pub fn servers(&self) -> &[u16] {
        &self.ports
    }

    /// The one whose clock can be set.
    pub fn server_with_clock(&self) -> &Service {
        &self.servers[1]
    }

    /// Changes a wire.
    pub fn set(&self, side: Side, target: Target, wire: Wire) {
        let wires = match side {
            Side::Servers => &self.server_wires,
            Side::Workers => &self.worker_wires,
        };
        let proxy = match target {
            Target::Kafka => &wires.kafka,
            Target::Postgres => &wires.postgres,
            Target::Redis => &wires.redis,
        };
        proxy.set(wire);
    }

    /// One of the services.
    pub fn service(&mut self, target: Target) -> &mut Service {
        match target {
            Target::Kafka => &mut self.scoped.stack.kafka,
            Target::Postgres => &mut self.scoped.stack.postgres,
            Target::Redis => &mut self.scoped.stack.redis,
        }
    }

    /// The titles in Postgres of those that are there.
    pub fn stored(&self, todos: &[Todo]) -> Result<HashMap<String, String>, String> {
        let ids: Vec<String> = todos.iter().map(|todo| format!("('{}'::uuid)", todo.id)).collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let sql = format!(
            "SELECT todos.id, title FROM todos JOIN (VALUES {}) asked(id) ON todos.id = asked.id WHERE NOT deleted",
            ids.join(",")
        );
        let text = capture(&mut self.psql(&sql))?;
        let rows = text.lines().filter_map(|line| line.split_once('\t'));
        Ok(rows.map(|(id, title)| (id.to_owned(), title.to_owned())).collect())
    }

    /// Redis's own client.
    pub fn redis(&self, words: &[&str]) -> Result<(), String> {
        let port = self.scoped.stack.redis.port().to_string();
        capture(command("redis-cli", &["-p", &port]).args(words)).map(drop)
    }

    fn psql(&self, sql: &str) -> std::process::Command {
        let mut psql = command("psql", &["--no-psqlrc", "--tuples-only", "--no-align", "--field-separator=\t"]);
        psql.args(["--host=127.0.0.1", "--username", USER, "--dbname", DATABASE, "--command", sql]);
        psql.arg(format!("--port={}", self.scoped.stack.postgres.port())).env("PGPASSWORD", PASSWORD);
        psql
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for service in self.servers.iter_mut().chain(&mut self.workers) {
            if let Err(reason) = service.kill() {
                eprintln!("{reason}");
            }
        }
        for service in [Target::Kafka, Target::Postgres, Target::Redis] {
            if let Err(reason) = self.service(service).kill() {
                eprintln!("{reason}");
            }
        }
    }
}

impl Wires {
    fn places(&self) -> Places {
        Places { kafka: self.kafka.port(), postgres: self.postgres.port(), redis: self.redis.port() }
    }
}

/// How far the second server's clock is ahead; below zero it is behind.
pub fn set_clock(clock: &Path, ahead_seconds: i64) -> Result<(), String> {
    std::fs::write(clock, format!("{ahead_seconds:+}\n")).map_err(|error| format!("{}: {error}", clock.display()))
}

/// A small disk of memory at a path. Only root can make one.
pub struct Mounted {
    path: PathBuf,
}

impl Mounted {
    fn below(path: &Path) -> Result<Option<Mounted>, String> {
        std::fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut mount = command("mount", &["-t", "tmpfs", "-o", &format!("size={SMALL_DISK_MB}m"), "tmpfs"]);
        if works(mount.arg(path)) {
            return Ok(Some(Mounted { path: path.to_owned() }));
        }
        eprintln!("no small disk can be mounted here (that takes root): no round fills a disk");
        Ok(None)
    }

    /// Takes all the room there is.
    pub fn fill(&self) -> Result<(), String> {
        let mut fill = command("dd", &["if=/dev/zero", "bs=1M"]);
        if works(fill.arg(format!("of={}", self.filler().display()))) {
            return Err(format!("{} took more than there is room", self.filler().display()));
        }
        Ok(())
    }

    /// Gives it back.
    pub fn free(&self) -> Result<(), String> {
        std::fs::remove_file(self.filler()).map_err(|error| format!("{}: {error}", self.filler().display()))
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(reason) = succeed(command("umount", &["--lazy"]).arg(&self.path)) {
            eprintln!("{reason}");
        }
    }
}
