//! What can go wrong between a bare machine and images that a cluster can use. Every text says what was tried, seen and helps.

use std::path::{Path, PathBuf};

/// Failure of one act of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read, written, made or removed.
    #[error("cannot {act} {path}: {source}{remedy}", path = .path.display(), remedy = remedy(.source))]
    File {
        /// The act in words.
        act: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A program of the machine is missing.
    #[error("{program} is needed to {purpose}, and is not in PATH; {remedy}")]
    NoProgram {
        /// Its name.
        program: &'static str,
        /// What for.
        purpose: &'static str,
        /// What helps.
        remedy: &'static str,
    },
    /// A program of the machine failed.
    #[error("{command} failed with {status}:\n{said}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last lines that it wrote.
        said: String,
    },
    /// Unpacking a distribution sets owners and makes devices.
    #[error(
        "the packages of a distribution are unpacked as root only; run this command as root, or bring a finished folder of images (`--images DIR`)"
    )]
    NotRoot,
    /// Our program for nodes is not there.
    #[error("{path} is not there; build it with `cargo build -p kind-node`, or name it with --helper", path = .path.display())]
    NoHelper {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A program of a cluster could not be had.
    #[error(transparent)]
    Tool(#[from] local_cluster::Error),
    /// An archive could not be written or read.
    #[error(transparent)]
    Image(#[from] container_image::Error),
    /// The folder has no list of images.
    #[error("{folder} has no {file}; make the folder with `ci/air-gap/build --out {folder}`", folder = .folder.display(), file = crate::IMAGES_FILE)]
    NoList {
        /// The folder.
        folder: PathBuf,
    },
    /// The list of images cannot be understood.
    #[error("{path}: {reason}; make the folder again with `ci/air-gap/build`", path = .path.display())]
    BadList {
        /// The list.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder lacks an image that a run needs.
    #[error("the image {image} is in none of the archives of {folder}, which have {there}; make the folder again with `ci/air-gap/build --out {folder}`", folder = .folder.display())]
    NoImage {
        /// What was wanted.
        image: String,
        /// The folder.
        folder: PathBuf,
        /// What it has.
        there: String,
    },
    /// An archive is not what the list says.
    #[error("{path} has {seen}, its list says {listed}: it was damaged or changed on its way; copy or make the folder again", path = .path.display())]
    Mismatch {
        /// The archive.
        path: PathBuf,
        /// What was measured.
        seen: String,
        /// What should be.
        listed: String,
    },
    /// The engine does not answer.
    #[error(
        "the container engine at {socket} does not answer: {seen}; start Docker, set DOCKER_HOST, or start one with `ci/air-gap/engine start`"
    )]
    NoEngine {
        /// Its address.
        socket: String,
        /// What was seen.
        seen: String,
    },
    /// The engine was started but did not become ready.
    #[error("dockerd was not ready after {seconds} s: {seen}; its log is {log}", log = .log.display())]
    EngineNotReady {
        /// How long it was waited for.
        seconds: u64,
        /// The last observation.
        seen: String,
        /// Its log.
        log: PathBuf,
    },
    /// A part of the work was ended from outside.
    #[error("the work was interrupted: {0}")]
    Interrupted(String),
}

impl Error {
    /// Makes a closure for `map_err` that keeps the act and the path.
    pub(crate) fn file(act: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::File { act, path, source }
    }
}

fn remedy(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "; make room on that disk, or set REGISTRY_CONFORMANCE_CACHE to a folder on another one"
        }
        std::io::ErrorKind::PermissionDenied => "; check who may write there",
        _ => "",
    }
}
