//! Finds processes of containers that nobody owns any more, by the `CONTAINER_ROOT` in their environment.
//! That also finds those that left their process group; it needs no list on disk that could be out of date.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Kills every process whose `CONTAINER_ROOT` lies below `folder` and returns how many there were.
///
/// Blocking: it reads the environment of each process of this machine that we may read.
pub(crate) fn kill_below(folder: &Path) -> usize {
    let mut wanted = b"CONTAINER_ROOT=".to_vec();
    wanted.extend_from_slice(folder.as_os_str().as_bytes());
    wanted.push(b'/');
    let Ok(processes) = std::fs::read_dir("/proc") else { return 0 };
    processes
        .flatten()
        .filter_map(|entry| process_id(&entry.file_name()))
        .filter(|id| runs_below(*id, &wanted))
        .filter(|id| kill(Pid::from_raw(*id), Signal::SIGKILL).is_ok())
        .count()
}

fn process_id(name: &OsStr) -> Option<i32> {
    name.to_str()?.parse().ok()
}

fn runs_below(id: i32, wanted: &[u8]) -> bool {
    std::fs::read(format!("/proc/{id}/environ"))
        .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_only_below_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let start = |root: &Path| {
            std::process::Command::new("/bin/sleep").arg("60").env("CONTAINER_ROOT", root).spawn().unwrap()
        };
        let mut inside = start(&folder.path().join("n/rootfs"));
        let mut outside = start(Path::new("/nowhere"));
        assert_eq!(kill_below(folder.path()), 1);
        inside.wait().unwrap();
        assert!(outside.try_wait().unwrap().is_none());
        outside.kill().unwrap();
        outside.wait().unwrap();
    }
}
