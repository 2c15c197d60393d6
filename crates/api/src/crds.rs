//! Every custom resource definition a plain control plane needs, made from the types of this crate.
//! The files in `fixtures/crds` are this list, written out; a test keeps the two alike.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{config, imageregistry, mirror, route};

/// Kubernetes' own types inside ours: validated, but their long descriptions say nothing about the registry.
const BORROWED: [&str; 4] = ["affinity", "tolerations", "resources", "topologySpreadConstraints"];

/// All definitions, ordered by name.
///
/// Where a schema is not exact it preserves unknown fields, so that objects of real components are never pruned.
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut all = vec![
        imageregistry::Config::crd(),
        imageregistry::ImagePruner::crd(),
        config::APIServer::crd(),
        config::ClusterOperator::crd(),
        config::ClusterVersion::crd(),
        config::Dns::crd(),
        config::FeatureGate::crd(),
        config::ImageConfig::crd(),
        config::Infrastructure::crd(),
        config::Ingress::crd(),
        config::Proxy::crd(),
        mirror::ImageDigestMirrorSet::crd(),
        mirror::ImageTagMirrorSet::crd(),
        mirror::ImageContentSourcePolicy::crd(),
        route::Route::crd(),
    ];
    for definition in &mut all {
        for version in &mut definition.spec.versions {
            if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
                shorten(schema, false);
            }
        }
    }
    all.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    all
}

fn shorten(schema: &mut JSONSchemaProps, borrowed: bool) {
    if borrowed {
        schema.description = None;
    }
    for (name, property) in schema.properties.iter_mut().flatten() {
        shorten(property, borrowed || BORROWED.contains(&name.as_str()));
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        shorten(items, borrowed);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        shorten(values, borrowed);
    }
}
