//! The program as containers start it: words, signals and exit codes.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn an_unknown_word_is_answered_with_the_usage() {
    let output = Command::new(env!("CARGO_BIN_EXE_kind-node")).arg("dance").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage: kind-node init"), "{output:?}");
}

#[test]
fn the_network_says_which_variable_is_missing() {
    let output = Command::new(env!("CARGO_BIN_EXE_kind-node")).arg("network").env_clear().output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("NODE_NAME"), "{output:?}");
}

#[test]
fn pause_ends_with_success_as_soon_as_it_is_told() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kind-node"))
        .arg("pause")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let deadline = Instant::now() + Duration::from_secs(10);
    // A signal before the program waits for signals ends it as it would end any other.
    while !sleeps(pid) && Instant::now() < deadline {
        std::thread::yield_now();
    }
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Whether a process waits for something that may never come (proc_pid_status(5), "State").
fn sleeps(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.contains("Name:\tkind-node") && status.contains("State:\tS")
}

#[test]
fn the_runtime_becomes_runc_with_the_same_words() {
    let folder = tempfile::tempdir().unwrap();
    let runc = folder.path().join("runc");
    std::fs::write(&runc, "#!/bin/sh\necho \"$*\"\ncat \"$3/config.json\"\n").unwrap();
    std::fs::set_permissions(&runc, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(folder.path().join("config.json"), "{\"process\":{\"args\":[\"/sbin/init\"]}}").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_kind-node"))
        .args(["runtime", "create", "--bundle"])
        .arg(folder.path())
        .arg("id")
        .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with(&format!("create --bundle {} id\n", folder.path().display())), "{output:?}");
    assert!(said.contains("/sbin/init"), "{said}");
}
