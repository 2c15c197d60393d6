//! The namespaces every OpenShift cluster has, and what OpenShift puts into and onto each namespace there is:
//! the ranges of user and group ids, and the role bindings that let its own service accounts pull and push.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use api::names;
use futures::future;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::Notify;

use crate::Error;
use crate::cache;
use crate::cluster::{Cluster, FIELD_MANAGER};
use crate::router;

/// Ranges start here and have this many ids each, as on OpenShift.
const FIRST_ID: u64 = 1_000_000_000;
const IDS: u64 = 10_000;
/// SELinux categories to choose pairs from.
const CATEGORIES: u64 = 1024;
/// The ServiceAccount that builds images.
const BUILDER: &str = "builder";
const PULLERS: &str = "system:image-pullers";
const BUILDERS: &str = "system:image-builders";

/// Creates the namespaces that are not there yet.
pub(crate) async fn ensure(cluster: &Cluster) -> Result<(), Error> {
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let all = [
        names::REGISTRY_NAMESPACE,
        names::CONFIG_NAMESPACE,
        names::CONFIG_MANAGED_NAMESPACE,
        names::MACHINE_CONFIG_NAMESPACE,
        names::OPENSHIFT_NAMESPACE,
        names::MONITORING_NAMESPACE,
        names::SERVICE_CA_NAMESPACE,
        names::INGRESS_NAMESPACE,
        router::OPERATOR_NAMESPACE,
    ];
    let namespaces = all.map(|name| {
        // Operators run privileged pods; the registry's operator asks for the same label in its own manifest.
        let labels = BTreeMap::from([("pod-security.kubernetes.io/enforce".to_owned(), "privileged".to_owned())]);
        let metadata = ObjectMeta { name: Some(name.into()), labels: Some(labels), ..ObjectMeta::default() };
        Namespace { metadata, ..Namespace::default() }
    });
    future::try_join_all(namespaces.iter().map(|namespace| cluster.create_if_absent(&api, namespace))).await?;
    let prometheus = service_account(names::MONITORING_NAMESPACE, "prometheus-k8s");
    let api = Api::namespaced(cluster.client.clone(), names::MONITORING_NAMESPACE);
    cluster.create_if_absent(&api, &prometheus).await?;
    Ok(())
}

/// Keeps every namespace furnished. Returns after all that exist are.
pub(crate) async fn start(cluster: &Cluster) {
    let changed = Arc::new(Notify::new());
    let client = &cluster.client;
    let everything = watcher::Config::default;
    let builder = everything().fields("metadata.name=builder");
    let (namespaces, bindings, accounts) = tokio::join!(
        cache::watch::<Namespace>(cluster, Api::all(client.clone()), everything(), &changed),
        cache::watch::<RoleBinding>(cluster, Api::all(client.clone()), everything(), &changed),
        cache::watch::<ServiceAccount>(cluster, Api::all(client.clone()), builder, &changed),
    );
    let furnisher = Arc::new(Furnisher {
        cluster: cluster.clone(),
        namespaces,
        bindings,
        accounts,
        given: Mutex::new(BTreeMap::new()),
    });
    let pass = move || {
        let furnisher = Arc::clone(&furnisher);
        async move { furnisher.pass().await }
    };
    cache::drive(cluster, "namespaces", changed, pass).await;
}

struct Furnisher {
    cluster: Cluster,
    namespaces: Store<Namespace>,
    bindings: Store<RoleBinding>,
    accounts: Store<ServiceAccount>,
    /// Blocks given out by uid, because the copy may lag behind what was just written.
    given: Mutex<BTreeMap<String, u64>>,
}

impl Furnisher {
    async fn pass(&self) -> Result<(), Error> {
        let namespaces = self.namespaces.state();
        let blocks = {
            let mut given = self.given.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            allot(&namespaces, &mut given);
            given.clone()
        };
        let living = namespaces.iter().filter(|namespace| namespace.metadata.deletion_timestamp.is_none());
        future::try_join_all(living.map(|namespace| {
            let block = blocks.get(&namespace.uid().unwrap_or_default()).copied();
            self.furnish(namespace, block)
        }))
        .await?;
        Ok(())
    }

    async fn furnish(&self, namespace: &Namespace, block: Option<u64>) -> Result<(), Error> {
        let name = namespace.name_any();
        let client = &self.cluster.client;
        if let Some(block) = block.filter(|_| block_of(namespace).is_none()) {
            let patch = json!({ "metadata": { "annotations": annotations(block) } });
            self.cluster.merge(&Api::<Namespace>::all(client.clone()), &name, &patch).await?;
        }
        if self.accounts.get(&ObjectRef::new(BUILDER).within(&name)).is_none() {
            let api = Api::namespaced(client.clone(), &name);
            unless_leaving(self.cluster.create_if_absent(&api, &service_account(&name, BUILDER)).await)?;
        }
        for binding in bindings(&name) {
            if self.bindings.get(&ObjectRef::from_obj(&binding)).is_none() {
                let api = Api::namespaced(client.clone(), &name);
                unless_leaving(self.cluster.create_if_absent(&api, &binding).await)?;
            }
        }
        Ok(())
    }
}

/// A namespace that went away while it was furnished needs no furniture.
fn unless_leaving(outcome: Result<bool, Error>) -> Result<(), Error> {
    match outcome {
        Err(Error::Api { source, .. })
            if matches!(&*source, kube::Error::Api(status) if status.code == 404
                || status.code == 403 && status.message.contains("being terminated")) =>
        {
            Ok(())
        }
        other => other.map(|_| ()),
    }
}

