//! Whether the programs of a system's components can run at all. A program that ends again and again, or never listens,
//! before it was ever ready in this lane is no broken promise of a document: it is an Error with what it said last.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _};
use harness::{
    component::Reported,
    failure::{Failure, Tried as _},
    limit,
    system::System,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::LogParams,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::{sync::watch, task::JoinHandle};

use crate::binaries::Binaries;

/// A program that ran this long and was ready can run; what ends it later is the system's behaviour.
const SETTLED: Duration = Duration::from_secs(3);
/// So many ends without ever having been ready are enough. One may be a race with what a system makes for itself.
const ENDS: u32 = 3;
/// How many log lines go into the failure.
const LOG_LINES: usize = 15;
/// How long one look at a log or a port may take.
const LOOK: Duration = Duration::from_secs(2);

/// Watches the pods of components that come as programs.
pub struct Startup {
    client: Client,
    parts: Arc<Vec<Part>>,
    seen: watch::Receiver<BTreeMap<String, Seen>>,
    /// Set while a fault is on: what happens then is what the fault is for.
    paused: AtomicBool,
    ready_within: Duration,
    watching: JoinHandle<()>,
}

/// A component that is watched.
#[derive(Debug, Clone)]
struct Part {
    name: String,
    image: String,
    /// As a person would type it.
    command: String,
}

/// What was seen of a component so far.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    /// It was ready and stayed so, or answered.
    up: bool,
    ends: u32,
    last_end: Option<ContainerStateTerminated>,
    /// The newest container, and since when it runs.
    at: Option<At>,
    running_since: Option<Timestamp>,
    /// Since when it has been tried without being ready, however often it ended meanwhile.
    unready_since: Option<Timestamp>,
    ready: bool,
}

/// Where a container is.
#[derive(Debug, Clone, Default, PartialEq)]
struct At {
    namespace: String,
    pod: String,
    container: String,
    /// Where it should listen, by the pod's own address.
    ports: Vec<SocketAddr>,
    /// Whether the pod says by itself how to see that it is ready.
    probed: bool,
}

impl Startup {
    /// Starts to watch. `commands` are the command lines of images, as the nodes were told them.
    pub fn watch(client: Client, system: &System, binaries: &Binaries, commands: &BTreeMap<String, String>) -> Self {
        let parts: Vec<Part> = system
            .components
            .iter()
            .filter(|component| binaries.of(component).is_some())
            .filter_map(|component| {
                let image = component.image.clone()?;
                let command = commands.get(&image).cloned().unwrap_or_default();
                Some(Part { name: component.name.clone(), image, command })
            })
            .collect();
        let parts = Arc::new(parts);
        let (tell, seen) = watch::channel(BTreeMap::new());
        let pods: Api<Pod> = Api::all(client.clone());
        let watched = parts.clone();
        let watching = tokio::spawn(async move {
            if watched.is_empty() {
                return;
            }
            let stream = watcher(pods, watcher::Config::default()).default_backoff().applied_objects();
            let mut stream = std::pin::pin!(stream);
            while let Some(event) = stream.next().await {
                // The watcher begins anew by itself.
                let Ok(pod) = event else { continue };
                tell.send_if_modified(|seen| note(seen, &watched, &pod, Timestamp::now()));
            }
        });
        Self { client, parts, seen, paused: AtomicBool::new(false), ready_within: system.limits.ready, watching }
    }

    /// While paused nothing counts as unable to run.
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Resolves when a component turns out to be unable to run.
    pub async fn broken(&self) -> Failure {
        let mut seen = self.seen.clone();
        loop {
            let now = seen.borrow_and_update().clone();
            let mut next_look = self.ready_within;
            for part in self.parts.iter() {
                let Some(seen) = now.get(&part.name).filter(|_| !self.paused.load(Ordering::Relaxed)) else { continue };
                if let Some(why) = ended(seen) {
                    return self.failure(part, seen, why).await;
                }
                let Some(silent) = silent(seen, Timestamp::now()) else { continue };
                if silent < self.ready_within {
                    next_look = next_look.min(self.ready_within - silent);
                } else if !self.listens(seen).await {
                    let listens = seen.at.as_ref().is_some_and(|at| !at.ports.is_empty());
                    let what = if listens { "listened" } else { "was ready" };
                    let why = format!("it has been tried for {} and never {what}", limit::text(rounded(silent)));
                    return self.failure(part, seen, why).await;
                }
            }
            tokio::select! {
                changed = seen.changed() => if changed.is_err() { std::future::pending::<()>().await },
                () = tokio::time::sleep(next_look) => {}
            }
        }
    }

