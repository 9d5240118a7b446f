//! Certificates for `localhost`, made on the spot by openssl: an authority that nobody else believes, and one for all
//! services.

use std::path::{Path, PathBuf};

use crate::command::command;
use crate::stack::service::run_tool;

/// Where the files are, all PEM.
pub struct Certificates {
    /// What clients are to believe.
    pub authority: PathBuf,
    /// The services'.
    pub certificate: PathBuf,
    /// Its key, PKCS#8.
    pub key: PathBuf,
    /// Key, certificate and authority in one file, as Kafka wants it.
    pub bundle: PathBuf,
}

impl Certificates {
    /// Those that were made in `directory`.
    pub fn find(directory: &Path) -> Option<Certificates> {
        let found = Self::in_directory(directory);
        found.bundle.is_file().then_some(found)
    }

    /// Makes them in `directory`.
    pub fn make(directory: &Path) -> Result<Certificates, String> {
        let made = Self::in_directory(directory);
        let log = directory.join("openssl.log");
        let openssl = |words: &str| {
            let mut openssl = command("openssl", &words.split(' ').collect::<Vec<_>>());
            openssl.current_dir(directory);
            run_tool(openssl, &log)
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2";
        openssl(&format!(
            "req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=test-authority -addext keyUsage=keyCertSign"
        ))?;
        openssl(&format!(
            "req -x509 {key} -keyout server.key -out server.pem -subj /CN=localhost -CA ca.pem -CAkey ca.key \
             -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=CA:FALSE"
        ))?;
        let mut bundle = Vec::new();
        for part in [&made.key, &made.certificate, &made.authority] {
            bundle.extend(std::fs::read(part).map_err(|error| format!("{}: {error}", part.display()))?);
        }
        std::fs::write(&made.bundle, bundle).map_err(|error| format!("{}: {error}", made.bundle.display()))?;
        Ok(made)
    }

    fn in_directory(directory: &Path) -> Certificates {
        let path = |name: &str| directory.join(name);
        Certificates {
            authority: path("ca.pem"),
            certificate: path("server.pem"),
            key: path("server.key"),
            bundle: path("server.bundle.pem"),
        }
    }
}
