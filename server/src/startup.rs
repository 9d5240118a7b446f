//! What must be true before the first connection: cores, descriptors, and a port that is ours alone.

#![expect(clippy::disallowed_methods, reason = "nothing is served yet: waiting for a port may block")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::limits::{
    DESCRIPTOR_TABLE_MAX, DESCRIPTORS_RESERVED, FILES_MAX, LISTEN_BACKLOG, NOTSENT_LOWAT_BYTES, PORT_RETRY_MS,
};
use crate::settings::{Accept, Settings};

/// Why the server cannot start, as one plain sentence with its remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A name that means no address.
    #[error(
        "HTTP_HOST `{host}` is no address or name of this machine ({why}): use localhost, 0.0.0.0, :: or an address that `ip addr` shows"
    )]
    Host {
        /// As it was given.
        host: String,
        /// What the system says.
        why: String,
    },
    /// Somebody else serves the port.
    #[error("port {port} is served by another process{owner}: stop it, or choose another with HTTP_PORT")]
    PortTaken {
        /// The port.
        port: u16,
        /// Who, where that can be known, with a leading space.
        owner: String,
    },
    /// Another reason not to get the port.
    #[error("cannot listen on {address} ({source}): choose another with HTTP_HOST and HTTP_PORT")]
    Listen {
        /// Address and port.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A socket that was opened elsewhere.
    #[error(
        "a listening socket that this process was given cannot be used ({0}): it must be a TCP socket that listens"
    )]
    Passed(io::Error),
    /// Too few descriptors to serve anybody.
    #[error(
        "the descriptor limit of {limit} leaves nothing for connections: raise it with `ulimit -n` to 1024 or more"
    )]
    Descriptors {
        /// The limit.
        limit: u64,
    },
}

/// Which cores the shards run on.
#[derive(Clone, Debug)]
pub struct Cores {
    /// One entry a shard; `None` where it is not pinned.
    pub of_shard: Vec<Option<core_affinity::CoreId>>,
    /// CPUs that this process may use by its affinity mask.
    pub available: usize,
    /// Whether a CPU quota allows less than the mask.
    pub has_quota: bool,
}

/// Decides how many shards there are and where they run.
pub fn choose_cores(settings: &Settings) -> Cores {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    // Knows affinity mask and CPU quota; the mask alone knows the first only.
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    let has_quota = usable < ids.len();
    let shards_count = settings.shards.map_or_else(|| default_shards(usable), usize::from);
    let pin = settings.pin.unwrap_or(!has_quota) && !ids.is_empty();
    let of_shard = (0..shards_count).map(|shard| pin.then(|| ids[shard % ids.len()])).collect();
    Cores { of_shard, available: ids.len().max(1), has_quota }
}

/// All CPUs, but from four on one is left to the control plane and the store.
fn default_shards(usable: usize) -> usize {
    if usable >= 4 { usable - 1 } else { usable.max(1) }
}

/// Raises the soft descriptor limit to the hard one; the limit then in force.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Refused on some systems for an unlimited hard limit: then the soft one stands.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::from(u32::MAX))
}

/// Makes the kernel's table of descriptors as large as it will ever be. It grows by doubling, and in a process of several
/// threads each time waits for all CPUs to have let go of the old one (`synchronize_rcu`): some 20 ms within an accept, in which
/// the shard serves nobody. It never shrinks. A table for 20,000 descriptors is 256 KiB of the kernel's memory.
pub fn grow_descriptor_table(limit: u64) {
    let last = i32::try_from(limit.min(DESCRIPTOR_TABLE_MAX)).unwrap_or(i32::MAX) - 1;
    // Refused where memory is short: then it grows when it must, as it would have.
    let _ = rustix::io::fcntl_dupfd_cloexec(io::stderr(), last);
}

