//! The network of a node's pods: a CNI configuration with the node's own pod range, a route to each other node's range, and one
//! rule that hides pods behind the node towards everything outside. It follows the cluster's Node objects.

use std::collections::BTreeMap;
use std::path::Path;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config};
use serde_json::json;

use crate::Error;
use crate::root::run_in;

/// Where the pod mounts the node's root.
const NODE_ROOT: &str = "/host";
const CONFLIST: &str = "etc/cni/net.d/10-kind-node.conflist";
/// Marks our routes, so that those of nobody else are touched (a free number of ip-route(8)).
const ROUTE_PROTOCOL: &str = "197";

/// What a node needs to know of another, or of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    name: String,
    address: String,
    pods: String,
}

/// Keeps the node's network as the cluster's nodes say, until the process is ended.
///
/// # Errors
/// [`Error::Variable`], [`Error::Cluster`], [`Error::Command`]; the kubelet starts the pod again.
pub async fn run() -> Result<(), Error> {
    let own_name = variable("NODE_NAME")?;
    let pods = variable("POD_SUBNET")?;
    let endpoint = variable("CONTROL_PLANE_ENDPOINT")?;
    masquerade(&pods).await?;
    // The address of the Service would need kube-proxy first, and kube-proxy's own pod needs a network.
    let cluster = |error: &dyn std::fmt::Display| Error::Cluster(error.to_string());
    let mut config = Config::incluster_env().map_err(|error| cluster(&error))?;
    config.cluster_url = format!("https://{endpoint}").parse().map_err(|error| cluster(&error))?;
    let client = Client::try_from(config).map_err(|error| cluster(&error))?;
    let changes = watcher(Api::<Node>::all(client), watcher::Config::default()).default_backoff();
    let mut changes = std::pin::pin!(changes);
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    let mut routes: BTreeMap<String, String> = our_routes().await?;
    let mut written = String::new();
    let mut complete = false;
    while let Some(change) = changes.next().await {
        match change {
            Ok(watcher::Event::Init) => {
                complete = false;
                places.clear();
            }
            Ok(watcher::Event::InitApply(node) | watcher::Event::Apply(node)) => {
                if let Some(place) = place(&node) {
                    places.insert(place.name.clone(), place);
                }
            }
            Ok(watcher::Event::Delete(node)) => drop(places.remove(&node.metadata.name.unwrap_or_default())),
            Ok(watcher::Event::InitDone) => complete = true,
            Err(error) => eprintln!("kind-node network: {error}; asking again"),
        }
        if !complete {
            continue;
        }
        if let Some(own) = places.get(&own_name) {
            let wanted = conflist(&own.pods);
            if wanted != written {
                write_whole(&Path::new(NODE_ROOT).join(CONFLIST), &wanted)?;
                eprintln!("kind-node network: pods of {own_name} are in {}", own.pods);
                written = wanted;
            }
        }
        let wanted = routes_to(&own_name, places.values());
        for command in route_commands(&routes, &wanted) {
            let words: Vec<&str> = command.split(' ').collect();
            run_in(NODE_ROOT, &words).await?;
            eprintln!("kind-node network: {command}");
        }
        routes = wanted;
    }
    Err(Error::Cluster("the watch of nodes has ended".to_owned()))
}

fn variable(name: &'static str) -> Result<String, Error> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).ok_or(Error::Variable(name))
}

/// A node that has an address and a pod range; a node in the making has neither.
fn place(node: &Node) -> Option<Place> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let address = addresses.iter().find(|address| address.type_ == "InternalIP")?.address.clone();
    let pods = node.spec.as_ref()?.pod_cidr.clone()?;
    Some(Place { name: node.metadata.name.clone()?, address, pods })
}

/// Range to gateway, for every node but this one.
fn routes_to<'a>(own: &str, places: impl Iterator<Item = &'a Place>) -> BTreeMap<String, String> {
    places.filter(|place| place.name != own).map(|place| (place.pods.clone(), place.address.clone())).collect()
}

