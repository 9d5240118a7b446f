//! Postgres from the system's package. It refuses to run as root, so root starts it as `postgres`; that user must reach
//! the folder, which it cannot below a home of root's: then the data lie below the system's temporary directory.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::command::{command, works};
use crate::stack::service::{Launch, Service, free_ports, run_tool, user_ids};
use crate::stack::{DATABASE, PASSWORD, Plan, USER};

pub const NAME: &str = "postgres";
/// From the first connection accepted until the first one served, on two busy cores.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Starts it, with the database.
pub fn start(plan: &Plan<'_>) -> Result<Service, String> {
    let &Plan { directory, certificates: secured, life, .. } = plan;
    let programs = programs().ok_or("Postgres is not installed: apt install postgresql")?;
    let user = if is_root()? { user_ids("postgres")? } else { None };
    let folder = folder(directory, user)?;
    let log = directory.join(format!("{NAME}.log"));
    let as_user = |program: &str| {
        let mut command = Command::new(programs.join(program));
        command.current_dir(&folder);
        if let Some((uid, gid)) = user {
            command.uid(uid).gid(gid);
        }
        command
    };
    let password_file = folder.join("password");
    own(&password_file, PASSWORD.as_bytes(), user)?;
    let mut make = as_user("initdb");
    make.args(["--pgdata=data", "--auth=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C"]);
    make.args([format!("--username={USER}"), format!("--pwfile={}", password_file.display())]);
    run_tool(make, &log)?;

    let [port] = free_ports()?;
    let mut settings = vec![
        format!("port={port}"),
        "listen_addresses=127.0.0.1".to_owned(),
        // The path of a socket has 107 bytes at most, and ours may have more.
        "unix_socket_directories=".to_owned(),
        "max_connections=300".to_owned(),
        "log_min_messages=warning".to_owned(),
    ];
    if let Some(certificates) = secured {
        let (certificate, key) = (folder.join("server.pem"), folder.join("server.key"));
        for (from, to) in [(&certificates.certificate, &certificate), (&certificates.key, &key)] {
            let bytes = fs::read(from).map_err(|error| format!("{}: {error}", from.display()))?;
            own(to, &bytes, user)?;
        }
        settings.push("ssl=on".to_owned());
        settings.push(format!("ssl_cert_file={}", certificate.display()));
        settings.push(format!("ssl_key_file={}", key.display()));
    }
    let mut words = vec![programs.join("postgres").display().to_string(), "-D".to_owned(), "data".to_owned()];
    words.extend(settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]));
    let service = Service::start(
        NAME,
        directory,
        Launch { words, life, user, folder: folder.clone(), port, secured_port: None },
    )?;
    wait_until_ready(&service, || as_user("pg_isready"))?;
    let mut create = as_user("createdb");
    create.env("PGPASSWORD", PASSWORD).args(["--host=127.0.0.1", "--username", USER, "--port"]).arg(port.to_string());
    create.arg(DATABASE);
    run_tool(create, &log)?;
    Ok(service)
}

/// It accepts connections some 0.1 s before it serves them; until then it answers 57P03, "starting up".
fn wait_until_ready(service: &Service, pg_isready: impl Fn() -> Command) -> Result<(), String> {
    let deadline = Instant::now() + READY_TIMEOUT;
    let port = service.port().to_string();
    while !works(pg_isready().args(["--host=127.0.0.1", "--port", &port])) {
        if !service.is_running() || Instant::now() > deadline {
            return Err(format!("Postgres does not serve; see {}", service.log().display()));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Where the programs are: Debian keeps those of the server out of the path, by version.
pub fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok();
    let newest = versions.into_iter().flatten().flatten().filter_map(|entry| {
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        let programs = entry.path().join("bin");
        programs.join("initdb").is_file().then_some((version, programs))
    });
    let in_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|directory| directory.join("initdb").is_file())
    };
    newest.max().map(|(_, programs)| programs).or_else(in_path)
}

/// Below `directory` if the user reaches it.
fn folder(directory: &Path, user: Option<(u32, u32)>) -> Result<PathBuf, String> {
    let make = |folder: PathBuf| -> Result<PathBuf, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        fs::create_dir_all(&folder).map_err(failed)?;
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).map_err(failed)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        Ok(folder)
    };
    let folder = make(directory.join(NAME))?;
    let Some((uid, gid)) = user else { return Ok(folder) };
    let mut enter = command("ls", &[]);
    enter.arg(&folder).uid(uid).gid(gid).current_dir("/");
    if works(&mut enter) {
        return Ok(folder);
    }
    make(std::env::temp_dir().join(format!("million-rps-postgres-{}", std::process::id())))
}

/// Writes a file that only the user can read.
fn own(path: &Path, bytes: &[u8], user: Option<(u32, u32)>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    fs::write(path, bytes).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    match user {
        Some((uid, gid)) => std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(failed),
        None => Ok(()),
    }
}

fn is_root() -> Result<bool, String> {
    fs::metadata("/proc/self").map(|own| own.uid() == 0).map_err(|error| format!("/proc/self: {error}"))
}