/// Connections that each shard may have: by setting, or what the descriptor limit leaves.
///
/// # Errors
/// [`StartError::Descriptors`] when that is none.
pub fn connections_per_shard(settings: &Settings, limit: u64, shards_count: usize) -> Result<usize, StartError> {
    // A third where the limit is small, so that even a hundred descriptors serve somebody.
    let reserved = (DESCRIPTORS_RESERVED as u64).min(limit / 3).max(limit.min(24));
    // A ring, an event and a timer descriptor or three, and a listener per address, for each shard; and its files.
    let of_shard = 6 + files_per_shard(limit, shards_count) as u64;
    let left = limit.saturating_sub(reserved + of_shard * shards_count as u64) / shards_count as u64;
    if left == 0 {
        return Err(StartError::Descriptors { limit });
    }
    let wanted = settings.connections_max.unwrap_or(u64::MAX);
    Ok(usize::try_from(left.min(wanted)).unwrap_or(usize::MAX))
}

/// Files of ready-made responses that each shard may have open: few where descriptors are few.
pub fn files_per_shard(limit: u64, shards_count: usize) -> usize {
    usize::try_from(limit / 16 / shards_count as u64).unwrap_or(usize::MAX).min(FILES_MAX)
}

/// Listening sockets: one list a shard, or one list for the acceptor.
pub struct Listeners {
    /// Addresses in use, the port filled in.
    pub addresses: Vec<SocketAddr>,
    /// For `Accept::Reuseport` one list per shard, else one in all.
    pub sets: Vec<Vec<TcpListener>>,
    /// For metrics and dashboard, where they have an address of their own.
    pub admin: Option<TcpListener>,
}

/// Opens the port for ourselves alone.
///
/// # Errors
/// As [`StartError`] says.
pub fn listen(settings: &Settings, accept: Accept, shards_count: usize) -> Result<Listeners, StartError> {
    let mut addresses = resolve(&settings.http_host, settings.http_port)?;
    let sets_count = if accept == Accept::Reuseport { shards_count } else { 1 };
    let mut sets: Vec<Vec<TcpListener>> = (0..sets_count).map(|_| Vec::new()).collect();
    let is_localhost = settings.http_host == "localhost";
    let mut bound = Vec::new();
    for at in 0..addresses.len() {
        let address = addresses[at];
        match claim(address) {
            Ok(()) => {}
            // No IPv6 on this machine: localhost is 127.0.0.1 then.
            Err(error) if is_localhost && at > 0 && is_no_such_address(&error) => continue,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let owner = port_owner(address.port()).map_or(String::new(), |owner| format!(" ({owner})"));
                return Err(StartError::PortTaken { port: address.port(), owner });
            }
            Err(source) => return Err(StartError::Listen { address, source }),
        }
        for set in &mut sets {
            let listener = open(addresses[at], settings, accept);
            let listener = listener.map_err(|source| StartError::Listen { address: addresses[at], source })?;
            let port = listener.local_addr().map_err(|source| StartError::Listen { address, source })?.port();
            // The system's choice for port 0 is everybody's from here on.
            addresses.iter_mut().for_each(|address| address.set_port(port));
            set.push(listener);
        }
        bound.push(addresses[at]);
    }
    Ok(Listeners { addresses: bound, sets, admin: None })
}

/// Whether the port could be opened; the addresses.
///
/// # Errors
/// As [`listen`].
pub fn check_port(settings: &Settings) -> Result<String, StartError> {
    let addresses = resolve(&settings.http_host, settings.http_port)?;
    for (at, address) in addresses.iter().enumerate() {
        match probe(*address) {
            Ok(()) => {}
            Err(error) if settings.http_host == "localhost" && at > 0 && is_no_such_address(&error) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let owner = port_owner(address.port()).map_or(String::new(), |owner| format!(" ({owner})"));
                return Err(StartError::PortTaken { port: address.port(), owner });
            }
            Err(source) => return Err(StartError::Listen { address: *address, source }),
        }
    }
    Ok(addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" "))
}

