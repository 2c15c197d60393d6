//! OpenAPI documents, as small as the aggregator and kubectl accept: every kind is an object whose fields are not
//! described, and every write takes `fieldValidation`, so that clients leave validation to the server.

use serde_json::{Map, Value, json};

use crate::discovery::{RESOURCES, Resource};
use crate::request::{ROOT, Verb};
use crate::status::GROUP;

/// The document at `path`, if there is one.
pub fn document(path: &str) -> Option<Value> {
    match path.trim_end_matches('/') {
        "/openapi/v2" => Some(version2()),
        "/openapi/v3" => Some(json!({"paths": {
            "apis/image.openshift.io/v1": {"serverRelativeURL": "/openapi/v3/apis/image.openshift.io/v1"},
        }})),
        "/openapi/v3/apis/image.openshift.io/v1" => Some(version3()),
        _ => None,
    }
}

fn info() -> Value {
    json!({"title": GROUP, "version": "v1"})
}

fn model(kind: &str) -> String {
    format!("com.github.openshift.api.image.v1.{kind}")
}

fn kind_of(resource: &Resource) -> Value {
    json!({"group": GROUP, "version": "v1", "kind": resource.kind})
}

fn schemas() -> Map<String, Value> {
    RESOURCES
        .iter()
        .filter(|resource| !resource.name.contains('/'))
        .map(|resource| {
            let schema = json!({
                "type": "object",
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                },
                "x-kubernetes-preserve-unknown-fields": true,
                "x-kubernetes-group-version-kind": [kind_of(resource)],
            });
            (model(resource.kind), schema)
        })
        .collect()
}

fn version2() -> Value {
    json!({"swagger": "2.0", "info": info(), "paths": {}, "definitions": schemas()})
}

fn version3() -> Value {
    let mut paths = Map::new();
    for resource in RESOURCES {
        let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
        let (main, sub) = resource.name.split_once('/').unwrap_or((resource.name, ""));
        let collection = format!("{ROOT}{scope}/{main}");
        let item =
            if sub.is_empty() { format!("{collection}/{{name}}") } else { format!("{collection}/{{name}}/{sub}") };
        for verb in resource.verbs {
            let (path, method) = match verb {
                Verb::Get => (&item, "get"),
                Verb::Update => (&item, "put"),
                Verb::Patch => (&item, "patch"),
                Verb::Delete => (&item, "delete"),
                Verb::Create => (&collection, "post"),
                Verb::List => (&collection, "get"),
                Verb::Watch | Verb::DeleteCollection => continue,
            };
            let entry = paths.entry(path.clone()).or_insert_with(|| path_item(path));
            entry[method] = operation(resource, *verb);
        }
    }
    json!({"openapi": "3.0.0", "info": info(), "paths": paths, "components": {"schemas": schemas()}})
}

fn path_item(path: &str) -> Value {
    let parameter = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
    let names = ["namespace", "name"].into_iter().filter(|name| path.contains(&format!("{{{name}}}")));
    json!({"parameters": names.map(parameter).collect::<Vec<_>>()})
}

fn operation(resource: &Resource, verb: Verb) -> Value {
    let action = match verb {
        Verb::Create => "post",
        Verb::Update => "put",
        other => other.as_str(),
    };
    let mut operation = json!({
        "operationId": format!("{}{}", verb.as_str(), resource.name.replace('/', "")),
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kind_of(resource),
    });
    if matches!(verb, Verb::Create | Verb::Update | Verb::Patch) {
        let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation"]
            .into_iter()
            .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
            .collect();
        operation["parameters"] = Value::Array(parameters);
    }
    operation
}
