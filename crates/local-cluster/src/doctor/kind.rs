//! What clusters of containers need of this machine: an engine that answers, rights, limits, room and kernel features.
//! Looking and judging are apart, so that every judgement is tested without an engine.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use super::{Finding, State, size};
use crate::{Tool, tool};

/// An engine on a busy machine answers within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Node image, two nodes with their images unpacked, emulators, and what scenarios push.
const DISK_BYTES: u64 = 6 << 30;
/// Two nodes, the system under test and one emulator.
const MEMORY_BYTES: u64 = 2 << 30;
/// What kind's documents ask for, "Known Issues", pod errors due to "too many open files".
const INOTIFY_INSTANCES: u64 = 512;
const INOTIFY_WATCHES: u64 = 524_288;
/// Fewer than these were seen to be too few for two nodes.
const FEWEST_INSTANCES: u64 = 64;
/// Kernel features without which nodes or their network do not work.
const FEATURES: [&str; 3] = ["overlay", "bridge", "nf_conntrack"];
/// Capabilities of a node (linux/capability.h): bit and name. Docker asks for all when a container is privileged.
const CAPABILITIES: [(u32, &str); 4] =
    [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN"), (24, "CAP_SYS_RESOURCE"), (27, "CAP_MKNOD")];
const SYS_RESOURCE: &str = "CAP_SYS_RESOURCE";
/// The runtime that `ci/air-gap/engine` puts in front of runc; it asks for no capability that the machine lacks.
const OUR_RUNTIME: &str = "kind-node";

/// What was seen.
#[derive(Clone, Debug)]
struct Seen {
    /// What `docker info` says, or why it says nothing.
    engine: Result<Value, String>,
    /// The bounding set of this process.
    capabilities: u64,
    inotify_instances: u64,
    inotify_watches: u64,
    /// Features that are neither there nor can be loaded.
    missing_features: Vec<&'static str>,
    /// Free disk below the engine's folder, when that is on this machine.
    free: Option<u64>,
    memory: Option<u64>,
    /// kind's version and place, or why there is none.
    kind: Result<String, String>,
    go_is_there: bool,
}

/// Looks at everything that concerns clusters of containers. No run of the embedded target needs any of it.
pub(super) async fn examine(go_is_there: bool, memory: Option<u64>) -> Vec<Finding> {
    let engine = engine().await;
    let number = |file: &str| std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
    let root = engine.as_ref().ok().and_then(|info| info["DockerRootDir"].as_str()).map(PathBuf::from);
    let mut failures = Vec::new();
    let kind = tool::at_hand(Tool::Kind, &mut failures)
        .map(|found| format!("{} from {}: {}", found.version, found.origin, found.path.display()))
        .ok_or_else(|| failures.join("; "));
    judge(&Seen {
        engine,
        capabilities: bounding_set(),
        inotify_instances: number("/proc/sys/fs/inotify/max_user_instances").unwrap_or(0),
        inotify_watches: number("/proc/sys/fs/inotify/max_user_watches").unwrap_or(0),
        missing_features: FEATURES.into_iter().filter(|feature| !has_feature(feature)).collect(),
        free: root.as_deref().and_then(free_bytes),
        memory,
        kind,
        go_is_there,
    })
}

fn judge(seen: &Seen) -> Vec<Finding> {
    let mut findings = vec![engine_finding(seen)];
    if let Ok(info) = &seen.engine {
        findings.push(rootless(info));
        findings.push(cgroups(info));
    }
    findings.push(capabilities(seen));
    findings.push(inotify(seen));
    findings.push(match seen.missing_features.as_slice() {
        [] => Finding::ok("kernel for kind", format!("has {}", FEATURES.join(", "))),
        missing => Finding::bad(
            "kernel for kind",
            State::Warning,
            format!("lacks {}; nodes or their network may not work", missing.join(", ")),
            format!("load them as root: `modprobe -a {}`", missing.join(" ")),
        ),
    });
    if let Some(free) = seen.free {
        findings.push(room(
            "disk for kind",
            free,
            DISK_BYTES,
            "`docker system prune`, or another data-root for the engine",
        ));
    }
    if let Some(memory) = seen.memory {
        findings.push(room(
            "memory for kind",
            memory,
            MEMORY_BYTES,
            "end other programs, or use kind-config/single.yaml",
        ));
    }
    findings.push(match &seen.kind {
        Ok(found) => Finding::ok("kind", found),
        Err(reason) if seen.go_is_there => Finding::bad(
            "kind",
            State::Warning,
            format!("not there yet: {reason}"),
            format!("nothing: the first run on kind builds {}, which takes a minute", Tool::Kind.version()),
        ),
        Err(reason) => Finding::bad(
            "kind",
            State::Missing,
            format!("{reason}; only the kind target needs it"),
            format!("put kind {} or newer into a folder of PATH, or install Go", Tool::Kind.version()),
        ),
    });
    findings
}

fn engine_finding(seen: &Seen) -> Finding {
    let text = |info: &Value, name: &str| info[name].as_str().unwrap_or("unknown").to_owned();
    match &seen.engine {
        Ok(info) => Finding::ok(
            "container engine",
            format!(
                "version {}, storage driver {}, {}",
                text(info, "ServerVersion"),
                text(info, "Driver"),
                text(info, "OperatingSystem")
            ),
        ),
        Err(reason) => Finding::bad(
            "container engine",
            State::Missing,
            format!("{reason}; only container backends and the kind target need it"),
            "install Docker (`apt-get install --no-install-recommends docker.io`) and start it: your system's way, or \
             `ci/air-gap/engine start`, or set DOCKER_HOST to one that runs",
        ),
    }
}

fn rootless(info: &Value) -> Finding {
    let rootless = info["SecurityOptions"].as_array().is_some_and(|options| {
        options.iter().any(|option| option.as_str().is_some_and(|text| text.contains("rootless")))
    });
    let unified = info["CgroupVersion"].as_str() == Some("2");
    match (rootless, unified) {
        (false, _) => Finding::ok("engine's user", "root"),
        (true, true) => Finding::ok(
            "engine's user",
            "rootless, with cgroup version 2; the user needs delegated cpu, memory and pids",
        ),
        (true, false) => Finding::bad(
            "engine's user",
            State::Missing,
            "rootless with cgroup version 1, where nodes cannot limit their pods",
            "start the system with `systemd.unified_cgroup_hierarchy=1`, or use an engine that runs as root",
        ),
    }
}

fn cgroups(info: &Value) -> Finding {
    match info["CgroupVersion"].as_str() {
        Some("1") => Finding::bad(
            "cgroups",
            State::Warning,
            "version 1, which the kubelet in kind's own node images refuses",
            "use the node image of `ci/air-gap/build`, which accepts it, or start the system with \
             `systemd.unified_cgroup_hierarchy=1`",
        ),
        version => Finding::ok("cgroups", format!("version {}", version.unwrap_or("unknown"))),
    }
}

fn capabilities(seen: &Seen) -> Finding {
    let missing: Vec<&str> =
        CAPABILITIES.into_iter().filter(|(bit, _)| seen.capabilities & (1 << bit) == 0).map(|(_, name)| name).collect();
    let ours = seen.engine.as_ref().is_ok_and(|info| info["DefaultRuntime"].as_str() == Some(OUR_RUNTIME));
    match missing.as_slice() {
        [] => Finding::ok("capabilities", "nothing is missing for privileged containers"),
        // Containers of an engine elsewhere have that machine's rights, so this one's are a hint.
        [SYS_RESOURCE] if ours => {
            Finding::ok("capabilities", "CAP_SYS_RESOURCE is missing; the engine's runtime does without")
        }
        [SYS_RESOURCE] => Finding::bad(
            "capabilities",
            State::Warning,
            "CAP_SYS_RESOURCE is missing here; an engine on this machine refuses privileged containers (\"unable to apply caps\")",
            "start the engine with `ci/air-gap/engine start`, whose runtime does without",
        ),
        missing => Finding::bad(
            "capabilities",
            State::Warning,
            format!("{} are missing here; an engine on this machine cannot run nodes", missing.join(", ")),
            "run as root on the machine itself, or set DOCKER_HOST to an engine elsewhere",
        ),
    }
}

fn inotify(seen: &Seen) -> Finding {
    let (instances, watches) = (seen.inotify_instances, seen.inotify_watches);
    let detail = format!("{instances} instances, {watches} watches per user");
    if instances >= INOTIFY_INSTANCES && watches >= INOTIFY_WATCHES {
        return Finding::ok("inotify", detail);
    }
    let detail = if instances < FEWEST_INSTANCES {
        format!("{detail}; too few for two nodes")
    } else {
        format!("{detail}; enough for one cluster of two nodes, more may fail with \"too many open files\"")
    };
    let remedy = format!(
        "as root: `sysctl fs.inotify.max_user_instances={INOTIFY_INSTANCES} fs.inotify.max_user_watches={INOTIFY_WATCHES}`"
    );
    Finding::bad("inotify", State::Warning, detail, remedy)
}

fn room(subject: &str, there: u64, needed: u64, remedy: &str) -> Finding {
    if there >= needed {
        return Finding::ok(subject, format!("{} free", size(there)));
    }
    let detail = format!("{} free, a cluster of two nodes takes about {}", size(there), size(needed));
    Finding::bad(subject, State::Warning, detail, remedy)
}

/// kind asks its engine by the same client.
async fn engine() -> Result<Value, String> {
    let mut command = Command::new("docker");
    command.args(["info", "--format", "{{json .}}"]).stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(ANSWER_WITHIN, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err("there is no program docker in PATH".to_owned());
        }
        Ok(Err(error)) => return Err(format!("docker: {error}")),
        Err(_) => return Err(format!("`docker info` did not answer within {} s", ANSWER_WITHIN.as_secs())),
    };
    let info: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let refused = info["ServerErrors"].as_array().and_then(|errors| errors.first()?.as_str()).map(str::to_owned);
    if let Some(reason) = refused {
        return Err(reason);
    }
    if info["ServerVersion"].as_str().is_some_and(|version| !version.is_empty()) {
        return Ok(info);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.trim().lines().last().unwrap_or("`docker info` says nothing of a server").to_owned())
}

