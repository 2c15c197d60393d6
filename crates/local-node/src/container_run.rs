//! One run of one container: its process from start to end with log, hooks, probes and the order of a stop.
//! It reports events and decides nothing; restarting is the worker's business.

use std::{os::unix::process::ExitStatusExt, path::PathBuf, process::ExitStatus, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use nix::sys::signal::Signal;
use tokio::{sync::mpsc, sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    container_log::ContainerLog,
    probe::{self, ProbeKind, Target, Verdict},
    spawner::Process,
};

/// How long the output of a process may stay open after its group has been killed (a process that left the group holds it).
const OUTPUT_LIMIT: Duration = Duration::from_millis(500);
const MESSAGE_LINES: usize = 80;
const MESSAGE_BYTES: usize = 2048;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) message: Option<String>,
    pub(crate) started_at: Timestamp,
    pub(crate) finished_at: Timestamp,
}

/// What a run tells the worker of its pod.
#[derive(Debug)]
pub(crate) enum RunEvent {
    Probe(Verdict),
    PostStartFailed(String),
    Exited(Exit),
}

/// An event and the run it belongs to.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) container: String,
    pub(crate) run: u64,
    pub(crate) event: RunEvent,
}

/// A running container; dropping it kills the process without grace.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: u64,
    pub(crate) container_id: String,
    pub(crate) started_at: Timestamp,
    stop: watch::Sender<Option<Stop>>,
    _end: tokio_util::sync::DropGuard,
}

/// An order to stop; a later one can only shorten the grace.
#[derive(Debug, Clone, Copy)]
struct Stop {
    deadline: Instant,
}

/// What a run is made of.
pub(crate) struct Plan {
    pub(crate) id: u64,
    pub(crate) container: Container,
    pub(crate) target: Target,
    pub(crate) log: Arc<ContainerLog>,
    pub(crate) termination_file: PathBuf,
    /// How long a preStop hook may take, whatever the grace is.
    pub(crate) pre_stop_limit: Duration,
    pub(crate) reports: mpsc::UnboundedSender<Report>,
}

impl Run {
    /// Watches over a process that has just been started.
    pub(crate) fn start(process: Process, plan: Plan) -> Self {
        let (stop, orders) = watch::channel(None);
        let end = CancellationToken::new();
        let started_at = Timestamp::now();
        let run = Self {
            id: plan.id,
            container_id: format!("process://{}", uuid::Uuid::new_v4().simple()),
            started_at,
            stop,
            _end: end.clone().drop_guard(),
        };
        tokio::spawn(supervise(process, plan, started_at, orders, end));
        run
    }

    /// Runs the preStop hook, then sends SIGTERM, then SIGKILL when `grace` has passed since this call.
    pub(crate) fn stop(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.stop.send_if_modified(|order| {
            let sooner = order.is_none_or(|known| deadline < known.deadline);
            if sooner {
                *order = Some(Stop { deadline });
            }
            sooner
        });
    }
}

async fn supervise(
    mut process: Process,
    plan: Plan,
    started_at: Timestamp,
    mut orders: watch::Receiver<Option<Stop>>,
    end: CancellationToken,
) {
    let stdout = process.child.stdout.take();
    let stderr = process.child.stderr.take();
    let output = {
        let log = plan.log.clone();
        async move {
            let out = async { if let Some(pipe) = stdout { log.copy_from("stdout", pipe).await } else { Ok(()) } };
            let err = async { if let Some(pipe) = stderr { log.copy_from("stderr", pipe).await } else { Ok(()) } };
            if let (Err(error), _) | (_, Err(error)) = tokio::join!(out, err) {
                tracing::warn!(%error, "keeping the output of a container failed");
            }
        }
    };
    let output = tokio::spawn(output);
    let probes = CancellationToken::new();
    let attendants = tokio::spawn(probes.clone().run_until_cancelled_owned(attend(
        plan.container.clone(),
        plan.target.clone(),
        plan.id,
        plan.reports.clone(),
    )));

    let status = tokio::select! {
        status = run_until_stopped(&mut orders, &plan, &mut process) => status,
        // The run was dropped.
        () = end.cancelled() => {
            process.group.signal(Signal::SIGKILL);
            process.child.wait().await
        }
    };
    probes.cancel();
    let finished_at = Timestamp::now();
    // Ends what the process has left behind in its group, so that its output ends too.
    drop(process);
    let mut output = output;
    if tokio::time::timeout(OUTPUT_LIMIT, &mut output).await.is_err() {
        output.abort();
    }
    let _ = attendants.await;
    plan.log.end();
    let exit = exit(status, &plan, started_at, finished_at);
    plan.report(RunEvent::Exited(exit));
}

