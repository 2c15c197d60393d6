//! The routes a Config asks for, as values, and what routers said about those that exist.
//! Hosts are assigned and routes served by a router, which is not ours.

use std::sync::Arc;

use api::imageregistry::ConfigSpec;
use api::names;
use api::route::Route;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use crate::error::SyncError;

/// Names of the routes a spec asks for, the default route first.
pub fn wanted(spec: &ConfigSpec) -> Vec<&str> {
    let default = spec.default_route.then_some(names::DEFAULT_ROUTE);
    default.into_iter().chain(spec.routes.iter().map(|route| route.name.as_str())).collect()
}

/// Refuses two routes of one name, also one called like the default route
/// (operator source pkg/operator/complete.go:31-41, main).
///
/// # Errors
/// [`SyncError::Verification`] naming the route.
pub fn verify(spec: &ConfigSpec) -> Result<(), SyncError> {
    let mut seen = vec![names::DEFAULT_ROUTE];
    for route in &spec.routes {
        if seen.contains(&route.name.as_str()) {
            let message = format!(
                "unable to complete resource: duplication of names has been detected in the additional routes: \"{}\"",
                route.name
            );
            return Err(SyncError::Verification { message });
        }
        seen.push(&route.name);
    }
    Ok(())
}

/// The routes of a spec as values; `secret` looks up a Secret in the registry's namespace
/// (operator source pkg/resource/route.go:59-92, main).
///
/// # Errors
/// [`SyncError::Missing`] for a named Secret that does not exist.
pub fn desired(
    spec: &ConfigSpec,
    namespace: &str,
    secret: impl Fn(&str) -> Option<Arc<Secret>>,
) -> Result<Vec<Value>, SyncError> {
    let mut routes = Vec::new();
    if spec.default_route {
        routes.push(value(names::DEFAULT_ROUTE, namespace, "", None));
    }
    for route in &spec.routes {
        let certificate = match route.secret_name.as_str() {
            "" => None,
            name => Some(secret(name).ok_or_else(|| SyncError::Missing {
                message: format!(
                    "unable to create route {}: secret \"{namespace}/{name}\" named in spec.routes not found",
                    route.name
                ),
            })?),
        };
        routes.push(value(&route.name, namespace, &route.hostname, certificate.as_deref()));
    }
    Ok(routes)
}

fn value(name: &str, namespace: &str, host: &str, secret: Option<&Secret>) -> Value {
    let mut tls = json!({ "termination": "reencrypt" });
    for (field, key) in [("certificate", "tls.crt"), ("key", "tls.key"), ("caCertificate", "tls.cacrt")] {
        let bytes = secret.and_then(|secret| secret.data.as_ref()).and_then(|data| data.get(key));
        if let Some(bytes) = bytes {
            tls[field] = json!(String::from_utf8_lossy(&bytes.0));
        }
    }
    let mut spec = json!({ "to": { "kind": "Service", "name": names::REGISTRY }, "tls": tls });
    if !host.is_empty() {
        spec["host"] = json!(host);
    }
    json!({
        "apiVersion": "route.openshift.io/v1",
        "kind": "Route",
        "metadata": { "name": name, "namespace": namespace, "annotations": { names::OWNED_ANNOTATION: "true" } },
        "spec": spec,
    })
}

/// Whether the operator made this route.
pub fn is_owned(route: &Route) -> bool {
    let annotations = route.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(names::OWNED_ANNOTATION)).is_some_and(|value| value == "true")
}

/// Names of routes the operator made and the spec no longer asks for.
pub fn obsolete(spec: &ConfigSpec, existing: &[Arc<Route>]) -> Vec<String> {
    let wanted = wanted(spec);
    existing
        .iter()
        .filter(|route| is_owned(route))
        .filter_map(|route| route.metadata.name.clone())
        .filter(|name| !wanted.contains(&name.as_str()))
        .collect()
}

/// Outside names of the registry: hosts on which routers serve the operator's routes, the default route's first
/// (operator source pkg/operator/imageconfig.go:278-326, main).
pub fn hostnames(namespace: &str, existing: &[Arc<Route>]) -> Vec<String> {
    let prefix = format!("{}-{namespace}", names::DEFAULT_ROUTE);
    let mut hosts: Vec<String> = existing
        .iter()
        .filter(|route| is_owned(route) && route.metadata.deletion_timestamp.is_none())
        .flat_map(|route| route.status.iter().flat_map(|status| &status.ingress))
        .map(|ingress| ingress.host.clone())
        .filter(|host| !host.is_empty())
        .collect();
    hosts.sort_by_key(|host| (!host.starts_with(&prefix), host.clone()));
    hosts.dedup();
    hosts
}