    /// Why a component that should have done something by now did not, as far as its process tells.
    pub async fn late(&self, name: &str, what: &str) -> Failure {
        let now = self.seen.borrow().clone();
        let seen = now.get(name).cloned().unwrap_or_default();
        let within = limit::text(self.ready_within);
        match self.parts.iter().find(|part| part.name == name) {
            Some(part) => self.failure(part, &seen, format!("{what} within {within}")).await,
            None => Failure::error(format!("starting the {name}"), format!("{what} within {within}")).of(name),
        }
    }

    async fn listens(&self, seen: &Seen) -> bool {
        let Some(at) = &seen.at else { return false };
        for address in &at.ports {
            if let Ok(Ok(_)) = tokio::time::timeout(LOOK, tokio::net::TcpStream::connect(address)).await {
                return true;
            }
        }
        // What listens nowhere cannot be asked this way; its probe has the last word.
        at.ports.is_empty() && !at.probed
    }

    async fn failure(&self, part: &Part, seen: &Seen, why: String) -> Failure {
        let place = seen.at.as_ref().map_or(String::new(), |at| format!(" in pod {}/{}", at.namespace, at.pod));
        let mut text = why;
        if let Some(end) = &seen.last_end {
            text.push_str(&format!("; last {}", told(end)));
        }
        let lines = match &seen.at {
            Some(at) => self.log(at).await,
            None => vec!["no pod of it was seen".to_owned()],
        };
        text.push_str("\nlast log lines:");
        for line in if lines.is_empty() { vec!["(none)".to_owned()] } else { lines } {
            text.push_str(&format!("\n  {line}"));
        }
        Failure::error(format!("starting the {} as `{}`{place}", part.name, part.command), text)
            .of(&part.name)
            .next("see whether the program is the right one for this system, and whether it wants other flags or files")
    }

    /// The last lines of the container that runs, after those of the one before it.
    async fn log(&self, at: &At) -> Vec<String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &at.namespace);
        let mut lines = vec![];
        for previous in [true, false] {
            let parameters = LogParams {
                container: Some(at.container.clone()),
                tail_lines: i64::try_from(LOG_LINES).ok(),
                previous,
                ..Default::default()
            };
            let read = tokio::time::timeout(LOOK, pods.logs(&at.pod, &parameters)).await;
            let text = read.ok().and_then(Result::ok).unwrap_or_default();
            lines.extend(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned));
        }
        lines.split_off(lines.len().saturating_sub(LOG_LINES))
    }
}

impl Drop for Startup {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// Waits until an object has been reported on: it is there and its status has conditions.
///
/// # Errors
/// When the API does not know the kind.
pub async fn reported(client: &Client, object: &Reported) -> Result<(), Failure> {
    let Reported { api_version, kind, name } = object;
    let tried = || format!("watching {kind} {name}");
    let types = kube::core::TypeMeta { api_version: api_version.clone(), kind: kind.clone() };
    let kind = kube::core::GroupVersionKind::try_from(&types).tried(tried())?;
    let (resource, _) = kube::discovery::pinned_kind(client, &kind).await.tried(tried())?;
    let api: Api<kube::api::DynamicObject> = Api::all_with(client.clone(), &resource);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut stream = std::pin::pin!(watcher(api, config).default_backoff().applied_objects());
    loop {
        match stream.try_next().await {
            Ok(Some(object)) => {
                let conditions = &object.data["status"]["conditions"];
                if conditions.as_array().is_some_and(|conditions| !conditions.is_empty()) {
                    return Ok(());
                }
            }
            Ok(None) => return Err(Failure::error(tried(), "the watch ended")),
            // The watcher begins anew by itself.
            Err(_) => {}
        }
    }
}

/// Takes a pod's state into account; returns whether anything is new.
fn note(seen: &mut BTreeMap<String, Seen>, parts: &[Part], pod: &Pod, now: Timestamp) -> bool {
    let mut changed = false;
    // Before anything new hides it: what comes after a roll-out is the doing of what was rolled out.
    for seen in seen.values_mut().filter(|seen| !seen.up && lasts(seen, now)) {
        seen.up = true;
        changed = true;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return forget(seen, &pod.name_any()) || changed;
    }
    let Some(spec) = &pod.spec else { return changed };
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    for status in statuses {
        let Some(container) = spec.containers.iter().find(|container| container.name == status.name) else { continue };
        let image = container.image.as_deref().unwrap_or_default();
        let Some(part) = parts.iter().find(|part| part.image == image) else { continue };
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()?.parse().ok());
        let ports = container.ports.iter().flatten().filter_map(|port| {
            let port = u16::try_from(port.container_port).ok()?;
            Some(SocketAddr::new(api::address::listen_address(address?).into(), port))
        });
        let at = At {
            namespace: pod.namespace().unwrap_or_default(),
            pod: pod.name_any(),
            container: status.name.clone(),
            ports: ports.collect(),
            probed: container.readiness_probe.is_some(),
        };
        let entry = seen.entry(part.name.clone()).or_default();
        let before = entry.clone();
        take(entry, at, status);
        changed |= *entry != before;
    }
    changed
}