/// Gives a free block to each namespace that has none, lowest first, oldest namespace first.
fn allot(namespaces: &[Arc<Namespace>], given: &mut BTreeMap<String, u64>) {
    given.retain(|uid, _| namespaces.iter().any(|namespace| namespace.metadata.uid.as_ref() == Some(uid)));
    for namespace in namespaces {
        if let (Some(uid), Some(block)) = (namespace.uid(), block_of(namespace)) {
            given.insert(uid, block);
        }
    }
    let mut without: Vec<_> =
        namespaces.iter().filter(|namespace| namespace.uid().is_some_and(|uid| !given.contains_key(&uid))).collect();
    without.sort_by_key(|namespace| (namespace.creation_timestamp(), namespace.name_any()));
    let mut next = 0;
    for namespace in without {
        while given.values().any(|taken| *taken == next) {
            next += 1;
        }
        given.insert(namespace.uid().unwrap_or_default(), next);
    }
}

/// The block a namespace's annotation names; none if it has no annotation we can read.
fn block_of(namespace: &Namespace) -> Option<u64> {
    let range = namespace.annotations().get(names::SUPPLEMENTAL_GROUPS_ANNOTATION)?;
    let first: u64 = range.split('/').next()?.parse().ok()?;
    Some(first.saturating_sub(FIRST_ID) / IDS)
}

fn annotations(block: u64) -> BTreeMap<&'static str, String> {
    let range = format!("{}/{IDS}", FIRST_ID + block * IDS);
    // The block-th pair of distinct categories.
    let (mut high, mut low) = (1, block % (CATEGORIES * (CATEGORIES - 1) / 2));
    while low >= high {
        low -= high;
        high += 1;
    }
    BTreeMap::from([
        (names::SUPPLEMENTAL_GROUPS_ANNOTATION, range.clone()),
        (names::UID_RANGE_ANNOTATION, range),
        (names::MCS_ANNOTATION, format!("s0:c{high},c{low}")),
    ])
}

fn service_account(namespace: &str, name: &str) -> ServiceAccount {
    // An object without a field has no manager either, and nobody could tell who made it.
    let labels = BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), FIELD_MANAGER.to_owned())]);
    let (name, namespace) = (Some(name.into()), Some(namespace.into()));
    let metadata = ObjectMeta { name, namespace, labels: Some(labels), ..ObjectMeta::default() };
    ServiceAccount { metadata, ..ServiceAccount::default() }
}

/// Role bindings OpenShift puts into each new project (openshift-apiserver source, delegated project requests).
fn bindings(namespace: &str) -> [RoleBinding; 2] {
    let rbac = "rbac.authorization.k8s.io".to_owned();
    let binding = |name: &str, role: &str, subject: Subject| RoleBinding {
        metadata: ObjectMeta { name: Some(name.into()), namespace: Some(namespace.into()), ..ObjectMeta::default() },
        role_ref: RoleRef { api_group: rbac.clone(), kind: "ClusterRole".into(), name: role.into() },
        subjects: Some(vec![subject]),
    };
    let all_accounts = Subject {
        api_group: Some(rbac.clone()),
        kind: "Group".into(),
        name: format!("system:serviceaccounts:{namespace}"),
        namespace: None,
    };
    let builder = Subject {
        api_group: None,
        kind: "ServiceAccount".into(),
        name: BUILDER.into(),
        namespace: Some(namespace.into()),
    };
    [binding(PULLERS, "system:image-puller", all_accounts), binding(BUILDERS, "system:image-builder", builder)]
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn namespace(name: &str, range: Option<&str>) -> Arc<Namespace> {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.into());
        namespace.metadata.uid = Some(format!("uid-{name}"));
        if let Some(range) = range {
            namespace.annotations_mut().insert(names::SUPPLEMENTAL_GROUPS_ANNOTATION.into(), range.into());
        }
        Arc::new(namespace)
    }

    #[test]
    fn blocks_are_never_given_twice() {
        let all = [namespace("b", None), namespace("a", Some("1000000000/10000")), namespace("c", None)];
        let mut given = BTreeMap::new();
        allot(&all, &mut given);
        assert_eq!(given["uid-a"], 0);
        assert_eq!((given["uid-b"], given["uid-c"]), (1, 2));
        // The copy does not show the new annotations yet, and another namespace has come.
        let more = [&all[..], &[namespace("d", None)]].concat();
        allot(&more, &mut given);
        assert_eq!((given["uid-b"], given["uid-c"], given["uid-d"]), (1, 2, 3));
        // A namespace that is gone frees its block.
        allot(&more[1..], &mut given);
        assert!(!given.contains_key("uid-b"));
    }

    #[rstest]
    #[case(0, "1000000000/10000", "s0:c1,c0")]
    #[case(29, "1000290000/10000", "s0:c8,c1")]
    fn annotations_follow_from_the_block(#[case] block: u64, #[case] range: &str, #[case] mcs: &str) {
        let annotations = annotations(block);
        assert_eq!(annotations[names::SUPPLEMENTAL_GROUPS_ANNOTATION], range);
        assert_eq!(annotations[names::UID_RANGE_ANNOTATION], range);
        assert_eq!(annotations[names::MCS_ANNOTATION], mcs);
    }
}
