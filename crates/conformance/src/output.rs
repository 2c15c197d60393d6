//! What a command says: results on standard output, progress and errors on standard error. A reader that has gone, such
//! as `head`, ends neither: what is left is dropped, and the exit code stays that of the command.

use std::io::{self, ErrorKind, Write};

/// Writes to standard output. A reader that has gone is no error.
///
/// # Errors
/// When the text could not be written for another reason, such as a full disk behind a redirection.
pub fn print(text: &str) -> Result<(), OutputError> {
    delivered(write(io::stdout().lock(), text)).map_err(OutputError)
}

/// Writes a line to standard error. There is nobody left to tell when that fails.
pub fn tell(line: &str) {
    let _ = write(io::stderr().lock(), &format!("{line}\n"));
}

/// Standard output could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
pub struct OutputError(io::Error);

fn write(mut out: impl Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn delivered(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reader_that_has_gone_is_forgiven() {
        let (reader, mut writer) = io::pipe().unwrap();
        drop(reader);
        assert!(delivered(write(&mut writer, "text")).is_ok());
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert_eq!(delivered(write(full, "text")).unwrap_err().kind(), ErrorKind::StorageFull);
    }
}
