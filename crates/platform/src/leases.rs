//! Frees the lease of the registry's operator when the operator that held it is gone.
//! A killed operator cannot give its lease back, and the next one would wait for it to run out: 137 seconds upstream.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use api::names;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::Notify;

use crate::cache;
use crate::cluster::Cluster;

/// Watches the operator's pods and its lease.
pub(crate) async fn start(cluster: &Cluster) {
    let changed = Arc::new(Notify::new());
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), names::REGISTRY_NAMESPACE);
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), names::REGISTRY_NAMESPACE);
    let only = watcher::Config::default().fields(&format!("metadata.name={}", names::OPERATOR_LEASE));
    let (pods, held) = tokio::join!(
        cache::watch(cluster, pods, watcher::Config::default(), &changed),
        cache::watch(cluster, leases.clone(), only, &changed),
    );
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let pass = {
        let cluster = cluster.clone();
        move || {
            let (cluster, leases, seen) = (cluster.clone(), leases.clone(), Arc::clone(&seen));
            let (pods, held) = (pods.state(), held.state());
            async move {
                let running: BTreeSet<Timestamp> = pods.iter().flat_map(|pod| running_since(pod)).collect();
                let stale = {
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.extend(&running);
                    held.into_iter().find(|lease| is_left_behind(lease, &running, &seen))
                };
                let Some(lease) = stale else { return Ok(()) };
                tracing::info!(lease = lease.name_any(), "its holder is gone; the lease is freed");
                let patch = json!({
                    "metadata": { "resourceVersion": lease.resource_version() },
                    "spec": { "holderIdentity": "", "leaseDurationSeconds": 1 },
                });
                cluster.merge(&leases, names::OPERATOR_LEASE, &patch).await
            }
        }
    };
    cache::drive(cluster, "operator lease", changed, pass).await;
}

/// Since when each container of the pod has been running, if it is the operator's.
fn running_since(pod: &Pod) -> impl Iterator<Item = Timestamp> + '_ {
    let is_operators = pod.name_any().starts_with(&format!("{}-", names::OPERATOR_DEPLOYMENT));
    let statuses = pod.status.as_ref().filter(|_| is_operators).and_then(|status| status.container_statuses.as_ref());
    let started = statuses.into_iter().flatten().filter_map(|status| status.state.as_ref()?.running.as_ref());
    started.filter_map(|running| running.started_at.as_ref().map(|time| time.0))
}

/// True if no running operator can have renewed the lease, but one that was seen running can.
///
/// A lease of an operator that runs as no pod at all is nobody's business here.
fn is_left_behind(lease: &Lease, running: &BTreeSet<Timestamp>, seen: &BTreeSet<Timestamp>) -> bool {
    let Some(spec) = &lease.spec else { return false };
    let Some(renewed) = spec.renew_time.as_ref().map(|time| time.0) else { return false };
    let is_held = spec.holder_identity.as_ref().is_some_and(|holder| !holder.is_empty());
    let holder_was_a_pod = !running.is_empty() || seen.iter().any(|since| *since <= renewed);
    is_held && holder_was_a_pod && running.iter().all(|since| *since > renewed)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::holder_runs("a", &[1], &[1], false)]
    #[case::holder_was_killed("a", &[], &[1], true)]
    #[case::another_has_started("a", &[9], &[1, 9], true)]
    #[case::the_platform_has_restarted_meanwhile("a", &[9], &[9], true)]
    #[case::two_run("a", &[1, 9], &[1, 9], false)]
    #[case::runs_as_no_pod("a", &[], &[], false)]
    #[case::was_given_back("", &[9], &[1, 9], false)]
    fn a_lease_renewed_at_five(
        #[case] holder: &str,
        #[case] running: &[i64],
        #[case] seen: &[i64],
        #[case] expected: bool,
    ) {
        let at = |second: &i64| Timestamp::from_second(*second).expect("in range");
        let spec = LeaseSpec {
            holder_identity: Some(holder.into()),
            renew_time: Some(MicroTime(at(&5))),
            ..LeaseSpec::default()
        };
        let lease = Lease { spec: Some(spec), ..Lease::default() };
        let (running, seen) = (running.iter().map(at).collect(), seen.iter().map(at).collect());
        assert_eq!(is_left_behind(&lease, &running, &seen), expected);
    }
}