/// A pod that is taken away ends because it was told to, and need not become ready any more.
fn forget(seen: &mut BTreeMap<String, Seen>, pod: &str) -> bool {
    let mut changed = false;
    for seen in seen.values_mut().filter(|seen| seen.at.as_ref().is_some_and(|at| at.pod == pod)) {
        changed |= seen.running_since.take().is_some();
        seen.unready_since = None;
    }
    changed
}

fn take(seen: &mut Seen, at: At, status: &ContainerStatus) {
    let state = status.state.clone().unwrap_or_default();
    let end = state.terminated.or_else(|| status.last_state.clone().unwrap_or_default().terminated);
    if let Some(end) = end.filter(|end| seen.last_end.as_ref() != Some(end)) {
        let ran = span(end.started_at.as_ref(), end.finished_at.as_ref());
        if seen.ready && ran >= SETTLED {
            seen.up = true;
        } else {
            seen.ends += 1;
        }
        seen.last_end = Some(end);
    }
    seen.at = Some(at);
    seen.running_since = state.running.and_then(|running| running.started_at).map(|Time(since)| since);
    seen.ready = status.ready;
    seen.unready_since = seen.unready_since.or(seen.running_since).filter(|_| !status.ready);
}

/// Whether a component is ready and has been running for long enough to be called so.
fn lasts(seen: &Seen, now: Timestamp) -> bool {
    seen.ready && seen.running_since.is_some_and(|since| age(since, now) >= SETTLED)
}

/// Why a component that ended cannot run, if so many ends say that.
fn ended(seen: &Seen) -> Option<String> {
    (!seen.up && !lasts(seen, Timestamp::now()) && seen.ends >= ENDS)
        .then(|| format!("it ended {} times and was never ready", seen.ends))
}

/// For how long a component has been tried without ever being ready.
fn silent(seen: &Seen, now: Timestamp) -> Option<Duration> {
    if seen.up || seen.ready {
        return None;
    }
    seen.unready_since.map(|since| age(since, now))
}

