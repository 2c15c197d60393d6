//! What can go wrong between "start a control plane" and "it answers". Every text says what was tried, what was seen and what helps.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::Exit;

/// Failure of one act of this crate; the variants are named by the act.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read, written, made or removed.
    #[error("cannot {act} {path}: {source}; check that the folder is writable and the disk has room", path = .path.display())]
    File {
        /// The act in words, such as "write".
        act: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A key or certificate could not be made.
    #[error("cannot make the certificate {name}: {source}")]
    Certificate {
        /// Common name of the certificate.
        name: String,
        /// What the generator said.
        #[source]
        source: rcgen::Error,
    },
    /// The operating system refused to start a program.
    #[error("cannot start {name} ({program}): {source}", program = .program.display())]
    Spawn {
        /// Name of the child in logs and messages.
        name: String,
        /// The executable.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A child ended although it was needed.
    #[error("{exit}\nits whole log is {log}", log = .log.display())]
    Exited {
        /// Name, status and last log lines.
        exit: Box<Exit>,
        /// The log file.
        log: PathBuf,
    },
    /// A child runs but did not become ready in time.
    #[error("{name} was not ready after {within:?}: waited for {awaited}, last seen: {last_seen}; its log is {log}", log = .log.display())]
    NotReady {
        /// Name of the child.
        name: String,
        /// The limit that was reached.
        within: Duration,
        /// The condition.
        awaited: String,
        /// The last observation.
        last_seen: String,
        /// The log file.
        log: PathBuf,
    },
    /// None of the 254 pod networks was free.
    #[error(
        "no pod network is free: all of 127.1.255.254 to 127.254.255.254 have a listener on port {port} (last: {last_seen}); \
         end other runs, or run `cluster gc` if they were killed"
    )]
    NoNetwork {
        /// The port whose listeners are the leases.
        port: u16,
        /// What the system said to the last try.
        last_seen: String,
    },
    /// No port could be reserved.
    #[error("no free port on {address} near {preferred}: {last_seen}")]
    NoPort {
        /// Address that was tried.
        address: std::net::IpAddr,
        /// First port that was tried.
        preferred: u16,
        /// What the system said to the last try.
        last_seen: String,
    },
    /// The control planes of a run would fill the disk.
    #[error("{free} are free for {folder}, and its control planes need {needed}; make room, or name a folder on another disk with --out", folder = .folder.display())]
    NoRoom {
        /// Where they would lie.
        folder: PathBuf,
        /// What is free, for people.
        free: String,
        /// What is needed, for people.
        needed: String,
    },
    /// Pods cannot listen on a port that they need.
    #[error(
        "something listens on port {port} of all addresses of this machine, where pods have to listen on addresses of their own ({source}); \
         find it with `ss -ltnp 'sport = :{port}'` and end it, or let it listen on 127.0.0.1 only"
    )]
    PortOfPods {
        /// The port.
        port: u16,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// No way led to a program.
    #[error(
        "{tool} {version} could not be had. Tried:\n{tried}\ninstall Go {go} or newer (https://go.dev/dl), or put the program into a folder named by KUBEBUILDER_ASSETS or into PATH",
        tried = .ways.iter().map(|way| format!("  - {way}")).collect::<Vec<_>>().join("\n"),
        go = crate::go_build::GO_NEEDED
    )]
    NoTool {
        /// Program.
        tool: &'static str,
        /// Version that was wanted.
        version: &'static str,
        /// One line per way, with its reason.
        ways: Vec<String>,
    },
    /// A package of npm could not be had.
    #[error("{package} {version} could not be had: {reason}")]
    NoPackage {
        /// Name.
        package: &'static str,
        /// Version that was wanted.
        version: &'static str,
        /// What was seen, and what helps.
        reason: String,
    },
    /// One way to a program failed; the next is tried.
    #[error("{0}")]
    Way(String),
    /// A data file inside this program is wrong.
    #[error("{file}: {reason}")]
    Data {
        /// Which file.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A request to the control plane failed.
    #[error("{what} failed: {reason}")]
    Request {
        /// Verb and address.
        what: String,
        /// The chain of causes.
        reason: String,
    },
    /// A folder that should be owned by a run has content already.
    #[error("{path} is not empty, so it cannot be handed to a run that will remove it; name an empty or a new folder", path = .path.display())]
    FolderInUse {
        /// The folder.
        path: PathBuf,
    },
}

impl Error {
    /// Makes a closure for `map_err` that keeps the act and the path.
    pub(crate) fn file(act: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::File { act, path, source }
    }
}

/// The chain of an error's causes in one line; HTTP clients hide the useful part in the sources.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}
