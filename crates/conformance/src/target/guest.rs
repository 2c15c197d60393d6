//! A run as the guest of a kind cluster that somebody else has made: what it found there and changes, kept on disk and on
//! the nodes from before the first change until everything of the run is out again. A run that was killed leaves it
//! behind for the next run in the cluster, or for `cluster gc`.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use container_image::OWN_REGISTRY;
use harness::{
    failure::{Failure, Kind, Tried as _},
    wait::{Check, answers, wait},
};
use k8s_openapi::{
    api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Namespace},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
    core::ApiResource,
};
use local_cluster::{ledger, ledger::ProcessIdentity, secret_file};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    engine::Engine,
    ours::{self, Made, Touched},
    records,
    running_kind::RunningKind,
};

/// How long it may take until nothing of the run is left.
pub(super) const OUT: Duration = Duration::from_secs(120);
/// Where a node keeps what it had in [`FOLDERS`].
const KEPT: &str = "/var/lib/registry-conformance";
/// Folders of a node, below its root, into which a run writes.
const FOLDERS: &str =
    "etc/containers etc/docker etc/containerd/certs.d etc/registry-conformance var/registry-conformance";
/// Lists the images that a node's kubelet knows.
const IMAGES: &str = "ctr --namespace k8s.io images ls";
/// How the names of the files end.
const SUFFIX: &str = "json";

/// What a cluster held, and who wrote it down.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    owner: ProcessIdentity,
    cluster: String,
    /// The API server's time before anything was made.
    since: Timestamp,
    touched: Vec<Touched>,
}

/// A run in a cluster of somebody else.
pub(super) struct Guest {
    engine: Engine,
    client: Client,
    nodes: Vec<String>,
    record: Record,
    path: PathBuf,
    left: AtomicBool,
}

impl Guest {
    /// Writes down what the cluster holds; from here on it may be changed.
    ///
    /// # Errors
    /// When another run is in it meanwhile, or it cannot be written down; nothing may then be changed.
    pub(super) async fn enter(engine: &Engine, running: &RunningKind) -> Result<Self, Failure> {
        refuse_two(running)?;
        let tried = format!("writing down what the kind cluster {} holds", running.name);
        let owner = ProcessIdentity::of(std::process::id());
        let owner = owner.ok_or_else(|| Failure::error(&tried, "this process is not in /proc"))?;
        let record = Record {
            owner,
            cluster: running.name.clone(),
            since: now(&running.client).await?,
            touched: Touched::all(&running.client).await?,
        };
        let path = path(&running.id);
        let text = serde_json::to_string(&record).tried(&tried)?;
        secret_file::make_private_folder(&folder()).tried(&tried)?;
        secret_file::write(&path, text.as_bytes()).tried(&tried)?;
        let guest = Self::of(engine, running, record, path);
        for node in &guest.nodes {
            guest.engine.run(["exec", node, "sh", "-c", &keep()]).await?;
        }
        Ok(guest)
    }

    fn of(engine: &Engine, running: &RunningKind, record: Record, path: PathBuf) -> Self {
        let (client, nodes) = (running.client.clone(), running.nodes.clone());
        Self { engine: engine.clone(), client, nodes, record, path, left: AtomicBool::new(false) }
    }