fn age(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

fn span(from: Option<&Time>, to: Option<&Time>) -> Duration {
    match (from, to) {
        (Some(Time(from)), Some(Time(to))) => age(*from, *to),
        _ => Duration::ZERO,
    }
}

fn rounded(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

fn told(end: &ContainerStateTerminated) -> String {
    let ran = limit::text(rounded(span(end.started_at.as_ref(), end.finished_at.as_ref())));
    match (end.reason.as_deref(), &end.message) {
        (Some("StartError"), Some(message)) => format!("not even started: {message}"),
        _ => match end.signal.filter(|signal| *signal != 0) {
            Some(signal) => format!("by signal {signal} after {ran}"),
            None => format!("with exit status {} after {ran}", end.exit_code),
        },
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn part() -> Part {
        Part { name: "operator".into(), image: "x/operator".into(), command: "/bin/op --v=2".into() }
    }

    fn pod(state: serde_json::Value, last: serde_json::Value, ready: bool) -> Pod {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "op-1", "namespace": "n"},
            "spec": {"containers": [{"name": "op", "image": "x/operator", "ports": [{"containerPort": 60000}]}]},
            "status": {"podIP": "10.3.0.7", "containerStatuses": [{
                "name": "op", "image": "x/operator", "imageID": "", "ready": ready, "restartCount": 0,
                "state": state, "lastState": last,
            }]},
        });
        serde_json::from_value(pod).unwrap()
    }

    fn end(id: u32, seconds: u32) -> serde_json::Value {
        json!({"terminated": {
            "exitCode": 2, "containerID": format!("process://{id}"),
            "startedAt": "2026-01-01T00:00:00Z", "finishedAt": format!("2026-01-01T00:00:{seconds:02}Z"),
        }})
    }

    fn running() -> serde_json::Value {
        json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}})
    }

    /// What is known after these states of the pod, which came a second after its start.
    fn after(pods: &[Pod]) -> Seen {
        after_seconds(1, pods)
    }

    fn after_seconds(seconds: i8, pods: &[Pod]) -> Seen {
        let now = jiff::civil::date(2026, 1, 1).at(0, 0, seconds, 0).to_zoned(jiff::tz::TimeZone::UTC).unwrap();
        let mut seen = BTreeMap::new();
        for pod in pods {
            note(&mut seen, &[part()], pod, now.timestamp());
        }
        seen.remove("operator").unwrap_or_default()
    }

    #[test]
    fn what_ends_again_and_again_cannot_run() {
        let seen = after(&[
            pod(end(1, 0), json!({}), false),
            pod(running(), end(1, 0), true),
            pod(json!({"waiting": {"reason": "CrashLoopBackOff"}}), end(2, 0), false),
            pod(end(3, 1), end(2, 0), false),
        ]);
        assert_eq!(ended(&seen).as_deref(), Some("it ended 3 times and was never ready"));
        assert_eq!(told(&seen.last_end.unwrap()), "with exit status 2 after 1s");
    }

    #[rstest]
    #[case::once(&[pod(end(1, 0), json!({}), false)])]
    #[case::twice(&[pod(end(1, 0), json!({}), false), pod(end(2, 0), end(1, 0), false)])]
    #[case::it_was_up(&[
        pod(running(), json!({}), true),
        pod(end(1, 9), json!({}), false),
        pod(end(2, 0), json!({}), false),
        pod(end(3, 0), json!({}), false),
        pod(end(4, 0), json!({}), false),
    ])]
    fn what_was_up_or_ended_by_chance_can_run(#[case] pods: &[Pod]) {
        assert_eq!(ended(&after(pods)), None);
    }

    #[test]
    fn what_was_ready_before_a_roll_out_can_run() {
        let another = |name: &str, state, ready| {
            let mut pod = pod(state, json!({}), ready);
            pod.metadata.name = Some(name.to_owned());
            pod
        };
        let pods = [
            another("op-1", running(), true),
            another("op-2", end(2, 0), false),
            another("op-2", end(3, 0), false),
            another("op-3", end(4, 0), false),
        ];
        assert_eq!(ended(&after_seconds(4, &pods)), None);
        assert!(ended(&after_seconds(2, &pods)).is_some(), "it was not ready for long enough");
        let mut gone = another("op-1", running(), true);
        gone.metadata.deletion_timestamp = Some(Time("2026-01-01T00:00:04Z".parse().unwrap()));
        let pods = [another("op-1", running(), true), gone, pods[1].clone(), pods[2].clone(), pods[3].clone()];
        assert_eq!(ended(&after_seconds(4, &pods)), None);
    }

    #[test]
    fn what_is_taken_away_ends_by_somebody_elses_will() {
        let ends = (1..=3).map(|id| {
            let mut pod = pod(end(id, 0), json!({}), false);
            pod.metadata.deletion_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
            pod
        });
        let mut pods = vec![pod(running(), json!({}), false)];
        pods.extend(ends);
        let seen = after(&pods);
        assert_eq!((seen.ends, ended(&seen)), (0, None));
        assert_eq!(silent(&seen, "2026-01-01T00:00:21Z".parse().unwrap()), None);
    }

    #[test]
    fn what_runs_without_being_ready_is_silent() {
        let seen = after(&[pod(running(), json!({}), false)]);
        let now: Timestamp = "2026-01-01T00:00:21Z".parse().unwrap();
        assert_eq!(silent(&seen, now), Some(Duration::from_secs(21)));
        assert_eq!(seen.at.unwrap().ports, ["127.3.0.7:60000".parse().unwrap()]);
        assert_eq!(silent(&after(&[pod(running(), json!({}), true)]), now), None);
        let again = json!({"running": {"startedAt": "2026-01-01T00:00:16Z"}});
        let seen = after(&[pod(running(), json!({}), false), pod(again, end(1, 15), false)]);
        assert_eq!(silent(&seen, now), Some(Duration::from_secs(21)), "a start does not begin the wait anew");
    }

    #[test]
    fn other_images_are_nobodys_business() {
        let mut other = pod(end(1, 0), json!({}), false);
        other.spec.as_mut().unwrap().containers[0].image = Some("x/other".into());
        assert_eq!(after(&[other]), Seen::default());
    }
}