impl Plan {
    fn report(&self, event: RunEvent) {
        // The worker may be gone already when the nodes stop.
        let _ = self.reports.send(Report { container: self.container.name.clone(), run: self.id, event });
    }
}

/// Waits for the end of the process or for an order to stop it, which is then carried out.
async fn run_until_stopped(
    orders: &mut watch::Receiver<Option<Stop>>,
    plan: &Plan,
    process: &mut Process,
) -> std::io::Result<ExitStatus> {
    tokio::select! {
        status = process.child.wait() => return status,
        Ok(_) = orders.wait_for(Option::is_some) => (),
    }
    let hook = plan.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(hook) = hook {
        tokio::select! {
            result = run_hook(hook, &plan.target) => {
                if let Err(message) = result {
                    tracing::info!(container = plan.container.name, message, "the preStop hook failed");
                }
            }
            () = tokio::time::sleep(plan.pre_stop_limit) => {
                tracing::debug!(container = plan.container.name, "the preStop hook was cut short");
            }
            () = deadline_passed(orders) => (),
            status = process.child.wait() => return status,
        }
    }
    let lifecycle = plan.container.lifecycle.as_ref();
    let signal = lifecycle.and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    process.group.signal(signal.and_then(|name| name.parse().ok()).unwrap_or(Signal::SIGTERM));
    tokio::select! {
        status = process.child.wait() => status,
        () = deadline_passed(orders) => {
            process.group.signal(Signal::SIGKILL);
            process.child.wait().await
        }
    }
}

/// Returns when the grace is over, which a later order may shorten.
async fn deadline_passed(orders: &mut watch::Receiver<Option<Stop>>) {
    loop {
        let deadline = orders.borrow_and_update().map_or_else(Instant::now, |stop| stop.deadline);
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => return,
            changed = orders.changed() => if changed.is_err() {
                tokio::time::sleep_until(deadline).await;
                return;
            },
        }
    }
}

async fn run_hook(hook: &LifecycleHandler, target: &Target) -> Result<(), String> {
    if let Some(action) = &hook.exec {
        return probe::exec(action, target).await;
    }
    if let Some(action) = &hook.http_get {
        return probe::http_get(action, target).await;
    }
    if let Some(action) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
    }
    Ok(())
}

/// The postStart hook, then the startup probe, then readiness and liveness side by side.
async fn attend(container: Container, target: Target, run: u64, reports: mpsc::UnboundedSender<Report>) {
    let send = |event| {
        let _ = reports.send(Report { container: container.name.clone(), run, event });
    };
    if let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref())
        && let Err(message) = run_hook(hook, &target).await
    {
        return send(RunEvent::PostStartFailed(message));
    }
    if let Some(startup) = &container.startup_probe {
        let mut passed = false;
        probe::run(ProbeKind::Startup, startup, &target, |verdict| {
            passed = verdict.passed;
            send(RunEvent::Probe(verdict));
        })
        .await;
        if !passed {
            return;
        }
    }
    let watch = async |kind, probe: &Option<_>| {
        if let Some(probe) = probe {
            probe::run(kind, probe, &target, |verdict| send(RunEvent::Probe(verdict))).await;
        }
    };
    tokio::join!(
        watch(ProbeKind::Readiness, &container.readiness_probe),
        watch(ProbeKind::Liveness, &container.liveness_probe)
    );
}

fn exit(status: std::io::Result<ExitStatus>, plan: &Plan, started_at: Timestamp, finished_at: Timestamp) -> Exit {
    let (code, signal) = match &status {
        Ok(status) => match status.signal() {
            Some(signal) => (128 + signal, Some(signal)),
            None => (status.code().unwrap_or(1), None),
        },
        Err(_) => (137, None),
    };
    let written = std::fs::read(&plan.termination_file).unwrap_or_default();
    let written = String::from_utf8_lossy(&written[..written.len().min(4096)]).into_owned();
    let falls_back = plan.container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    let message = if written.is_empty() && falls_back && code != 0 {
        plan.log.tail(MESSAGE_LINES, MESSAGE_BYTES)
    } else {
        written
    };
    Exit { code, signal, message: Some(message).filter(|text| !text.is_empty()), started_at, finished_at }
}