/// The listening sockets that systemd has opened for this process (`sd_listen_fds(3)`); none where it has not.
///
/// # Errors
/// One of them is no TCP socket that listens.
pub fn passed_by_systemd() -> Result<Vec<TcpListener>, StartError> {
    let mut passed = listenfd::ListenFd::from_env();
    let listeners = (0..passed.len()).filter_map(|at| passed.take_tcp_listener(at).transpose());
    listeners.collect::<io::Result<_>>().map_err(StartError::Passed)
}

/// Accepts on sockets that were opened elsewhere, all of them, whatever `wanted` and the count of shards are: with a
/// listener a shard where they divide so, else with one acceptor.
///
/// # Errors
/// A socket cannot be used.
pub fn given(
    sockets: Vec<TcpListener>,
    settings: &Settings,
    wanted: Accept,
    shards_count: usize,
) -> Result<(Accept, Listeners), StartError> {
    let mut by_address: Vec<(SocketAddr, Vec<TcpListener>)> = Vec::new();
    for socket in sockets {
        let address = prepare(&socket, settings).map_err(StartError::Passed)?;
        match by_address.iter_mut().find(|(known, _)| *known == address) {
            Some((_, sockets)) => sockets.push(socket),
            None => by_address.push((address, vec![socket])),
        }
    }
    let addresses = by_address.iter().map(|(address, _)| *address).collect();
    let is_one_each = by_address.iter().all(|(_, sockets)| sockets.len() == shards_count);
    if wanted == Accept::Handoff || !is_one_each {
        let all = by_address.into_iter().flat_map(|(_, sockets)| sockets).collect();
        return Ok((Accept::Handoff, Listeners { addresses, sets: vec![all], admin: None }));
    }
    let mut sets: Vec<Vec<TcpListener>> = (0..shards_count).map(|_| Vec::new()).collect();
    for (_, sockets) in by_address {
        sets.iter_mut().zip(sockets).for_each(|(set, socket)| set.push(socket));
    }
    Ok((Accept::Reuseport, Listeners { addresses, sets, admin: None }))
}

/// Gives a socket that was opened elsewhere what ours have; its address.
fn prepare(socket: &TcpListener, settings: &Settings) -> io::Result<SocketAddr> {
    let reference = SockRef::from(socket);
    inherit(&reference, settings)?;
    socket.local_addr()
}

fn is_no_such_address(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn resolve(hosts: &str, port: u16) -> Result<Vec<SocketAddr>, StartError> {
    let mut addresses = Vec::new();
    for host in hosts.split(',').map(str::trim) {
        if host == "localhost" {
            addresses.extend(
                [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].map(|ip| SocketAddr::new(ip, port)),
            );
            continue;
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let unknown = |why: String| StartError::Host { host: host.to_owned(), why };
        let resolved = (bare, port).to_socket_addrs().map_err(|error| unknown(error.to_string()))?;
        let before = addresses.len();
        addresses.extend(resolved);
        if addresses.len() == before {
            return Err(unknown("it resolves to nothing".to_owned()));
        }
    }
    let mut seen = Vec::new();
    addresses.retain(|address: &SocketAddr| {
        let is_new = !seen.contains(address);
        seen.push(*address);
        is_new
    });
    Ok(addresses)
}

/// Makes sure that nobody serves `address`: with SO_REUSEPORT the kernel would silently share it. A predecessor that is
/// just ending (its ring is torn down some milliseconds after the process) is waited for.
fn claim(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let tries = PORT_RETRY_MS / 50;
    for _ in 0..tries {
        match probe(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => std::thread::sleep(Duration::from_millis(50)),
            result => return result,
        }
    }
    probe(address)
}

/// Binds without SO_REUSEPORT and lets go: refused while anybody listens. SO_REUSEADDR, or every restart within a minute
/// would be refused too.
fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn open(address: SocketAddr, settings: &Settings, accept: Accept) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    if accept == Accept::Reuseport {
        socket.set_reuse_port(true)?;
    }
    inherit(&socket, settings)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// Set here, these are inherited by every accepted socket: no system call per connection.
fn inherit(socket: &Socket, settings: &Settings) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES)?;
    if let Some(bytes) = settings.socket_buffer_bytes {
        socket.set_send_buffer_size(bytes as usize)?;
        socket.set_recv_buffer_size(bytes as usize)?;
    }
    socket.set_nonblocking(true)
}

