//! Routes: a host name outside the cluster that leads to a Service inside it.
//! Only the shape; admission, host assignment and serving are a router's work.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Rest;

/// What is exposed and how.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "route.openshift.io", version = "v1", kind = "Route", namespaced)]
#[kube(status = "RouteStatus", derive = "PartialEq")]
#[kube(printcolumn = r#"{"name":"Host","type":"string","jsonPath":".status.ingress[0].host"}"#)]
#[serde(rename_all = "camelCase")]
pub struct RouteSpec {
    /// The outside name; blank leaves the choice to the router.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Path prefix, only for edge, reencrypt and plain routes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Where requests go.
    pub to: RouteTarget,
    /// Which port of the Service; the first one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<RoutePort>,
    /// Absent means plain HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RouteTls>,
    /// `None` or `Subdomain`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub wildcard_policy: String,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// The object a route leads to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteTarget {
    /// Always `Service`.
    #[serde(default)]
    pub kind: String,
    /// Name of the Service in the route's namespace.
    pub name: String,
    /// Share of the traffic when there are alternates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i32>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Number or name of a Service port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoutePort {
    /// A port of the endpoints: the target port's number or the Service port's name.
    pub target_port: IntOrString,
}

/// Where TLS ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Termination {
    /// At the router; plain HTTP to the pod.
    #[default]
    Edge,
    /// At the pod; the router only looks at the server name.
    Passthrough,
    /// At the router, and again at the pod.
    Reencrypt,
}

/// What happens to requests that come without TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum InsecurePolicy {
    /// They are not served.
    #[default]
    None,
    /// They are served as they are.
    Allow,
    /// They are sent to the TLS port.
    Redirect,
}

/// TLS side of a route. Certificates and keys are PEM.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteTls {
    /// Where TLS ends.
    pub termination: Termination,
    /// Certificate shown to clients; the router's own if blank.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub certificate: String,
    /// Private key of `certificate`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// Chain above `certificate`.
    #[serde(default, rename = "caCertificate", skip_serializing_if = "String::is_empty")]
    pub ca_certificate: String,
    /// With reencrypt: who signed the pod's certificate; the service CA if blank.
    #[serde(default, rename = "destinationCACertificate", skip_serializing_if = "String::is_empty")]
    pub destination_ca_certificate: String,
    /// What happens to plain requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure_edge_termination_policy: Option<InsecurePolicy>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

impl std::fmt::Debug for RouteTls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RouteTls")
            .field("termination", &self.termination)
            .field("certificate", &!self.certificate.is_empty())
            .field("insecure_edge_termination_policy", &self.insecure_edge_termination_policy)
            .finish_non_exhaustive()
    }
}

/// What routers say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// One entry per router that looked at the route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<RouteIngress>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// One router's verdict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteIngress {
    /// The name under which the route is served.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The router's name, `default` for the one every cluster has.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub router_name: String,
    /// The router's own name, to which `host` may be an alias.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub router_canonical_hostname: String,
    /// `None` or `Subdomain`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub wildcard_policy: String,
    /// `Admitted` says whether the route is served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<RouteIngressCondition>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// One statement of a router about a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteIngressCondition {
    /// `Admitted`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// For example `HostAlreadyClaimed`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The cause for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When `status` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
}
