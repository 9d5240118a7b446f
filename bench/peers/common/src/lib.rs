//! What every peer does before it serves: `--port N --bodies DIR`, and the end that comes with standard input's.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

/// What a peer is started with.
pub struct Start {
    /// On 127.0.0.1.
    pub port: u16,
    /// The answer to `/todos?limit=N`, by N: the files `limit-N.json`.
    pub bodies: BTreeMap<u32, Bytes>,
}

/// Reads the command line and the bodies, and leaves the process when its standard input ends: whoever started a peer may
/// be killed, and nothing is left behind.
///
/// # Panics
/// With a plain sentence, when either cannot be used.
pub fn start() -> Start {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port_name, port, bodies_name, directory] = &arguments[..] else { panic!("usage: --port N --bodies DIR") };
    assert!(port_name == "--port" && bodies_name == "--bodies", "usage: --port N --bodies DIR");
    let port = port.parse().expect("a port is a number");
    let mut bodies = BTreeMap::new();
    for entry in std::fs::read_dir(PathBuf::from(directory)).expect("the directory of bodies can be read") {
        let path = entry.expect("the directory of bodies can be read").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let limit = name.strip_prefix("limit-").and_then(|rest| rest.strip_suffix(".json"));
        if let Some(limit) = limit.and_then(|limit| limit.parse().ok()) {
            bodies.insert(limit, Bytes::from(std::fs::read(&path).expect("a body can be read")));
        }
    }
    assert!(!bodies.is_empty(), "{directory} has no limit-N.json");
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        // An error is an end as well.
        let _ = std::io::stdin().read_to_end(&mut rest);
        std::process::exit(0);
    });
    Start { port, bodies }
}
