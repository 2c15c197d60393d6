//! How long after a condition has become true a step goes on. A writer changes an object of a real control plane; the
//! API server's audit log says, to the microsecond, when it took the request and when it had answered it, and the clock
//! is read when `harness::wait` returns.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use harness::wait::{Check, wait};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    config::Kubeconfig,
};
use local_cluster::{ControlPlane, ControlPlaneOptions, PodNetwork};
use serde_json::json;
use tokio::sync::oneshot;

mod figures;

use figures::{Sample, option};

/// How long a single wait may take before the benchmark is given up.
const DEADLINE: Duration = Duration::from_secs(20);
/// Objects that the busy half changes all the time, each by its own writer.
const BUSY: usize = 4;

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    if !figures::wanted("latency") {
        return Ok(());
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let count: usize = option("count").map_or(Ok(200), |count| count.parse())?;
    let folder = tempfile::tempdir()?;
    let tools = local_cluster::tool::locate(|line| eprintln!("{line}")).await?;
    let options = ControlPlaneOptions::new(folder.path().join("control-plane"), tools, PodNetwork::lease()?);
    let control_plane = ControlPlane::start(options).await?;
    let outcome = take(&control_plane, count).await;
    control_plane.stop().await;
    outcome
}

async fn take(control_plane: &ControlPlane, count: usize) -> anyhow::Result<()> {
    let client = client(control_plane.kubeconfig()).await?;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    for index in 0..=BUSY {
        let metadata = ObjectMeta { name: Some(object(index)), ..ObjectMeta::default() };
        api.create(&PostParams::default(), &ConfigMap { metadata, ..ConfigMap::default() }).await?;
    }
    let quiet = returns(&api, "quiet", count).await?;
    let writers: Vec<_> = (1..=BUSY).map(|index| tokio::spawn(write_always(api.clone(), index))).collect();
    let busy = returns(&api, "busy", count).await;
    writers.iter().for_each(tokio::task::JoinHandle::abort);
    let busy = busy?;

    let log = control_plane.logs_dir().join("audit.log");
    let times = audited(&log, &[&quiet, &busy]).await?;
    let mut rows = Vec::new();
    for (what, returned) in [("idle cluster", &quiet), ("four busy writers", &busy)] {
        for (since, at) in [("request taken", 0), ("request answered", 1)] {
            let sample = Sample::of(returned.iter().map(|(write, returned)| {
                let [taken, answered] = times[write];
                let since = if at == 0 { taken } else { answered };
                returned.duration_since(since).as_secs_f64() * 1000.0
            }));
            let figure = |share| format!("{:.1}", sample.at(share));
            rows.push(vec![
                format!("{what}, since {since}"),
                sample.len().to_string(),
                figure(0.5),
                figure(0.95),
                figure(1.0),
            ]);
        }
    }
    figures::print(
        "from the API server's own time of a change to the step that goes on",
        &["", "n", "p50 ms", "p95 ms", "max ms"],
        &rows,
    );
    Ok(())
}

fn object(index: usize) -> String {
    format!("latency-{index}")
}

async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let mut config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &Default::default()).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Waits `count` times for a change; says of each write, by its name, when the wait for it returned.
async fn returns(api: &Api<ConfigMap>, name: &str, count: usize) -> anyhow::Result<BTreeMap<String, Timestamp>> {
    let mut returned = BTreeMap::new();
    let changed = object(0);
    for number in 0..count {
        let write = format!("{name}-{number}");
        let (looked, has_looked) = oneshot::channel();
        let mut looked = Some(looked);
        let wanted = write.clone();
        let waiting = wait("the change", DEADLINE).object(api, &changed, |object: Option<&ConfigMap>| {
            if let Some(looked) = looked.take() {
                // Nobody hears it only when the writer has given up, which ends the benchmark.
                let _ = looked.send(());
            }
            let seen = object.and_then(|object| object.data.as_ref()?.get("write"));
            Check::when(seen == Some(&wanted), || format!("{seen:?}"))
        });
        let waiting = async {
            let outcome = waiting.await;
            (outcome, Timestamp::now())
        };
        let writing = async {
            has_looked.await.context("the wait ended before it had looked")?;
            // A step waits for something that happens later, not while its watch is being opened.
            tokio::time::sleep(Duration::from_millis(10 + (number as u64 * 7) % 20)).await;
            change(api, 0, &write).await
        };
        let ((outcome, at), written) = tokio::join!(waiting, writing);
        written?;
        outcome.map_err(|failure| anyhow::anyhow!("{}", failure.text()))?;
        returned.insert(write, at);
    }
    Ok(returned)
}

/// Writes; the name of the write is also its field manager, which stands in the request's address and so in the audit log.
async fn change(api: &Api<ConfigMap>, index: usize, write: &str) -> anyhow::Result<()> {
    let parameters = PatchParams { field_manager: Some(format!("latency-{write}")), ..PatchParams::default() };
    let patch = json!({"data": {"write": write}});
    api.patch(&object(index), &parameters, &Patch::Merge(&patch)).await?;
    Ok(())
}

async fn write_always(api: Api<ConfigMap>, index: usize) {
    for number in 0.. {
        if change(&api, index, &format!("noise-{index}-{number}")).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// When the API server took and had answered each write. Its log is written a moment after the answer.
async fn audited(
    log: &Path,
    wanted: &[&BTreeMap<String, Timestamp>],
) -> anyhow::Result<BTreeMap<String, [Timestamp; 2]>> {
    let until = Instant::now() + DEADLINE;
    loop {
        let text = std::fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
        let times: BTreeMap<String, [Timestamp; 2]> = text.lines().filter_map(audit_line).collect();
        let missing = wanted.iter().flat_map(|writes| writes.keys()).find(|write| !times.contains_key(*write));
        match missing {
            None => return Ok(times),
            Some(write) if Instant::now() > until => anyhow::bail!("{} has no line of {write}", log.display()),
            Some(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn audit_line(line: &str) -> Option<(String, [Timestamp; 2])> {
    let (_, after) = line.split_once("fieldManager=latency-")?;
    let write = after.split(['&', '"']).next()?.to_owned();
    let record: serde_json::Value = serde_json::from_str(line).ok()?;
    let time = |field: &str| record[field].as_str()?.parse().ok();
    Some((write, [time("requestReceivedTimestamp")?, time("stageTimestamp")?]))
}