/// What routers have against routes the spec asks for, one sentence each
/// (operator source pkg/operator/status.go:220-248, main).
pub fn refusals(spec: &ConfigSpec, existing: &[Arc<Route>]) -> Vec<String> {
    let wanted = wanted(spec);
    let mut refusals = Vec::new();
    for route in existing {
        let name = route.metadata.name.as_deref().unwrap_or_default();
        if !wanted.contains(&name) {
            continue;
        }
        for ingress in route.status.iter().flat_map(|status| &status.ingress) {
            for said in ingress.conditions.iter().filter(|c| c.type_ == "Admitted" && c.status != "True") {
                refusals.push(format!(
                    "route {name} (host {}, router {}) not admitted: {}",
                    ingress.host, ingress.router_name, said.message
                ));
            }
        }
    }
    refusals.sort();
    refusals
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use rstest::rstest;

    use super::*;

    fn spec(value: Value) -> ConfigSpec {
        let mut value = value;
        value["replicas"] = json!(1);
        serde_json::from_value(value).expect("a spec")
    }

    fn route(name: &str, host: &str, owned: bool, admitted: &str) -> Arc<Route> {
        let annotations = if owned { json!({ names::OWNED_ANNOTATION: "true" }) } else { json!({}) };
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "route.openshift.io/v1", "kind": "Route",
                "metadata": { "name": name, "annotations": annotations },
                "spec": { "to": { "kind": "Service", "name": "image-registry" } },
                "status": { "ingress": [{ "host": host, "routerName": "default",
                    "conditions": [{ "type": "Admitted", "status": admitted, "message": "taken" }] }] },
            }))
            .expect("a route"),
        )
    }

    #[rstest]
    #[case(json!({"routes": [{"name": "a"}, {"name": "b"}]}), true)]
    #[case(json!({"routes": [{"name": "a"}, {"name": "a"}]}), false)]
    #[case(json!({"routes": [{"name": "default-route"}]}), false)]
    fn names_are_unique(#[case] value: Value, #[case] fine: bool) {
        assert_eq!(verify(&spec(value)).is_ok(), fine);
    }

    #[test]
    fn the_default_route_leaves_its_host_to_the_router() {
        let routes = desired(&spec(json!({"defaultRoute": true})), "ns", |_| None).expect("routes");
        assert_eq!(routes[0]["spec"]["tls"], json!({"termination": "reencrypt"}));
        assert_eq!(routes[0]["spec"].get("host"), None);
        assert!(serde_json::from_value::<Route>(routes[0].clone()).is_ok());
    }

    #[test]
    fn a_route_gets_its_certificate_from_a_secret() {
        let data =
            [("tls.crt".to_owned(), ByteString(b"C".to_vec())), ("tls.key".to_owned(), ByteString(b"K".to_vec()))];
        let secret = Arc::new(Secret { data: Some(data.into()), ..Secret::default() });
        let spec = spec(json!({"routes": [{"name": "r", "hostname": "h.example", "secretName": "s"}]}));
        let routes = desired(&spec, "ns", |_| Some(secret.clone())).expect("routes");
        assert_eq!(routes[0]["spec"]["tls"], json!({"termination": "reencrypt", "certificate": "C", "key": "K"}));
        assert_eq!(routes[0]["spec"]["host"], "h.example");
        let error = desired(&spec, "ns", |_| None).expect_err("no such Secret");
        assert!(error.to_string().contains("secret \"ns/s\""), "{error}");
    }

    #[test]
    fn hosts_come_from_routers_and_the_default_is_first() {
        let routes = [
            route("z", "a.example", true, "True"),
            route("default-route", "default-route-ns.apps", true, "True"),
            route("foreign", "b.example", false, "True"),
        ];
        assert_eq!(hostnames("ns", &routes), ["default-route-ns.apps", "a.example"]);
        assert_eq!(obsolete(&spec(json!({})), &routes), ["z", "default-route"]);
    }

    #[test]
    fn refusals_name_route_host_and_router() {
        let routes = [route("default-route", "h", true, "False")];
        assert_eq!(
            refusals(&spec(json!({"defaultRoute": true})), &routes),
            ["route default-route (host h, router default) not admitted: taken"]
        );
        assert!(refusals(&spec(json!({})), &routes).is_empty());
    }
}
