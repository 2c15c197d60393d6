//! What a cluster of others held before a run, as values and as the file that outlives it: a line for what was there, and
//! one for every object that scenarios made since.

use std::path::{Path, PathBuf};

use api::{
    condition::OperatorCondition,
    config::ImageConfig,
    imageregistry::{Config, ImagePruner},
    mirror::{ImageContentSourcePolicy, ImageDigestMirrorSet, ImageTagMirrorSet},
    names,
    route::Route,
};
use harness::{
    failure::{Failure, Tried as _},
    tenancy::ObjectName,
};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Secret};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DynamicObject, ListParams},
    core::ApiResource,
};
use local_cluster::{ledger, ledger::ProcessIdentity};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// How the names of the files end.
pub(super) const SUFFIX: &str = "ndjson";

/// An object as it was: what its owner says, without what the cluster adds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub name: ObjectName,
    /// Labels, annotations and finalizers.
    metadata: Value,
    /// Everything beside metadata and status.
    pub body: Map<String, Value>,
}

/// A line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "entry")]
pub(super) enum Entry {
    /// The first: what the cluster held.
    Held(Holding),
    /// An object of a scenario that is about to be made.
    Made { object: ObjectName },
    /// The objects after the first so many are gone.
    Gone { after: usize },
}

/// What a cluster held, and who wrote it down.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Holding {
    pub owner: ProcessIdentity,
    /// The way back, for those who come later.
    pub kubeconfig: PathBuf,
    pub server: String,
    /// Condition Available of the configuration.
    pub available: Option<String>,
    /// In the order in which it is put back.
    pub saved: Vec<Saved>,
}

/// Where the files are.
pub(super) fn folder() -> PathBuf {
    ledger::folder().join("held")
}

/// The file of a cluster.
pub(super) fn path(cluster: &str) -> PathBuf {
    folder().join(format!("{cluster}.{SUFFIX}"))
}

/// An entry as it stands in the file.
pub(super) fn line(entry: &Entry) -> String {
    let mut line = serde_json::to_string(entry).expect("an entry has only string keys");
    line.push('\n');
    line
}

/// What the file says; nothing when there is none. A last line cut off by a crash is none: its object was not made.
///
/// # Errors
/// When it cannot be read, or does not begin with what was there.
pub(super) fn read(path: &Path) -> Result<Option<(Holding, Vec<ObjectName>)>, Failure> {
    let tried = || format!("reading what a cluster held from {}", path.display());
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::error(tried(), error)),
    };
    let mut lines = text.lines();
    let holding = match serde_json::from_str(lines.next().unwrap_or_default()).tried(tried())? {
        Entry::Held(holding) => holding,
        other => return Err(Failure::error(tried(), format!("it begins with {other:?}"))),
    };
    let mut made = vec![];
    for entry in lines.filter_map(|line| serde_json::from_str(line).ok()) {
        match entry {
            Entry::Made { object } => made.push(object),
            Entry::Gone { after } => made.truncate(after),
            Entry::Held(_) => {}
        }
    }
    Ok(Some((holding, made)))
}

impl Saved {
    pub(super) fn of(resource: &ApiResource, object: &DynamicObject) -> Self {
        let metadata = &object.metadata;
        Self {
            name: ObjectName { resource: resource.clone(), namespace: object.namespace(), name: object.name_any() },
            metadata: json!({
                "labels": metadata.labels, "annotations": metadata.annotations, "finalizers": metadata.finalizers,
            }),
            body: body(object),
        }
    }

    pub(super) fn object(&self) -> DynamicObject {
        let mut object =
            DynamicObject::new(&self.name.name, &self.name.resource).data(Value::Object(self.body.clone()));
        object.metadata.namespace.clone_from(&self.name.namespace);
        let part = |name: &str| self.metadata[name].clone();
        object.metadata.labels = serde_json::from_value(part("labels")).unwrap_or_default();
        object.metadata.annotations = serde_json::from_value(part("annotations")).unwrap_or_default();
        object.metadata.finalizers = serde_json::from_value(part("finalizers")).unwrap_or_default();
        object
    }
}

/// What an object says beside metadata and status.
pub(super) fn body(object: &DynamicObject) -> Map<String, Value> {
    let mut body = object.data.as_object().cloned().unwrap_or_default();
    body.remove("status");
    body
}

