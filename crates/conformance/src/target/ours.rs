//! What our components have made in a cluster, or written into what was there before, told by the managers that API
//! servers keep for every field (Kubernetes documentation, Server-Side Apply). After a kill nothing else tells it.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use harness::{
    failure::{Failure, Tried as _},
    tenancy::ObjectName,
};
use k8s_openapi::{
    api::core::v1::{Namespace, Node},
    apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams, Patch, PatchParams},
    core::ApiResource,
    discovery::{Discovery, verbs},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// How the names of this program's own managers begin.
const OURS: &str = "registry-conformance";
/// Components that call themselves as their originals do.
const COMPONENTS: [&str; 3] = ["cluster-image-registry-operator", "machine-config-daemon", "dockerregistry"];
/// Who writes into everybody's objects.
const CONTROL_PLANE: [&str; 4] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"];
/// How OpenShift's groups end.
const RESERVED: &str = ".openshift.io";
/// Kinds that vanish by themselves.
const FLEETING: [&str; 2] = ["Event", "Lease"];
/// How many kinds are listed at a time.
const AT_ONCE: usize = 8;

/// An object that we made.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub name: ObjectName,
    /// It was told to go, and waits for somebody who takes its finalizers off.
    pub is_held: bool,
}

/// Objects made since a moment by us and written by nobody else but the control plane, and whatever has an OpenShift name:
/// a run is no guest where such names were taken before. What is in namespaces of ours is left out: it goes with them.
///
/// # Errors
/// When the API server does not say what there is.
pub(super) async fn made_since(client: &Client, since: Timestamp) -> Result<Vec<Made>, Failure> {
    let tried = "looking for what this run has made in the cluster";
    let found = Discovery::new(client.clone()).run_aggregated().await.tried(tried)?;
    let kinds = found.groups().flat_map(kube::discovery::ApiGroup::resources_by_stability);
    let kinds = kinds.filter(|(kind, can)| {
        can.supports_operation(verbs::LIST)
            && can.supports_operation(verbs::DELETE)
            && !FLEETING.contains(&kind.kind.as_str())
    });
    let listed = stream::iter(kinds.map(|(kind, _)| list(client, kind, since)));
    let made: Vec<Vec<Made>> = listed.buffered(AT_ONCE).try_collect().await.tried(tried)?;
    let made: Vec<Made> = made.into_iter().flatten().collect();
    let namespaces: BTreeSet<String> =
        made.iter().filter(|made| made.is_namespace()).map(|made| made.name.name.clone()).collect();
    let elsewhere = |made: &Made| made.name.namespace.as_ref().is_none_or(|namespace| !namespaces.contains(namespace));
    Ok(made.into_iter().filter(elsewhere).collect())
}

impl Made {
    /// Whether it is a namespace, with which everything in it goes.
    pub(super) fn is_namespace(&self) -> bool {
        self.name.resource.kind == "Namespace" && self.name.resource.group.is_empty()
    }

    /// Whether it is a custom resource. Finalizers of all others are honoured by the control plane itself, that of a
    /// definition by removing its resources first.
    pub(super) fn is_custom(&self) -> bool {
        let group = &self.name.resource.group;
        group.contains('.') && !group.ends_with(".k8s.io")
    }
}

async fn list(client: &Client, kind: ApiResource, since: Timestamp) -> Result<Vec<Made>, kube::Error> {
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    let listed = match all.list_metadata(&ListParams::default()).await {
        Ok(listed) => listed,
        // The kind has gone meanwhile, or the server behind it has; its objects are kept by something that is listed.
        Err(kube::Error::Api(status)) if [404, 405, 503].contains(&status.code) => return Ok(vec![]),
        Err(error) => return Err(error),
    };
    let ours = |metadata: &ObjectMeta| {
        let name = metadata.name.as_deref().unwrap_or_default();
        metadata.creation_timestamp.as_ref().is_some_and(|created| created.0 >= since)
            && (is_reserved(&kind, name) || is_by_us(metadata))
    };
    let ours = listed.items.into_iter().map(|object| object.metadata).filter(ours);
    Ok(ours
        .map(|metadata| Made {
            is_held: metadata.deletion_timestamp.is_some() && metadata.finalizers.is_some_and(|held| !held.is_empty()),
            name: ObjectName {
                resource: kind.clone(),
                namespace: metadata.namespace,
                name: metadata.name.unwrap_or_default(),
            },
        })
        .collect())
}

/// Whether an object of this kind and name is OpenShift's, whoever wrote into it.
pub(super) fn is_reserved(kind: &ApiResource, name: &str) -> bool {
    let namespace = kind.kind == "Namespace" && (name == "openshift" || name.starts_with("openshift-"));
    // A custom resource, its definition, or the service that answers for it.
    namespace || kind.group.ends_with(RESERVED) || name.ends_with(RESERVED)
}

fn is_by_us(metadata: &ObjectMeta) -> bool {
    let managers: Vec<&str> =
        metadata.managed_fields.iter().flatten().filter_map(|entry| entry.manager.as_deref()).collect();
    managers.iter().any(|manager| is_our(manager))
        && managers.iter().all(|manager| is_our(manager) || CONTROL_PLANE.contains(manager))
}

fn is_our(manager: &str) -> bool {
    manager.starts_with(OURS) || COMPONENTS.contains(&manager)
}

/// What an object of others says into which we write: a node or a namespace.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Touched {
    name: ObjectName,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    /// What of its specification is put back.
    spec: Map<String, Value>,
}