/// Who listens on `port`, where procfs tells: "pid 123, name".
fn port_owner(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| listening_inode(table, port))?;
    let link = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let is_owner = |descriptor: io::Result<std::fs::DirEntry>| {
            let target = descriptor.and_then(|descriptor| std::fs::read_link(descriptor.path()));
            target.is_ok_and(|target| target.as_os_str() == link.as_str())
        };
        if descriptors.into_iter().any(is_owner) {
            let command = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("pid {pid}, {}", command.trim()));
        }
    }
    None
}

/// The inode of a socket that listens on `port`, from a table of procfs (`proc_net_tcp` in the kernel's documentation).
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    let table = std::fs::read_to_string(table).ok()?;
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(local_port, 16) == Ok(port) && fields.get(3) == Some(&LISTEN);
        if is_it { fields.get(9)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::settings::CommandLine;

    fn settings(arguments: &[&str]) -> Settings {
        CommandLine::parse_from(["todo-server"].iter().chain(arguments)).settings
    }

    #[test]
    fn shards_leave_a_cpu_from_four_on() {
        let table = [(0, 1), (1, 1), (2, 2), (3, 3), (4, 3), (64, 63)];
        for (usable, shards) in table {
            assert_eq!(default_shards(usable), shards, "{usable} CPUs");
        }
    }

    #[test]
    fn connections_follow_from_descriptors() {
        let none = settings(&[]);
        assert!(matches!(connections_per_shard(&none, 20, 1), Err(StartError::Descriptors { limit: 20 })));
        let few = connections_per_shard(&none, 100, 1).expect("a hundred descriptors serve somebody");
        assert!((40..100).contains(&few), "{few}");
        assert_eq!(connections_per_shard(&none, 20_000, 2).expect("many"), (20_000 - 64 - 2 * (6 + 16)) / 2);
        let set = settings(&["--connections-max", "10"]);
        assert_eq!(connections_per_shard(&set, 20_000, 2).expect("as set"), 10);
    }

    #[test]
    fn a_served_port_is_refused_and_its_owner_named() {
        let served = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = served.local_addr().expect("bound").port();
        let taken =
            listen(&settings(&["--http-host", "127.0.0.1", "--http-port", &port.to_string()]), Accept::Reuseport, 1);
        let Err(StartError::PortTaken { port: named, owner }) = taken else { panic!("the port is served") };
        assert_eq!(named, port);
        assert!(owner.contains(&format!("pid {}", std::process::id())), "{owner}");
    }

    #[test]
    fn port_zero_is_the_same_port_for_every_address_and_shard() {
        let listeners = listen(&settings(&["--http-port", "0"]), Accept::Reuseport, 3).expect("a free port");
        assert_eq!(listeners.sets.len(), 3);
        let port = listeners.addresses[0].port();
        for listener in listeners.sets.iter().flatten() {
            assert_eq!(listener.local_addr().expect("bound").port(), port);
        }
    }

    #[test]
    fn hosts() {
        let table: [(&str, &[&str]); 4] = [
            ("localhost", &["127.0.0.1:80", "[::1]:80"]),
            ("127.0.0.1, 127.0.0.2", &["127.0.0.1:80", "127.0.0.2:80"]),
            ("[::1]", &["[::1]:80"]),
            ("127.0.0.1,localhost", &["127.0.0.1:80", "[::1]:80"]),
        ];
        for (hosts, expected) in table {
            let addresses: Vec<String> = resolve(hosts, 80).expect(hosts).iter().map(SocketAddr::to_string).collect();
            assert_eq!(addresses, expected, "{hosts}");
        }
        assert!(resolve("no such host", 80).is_err());
    }
}
