//! Runs a program of the node from inside a pod: the pod mounts the node's root, and this becomes the program in it.
//! So the image of the network needs neither `ip` nor `iptables`, and the rules are those of the node's own version.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::Error;

/// `ROOT COMMAND ARGUMENTS...`: changes the root and becomes the command.
pub fn enter(args: &[OsString]) -> Result<(), Error> {
    let [root, command, arguments @ ..] = args else {
        return Err(Error::Usage("usage: kind-node in-root ROOT COMMAND ARGUMENTS..."));
    };
    std::os::unix::fs::chroot(root).map_err(Error::system("change the root to", root.to_string_lossy()))?;
    std::env::set_current_dir("/").map_err(Error::system("enter", "/"))?;
    Err(Error::system("run", command.to_string_lossy())(Command::new(command).args(arguments).exec()))
}

/// Runs a command in a root as a child and waits for it. Gives what it wrote to standard output.
///
/// # Errors
/// [`Error::Command`] with its words when it fails.
pub async fn run_in(root: &str, words: &[&str]) -> Result<String, Error> {
    let outcome = tokio::process::Command::new("/proc/self/exe")
        .args(["in-root", root])
        .args(words)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(Error::system("run", words.join(" ")))?;
    if outcome.status.success() {
        return Ok(String::from_utf8_lossy(&outcome.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&outcome.stderr).trim().to_owned();
    Err(Error::Command { command: words.join(" "), status: outcome.status, said })
}
