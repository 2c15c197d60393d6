//! What the router serves at one moment: hosts, paths, certificates and the addresses behind them.
//! Built whole from admitted routes and endpoints, then only read; connections take the latest one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::address::listen_address;
use api::route::{InsecurePolicy, Termination};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;

use super::admission::Decision;
use super::tls::Trust;
use crate::PodNetwork;

/// Label by which an EndpointSlice names its Service.
pub(super) const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// All hosts that are served.
pub(super) struct Table {
    /// Per host, the longest path first.
    hosts: HashMap<String, Vec<Arc<Served>>>,
    default: Arc<ServerConfig>,
}

/// One route as it is served.
pub(super) struct Served {
    /// `namespace/name`, for logs.
    pub route: String,
    pub path: String,
    /// None for a route without TLS.
    pub termination: Option<Termination>,
    pub insecure: InsecurePolicy,
    pub backend: Backend,
    certificate: Option<Arc<ServerConfig>>,
}

/// The pods behind a route.
pub(super) struct Backend {
    pub endpoints: Vec<SocketAddr>,
    /// How to speak TLS to them; none for plain connections.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    next: AtomicUsize,
}

impl Backend {
    /// All endpoints, each call beginning with another one.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        (0..self.endpoints.len()).map(move |step| self.endpoints[(first.wrapping_add(step)) % self.endpoints.len()])
    }
}

impl Table {
    /// Nothing is served.
    pub(super) fn empty(trust: &Trust) -> Self {
        Self { hosts: HashMap::new(), default: Arc::clone(&trust.default) }
    }

    /// Everything that was admitted.
    pub(super) fn build(
        decisions: &[Decision],
        slices: &[Arc<EndpointSlice>],
        trust: &Trust,
        pods: PodNetwork,
    ) -> Self {
        let mut table = Self::empty(trust);
        for decision in decisions {
            match serve(decision, slices, trust, pods) {
                Ok(Some(served)) => table.hosts.entry(decision.host.clone()).or_default().push(Arc::new(served)),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(route = decision.route.name_any(), %error, "admitted route is not served")
                }
            }
        }
        for paths in table.hosts.values_mut() {
            paths.sort_by_key(|served| std::cmp::Reverse(served.path.len()));
        }
        table
    }

    /// The route that hands `host`'s connections on without looking into them.
    pub(super) fn passthrough(&self, host: &str) -> Option<&Arc<Served>> {
        self.hosts.get(host)?.iter().find(|served| served.termination == Some(Termination::Passthrough))
    }

    /// How to speak TLS to clients that ask for `host`.
    pub(super) fn server_config(&self, host: &str) -> &Arc<ServerConfig> {
        let paths = self.hosts.get(host).into_iter().flatten();
        paths.filter_map(|served| served.certificate.as_ref()).next().unwrap_or(&self.default)
    }

    /// The route for a request, by the longest path that is a prefix of its own.
    pub(super) fn find(&self, host: &str, path: &str) -> Option<&Arc<Served>> {
        self.hosts.get(host)?.iter().find(|served| is_below(path, &served.path))
    }
}

fn serve(
    decision: &Decision,
    slices: &[Arc<EndpointSlice>],
    trust: &Trust,
    pods: PodNetwork,
) -> Result<Option<Served>, rustls::Error> {
    let Ok(admission) = &decision.verdict else { return Ok(None) };
    let route = &decision.route;
    let namespace = route.namespace().unwrap_or_default();
    let service = &route.spec.to.name;
    let tls = route.spec.tls.as_ref();
    let termination = tls.map(|tls| tls.termination);
    let backend_tls = match termination {
        Some(Termination::Reencrypt) => {
            let config = trust.towards_pods(admission.destination.as_ref())?;
            let name = ServerName::try_from(format!("{service}.{namespace}.svc"))
                .map_err(|error| rustls::Error::General(error.to_string()))?;
            Some((config, name))
        }
        _ => None,
    };
    let port = route.spec.port.as_ref().map(|port| &port.target_port);
    Ok(Some(Served {
        route: format!("{namespace}/{}", route.name_any()),
        path: route.spec.path.clone(),
        termination,
        insecure: tls.and_then(|tls| tls.insecure_edge_termination_policy).unwrap_or_default(),
        backend: Backend {
            endpoints: endpoints(slices, &namespace, service, port, pods),
            tls: backend_tls,
            next: AtomicUsize::new(0),
        },
        certificate: match &admission.certificate {
            Some(key) => Some(trust.towards_clients(Arc::clone(key))?),
            None => None,
        },
    }))
}

