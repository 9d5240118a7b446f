//! The socket on which a running process is told to make room for its successor, and the command that tells it.
//!
//! One line there, `upgrade` and perhaps a space and a path; one line back, `ok` or `no`, a space and a sentence. The socket
//! is its owner's alone (mode 0600), and on Linux the kernel is asked who speaks.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::limits::{COMMAND_LINE_BYTES_MAX, COMMAND_PATIENCE};

/// Somebody wants the successor to be started.
pub struct Ask {
    /// Of this program; the one that runs when `None`.
    pub binary: Option<PathBuf>,
    /// To be told how it went.
    pub answer: Answer,
}

/// Told once, in one sentence.
pub type Answer = Box<dyn FnOnce(Result<String, String>) + Send>;

/// Listens at `path`, in the place of whoever did before, and gives what it is told to `asks`. One after the other.
///
/// # Errors
/// The socket cannot be made there.
pub fn listen(path: &Path, asks: mpsc::Sender<Ask>) -> io::Result<()> {
    // Under a name of its own first: it appears in its place private and at once, with no moment without any.
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let listener = UnixListener::bind(&unfinished)?;
    let placed = std::fs::set_permissions(&unfinished, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&unfinished, path));
    if placed.is_err() {
        // What matters is the first error.
        let _ = std::fs::remove_file(&unfinished);
    }
    placed?;
    std::thread::Builder::new().name("command".to_owned()).spawn(move || {
        for stream in listener.incoming() {
            // One who has gone already wants nothing.
            let Ok(stream) = stream else { continue };
            if let Err(error) = hear(stream, &asks) {
                tracing::warn!(%error, "a command was not understood");
            }
        }
    })?;
    Ok(())
}

fn hear(stream: UnixStream, asks: &mpsc::Sender<Ask>) -> io::Result<()> {
    if !is_ours(&stream) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it comes from another user"));
    }
    stream.set_read_timeout(Some(COMMAND_PATIENCE))?;
    let mut line = Vec::new();
    BufReader::new(&stream).take(COMMAND_LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    let binary = match line.split_at_checked(7) {
        Some((b"upgrade", [])) => None,
        // Somebody looked whether a server runs.
        None if line.is_empty() => return Ok(()),
        Some((b"upgrade", [b' ', path @ ..])) => Some(PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()))),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no command")),
    };
    let answer: Answer = Box::new(move |outcome| {
        let (word, sentence) = match outcome {
            Ok(sentence) => ("ok", sentence),
            Err(sentence) => ("no", sentence),
        };
        // Whoever asked may have gone; the log says it too.
        let _ = writeln!(&stream, "{word} {}", sentence.replace('\n', "; "));
    });
    asks.blocking_send(Ask { binary, answer }).map_err(|_| io::Error::other("the process is ending"))
}

#[cfg(target_os = "linux")]
fn is_ours(stream: &UnixStream) -> bool {
    let us = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == us || peer.uid.is_root())
}

/// The mode of the socket decides.
#[cfg(not(target_os = "linux"))]
fn is_ours(_: &UnixStream) -> bool {
    true
}

/// Tells the process that listens at `path`; its sentence.
///
/// # Errors
/// Why nothing has changed, as a sentence.
pub fn ask(path: &Path, binary: Option<&Path>) -> Result<String, String> {
    let unheard = |error: io::Error| {
        format!(
            "no server can be told at {} ({error}): is it running, and with the same DATA_FILE, RUN_DIR and HTTP_PORT?",
            path.display()
        )
    };
    let mut stream = UnixStream::connect(path).map_err(unheard)?;
    let mut line = b"upgrade".to_vec();
    if let Some(binary) = binary {
        // The server may stand in another directory.
        let binary = std::path::absolute(binary).map_err(|error| format!("--binary {}: {error}", binary.display()))?;
        line.push(b' ');
        line.extend_from_slice(binary.as_os_str().as_bytes());
    }
    line.push(b'\n');
    stream.write_all(&line).map_err(unheard)?;
    stream.set_read_timeout(None::<Duration>).map_err(unheard)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(unheard)?;
    match answer.trim_end().split_once(' ') {
        Some(("ok", sentence)) => Ok(sentence.to_owned()),
        Some(("no", sentence)) => Err(sentence.to_owned()),
        _ => Err("the server has ended without an answer: see its log".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Told, heard and answered; the file is private, and whoever comes later takes its place.
    #[test]
    fn a_command_is_heard_and_answered() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        for (round, binary) in [None, Some(Path::new("/bin/of another name"))].into_iter().enumerate() {
            let (asks, mut heard) = mpsc::channel(1);
            listen(&path, asks).expect("it listens");
            assert_eq!(std::fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
            assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 1, "nothing else is left behind");
            let asked = std::thread::scope(|scope| {
                let asked = scope.spawn(|| ask(&path, binary));
                let Ask { binary: given, answer } = heard.blocking_recv().expect("it was heard");
                assert_eq!(given.as_deref(), binary);
                answer(if round == 0 { Ok("done".to_owned()) } else { Err("not\ntoday".to_owned()) });
                asked.join().expect("no panic")
            });
            assert_eq!(asked, if round == 0 { Ok("done".to_owned()) } else { Err("not; today".to_owned()) });
        }
        let nobody = ask(&folder.path().join("nobody"), None).expect_err("nobody listens");
        assert!(nobody.contains("is it running"), "{nobody}");
    }
}
