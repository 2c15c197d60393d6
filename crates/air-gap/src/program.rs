//! Programs of this machine that the builder runs, and one that it packs: our own for nodes.
//! A failed program is told with its last lines, a missing one with what installs it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;

/// Lines of a failed program that are worth showing.
const LAST_LINES: usize = 12;

/// An executable that goes into images, with a checksum that tells when they have to be made again.
#[derive(Clone, Debug)]
pub struct Program {
    /// Where it lies.
    pub path: PathBuf,
    /// Its SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

impl Program {
    /// Reads it once.
    ///
    /// # Errors
    /// [`Error::NoHelper`] when it is not there.
    pub fn of(path: &Path) -> Result<Program, Error> {
        if !path.is_file() {
            return Err(Error::NoHelper { path: path.to_owned() });
        }
        Ok(Program { path: path.to_owned(), sha256: container_image::sha256_of(path)? })
    }
}

/// Whether a program is in a folder of PATH or of the system.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // An ordinary user's PATH lacks them, and so do some of CI.
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Runs a program and waits for it. Gives what it wrote to standard output.
///
/// # Errors
/// [`Error::Command`], [`Error::File`] when it cannot be started.
pub fn run<A: AsRef<OsStr>>(program: &Path, arguments: &[A], dir: Option<&Path>) -> Result<String, Error> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    // What the caller's language settings are must not reach messages, nor his shell's odd PATH the packages.
    command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
    if let Some(dir) = dir {
        command.current_dir(dir);
    }
    let output = command.output().map_err(Error::file("run", program))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = std::iter::once(program.as_os_str()).chain(arguments.iter().map(AsRef::as_ref));
    let command = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let said = [output.stdout, output.stderr].concat();
    Err(Error::Command { command, status: output.status, said: last_lines(&String::from_utf8_lossy(&said)) })
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_with_its_last_lines() {
        let error = run(Path::new("/bin/sh"), &["-c", "seq 20; echo no room >&2; exit 3"], None).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no room") && text.contains("exit status: 3"), "{text}");
        assert!(!text.contains("\n5\n"), "{text}");
    }

    #[test]
    fn a_missing_helper_says_how_to_build_it() {
        let error = Program::of(Path::new("/absent/kind-node")).unwrap_err().to_string();
        assert!(error.contains("cargo build -p kind-node"), "{error}");
    }
}
