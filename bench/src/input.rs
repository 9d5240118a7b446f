//! Files from the command line, none of them read without a bound.

use crate::error::{Context, Error, Result};
use crate::limits::INPUT_FILE_BYTES_MAX;
use std::io::Read;
use std::path::Path;

/// A file of `bytes_max` bytes at most.
///
/// # Errors
/// It cannot be read, or is longer.
pub fn bytes(path: &Path, bytes_max: usize) -> Result<Vec<u8>> {
    let reading = || format!("reading {}", path.display());
    let file = std::fs::File::open(path).context(reading())?;
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).context(reading())?;
    if bytes.len() > bytes_max {
        return Err(Error::Unusable(format!("{}: over {bytes_max} bytes", path.display())));
    }
    Ok(bytes)
}

/// A file of lines.
///
/// # Errors
/// It cannot be read, is longer than `INPUT_FILE_BYTES_MAX`, or is no UTF-8.
pub fn text(path: &Path) -> Result<String> {
    String::from_utf8(bytes(path, INPUT_FILE_BYTES_MAX)?)
        .map_err(|_| Error::Unusable(format!("{}: a file of text is expected", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_bounded_and_text() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(bytes(&path, 5).unwrap(), b"12345");
        assert!(bytes(&path, 4).unwrap_err().to_string().contains("over 4 bytes"));
        assert_eq!(text(&path).unwrap(), "12345");
        std::fs::write(&path, [b'a', 0xff]).unwrap();
        assert!(text(&path).unwrap_err().to_string().contains("text"));
        assert!(text(&directory.path().join("none")).is_err());
    }
}
