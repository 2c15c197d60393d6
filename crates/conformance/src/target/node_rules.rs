//! How the nodes lead pods that connect to a Service's address: kube-proxy follows the API server a moment later. Until then
//! a connection goes nowhere, or out of the cluster to a stranger who has that address.

use std::{collections::BTreeSet, io, net::Ipv4Addr, sync::Arc};

use futures::{
    FutureExt as _,
    future::{self, BoxFuture},
};
use harness::doorway::{Led, Reach, Stream};

use super::{engine::Engine, port_forward::PortForward};

/// The chain that every connection of a pod passes, where kube-proxy leads by iptables (kube-proxy source
/// pkg/proxy/iptables/proxier.go).
const SERVICES: &str = "-A KUBE-SERVICES ";

/// Reaches pods by port-forward, and asks the nodes, which are containers, for their rules.
pub(super) struct ByRules {
    forward: Arc<PortForward>,
    engine: Engine,
    nodes: Vec<String>,
}

impl ByRules {
    /// For the nodes of these names.
    pub(super) fn new(forward: Arc<PortForward>, engine: Engine, nodes: Vec<String>) -> Self {
        Self { forward, engine, nodes }
    }

    async fn lag_on(&self, node: &str, service: &Led) -> Option<String> {
        // A node without iptables, or that is no more, leads in a way that cannot be seen from here.
        let rules = self.engine.run(["exec", node, "iptables-save", "--table", "nat"]).await.ok()?;
        Some(format!("the node {node} {}", lag(&rules, service)?))
    }
}

impl Reach for ByRules {
    fn knows(&self, pod: Ipv4Addr) -> bool {
        self.forward.knows(pod)
    }

    fn connect(&self, pod: Ipv4Addr, port: u16) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        self.forward.connect(pod, port)
    }

    fn lag<'a>(&'a self, service: &'a Led) -> BoxFuture<'a, Option<String>> {
        async move {
            let all = future::join_all(self.nodes.iter().map(|node| self.lag_on(node, service))).await;
            all.into_iter().flatten().next()
        }
        .boxed()
    }
}

/// What these rules do otherwise than the API server says; nothing when they are nobody's.
fn lag(rules: &str, service: &Led) -> Option<String> {
    let mut leading = rules.lines().filter(|line| line.starts_with(SERVICES)).peekable();
    leading.peek()?;
    let address = format!(" -d {}/32 ", service.address);
    if !leading.any(|line| line.contains(&address)) {
        return Some(format!("does not know {} yet", service.address));
    }
    // A comment names the Service and, after a colon, the port.
    let own = format!("--comment \"{}/{}", service.namespace, service.name);
    let is_own = |line: &&str| {
        let rest = line.split_once(&own).map(|(_, rest)| rest);
        rest.is_some_and(|rest| rest.starts_with(':') || rest.starts_with('"'))
    };
    let led_to: BTreeSet<&str> = rules.lines().filter(is_own).filter_map(destination).collect();
    let pods: BTreeSet<&str> = service.pods.iter().map(String::as_str).collect();
    (led_to != pods).then(|| format!("leads {} to {led_to:?} still, not to {pods:?}", service.address))
}

/// The address to which a rule leads.
fn destination(rule: &str) -> Option<&str> {
    let (_, rest) = rule.split_once("--to-destination ")?;
    let target = rest.split_whitespace().next()?;
    Some(target.rsplit_once(':').map_or(target, |(address, _)| address))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// As kube-proxy 1.36 leaves them, but for what has nothing to do with Services.
    const RULES: &str = r#"*nat
:KUBE-SERVICES - [0:0]
-A KUBE-SEP-YC6M -s 10.244.1.9/32 -m comment --comment "registry/image-registry:5000-tcp" -j KUBE-MARK-MASQ
-A KUBE-SEP-YC6M -p tcp -m comment --comment "registry/image-registry:5000-tcp" -m tcp -j DNAT --to-destination 10.244.1.9:5000
-A KUBE-SEP-4QQX -p tcp -m comment --comment "registry/image-registry-operator:metrics" -m tcp -j DNAT --to-destination 10.244.1.7:60000
-A KUBE-SERVICES -d 10.96.169.252/32 -p tcp -m comment --comment "registry/image-registry:5000-tcp cluster IP" -m tcp --dport 5000 -j KUBE-SVC-PCIH
-A KUBE-SVC-PCIH -m comment --comment "registry/image-registry:5000-tcp -> 10.244.1.9:5000" -j KUBE-SEP-YC6M
COMMIT
"#;

    #[rstest]
    #[case::follows("10.96.169.252", &["10.244.1.9"], None)]
    #[case::was_made_again("10.96.1.1", &["10.244.1.9"], Some("does not know 10.96.1.1"))]
    #[case::leads_to_old_pods("10.96.169.252", &["10.244.1.10"], Some("leads 10.96.169.252 to {\"10.244.1.9\"}"))]
    #[case::lacks_one("10.96.169.252", &["10.244.1.9", "10.244.1.10"], Some("leads"))]
    fn rules_lag_until_they_are_as_the_api_server_says(
        #[case] address: &str,
        #[case] pods: &[&str],
        #[case] expected: Option<&str>,
    ) {
        let service = Led {
            namespace: "registry".to_owned(),
            name: "image-registry".to_owned(),
            address: address.to_owned(),
            pods: pods.iter().map(|&pod| pod.to_owned()).collect(),
        };
        let seen = lag(RULES, &service);
        match expected {
            None => assert_eq!(seen, None),
            Some(part) => assert!(seen.as_ref().is_some_and(|seen| seen.contains(part)), "{seen:?}"),
        }
        // Another kind of proxy has other rules.
        assert_eq!(lag("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n", &service), None);
    }
}