    /// The namespaces that were there before.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.record.touched.iter().filter_map(Touched::namespace)
    }

    /// Takes everything of the run out of the cluster; nothing when that has been tried.
    ///
    /// # Errors
    /// When something stays; what was written down is kept then.
    pub(super) async fn leave(&self) -> Result<(), Failure> {
        if self.left.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let left = async {
            self.take_out().await?;
            let since = Touched::since(&self.client, &self.record.touched).await?;
            for touched in self.record.touched.iter().chain(&since) {
                touched.put_back(&self.client).await?;
            }
            for node in &self.nodes {
                self.engine.run(["exec", node, "sh", "-c", &put_back()]).await?;
            }
            std::fs::remove_file(&self.path).tried(format!("removing {}", self.path.display()))
        };
        left.await.map_err(|failure: Failure| {
            let next = "run `registry-conformance cluster gc` once the cluster answers, or delete the cluster";
            Failure { kind: Kind::Error, ..failure }.next(format!("{next}; what it held is in {}", self.path.display()))
        })
    }

    /// Deletes until nothing of ours is left: what would hold up others first, then whatever has pods, because they make
    /// things again, then the rest.
    async fn take_out(&self) -> Result<(), Failure> {
        let what = format!("everything of the run to be gone from the kind cluster {}", self.record.cluster);
        answers(wait(what, OUT), || async {
            let made = match ours::made_since(&self.client, self.record.since).await {
                Ok(made) if made.is_empty() => return Check::Met(()),
                Ok(made) => made,
                Err(failure) => return Check::NotYet(failure.text()),
            };
            let runs = made.iter().any(Made::is_namespace);
            let mut last = String::new();
            for made in made.iter().filter(|made| !runs || holds_up(made) || made.is_namespace()) {
                if let Err(error) = self.delete(made, runs).await {
                    last = format!(": deleting {}: {error}", made.name);
                }
            }
            let names: Vec<_> = made.iter().map(|made| made.name.to_string()).collect();
            Check::NotYet(format!("{} objects, such as {}{last}", names.len(), names[0]))
        })
        .await
    }

    async fn delete(&self, made: &Made, runs: bool) -> Result<(), kube::Error> {
        let api = made.name.api(&self.client);
        let done = match made.is_held && !runs && made.is_custom() {
            // Whoever honoured its finalizers is gone.
            true => {
                let without = Patch::Merge(json!({"metadata": {"finalizers": null}}));
                api.patch(&made.name.name, &PatchParams::default(), &without).await.map(drop)
            }
            false => api.delete(&made.name.name, &DeleteParams::background()).await.map(drop),
        };
        match done {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            done => done,
        }
    }
}

/// Without these, pods cannot be made and namespaces cannot end when what answers for them is gone.
fn holds_up(made: &Made) -> bool {
    ["MutatingWebhookConfiguration", "APIService"].contains(&made.name.resource.kind.as_str())
}

/// The script that keeps what a node has. What an earlier run kept and could not put back is older, and stays.
fn keep() -> String {
    format!(
        "set -e; [ ! -e {KEPT}/images ] || exit 0; rm -rf {KEPT}; mkdir -p {KEPT}; cd /
        for folder in {FOLDERS}; do [ ! -e $folder ] || cp --archive --parents $folder {KEPT}; done
        {IMAGES} --quiet > {KEPT}/names; mv {KEPT}/names {KEPT}/images"
    )
}

/// The script that puts it back, and removes our images by every name that containerd has given them.
fn put_back() -> String {
    format!(
        "set -e; [ -e {KEPT}/images ] || exit 0; cd /
        for folder in {FOLDERS}; do
            rm -rf $folder; [ ! -e {KEPT}/$folder ] || cp --archive {KEPT}/$folder $folder
        done
        {IMAGES} | while read -r name type digest rest; do
            grep --quiet --line-regexp --fixed-strings \"$name\" {KEPT}/images || echo \"$name $digest\"
        done > {KEPT}/new
        grep '^{OWN_REGISTRY}/' {KEPT}/new | while read -r name ours; do
            while read -r name digest; do [ $digest != $ours ] || echo $name; done < {KEPT}/new
        done | sort --unique | xargs --no-run-if-empty ctr --namespace k8s.io images rm
        rm -rf {KEPT}"
    )
}

