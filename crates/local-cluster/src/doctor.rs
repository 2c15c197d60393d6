//! What this machine offers: programs, compiler, memory, disk, limits, loopback and namespaces, and clients that scenarios can use besides ours.
//! Nothing is changed and nothing is downloaded; every finding that is not good says what helps.

mod kind;

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Serialize;

use crate::download::Download;
use crate::{Error, Tool, cache, go_build, ledger, tool};

/// Disk that the programs, their sources and their build cache need when everything has to be built.
const BUILD_BYTES: u64 = 6 << 30;
/// Disk that a run needs when the programs are there.
const RUN_BYTES: u64 = 1 << 30;
/// Disk of one lane: etcd sets 64 MB aside for each of two logs, and keys, logs and pods need as much again.
const LANE_DISK_BYTES: u64 = 256 << 20;
/// Memory of one lane: the four programs, two nodes and the system under test.
const LANE_BYTES: u64 = 800 << 20;
/// Open files that a run with two lanes stays below.
const OPEN_FILES: u64 = 4096;

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// As needed.
    Ok,
    /// Not there. Whether a run needs it is said in the detail.
    Missing,
    /// There, but a run may suffer.
    Warning,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What was looked at.
    pub subject: String,
    /// How good it is.
    pub state: State,
    /// What was seen.
    pub detail: String,
    /// What to do, if anything.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(subject: &str, detail: impl Into<String>) -> Finding {
        Finding { subject: subject.to_owned(), state: State::Ok, detail: detail.into(), remedy: None }
    }

    fn bad(subject: &str, state: State, detail: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { subject: subject.to_owned(), state, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

/// Looks at everything. Takes a second or two, most of it for asking programs for their versions.
pub async fn examine() -> Vec<Finding> {
    let go = go_build::go_version().await;
    let go_is_there = go.is_ok();
    let mut findings: Vec<Finding> = Tool::LANE.into_iter().map(|tool| program(tool, go_is_there)).collect();
    let everything_is_there = findings.iter().all(|finding| finding.state == State::Ok);
    findings.push(match go {
        Ok(version) => Finding::ok("go", format!("Go {version}")),
        Err(error) if everything_is_there => Finding::ok("go", format!("not needed, every program is there ({error})")),
        Err(error) => Finding::bad("go", State::Missing, error.to_string(), "install Go from https://go.dev/dl"),
    });
    findings.extend([disk(
        "disk for programs",
        &cache::folder(),
        if everything_is_there { RUN_BYTES } else { BUILD_BYTES },
    )]);
    findings.extend([disk("disk for runs", &std::env::temp_dir(), RUN_BYTES), memory(), open_files(), loopback()]);
    findings.extend([leftovers(), user_namespaces()]);
    findings.extend(["podman", "skopeo", "kubectl", "oc"].map(client));
    findings.extend(kind::examine(go_is_there, available_memory()).await);
    findings
}

fn program(tool: Tool, go_is_there: bool) -> Finding {
    let mut failures = Vec::new();
    match tool::at_hand(tool, &mut failures) {
        Some(found) => {
            Finding::ok(tool.name(), format!("{} from {}: {}", found.version, found.origin, found.path.display()))
        }
        None if go_is_there => Finding::bad(
            tool.name(),
            State::Warning,
            format!("not there yet: {}", failures.join("; ")),
            format!("nothing: the first run {}builds {tool} {}, which takes minutes", downloads(tool), tool.version()),
        ),
        None => Finding::bad(
            tool.name(),
            State::Missing,
            failures.join("; "),
            format!(
                "install Go {} or newer, or put {tool} into a folder of PATH or KUBEBUILDER_ASSETS",
                go_build::GO_NEEDED
            ),
        ),
    }
}

/// What the first run tries before it builds.
fn downloads(tool: Tool) -> String {
    Download::of(tool).map_or(String::new(), |download| format!("downloads {tool} {} or ", download.version))
}

/// Looks whether the control planes of a run have room below a folder.
///
/// # Errors
/// [`Error::NoRoom`] when they do not.
pub fn room_for_lanes(folder: &Path, lanes: u64) -> Result<(), Error> {
    // What cannot be asked is left to whoever writes.
    let Ok(free) = free_bytes(folder) else { return Ok(()) };
    let needed = lanes.saturating_mul(LANE_DISK_BYTES);
    if free >= needed {
        return Ok(());
    }
    Err(Error::NoRoom { folder: folder.to_owned(), free: size(free), needed: size(needed) })
}

fn free_bytes(folder: &Path) -> Result<u64, nix::errno::Errno> {
    // The folder itself may not exist yet; then the file system of its nearest parent counts.
    let existing = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let status = nix::sys::statvfs::statvfs(existing)?;
    Ok(status.blocks_available().saturating_mul(status.fragment_size()))
}

fn disk(subject: &str, folder: &Path, needed: u64) -> Finding {
    match free_bytes(folder) {
        Ok(free) => {
            let detail = format!("{} free in {}", size(free), folder.display());
            if free >= needed {
                Finding::ok(subject, detail)
            } else {
                let remedy = format!(
                    "make room for {}, or set REGISTRY_CONFORMANCE_CACHE or TMPDIR to another disk",
                    size(needed)
                );
                Finding::bad(subject, State::Warning, detail, remedy)
            }
        }
        Err(errno) => {
            Finding::bad(subject, State::Warning, format!("{}: {errno}", folder.display()), "check the folder")
        }
    }
}

fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map(|kib| kib << 10)
}

fn memory() -> Finding {
    match available_memory() {
        Some(bytes) if bytes >= LANE_BYTES => {
            Finding::ok("memory", format!("{} available, enough for {} lanes", size(bytes), bytes / LANE_BYTES))
        }
        Some(bytes) => Finding::bad(
            "memory",
            State::Warning,
            format!("{} available, one lane takes about {}", size(bytes), size(LANE_BYTES)),
            "end other programs, or run with --lanes 1",
        ),
        None => Finding::bad("memory", State::Warning, "/proc/meminfo does not say", "run on Linux with /proc mounted"),
    }
}

fn open_files() -> Finding {
    use nix::sys::resource::{Resource, getrlimit};
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < OPEN_FILES => Finding::bad(
            "open files",
            State::Warning,
            format!("limit is {soft}, hard limit {hard}"),
            format!("run `ulimit -n {}` before", OPEN_FILES.min(hard)),
        ),
        Ok((soft, _)) => Finding::ok("open files", format!("limit is {soft}")),
        Err(errno) => Finding::bad("open files", State::Warning, errno.to_string(), "check `ulimit -n`"),
    }
}