/// Everything that scenarios may change and that is there, in the order in which it is put back: the operator first,
/// because it has to act on the rest; what the configuration needs before it, what follows from it behind it.
///
/// # Errors
/// When the cluster does not say.
pub(super) async fn saved(client: &Client) -> Result<Vec<Saved>, Failure> {
    let registry = Some(names::REGISTRY_NAMESPACE);
    let single = [
        ObjectName::of::<Deployment>(registry, names::OPERATOR_DEPLOYMENT),
        ObjectName::of::<Secret>(registry, names::USER_STORAGE_SECRET),
        ObjectName::of::<ImageConfig>(None, names::CLUSTER),
        ObjectName::of::<Config>(None, names::CLUSTER),
        ObjectName::of::<ImagePruner>(None, names::CLUSTER),
    ];
    let all = [
        ObjectName::of::<ImageDigestMirrorSet>(None, ""),
        ObjectName::of::<ImageTagMirrorSet>(None, ""),
        ObjectName::of::<ImageContentSourcePolicy>(None, ""),
        ObjectName::of::<Route>(registry, ""),
    ];
    let mut saved = vec![];
    for name in single {
        let found = name.api(client).get_opt(&name.name).await.tried(format!("reading {name}"))?;
        saved.extend(found.map(|object| Saved::of(&name.resource, &object)));
    }
    for kind in all {
        // A kind that the cluster does not know has no objects.
        let found = match kind.api(client).list(&ListParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => continue,
            found => found.tried(format!("listing every {}", kind.resource.kind))?,
        };
        saved.extend(found.iter().map(|object| Saved::of(&kind.resource, object)));
    }
    Ok(saved)
}

/// Condition Available of the configuration.
///
/// # Errors
/// When the cluster does not say.
pub(super) async fn available(client: &Client) -> Result<Option<String>, Failure> {
    let configs: Api<Config> = Api::all(client.clone());
    let config = configs.get_opt(names::CLUSTER).await.tried("reading the registry configuration")?;
    let status = config.and_then(|config| config.status);
    Ok(status.and_then(|status| Some(OperatorCondition::find(&status.conditions, "Available")?.status.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding() -> Holding {
        Holding {
            owner: ProcessIdentity { pid: 1, start_ticks: 0, boot: "another".to_owned() },
            kubeconfig: "/k".into(),
            server: "https://127.0.0.1:6443".to_owned(),
            available: Some("True".to_owned()),
            saved: vec![],
        }
    }

    #[test]
    fn what_was_made_and_not_taken_away_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.ndjson");
        let made = |name: &str| Entry::Made { object: ObjectName::of::<Secret>(Some("n"), name) };
        let entries = [Entry::Held(holding()), made("a"), made("b"), Entry::Gone { after: 1 }, made("c")];
        let text: String = entries.iter().map(line).collect();
        std::fs::write(&path, format!("{text}{{\"entry\":\"made\",\"obj")).unwrap();
        let (read, made) = read(&path).unwrap().unwrap();
        assert!(!read.owner.is_alive());
        assert_eq!(made.iter().map(|object| object.name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
    }

    #[test]
    fn half_a_first_line_is_an_error_and_no_file_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.ndjson");
        assert!(read(&path).unwrap().is_none());
        std::fs::write(&path, "{\"entry\":\"held\",").unwrap();
        assert!(read(&path).is_err());
    }

    #[test]
    fn an_object_is_saved_as_its_owner_wrote_it() {
        let resource = ApiResource::erase::<Config>(&());
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "imageregistry.operator.openshift.io/v1", "kind": "Config",
            "metadata": {"name": "cluster", "uid": "u", "resourceVersion": "7", "finalizers": ["f"]},
            "spec": {"replicas": 1}, "status": {"observedGeneration": 3},
        }))
        .unwrap();
        let object = Saved::of(&resource, &object).object();
        assert_eq!(
            serde_json::to_value(&object).unwrap(),
            json!({
                "apiVersion": "imageregistry.operator.openshift.io/v1", "kind": "Config",
                "metadata": {"name": "cluster", "finalizers": ["f"]}, "spec": {"replicas": 1},
            })
        );
    }
}
