//! An OCI runtime for hosts whose bounding set lacks capabilities: it takes out of a container's wishes what nobody here can
//! grant, then becomes runc. Without it `docker run --privileged`, which kind uses for every node, is refused by the kernel.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::Error;

/// Capabilities by number (linux/capability.h); a bounding set in /proc is a mask of them.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
const SYS_RESOURCE: u64 = 1 << 24;

/// What this host can grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grant {
    /// Mask of capabilities.
    capabilities: u64,
    /// Nobody without CAP_SYS_RESOURCE goes below this.
    oom_score_adj: i64,
}

/// Edits the description of the process that runc is about to start, if it is, and becomes runc.
pub fn run(args: &[OsString]) -> Result<(), Error> {
    if let Some((file, pointer)) = description(args) {
        adapt_file(&file, pointer, Grant::of_this_process()?)?;
    }
    Err(Error::system("run", "runc")(Command::new("runc").args(args).exec()))
}

/// The file that describes the new process, and where in it. `create` and `run` have a bundle, `exec` a file of its own
/// (runc's command line; the same options exist in crun).
fn description(args: &[OsString]) -> Option<(PathBuf, &'static str)> {
    let at = args.iter().position(|word| ["create", "run", "exec"].contains(&word.to_str().unwrap_or_default()))?;
    let rest = &args[at + 1..];
    if args[at] == "exec" {
        return value_of(rest, "--process", "-p").map(|file| (PathBuf::from(file), ""));
    }
    let bundle = value_of(rest, "--bundle", "-b").unwrap_or_else(|| OsString::from("."));
    Some((Path::new(&bundle).join("config.json"), "/process"))
}

fn value_of(args: &[OsString], long: &str, short: &str) -> Option<OsString> {
    let mut words = args.iter();
    while let Some(word) = words.next() {
        if word == long || word == short {
            return words.next().cloned();
        }
        let joined = word.to_str().and_then(|word| word.strip_prefix(long)?.strip_prefix('='));
        if let Some(value) = joined {
            return Some(OsStr::new(value).to_owned());
        }
    }
    None
}

fn adapt_file(file: &Path, pointer: &str, grant: Grant) -> Result<(), Error> {
    let name = file.display().to_string();
    let text = std::fs::read(file).map_err(Error::system("read", &name))?;
    let content = |reason: String| Error::Content { file: name.clone(), reason };
    let mut value: Value = serde_json::from_slice(&text).map_err(|error| content(error.to_string()))?;
    let process = value.pointer_mut(pointer).ok_or_else(|| content("it describes no process".to_owned()))?;
    if adapt(process, grant) {
        let text = serde_json::to_vec(&value).map_err(|error| content(error.to_string()))?;
        std::fs::write(file, text).map_err(Error::system("write", &name))?;
    }
    Ok(())
}

/// Takes out what cannot be granted; true when there was such a thing.
fn adapt(process: &mut Value, grant: Grant) -> bool {
    let before = process.clone();
    if let Some(Value::Object(lists)) = process.get_mut("capabilities") {
        for list in lists.values_mut().filter_map(Value::as_array_mut) {
            list.retain(|name| name.as_str().is_none_or(|name| grant.has(name)));
        }
    }
    if grant.capabilities & SYS_RESOURCE == 0
        && let Some(score) = process.get_mut("oomScoreAdj")
        && score.as_i64().is_some_and(|wished| wished < grant.oom_score_adj)
    {
        *score = grant.oom_score_adj.into();
    }
    *process != before
}

impl Grant {
    fn of_this_process() -> Result<Grant, Error> {
        let read = |file: &str| std::fs::read_to_string(file).map_err(Error::system("read", file));
        let status = read("/proc/self/status")?;
        let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok());
        let content = || Error::Content { file: "/proc/self/status".to_owned(), reason: "it has no CapBnd".to_owned() };
        let score = read("/proc/self/oom_score_adj")?.trim().parse().unwrap_or(0);
        Ok(Grant { capabilities: mask.ok_or_else(content)?, oom_score_adj: score })
    }

    /// Whether a capability by its name in runtime specifications, such as `CAP_CHOWN`, can be given. Unknown ones are left
    /// to the runtime.
    fn has(self, name: &str) -> bool {
        let name = name.strip_prefix("CAP_").unwrap_or(name);
        let number = CAPABILITIES.iter().position(|known| known.eq_ignore_ascii_case(name));
        number.is_none_or(|number| self.capabilities & (1 << number) != 0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RESTRICTED: Grant = Grant { capabilities: 0x1ff_feff_ffff, oom_score_adj: 0 };
    const WHOLE: Grant = Grant { capabilities: 0x1ff_ffff_ffff, oom_score_adj: 0 };

    fn process() -> Value {
        json!({
            "args": ["/sbin/init"],
            "oomScoreAdj": -998,
            "capabilities": {
                "bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE"],
                "effective": ["CAP_SYS_RESOURCE", "CAP_OF_THE_FUTURE"],
            },
        })
    }

    #[test]
    fn what_the_host_lacks_is_taken_out() {
        let mut process = process();
        assert!(adapt(&mut process, RESTRICTED));
        assert_eq!(process["capabilities"], json!({ "bounding": ["CAP_CHOWN"], "effective": ["CAP_OF_THE_FUTURE"] }));
        assert_eq!(process["oomScoreAdj"], 0);
        assert_eq!(process["args"], json!(["/sbin/init"]));
        assert!(!adapt(&mut process, RESTRICTED), "a second look finds nothing");
    }

    #[test]
    fn a_host_that_lacks_nothing_changes_nothing() {
        assert!(!adapt(&mut process(), WHOLE));
    }

    #[rstest::rstest]
    #[case(&["--root", "/r", "create", "--bundle", "/b", "id"], Some(("/b/config.json", "/process")))]
    #[case(&["run", "-b", "/b", "id"], Some(("/b/config.json", "/process")))]
    #[case(&["create", "--bundle=/b", "id"], Some(("/b/config.json", "/process")))]
    #[case(&["create", "id"], Some(("./config.json", "/process")))]
    #[case(&["--log", "/l", "exec", "--process", "/p.json", "--detach", "id"], Some(("/p.json", "")))]
    #[case(&["exec", "id", "true"], None)]
    #[case(&["state", "id"], None)]
    #[case(&["--version"], None)]
    fn the_description_is_found_in_the_command_line(
        #[case] args: &[&str],
        #[case] expected: Option<(&str, &'static str)>,
    ) {
        let args: Vec<OsString> = args.iter().map(Into::into).collect();
        assert_eq!(description(&args), expected.map(|(file, pointer)| (PathBuf::from(file), pointer)));
    }

    #[test]
    fn a_file_is_edited_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, json!({ "ociVersion": "1", "process": process() }).to_string()).unwrap();
        adapt_file(&file, "/process", RESTRICTED).unwrap();
        let value: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(value["process"]["oomScoreAdj"], 0);
        assert_eq!(value["ociVersion"], "1");
    }
}