/// The API server's clock, by an object that is not kept.
async fn now(client: &Client) -> Result<Timestamp, Failure> {
    let tried = "asking the API server for its time";
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let metadata = ObjectMeta { generate_name: Some("registry-conformance-".to_owned()), ..Default::default() };
    let parameters = PostParams { dry_run: true, ..Default::default() };
    let made = namespaces.create(&parameters, &Namespace { metadata, ..Default::default() }).await.tried(tried)?;
    made.metadata
        .creation_timestamp
        .map(|time| time.0)
        .ok_or_else(|| Failure::error(tried, "it made no time of creation"))
}

/// What the system is made of belongs to one owner; a second one would fight with the first.
///
/// # Errors
/// When something of a registry system is there.
pub(super) async fn refuse_system(running: &RunningKind) -> Result<(), Failure> {
    let tried = format!("installing a registry system in the kind cluster {}", running.name);
    let refused = |seen: String| {
        let next = "judge what is there with --target cluster --system installed, or use a cluster without one";
        Err(Failure::error(&tried, seen).next(next))
    };
    let client = &running.client;
    let reserved = |kind: ApiResource| {
        let (all, tried) = (Api::<DynamicObject>::all_with(client.clone(), &kind), &tried);
        async move {
            let listed = all.list_metadata(&ListParams::default()).await.tried(tried)?;
            let mut names = listed.iter().map(|found| found.name_any());
            Ok::<_, Failure>(names.find(|name| ours::is_reserved(&kind, name)).map(|name| (kind.kind, name)))
        }
    };
    for kind in [ApiResource::erase::<Namespace>(&()), ApiResource::erase::<CustomResourceDefinition>(&())] {
        if let Some((kind, name)) = reserved(kind).await? {
            return refused(format!("it has the {kind} {name}, and that name is OpenShift's"));
        }
    }
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    match webhooks.get_metadata_opt(super::admission::NAME).await.tried(&tried)? {
        Some(_) => refused(format!("it has the webhook {} of another run", super::admission::NAME)),
        None => Ok(()),
    }
}

/// Takes what a killed run has made out of every kind cluster that this engine has, and says of which; of clusters that
/// are gone only the record is removed. Runs that live are left alone.
///
/// # Errors
/// When something stays in one of them.
pub(super) async fn recover_all() -> Result<Vec<String>, Failure> {
    let mut recovered = vec![];
    for path in records(&folder(), SUFFIX) {
        let record = read(&path)?;
        if record.owner.is_alive() {
            continue;
        }
        let engine = Engine::find().await?;
        let running = RunningKind::find(&engine, &record.cluster).await?;
        match running.filter(|running| self::path(&running.id) == path) {
            Some(running) => {
                let name = record.cluster.clone();
                Guest::of(&engine, &running, record, path).leave().await?;
                recovered.push(name);
            }
            None => std::fs::remove_file(&path).tried(format!("removing {}", path.display()))?,
        }
    }
    Ok(recovered)
}

/// Two runs in one cluster would each take the other's system for their own.
///
/// # Errors
/// When another run that lives is in the cluster.
pub(super) fn refuse_two(running: &RunningKind) -> Result<(), Failure> {
    let path = path(&running.id);
    if !path.exists() {
        return Ok(());
    }
    let owner = read(&path)?.owner;
    match owner.is_alive() && Some(&owner) != ProcessIdentity::of(std::process::id()).as_ref() {
        true => Err(Failure::error(
            format!("using the running kind cluster {}", running.name),
            format!("process {} uses it already", owner.pid),
        )
        .next("wait until that run has ended, or stop it with Ctrl-C")),
        false => Ok(()),
    }
}

fn read(path: &Path) -> Result<Record, Failure> {
    let tried = || format!("reading what a kind cluster held from {}", path.display());
    let text = std::fs::read_to_string(path).tried(tried())?;
    serde_json::from_str(&text).tried(tried())
}

fn folder() -> PathBuf {
    ledger::folder().join("guests")
}

fn path(cluster: &str) -> PathBuf {
    folder().join(format!("{cluster}.{SUFFIX}"))
}
