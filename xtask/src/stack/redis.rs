//! Redis from the system's package. Nothing is saved unless somebody asks for it.

use std::path::Path;

use crate::stack::certificates::Certificates;
use crate::stack::service::{Launch, Service, free_ports};
use crate::stack::{PASSWORD, Plan, USER};

pub const NAME: &str = "redis";

/// Starts it.
pub fn start(plan: &Plan<'_>) -> Result<Service, String> {
    let &Plan { directory, certificates: secured, life, .. } = plan;
    let folder = directory.join(NAME);
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let [port, secured_port] = free_ports()?;
    let mut words: Vec<String> =
        ["redis-server", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"].map(str::to_owned).into();
    words.push(port.to_string());
    if let Some(Certificates { authority, certificate, key, .. }) = secured {
        let path = |path: &Path| path.display().to_string();
        words.extend([
            "--tls-port".to_owned(),
            secured_port.to_string(),
            "--tls-ca-cert-file".to_owned(),
            path(authority),
        ]);
        words.extend(["--tls-cert-file".to_owned(), path(certificate), "--tls-key-file".to_owned(), path(key)]);
        words.extend(["--tls-auth-clients".to_owned(), "no".to_owned()]);
        let user = format!("--user {USER} on >{PASSWORD} ~* &* +@all");
        words.extend(user.split(' ').map(str::to_owned));
    }
    let secured_port = secured.map(|_| secured_port);
    Service::start(NAME, directory, Launch { words, life, user: None, folder, port, secured_port })
}