/// The commands that lead from one set of routes to another.
fn route_commands(now: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> Vec<String> {
    let gone = now.keys().filter(|range| !wanted.contains_key(*range));
    let new = wanted.iter().filter(|(range, gateway)| now.get(*range) != Some(gateway));
    gone.map(|range| format!("ip route del {range} proto {ROUTE_PROTOCOL}"))
        .chain(new.map(|(range, gateway)| format!("ip route replace {range} via {gateway} proto {ROUTE_PROTOCOL}")))
        .collect()
}

/// Routes that an earlier process of ours has made.
async fn our_routes() -> Result<BTreeMap<String, String>, Error> {
    let text = run_in(NODE_ROOT, &["ip", "route", "show", "proto", ROUTE_PROTOCOL]).await?;
    Ok(parse_routes(&text))
}

/// `10.244.1.0/24 via 172.18.0.3 dev eth0` lines.
fn parse_routes(text: &str) -> BTreeMap<String, String> {
    let route = |line: &str| {
        let mut words = line.split_whitespace();
        let range = words.next()?.to_owned();
        (words.next()? == "via").then(|| Some((range, words.next()?.to_owned())))?
    };
    text.lines().filter_map(route).collect()
}

/// Pods reach pods under their own address, and everything else under the node's.
async fn masquerade(pods: &str) -> Result<(), Error> {
    let rule = ["POSTROUTING", "-s", pods, "!", "-d", pods, "-j", "MASQUERADE"];
    let there = run_in(NODE_ROOT, &[&["iptables", "-w", "-t", "nat", "-C"], &rule[..]].concat()).await.is_ok();
    if !there {
        run_in(NODE_ROOT, &[&["iptables", "-w", "-t", "nat", "-A"], &rule[..]].concat()).await?;
    }
    Ok(())
}

/// The CNI configuration (CNI specification 1.0.0, "Configuration format"; plug-ins ptp, host-local and portmap).
fn conflist(pods: &str) -> String {
    let ipam = json!({
        "type": "host-local",
        // In /run, so that a node that starts again begins with a free range, as its pods do.
        "dataDir": "/run/cni-ipam-state",
        "routes": [{ "dst": "0.0.0.0/0" }],
        "ranges": [[{ "subnet": pods }]],
    });
    let value = json!({
        "cniVersion": "0.4.0",
        "name": "kind-node",
        "plugins": [
            { "type": "ptp", "ipMasq": false, "ipam": ipam },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    format!("{value:#}\n")
}

/// containerd reads the file as soon as it appears, so it appears whole.
fn write_whole(path: &Path, text: &str) -> Result<(), Error> {
    let named = path.display().to_string();
    let unfinished = path.with_extension("unfinished");
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Error::system("make", folder.display().to_string()))?;
    }
    std::fs::write(&unfinished, text).map_err(Error::system("write", &named))?;
    std::fs::rename(&unfinished, path).map_err(Error::system("rename", &named))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, address: &str, pods: Option<&str>) -> Node {
        serde_json::from_value(json!({
            "metadata": { "name": name },
            "spec": { "podCIDR": pods },
            "status": { "addresses": [{ "type": "Hostname", "address": name }, { "type": "InternalIP", "address": address }] },
        }))
        .unwrap()
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(range, gateway)| ((*range).to_owned(), (*gateway).to_owned())).collect()
    }

    #[test]
    fn every_other_node_with_a_range_has_a_route() {
        let nodes = [
            node("a", "172.18.0.2", Some("10.244.0.0/24")),
            node("b", "172.18.0.3", Some("10.244.1.0/24")),
            node("in-the-making", "172.18.0.4", None),
        ];
        let places: Vec<Place> = nodes.iter().filter_map(place).collect();
        assert_eq!(routes_to("a", places.iter()), map(&[("10.244.1.0/24", "172.18.0.3")]));
    }

    #[test]
    fn routes_change_with_the_nodes_and_otherwise_stay() {
        let now = map(&[("10.244.1.0/24", "172.18.0.3"), ("10.244.2.0/24", "172.18.0.4")]);
        let wanted = map(&[("10.244.1.0/24", "172.18.0.9"), ("10.244.3.0/24", "172.18.0.5")]);
        assert_eq!(
            route_commands(&now, &wanted),
            [
                "ip route del 10.244.2.0/24 proto 197",
                "ip route replace 10.244.1.0/24 via 172.18.0.9 proto 197",
                "ip route replace 10.244.3.0/24 via 172.18.0.5 proto 197",
            ]
        );
        assert!(route_commands(&wanted, &wanted).is_empty());
    }

    #[test]
    fn routes_of_an_earlier_process_are_known_again() {
        let text = "10.244.1.0/24 via 172.18.0.3 dev eth0 \n10.9.0.0/16 dev eth0 scope link\n";
        assert_eq!(parse_routes(text), map(&[("10.244.1.0/24", "172.18.0.3")]));
    }

    #[test]
    fn the_configuration_names_the_range_and_appears_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.d/10.conflist");
        write_whole(&path, &conflist("10.244.3.0/24")).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(value["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.244.3.0/24");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
