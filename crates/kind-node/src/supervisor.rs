//! PID 1 of a node: starts services, starts them again, buries orphans, and ends all when it is told to.
//! It knows nothing of Kubernetes; what a node runs is a list of rows.

use std::collections::HashMap;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::Error;
use crate::service::Service;

/// A service that ends at once must not keep a core busy.
const PAUSE_BEFORE_RESTART: Duration = Duration::from_secs(1);
/// How long services have to end; Docker gives a container ten seconds in all.
const END_WITHIN: Duration = Duration::from_secs(4);

/// Runs services until a signal ends the node.
///
/// # Errors
/// [`Error::System`] when a service cannot even be started the first time.
pub async fn keep(services: &[Service]) -> Result<(), Error> {
    let listen = |kind| signal(kind).map_err(Error::system("listen for", "signals"));
    let mut children = listen(SignalKind::child())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut running: HashMap<i32, &Service> = HashMap::new();
    let mut waiting: Vec<(Instant, &Service)> = Vec::new();
    for service in services {
        running.insert(id(service.start()?), service);
    }
    loop {
        let due = waiting.iter().map(|(at, _)| *at).min();
        tokio::select! {
            _ = children.recv() => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        for (pid, succeeded, how) in reap() {
            if let Some(service) = running.remove(&pid) {
                if service.wanted_again(succeeded) {
                    eprintln!("kind-node: {} ended with {how} and is started again", service.name);
                    waiting.push((Instant::now() + PAUSE_BEFORE_RESTART, service));
                } else {
                    eprintln!("kind-node: {} is done", service.name);
                }
            }
        }
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(at, _)| *at <= now);
        waiting = later;
        for (_, service) in due {
            match service.start() {
                Ok(pid) => drop(running.insert(id(pid), service)),
                Err(error) => {
                    eprintln!("kind-node: {error}");
                    waiting.push((now + PAUSE_BEFORE_RESTART, service));
                }
            }
        }
    }
    end(running, &mut children).await;
    Ok(())
}

/// Asks the services to end and waits for them; what else lives dies with the node's process namespace.
async fn end(mut running: HashMap<i32, &Service>, children: &mut tokio::signal::unix::Signal) {
    for pid in running.keys() {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGTERM);
    }
    let deadline = Instant::now() + END_WITHIN;
    while !running.is_empty() && tokio::time::timeout_at(deadline, children.recv()).await.is_ok() {
        for (pid, ..) in reap() {
            running.remove(&pid);
        }
    }
}

/// Every child that has ended: id, whether it succeeded, how it ended.
fn reap() -> Vec<(i32, bool, String)> {
    let mut ended = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => ended.push((pid.as_raw(), code == 0, format!("code {code}"))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => ended.push((pid.as_raw(), false, signal.to_string())),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return ended,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => {
                eprintln!("kind-node: cannot wait for children: {errno}");
                return ended;
            }
        }
    }
}

fn id(pid: u32) -> i32 {
    i32::try_from(pid).expect("Linux has process ids below 2^22")
}
