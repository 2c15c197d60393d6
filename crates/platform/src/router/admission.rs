//! Which routes are served and under which host, as a value; nothing is written or opened here.
//! Rules and reasons are those of OpenShift's router: the oldest route keeps a host, bad TLS settings are refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::route::{Route, RouteIngress, RouteIngressCondition, RouteStatus, Termination};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;

use crate::certificate::{Pair, certified_key, trust_anchors};

/// The name this router signs its verdicts with.
const ROUTER: &str = "default";
const ADMITTED: &str = "Admitted";

/// The router's verdict about one route.
pub(super) struct Decision {
    pub route: Arc<Route>,
    /// The host it is or would be served under.
    pub host: String,
    pub verdict: Result<Admission, Rejection>,
}

/// TLS material of an admitted route.
#[derive(Debug, Default)]
pub(super) struct Admission {
    /// Shown to clients; the router's own if absent.
    pub certificate: Option<Arc<CertifiedKey>>,
    /// Who signed the pod's certificate; the service CA if absent.
    pub destination: Option<RootCertStore>,
}

/// Why a route is not served.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rejection {
    pub reason: &'static str,
    pub message: String,
}

/// Judges all routes together, because they compete for hosts.
pub(super) fn decide(routes: &[Arc<Route>], base_domain: &str) -> Vec<Decision> {
    let mut routes: Vec<_> = routes.iter().filter(|route| route.metadata.deletion_timestamp.is_none()).collect();
    routes.sort_by_key(|route| (route.creation_timestamp(), route.uid()));
    let mut holders: BTreeMap<String, Vec<&Arc<Route>>> = BTreeMap::new();
    let mut decisions = Vec::new();
    for route in routes {
        let host = host(route, base_domain);
        let holders = holders.entry(host.clone()).or_default();
        let verdict = check(route, &host).and_then(|admission| {
            contend(route, &host, holders)?;
            Ok(admission)
        });
        if verdict.is_ok() {
            holders.push(route);
        }
        decisions.push(Decision { route: Arc::clone(route), host, verdict });
    }
    decisions
}

/// The host a route asks for, or the one it gets: `<name>-<namespace>.<base domain>`.
fn host(route: &Route, base_domain: &str) -> String {
    match route.spec.host.as_str() {
        "" => format!("{}-{}.{base_domain}", route.name_any(), route.namespace().unwrap_or_default()),
        host => host.to_ascii_lowercase(),
    }
}

fn check(route: &Route, host: &str) -> Result<Admission, Rejection> {
    if !is_host(host) {
        return Err(Rejection { reason: "InvalidHost", message: format!("host name {host:?} is not a DNS name") });
    }
    if route.spec.wildcard_policy == "Subdomain" {
        return Err(Rejection { reason: "RouteNotAdmitted", message: "wildcard routes are not allowed".into() });
    }
    let Some(tls) = &route.spec.tls else { return Ok(Admission::default()) };
    let invalid = |field: &str, what: &str| Rejection {
        reason: "ExtendedValidationFailed",
        message: format!("spec.tls.{field}: Invalid value: {what}"),
    };
    if tls.termination == Termination::Passthrough {
        let material = [&tls.certificate, &tls.key, &tls.ca_certificate, &tls.destination_ca_certificate];
        return match material.iter().all(|pem| pem.is_empty()) {
            true => Ok(Admission::default()),
            false => Err(invalid("termination", "passthrough termination does not support certificates")),
        };
    }
    let certificate = match (tls.certificate.is_empty(), tls.key.is_empty()) {
        (true, true) => None,
        (true, false) => return Err(invalid("certificate", "a key without certificate")),
        // Keys may also stand in the same text as their certificate.
        (false, keyless) => {
            let key = if keyless { &tls.certificate } else { &tls.key };
            let pair = Pair { certificate: format!("{}\n{}", tls.certificate, tls.ca_certificate), key: key.clone() };
            Some(Arc::new(certified_key(&pair).map_err(|error| invalid("certificate", &error))?))
        }
    };
    let destination = match (tls.termination, tls.destination_ca_certificate.as_str()) {
        (_, "") => None,
        (Termination::Reencrypt, pem) => {
            Some(trust_anchors(pem).map_err(|error| invalid("destinationCACertificate", &error))?)
        }
        _ => return Err(invalid("destinationCACertificate", "only reencrypt termination has a destination")),
    };
    Ok(Admission { certificate, destination })
}

/// Within a namespace a host may be shared by path; between namespaces it may not be shared at all.
fn contend(route: &Route, host: &str, holders: &[&Arc<Route>]) -> Result<(), Rejection> {
    let claimed = |message: String| Err(Rejection { reason: "HostAlreadyClaimed", message });
    for holder in holders {
        if holder.namespace() != route.namespace() {
            return claimed(format!(
                "a route in another namespace holds {host} and is older than {}",
                route.name_any()
            ));
        }
        if holder.spec.path == route.spec.path {
            return claimed(format!("route {} already exposes {host} and is older", holder.name_any()));
        }
    }
    Ok(())
}

fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (1..=63).contains(&label.len()) && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

