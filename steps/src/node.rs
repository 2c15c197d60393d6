//! Nodes: the files that the node agent writes on each of them, and pulls as a node makes them.

use cucumber::then;
use harness::{
    environment::Tls,
    failure::{Failure, Kind, Step, Tried},
    mirrors::{Candidate, RegistriesConf},
    oci::{Credentials, Reference},
    wait::{Check, wait},
};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt, api::ListParams};

use crate::{made::Made, world::World};

const CONF: &str = "/etc/containers/registries.conf";

/// What came of a pull as a node makes it.
#[derive(Debug)]
pub(crate) enum NodePull {
    From { host: String, digest: String },
    Failed(String),
}

impl World {
    /// The text of registries.conf on one node.
    pub(crate) async fn registries_conf(&self, node: &str) -> Result<RegistriesConf, Failure> {
        let text = self.env.nodes.read(node, CONF).await.tried(format!("reading {CONF} of {node}"))?;
        let tried = format!("loading {CONF} of {node} as an engine does");
        match text {
            None => Err(Failure::fail(tried, "a file", "no such file").of("node-agent")),
            Some(text) => RegistriesConf::parse(&text).map_err(|error| {
                Failure::fail(tried, "a file that an engine loads", format!("{error}\n{text}")).of("node-agent")
            }),
        }
    }

    /// Waits until registries.conf of every node satisfies `holds`; looked at whenever a Node object changes, which
    /// every roll-out of a configuration does.
    pub(crate) async fn on_every_node(&self, what: &str, mut holds: impl FnMut(&RegistriesConf) -> bool) -> Step {
        let nodes: Api<Node> = Api::all(self.env.client.clone());
        // Nodes that are drained take their turns, and their pods take their time.
        let drains = self.made.iter().any(|made| matches!(made, Made::Drained));
        let limit = if drains { self.env.limits.rollout } else { self.env.limits.settle };
        let until = tokio::time::Instant::now() + limit;
        loop {
            // Versions first, files after: a node that changes in between is then looked at once more.
            let listed = nodes.list(&ListParams::default()).await.tried("listing nodes")?;
            let before = versions(&listed.items.iter().collect::<Vec<_>>());
            let mut lacking = vec![];
            let names = self.env.nodes.nodes();
            for node in &names {
                match self.registries_conf(node).await {
                    Ok(conf) if holds(&conf) => {}
                    Ok(conf) => lacking.push(format!("{node}: {:?}", conf.pairings())),
                    Err(failure) if failure.kind == Kind::Fail => lacking.push(format!("{node}: {}", failure.text())),
                    Err(failure) => return Err(failure),
                }
            }
            if lacking.is_empty() && !names.is_empty() {
                return Ok(());
            }
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            let seen = lacking.join("; ");
            let changed = wait(format!("every node to {what}"), left)
                .of("node-agent")
                .objects(&nodes, "", |nodes: &[&Node]| Check::when(versions(nodes) != before, || seen.clone()))
                .await;
            if let Err(failure) = changed {
                return Err(Failure { seen: Some(seen), ..failure });
            }
        }
    }

    /// Pulls as the engine of a node does: by its registries.conf, mirrors first, blocked addresses not asked.
    pub(crate) async fn pull_on(&self, node: &str, reference: &Reference) -> Result<NodePull, Failure> {
        let conf = self.registries_conf(node).await?;
        let mut why = vec![];
        for candidate in conf.candidates(reference) {
            match candidate {
                Candidate::Blocked(address) => why.push(format!("registry {} is blocked", address.registry)),
                Candidate::Ask(address) => {
                    let registry = self.env.registry(&address.registry, Credentials::Anonymous, Tls::Verified)?;
                    match registry.pull(&address).await {
                        Ok(Ok(pulled)) => {
                            return Ok(NodePull::From { host: address.registry, digest: pulled.digest });
                        }
                        Ok(Err(answer)) => why.push(answer.summary()),
                        Err(failure) => why.push(failure.text()),
                    }
                }
            }
        }
        Ok(NodePull::Failed(why.join("; ")))
    }
}

fn versions(nodes: &[&Node]) -> Vec<(String, Option<String>)> {
    let mut versions: Vec<_> = nodes.iter().map(|node| (node.name_any(), node.resource_version())).collect();
    versions.sort();
    versions
}

#[then("all nodes have equivalent contents")]
async fn equivalent(world: &mut World) -> Step {
    let mut seen = vec![];
    for node in world.env.nodes.nodes() {
        seen.push((node.clone(), world.registries_conf(&node).await?.pairings()));
    }
    match seen.windows(2).all(|pair| pair[0].1 == pair[1].1) && seen.len() > 1 {
        true => Ok(()),
        false => Err(Failure::fail("comparing nodes", "the same mirrors on all of several", format!("{seen:?}"))
            .of("node-agent")),
    }
}
