//! Installs a system: its manifests, applied as `kubectl apply --server-side` does. What others need comes first, what
//! runs comes last, and what does not need each other is applied side by side.

use std::collections::{BTreeMap, btree_map::Entry};

use futures::future;
use harness::failure::{Failure, Tried as _};
use kube::{
    Client, ResourceExt as _,
    api::{Api, ApiResource, DynamicObject, Patch, PatchParams},
    core::{GroupVersionKind, TypeMeta},
    discovery::{self, Scope},
};
use serde::Deserialize as _;

use crate::lane::Request;

/// Applies every document of every manifest of the system.
pub async fn apply(client: &Client, request: &Request) -> Result<(), Failure> {
    let mut stages = BTreeMap::<Stage, Vec<Document>>::new();
    for document in documents(request)? {
        stages.entry(Stage::of(&document.types.kind)).or_default().push(document);
    }
    for documents in stages.values() {
        let kinds = kinds(client, documents).await?;
        future::try_join_all(documents.iter().map(|document| document.apply(client, &kinds))).await?;
    }
    Ok(())
}

/// When a document is applied: after everything of an earlier stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Where and what objects may be.
    Places,
    /// What pods need from their first moment, such as accounts and rights.
    Objects,
    /// What makes pods.
    Workloads,
}

impl Stage {
    fn of(kind: &str) -> Self {
        match kind {
            "Namespace" | "CustomResourceDefinition" => Self::Places,
            "Deployment" | "DaemonSet" | "StatefulSet" | "ReplicaSet" | "Job" | "CronJob" | "Pod" => Self::Workloads,
            _ => Self::Objects,
        }
    }
}

type Kinds = BTreeMap<(String, String), (ApiResource, Scope)>;

struct Document {
    path: String,
    object: DynamicObject,
    types: TypeMeta,
}

fn documents(request: &Request) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    for manifest in &request.system.manifests {
        let path = manifest.display().to_string();
        let text = request.data.text(&path).tried(format!("reading the manifest {path}"))?;
        for document in serde_yaml::Deserializer::from_str(&text) {
            let tried = || format!("reading the manifest {path}");
            let value = serde_json::Value::deserialize(document).tried(tried())?;
            if value.is_null() {
                continue;
            }
            let object: DynamicObject = serde_json::from_value(value).tried(tried())?;
            let types = object.types.clone().unwrap_or_default();
            documents.push(Document { path: path.clone(), object, types });
        }
    }
    Ok(documents)
}

/// What the API server says of the kinds of these documents; it is asked once about each.
async fn kinds(client: &Client, documents: &[Document]) -> Result<Kinds, Failure> {
    let mut asked = BTreeMap::new();
    for document in documents {
        if let Entry::Vacant(place) = asked.entry(document.kind()) {
            let kind = GroupVersionKind::try_from(&document.types).tried(document.tried())?;
            place.insert(async move {
                let found = discovery::pinned_kind(client, &kind).await.tried(document.tried())?;
                Ok((document.kind(), (found.0, found.1.scope)))
            });
        }
    }
    future::try_join_all(asked.into_values()).await.map(|found| found.into_iter().collect())
}

impl Document {
    fn kind(&self) -> (String, String) {
        (self.types.api_version.clone(), self.types.kind.clone())
    }

    fn tried(&self) -> String {
        format!("applying {} {} of {}", self.types.kind, self.object.name_any(), self.path)
    }

    async fn apply(&self, client: &Client, kinds: &Kinds) -> Result<(), Failure> {
        let (resource, scope) = kinds
            .get(&self.kind())
            .ok_or_else(|| Failure::error(self.tried(), "the API server was not asked about its kind"))?;
        let api: Api<DynamicObject> = match scope {
            Scope::Cluster => Api::all_with(client.clone(), resource),
            Scope::Namespaced => {
                let namespace = self.object.namespace().unwrap_or_else(|| "default".to_owned());
                Api::namespaced_with(client.clone(), &namespace, resource)
            }
        };
        let parameters = PatchParams::apply("registry-conformance").force();
        let applied = api.patch(&self.object.name_any(), &parameters, &Patch::Apply(&self.object)).await;
        applied.map(drop).tried(self.tried())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::Stage;

    #[rstest]
    #[case("Namespace", "ServiceAccount")]
    #[case("CustomResourceDefinition", "Config")]
    #[case("ClusterRoleBinding", "Deployment")]
    #[case("Service", "DaemonSet")]
    fn what_is_needed_comes_before_what_needs_it(#[case] needed: &str, #[case] needing: &str) {
        assert!(Stage::of(needed) < Stage::of(needing));
    }
}