impl Touched {
    /// All nodes and namespaces, as they are.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(super) async fn all(client: &Client) -> Result<Vec<Self>, Failure> {
        let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.tried("listing nodes")?;
        let namespaces = Api::<Namespace>::all(client.clone()).list(&ListParams::default()).await;
        let namespaces = namespaces.tried("listing namespaces")?;
        let nodes = nodes.items.into_iter().map(|node| {
            let spec = node.spec.unwrap_or_default();
            let spec = [("taints", json!(spec.taints)), ("unschedulable", json!(spec.unschedulable))];
            let spec = spec.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
            Self::of::<Node>(node.metadata, spec)
        });
        Ok(nodes
            .chain(namespaces.items.into_iter().map(|space| Self::of::<Namespace>(space.metadata, Map::new())))
            .collect())
    }

    fn of<K: kube::Resource<DynamicType = ()>>(metadata: ObjectMeta, spec: Map<String, Value>) -> Self {
        Self {
            name: ObjectName::of::<K>(None, metadata.name.as_deref().unwrap_or_default()),
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            spec,
        }
    }

    /// What has come since then, as it would be without us.
    ///
    /// # Errors
    /// When nodes or namespaces cannot be listed.
    pub(super) async fn since(client: &Client, then: &[Self]) -> Result<Vec<Self>, Failure> {
        let mut now = Self::all(client).await?;
        now.retain(|now| !then.iter().any(|then| then.name == now.name));
        let plain = |now: Self| Self { name: now.name, ..Self::of::<Namespace>(ObjectMeta::default(), Map::new()) };
        Ok(now.into_iter().map(plain).collect())
    }

    /// The object's name, if it is a namespace.
    pub(super) fn namespace(&self) -> Option<&str> {
        (self.name.resource.kind == "Namespace").then_some(self.name.name.as_str())
    }

    /// Takes out what we have written and puts back what it replaced; nothing if it is gone.
    ///
    /// # Errors
    /// When the API server refuses.
    pub(super) async fn put_back(&self, client: &Client) -> Result<(), Failure> {
        let tried = || format!("putting {} back", self.name);
        let api = self.name.api(client);
        let Some(now) = api.get_opt(&self.name.name).await.tried(tried())? else { return Ok(()) };
        let written = now.metadata.managed_fields.unwrap_or_default();
        let mut patch = json!({"metadata": {
            "labels": before(&keys(&written, "labels"), &self.labels),
            "annotations": before(&keys(&written, "annotations"), &self.annotations),
        }});
        if !self.spec.is_empty() {
            patch["spec"] = Value::Object(self.spec.clone());
        }
        api.patch(&self.name.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop).tried(tried())
    }
}

/// The names of the labels or annotations that we wrote last.
fn keys(written: &[ManagedFieldsEntry], part: &str) -> BTreeSet<String> {
    let ours = written.iter().filter(|entry| entry.manager.as_deref().is_some_and(is_our));
    let fields = ours.filter_map(|entry| Some(entry.fields_v1.as_ref()?.0["f:metadata"][format!("f:{part}")].clone()));
    let names = fields.filter_map(|fields| Some(fields.as_object()?.keys().cloned().collect::<Vec<_>>()));
    names.flatten().filter_map(|name| name.strip_prefix("f:").map(str::to_owned)).collect()
}

/// Their values before; null for those that were not there.
fn before(keys: &BTreeSet<String>, values: &BTreeMap<String, String>) -> Map<String, Value> {
    keys.iter().map(|key| (key.clone(), json!(values.get(key)))).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::our_operator(&["cluster-image-registry-operator", "kube-controller-manager"], true)]
    #[case::the_suite(&["registry-conformance"], true)]
    #[case::the_control_plane(&["kube-apiserver"], false)]
    #[case::somebody_who_makes_things_now(&["kubectl-create", "registry-conformance-platform"], false)]
    #[case::nobody_known(&[], false)]
    fn only_what_we_wrote_alone_is_by_us(#[case] managers: &[&str], #[case] expected: bool) {
        let managed: Vec<_> = managers.iter().map(|manager| json!({"manager": manager})).collect();
        let metadata = serde_json::from_value(json!({"managedFields": managed})).unwrap();
        assert_eq!(is_by_us(&metadata), expected);
    }

    #[rstest]
    #[case(ApiResource::erase::<Namespace>(&()), "openshift-config", true)]
    #[case(ApiResource::erase::<Namespace>(&()), "openshifts", false)]
    #[case(ApiResource::erase::<Node>(&()), "openshift-1", false)]
    #[case(ApiResource::erase::<api::imageregistry::Config>(&()), "cluster", true)]
    #[case(ApiResource::erase::<CustomResourceDefinition>(&()), "routes.route.openshift.io", true)]
    #[case(ApiResource::erase::<CustomResourceDefinition>(&()), "routes.example.com", false)]
    fn some_names_are_openshifts(#[case] kind: ApiResource, #[case] name: &str, #[case] expected: bool) {
        assert_eq!(is_reserved(&kind, name), expected);
    }

    #[test]
    fn what_we_wrote_goes_and_what_it_replaced_comes_back() {
        let entry = |manager: &str, label: &str| json!({"manager": manager, "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": {".": {}, label: {}}}}});
        let written: Vec<ManagedFieldsEntry> = serde_json::from_value(json!([
            entry("registry-conformance", "f:role"),
            entry("machine-config-daemon", "f:state"),
            entry("kubelet", "f:zone"),
        ]))
        .unwrap();
        let values = BTreeMap::from([("role".to_owned(), "theirs".to_owned()), ("zone".to_owned(), "a".to_owned())]);
        assert_eq!(json!(before(&keys(&written, "labels"), &values)), json!({"role": "theirs", "state": null}));
        assert!(keys(&written, "annotations").is_empty());
    }
}