/// The status that says `decision`; other routers' entries, and the time of an unchanged verdict, stay as they are.
pub(super) fn status(decision: &Decision, current: &RouteStatus, base_domain: &str) -> RouteStatus {
    let mut status = current.clone();
    let (value, reason, message) = match &decision.verdict {
        Ok(_) => ("True", "", String::new()),
        Err(rejection) => ("False", rejection.reason, rejection.message.clone()),
    };
    let before = current.ingress.iter().find(|ingress| ingress.router_name == ROUTER);
    let since = before
        .and_then(|ingress| ingress.conditions.iter().find(|condition| condition.type_ == ADMITTED))
        .filter(|condition| condition.status == value)
        .and_then(|condition| condition.last_transition_time.clone());
    let now = || Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default());
    let ours = RouteIngress {
        host: decision.host.clone(),
        router_name: ROUTER.into(),
        router_canonical_hostname: format!("router-default.{base_domain}"),
        wildcard_policy: "None".into(),
        conditions: vec![RouteIngressCondition {
            type_: ADMITTED.into(),
            status: value.into(),
            reason: reason.into(),
            message,
            last_transition_time: Some(since.unwrap_or_else(now)),
        }],
        rest: before.map(|ingress| ingress.rest.clone()).unwrap_or_default(),
    };
    match status.ingress.iter_mut().find(|ingress| ingress.router_name == ROUTER) {
        Some(ingress) => *ingress = ours,
        None => status.ingress.push(ours),
    }
    status
}

#[cfg(test)]
mod tests {
    use api::route::{RouteSpec, RouteTls};
    use rstest::rstest;

    use super::*;
    use crate::certificate::Authority;

    fn route(namespace: &str, name: &str, age: i64, host: &str, path: &str) -> Arc<Route> {
        let mut route = Route::new(name, RouteSpec { host: host.into(), path: path.into(), ..Default::default() });
        route.metadata.namespace = Some(namespace.into());
        route.metadata.uid = Some(format!("{namespace}/{name}"));
        route.metadata.creation_timestamp = Some(Time(Timestamp::from_second(1_000_000 - age).expect("in range")));
        Arc::new(route)
    }

    fn reasons(routes: &[Arc<Route>]) -> Vec<(String, &'static str)> {
        decide(routes, "apps.test")
            .into_iter()
            .map(|decision| {
                (decision.route.name_any(), decision.verdict.err().map_or("", |rejection| rejection.reason))
            })
            .collect()
    }

    #[test]
    fn a_route_without_host_gets_one() {
        let decisions = decide(&[route("openshift-image-registry", "default-route", 0, "", "")], "apps.test");
        assert_eq!(decisions[0].host, "default-route-openshift-image-registry.apps.test");
        assert!(decisions[0].verdict.is_ok());
    }

    #[test]
    fn the_oldest_route_keeps_the_host() {
        let routes = [
            route("a", "young", 1, "h.test", ""),
            route("b", "old", 9, "h.test", ""),
            route("b", "same-namespace-other-path", 2, "h.test", "/v2"),
            route("b", "same-namespace-same-path", 1, "h.test", ""),
            route("a", "alone", 0, "i.test", ""),
        ];
        let claimed = "HostAlreadyClaimed";
        assert_eq!(
            reasons(&routes),
            [
                ("old".into(), ""),
                ("same-namespace-other-path".into(), ""),
                ("young".into(), claimed),
                ("same-namespace-same-path".into(), claimed),
                ("alone".into(), ""),
            ]
        );
    }

    #[test]
    fn a_refused_route_holds_no_host() {
        let mut broken = (*route("a", "broken", 9, "h.test", "")).clone();
        broken.spec.tls =
            Some(RouteTls { certificate: "nonsense".into(), key: "nonsense".into(), ..Default::default() });
        let routes = [Arc::new(broken), route("b", "good", 1, "h.test", "")];
        assert_eq!(reasons(&routes), [("broken".into(), "ExtendedValidationFailed"), ("good".into(), "")]);
    }

    #[rstest]
    #[case("*.apps.test", "InvalidHost")]
    #[case("under_score.test", "InvalidHost")]
    #[case("fine-1.test", "")]
    fn hosts_are_dns_names(#[case] host: &str, #[case] reason: &str) {
        assert_eq!(reasons(&[route("a", "r", 0, host, "")])[0].1, reason);
    }

    #[rstest]
    #[case::own_certificate(Termination::Edge, true, false, "")]
    #[case::destination(Termination::Reencrypt, true, true, "")]
    #[case::edge_has_no_destination(Termination::Edge, false, true, "ExtendedValidationFailed")]
    #[case::passthrough_has_no_certificate(Termination::Passthrough, true, false, "ExtendedValidationFailed")]
    #[case::passthrough(Termination::Passthrough, false, false, "")]
    fn tls_settings_are_checked(
        #[case] termination: Termination,
        #[case] with_certificate: bool,
        #[case] with_destination: bool,
        #[case] reason: &str,
    ) {
        let authority = Authority::generate("test").expect("authority");
        let mut tls = RouteTls { termination, ..Default::default() };
        if with_certificate {
            let pair = authority.issue(&["h.test".to_owned()]).expect("issued");
            (tls.certificate, tls.key) = (pair.certificate, pair.key);
        }
        if with_destination {
            tls.destination_ca_certificate = authority.certificate().into();
        }
        let mut route = (*route("a", "r", 0, "h.test", "")).clone();
        route.spec.tls = Some(tls);
        assert_eq!(reasons(&[Arc::new(route)])[0].1, reason);
    }

    #[test]
    fn status_keeps_other_routers_and_the_time_of_an_unchanged_verdict() {
        let decision = || decide(&[route("a", "r", 0, "h.test", "")], "apps.test").remove(0);
        let other = RouteIngress { router_name: "sharded".into(), ..Default::default() };
        let first = status(&decision(), &RouteStatus { ingress: vec![other], ..Default::default() }, "apps.test");
        assert_eq!(first.ingress.len(), 2);
        assert_eq!(first.ingress[1].conditions[0].status, "True");
        let mut older = first.clone();
        older.ingress[1].conditions[0].last_transition_time = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(status(&decision(), &older, "apps.test"), older);
    }
}
