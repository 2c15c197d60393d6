//! Programs of this machine that scenarios use as further clients, such as podman and skopeo: whether one is there and
//! works for this user. What it is asked to do stands in the features.

use std::path::PathBuf;

/// Whether a program is there and this user can work with it: podman without root needs more than itself.
pub(super) fn usable(program: &str) -> Result<(), String> {
    let Some(path) = on_path(program) else { return Err(format!("{program} is not on this machine's PATH")) };
    let question = if program == "podman" { "info" } else { "--version" };
    let tried = format!("`{program} {question}` fails on this machine");
    let asked = std::process::Command::new(path).arg(question).stdin(std::process::Stdio::null()).output();
    let ran = asked.map_err(|error| format!("{tried}: {error}"))?;
    let said = String::from_utf8_lossy(&ran.stderr);
    let why = said.lines().find(|line| line.starts_with("Error")).or_else(|| said.lines().last()).unwrap_or_default();
    if ran.status.success() { Ok(()) } else { Err(format!("{tried}: {why}")) }
}

pub(super) fn on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}