/// Ready addresses of a Service. `port` is a number or name of the endpoints' own; absent means their first port.
fn endpoints(
    slices: &[Arc<EndpointSlice>],
    namespace: &str,
    service: &str,
    port: Option<&IntOrString>,
    pods: PodNetwork,
) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for slice in slices {
        let of_service = slice.labels().get(SERVICE_LABEL).is_some_and(|name| name == service);
        if !of_service || slice.namespace().as_deref() != Some(namespace) {
            continue;
        }
        let ports = slice.ports.iter().flatten();
        let number = ports.filter(|offered| match port {
            None => true,
            Some(IntOrString::Int(number)) => offered.port == Some(*number),
            Some(IntOrString::String(name)) => {
                offered.name.as_ref() == Some(name) || offered.port.is_some_and(|port| port.to_string() == *name)
            }
        });
        let Some(number) = number.filter_map(|offered| u16::try_from(offered.port?).ok()).next() else { continue };
        let ready = slice.endpoints.iter().filter(|endpoint| {
            // Absent means ready.
            endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
        });
        let addresses = ready.flat_map(|endpoint| &endpoint.addresses).filter_map(|address| address.parse().ok());
        found.extend(addresses.map(|address: Ipv4Addr| {
            let address = match pods {
                PodNetwork::Loopback => listen_address(address),
                PodNetwork::Real => address,
            };
            SocketAddr::new(IpAddr::V4(address), number)
        }));
    }
    found.sort();
    found.dedup();
    found
}

fn is_below(path: &str, prefix: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
    use rstest::rstest;

    use super::*;

    fn slice(service: &str, addresses: &[(&str, Option<bool>)], ports: &[(&str, i32)]) -> Arc<EndpointSlice> {
        let mut slice = EndpointSlice { address_type: "IPv4".into(), ..Default::default() };
        slice.metadata.namespace = Some("ns".into());
        slice.labels_mut().insert(SERVICE_LABEL.into(), service.into());
        slice.endpoints = addresses
            .iter()
            .map(|(address, ready)| Endpoint {
                addresses: vec![(*address).into()],
                conditions: Some(EndpointConditions { ready: *ready, ..Default::default() }),
                ..Default::default()
            })
            .collect();
        let ports = ports.iter().map(|(name, port)| EndpointPort {
            name: Some((*name).into()),
            port: Some(*port),
            ..Default::default()
        });
        slice.ports = Some(ports.collect());
        Arc::new(slice)
    }

    #[rstest]
    #[case::first_port(None, &["127.3.0.1:5000", "127.3.0.2:5000"])]
    #[case::by_name(Some(IntOrString::String("metrics".into())), &["127.3.0.1:9000", "127.3.0.2:9000"])]
    #[case::by_number(Some(IntOrString::Int(9000)), &["127.3.0.1:9000", "127.3.0.2:9000"])]
    #[case::unknown(Some(IntOrString::Int(1)), &[])]
    fn only_ready_addresses_of_the_service_are_used(#[case] port: Option<IntOrString>, #[case] expected: &[&str]) {
        let slices = [
            slice(
                "registry",
                &[("10.3.0.2", Some(true)), ("10.3.0.1", None), ("10.3.0.3", Some(false))],
                &[("5000-tcp", 5000), ("metrics", 9000)],
            ),
            slice("other", &[("10.3.0.9", Some(true))], &[("5000-tcp", 5000)]),
        ];
        let found = endpoints(&slices, "ns", "registry", port.as_ref(), PodNetwork::Loopback);
        assert_eq!(found.iter().map(SocketAddr::to_string).collect::<Vec<_>>(), expected);
        assert!(endpoints(&slices, "elsewhere", "registry", port.as_ref(), PodNetwork::Loopback).is_empty());
    }

    #[rstest]
    #[case("/v2/x", "", true)]
    #[case("/v2/x", "/v2", true)]
    #[case("/v2", "/v2/", true)]
    #[case("/v20", "/v2", false)]
    #[case("/other", "/v2", false)]
    fn paths_are_prefixes_by_segment(#[case] path: &str, #[case] prefix: &str, #[case] expected: bool) {
        assert_eq!(is_below(path, prefix), expected);
    }
}
