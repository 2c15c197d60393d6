//! Installs a system: its manifests, applied as `kubectl apply --server-side` does. What others need comes first, what
//! runs comes last, and what does not need each other is applied side by side.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::PathBuf,
};

use futures::future;
use harness::failure::{Failure, Tried as _};
use kube::{
    Client, ResourceExt as _,
    api::{Api, ApiResource, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::{self, Scope},
};

use crate::{
    data::Data,
    lane::Request,
    manifest::{self, Document},
};

/// Applies every document of every manifest of the system.
pub async fn apply(client: &Client, request: &Request) -> Result<(), Failure> {
    apply_files(client, &request.data, &request.system.manifests).await
}

/// Applies every document of these data files.
pub async fn apply_files(client: &Client, data: &Data, files: &[PathBuf]) -> Result<(), Failure> {
    apply_documents(client, documents(data, files)?).await
}

/// Applies these documents.
pub(super) async fn apply_documents(client: &Client, documents: Vec<Document>) -> Result<(), Failure> {
    let mut stages = BTreeMap::<Stage, Vec<Document>>::new();
    for document in documents {
        stages.entry(Stage::of(&document.types.kind)).or_default().push(document);
    }
    for documents in stages.values() {
        let kinds = kinds(client, documents).await?;
        future::try_join_all(documents.iter().map(|document| apply_one(client, document, &kinds))).await?;
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

/// The documents of these data files, in order.
pub(super) fn documents(data: &Data, files: &[PathBuf]) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    for file in files {
        let read = manifest::read(data, file);
        documents.extend(read.tried(format!("reading the manifest {}", file.display()))?);
    }
    Ok(documents)
}

/// What the API server says of the kinds of these documents; it is asked once about each.
async fn kinds(client: &Client, documents: &[Document]) -> Result<Kinds, Failure> {
    let mut asked = BTreeMap::new();
    for document in documents {
        if let Entry::Vacant(place) = asked.entry(kind_of(document)) {
            let kind = GroupVersionKind::try_from(&document.types).tried(applying(document))?;
            place.insert(async move {
                let found = discovery::pinned_kind(client, &kind).await.tried(applying(document))?;
                Ok((kind_of(document), (found.0, found.1.scope)))
            });
        }
    }
    future::try_join_all(asked.into_values()).await.map(|found| found.into_iter().collect())
}

fn kind_of(document: &Document) -> (String, String) {
    (document.types.api_version.clone(), document.types.kind.clone())
}

fn applying(document: &Document) -> String {
    format!("applying {} {} of {}", document.types.kind, document.object.name_any(), document.file)
}

async fn apply_one(client: &Client, document: &Document, kinds: &Kinds) -> Result<(), Failure> {
    let (resource, scope) = kinds
        .get(&kind_of(document))
        .ok_or_else(|| Failure::error(applying(document), "the API server was not asked about its kind"))?;
    let api: Api<DynamicObject> = match scope {
        Scope::Cluster => Api::all_with(client.clone(), resource),
        Scope::Namespaced => {
            let namespace = document.object.namespace().unwrap_or_else(|| "default".to_owned());
            Api::namespaced_with(client.clone(), &namespace, resource)
        }
    };
    let parameters = PatchParams::apply("registry-conformance").force();
    let applied = api.patch(&document.object.name_any(), &parameters, &Patch::Apply(&document.object)).await;
    applied.map(drop).tried(applying(document))
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
