//! The container that holds a pod's namespaces: it waits for the signal to end and buries processes that the pod orphans.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::Error;

/// Returns when told to end.
pub fn run() -> Result<(), Error> {
    let mut awaited = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        awaited.add(signal);
    }
    let failed = |errno: nix::Error| Error::system("wait for", "signals")(errno.into());
    awaited.thread_block().map_err(failed)?;
    while awaited.wait().map_err(failed)? == Signal::SIGCHLD {
        while !matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive) | Err(_)) {}
    }
    Ok(())
}
