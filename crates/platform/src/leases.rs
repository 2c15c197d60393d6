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
                let running: BTreeSet<Run> = pods.iter().flat_map(|pod| runs(pod)).collect();
                let stale = {
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.extend(running.iter().map(|run| run.since));
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

/// A run of the operator that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    since: Timestamp,
    /// The end of the run before it in the same container.
    after: Option<Timestamp>,
}

/// What runs in the pod, if it is the operator's.
fn runs(pod: &Pod) -> impl Iterator<Item = Run> + '_ {
    let is_operators = pod.name_any().starts_with(&format!("{}-", names::OPERATOR_DEPLOYMENT));
    let statuses = pod.status.as_ref().filter(|_| is_operators).and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().filter_map(|status| {
        let since = status.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0;
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        Some(Run { since, after: last.and_then(|last| last.finished_at.as_ref()).map(|time| time.0) })
    })
}

/// True if no running operator can have renewed the lease, but one that was seen running can.
///
/// A lease of an operator that runs as no pod at all is nobody's business here.
fn is_left_behind(lease: &Lease, running: &BTreeSet<Run>, seen: &BTreeSet<Timestamp>) -> bool {
    let Some(spec) = &lease.spec else { return false };
    let Some(renewed) = spec.renew_time.as_ref().map(|time| time.0) else { return false };
    let is_held = spec.holder_identity.as_ref().is_some_and(|holder| !holder.is_empty());
    let holder_was_a_pod = !running.is_empty() || seen.iter().any(|since| *since <= renewed);
    is_held && holder_was_a_pod && running.iter().all(|run| began_after(run, renewed))
}

/// Pods tell whole seconds. A run that began in the second of the renewal counts as later if the one before it ended no
/// earlier; if that is wrong, the holder takes its lease again at its next renewal and nobody is harmed.
fn began_after(run: &Run, renewed: Timestamp) -> bool {
    let second = Timestamp::from_second(renewed.as_second()).unwrap_or(renewed);
    run.since > renewed || (run.since >= second && run.after.is_some_and(|end| end >= second))
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
        let run = |second: &i64| Run { since: at(second), after: None };
        let spec = LeaseSpec {
            holder_identity: Some(holder.into()),
            renew_time: Some(MicroTime(at(&5))),
            ..LeaseSpec::default()
        };
        let lease = Lease { spec: Some(spec), ..Lease::default() };
        let (running, seen) = (running.iter().map(run).collect(), seen.iter().map(at).collect());
        assert_eq!(is_left_behind(&lease, &running, &seen), expected);
    }

    #[rstest]
    #[case::restarted_in_the_same_second(5_000, Some(5_000), true)]
    #[case::restarted_long_before(5_000, Some(3_000), false)]
    #[case::first_run(5_000, None, false)]
    #[case::restarted_a_second_before(4_000, Some(4_000), false)]
    fn a_lease_renewed_within_a_second(#[case] since: i64, #[case] after: Option<i64>, #[case] expected: bool) {
        let at = |millisecond: i64| Timestamp::from_millisecond(millisecond).expect("in range");
        let run = Run { since: at(since), after: after.map(at) };
        assert_eq!(began_after(&run, at(5_300)), expected);
    }
}