fn bounding_set() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok());
    mask.unwrap_or(u64::MAX)
}

/// Built in, loaded, or there to be loaded.
fn has_feature(name: &str) -> bool {
    let file_systems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    Path::new("/sys/module").join(name).exists()
        || file_systems.lines().any(|line| line.split_whitespace().last() == Some(name))
        || std::process::Command::new("modprobe")
            .args(["--dry-run", "--quiet", name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let status = nix::sys::statvfs::statvfs(folder).ok()?;
    Some(status.blocks_available().saturating_mul(status.fragment_size()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    const ALL: u64 = 0x1ff_ffff_ffff;
    const NO_SYS_RESOURCE: u64 = 0x1ff_feff_ffff;

    fn good() -> Seen {
        Seen {
            engine: Ok(json!({
                "ServerVersion": "28.2.2", "Driver": "overlay2", "OperatingSystem": "Debian", "CgroupVersion": "2",
                "DefaultRuntime": "runc", "SecurityOptions": ["name=seccomp,profile=default"],
            })),
            capabilities: ALL,
            inotify_instances: 8192,
            inotify_watches: 1 << 20,
            missing_features: vec![],
            free: Some(1 << 40),
            memory: Some(1 << 34),
            kind: Ok("v0.33.0 from PATH: /usr/bin/kind".to_owned()),
            go_is_there: true,
        }
    }

    fn finding(seen: &Seen, subject: &str) -> Finding {
        judge(seen).into_iter().find(|finding| finding.subject == subject).unwrap()
    }

    #[test]
    fn a_good_machine_has_no_complaint() {
        let findings = judge(&good());
        assert!(findings.iter().all(|finding| finding.state == State::Ok), "{findings:#?}");
    }

    #[rstest]
    #[case::no_engine(|seen: &mut Seen| seen.engine = Err("Cannot connect".into()), "container engine", "ci/air-gap/engine start")]
    #[case::cgroup_v1(|seen: &mut Seen| seen.engine.as_mut().unwrap()["CgroupVersion"] = json!("1"), "cgroups", "ci/air-gap/build")]
    #[case::no_right(|seen: &mut Seen| seen.capabilities = NO_SYS_RESOURCE, "capabilities", "ci/air-gap/engine start")]
    #[case::no_rights(|seen: &mut Seen| seen.capabilities = 0, "capabilities", "DOCKER_HOST")]
    #[case::inotify(|seen: &mut Seen| seen.inotify_instances = 128, "inotify", "sysctl")]
    #[case::kernel(|seen: &mut Seen| seen.missing_features = vec!["overlay"], "kernel for kind", "modprobe -a overlay")]
    #[case::disk(|seen: &mut Seen| seen.free = Some(1 << 30), "disk for kind", "prune")]
    #[case::memory(|seen: &mut Seen| seen.memory = Some(1 << 30), "memory for kind", "single.yaml")]
    #[case::kind(|seen: &mut Seen| seen.kind = Err("not in PATH".into()), "kind", "builds v0.33.0")]
    fn each_lack_has_its_remedy(#[case] change: fn(&mut Seen), #[case] subject: &str, #[case] remedy: &str) {
        let mut seen = good();
        change(&mut seen);
        let finding = finding(&seen, subject);
        assert_ne!(finding.state, State::Ok, "{finding:?}");
        assert!(finding.remedy.as_deref().is_some_and(|text| text.contains(remedy)), "{finding:?}");
    }

    #[test]
    fn our_runtime_makes_up_for_the_missing_right() {
        let mut seen = good();
        seen.capabilities = NO_SYS_RESOURCE;
        seen.engine.as_mut().unwrap()["DefaultRuntime"] = json!("kind-node");
        assert_eq!(finding(&seen, "capabilities").state, State::Ok);
    }

    #[rstest]
    #[case("1", State::Missing)]
    #[case("2", State::Ok)]
    fn a_rootless_engine_needs_the_second_version_of_cgroups(#[case] version: &str, #[case] state: State) {
        let mut seen = good();
        let info = seen.engine.as_mut().unwrap();
        info["CgroupVersion"] = json!(version);
        info["SecurityOptions"] = json!(["name=rootless"]);
        assert_eq!(finding(&seen, "engine's user").state, state);
    }
}