/// Pods listen on addresses of 127.0.0.0/8 other than 127.0.0.1, which Linux has without set-up.
fn loopback() -> Finding {
    let address = Ipv4Addr::new(127, 254, 255, 253);
    match TcpListener::bind((address, 0)) {
        Ok(_) => Finding::ok("loopback", "the whole of 127.0.0.0/8 can be listened on"),
        Err(error) => Finding::bad(
            "loopback",
            State::Missing,
            format!("cannot listen on {address}: {error}"),
            "give the loopback interface 127.0.0.1/8 (`ip address add 127.0.0.1/8 dev lo`)",
        ),
    }
}

fn leftovers() -> Finding {
    let folder = ledger::folder();
    let ledgers = std::fs::read_dir(&folder)
        .map(|files| {
            files
                .filter_map(Result::ok)
                .filter(|file| file.path().extension().is_some_and(|end| end == "ndjson"))
                .count()
        })
        .unwrap_or(0);
    Finding::ok("ledgers", format!("{ledgers} in {}; `cluster gc` removes those whose run is gone", folder.display()))
}

/// With user namespaces documented paths can be real inside a pod; without them paths are rewritten.
fn user_namespaces() -> Finding {
    let outcome = Command::new("unshare").args(["-Urm", "true"]).stdin(Stdio::null()).output();
    match outcome {
        Ok(output) if output.status.success() => Finding::ok("user namespaces", "unshare -Urm works"),
        Ok(output) => Finding::bad(
            "user namespaces",
            State::Warning,
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            "nothing: mount paths are rewritten instead",
        ),
        Err(error) => Finding::bad(
            "user namespaces",
            State::Warning,
            format!("unshare: {error}"),
            "nothing: mount paths are rewritten instead",
        ),
    }
}

/// Programs that scenarios use as further clients where they are there.
fn client(name: &str) -> Finding {
    let path = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    match path {
        Some(path) => Finding::ok(name, path.display().to_string()),
        None => Finding::bad(
            name,
            State::Missing,
            "not in PATH; no run needs it",
            format!("install {name} to run the variants that use it as a further client"),
        ),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        gibibytes if gibibytes >= 1 << 30 => format!("{:.1} GiB", gibibytes as f64 / f64::from(1 << 30)),
        mebibytes => format!("{} MiB", mebibytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_finding_that_is_not_good_says_what_helps() {
        let findings = examine().await;
        for finding in &findings {
            assert_eq!(finding.state == State::Ok, finding.remedy.is_none(), "{finding:?}");
            assert!(!finding.detail.is_empty(), "{finding:?}");
        }
        for tool in Tool::LANE {
            assert!(findings.iter().any(|finding| finding.subject == tool.name()));
        }
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(size(800 << 20), "800 MiB");
        assert_eq!(size((3 << 30) / 2), "1.5 GiB");
    }
}
