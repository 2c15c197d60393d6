//! Installs a system: its manifests, applied in order as `kubectl apply --server-side` does.

use harness::failure::{Failure, Tried as _};
use kube::{
    Client, ResourceExt as _,
    api::{Api, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery,
};
use serde::Deserialize as _;

use crate::lane::Request;

/// Applies every document of every manifest of the system.
pub async fn apply(client: &Client, request: &Request) -> Result<(), Failure> {
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
            apply_one(client, &path, object).await?;
        }
    }
    Ok(())
}

async fn apply_one(client: &Client, path: &str, object: DynamicObject) -> Result<(), Failure> {
    let name = object.name_any();
    let types = object.types.clone().unwrap_or_default();
    let tried = || format!("applying {} {name} of {path}", types.kind);
    let kind = GroupVersionKind::try_from(&types).tried(tried())?;
    let (resource, capabilities) = discovery::pinned_kind(client, &kind).await.tried(tried())?;
    let api: Api<DynamicObject> = match capabilities.scope {
        discovery::Scope::Cluster => Api::all_with(client.clone(), &resource),
        discovery::Scope::Namespaced => {
            let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
            Api::namespaced_with(client.clone(), &namespace, &resource)
        }
    };
    let parameters = PatchParams::apply("registry-conformance").force();
    api.patch(&name, &parameters, &Patch::Apply(&object)).await.map(drop).tried(tried())
}
