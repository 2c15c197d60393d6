//! What the operator knows of the cluster: one reflector per kind it reads, each marking the controllers it concerns.
//! The cache never writes; controllers read it and act elsewhere.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::config::{ClusterOperator, ImageConfig, Infrastructure, Proxy};
use api::imageregistry::{Config, ImagePruner};
use api::names;
use api::route::Route;
use futures::StreamExt;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::runtime::reflector::store::WriterDropped;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::worker::Wake;

/// One mark per controller; a watch gets those of the controllers that read what it brings.
#[derive(Clone, Debug, Default)]
pub struct Wakes {
    /// The registry itself.
    pub registry: Wake,
    /// Status of `image.config.openshift.io/cluster`.
    pub image_config: Wake,
    /// ConfigMap `image-registry-certificates`.
    pub certificates: Wake,
    /// DaemonSet `node-ca`.
    pub node_ca: Wake,
    /// ImagePruner and its CronJob.
    pub pruner: Wake,
    /// ClusterOperator `image-registry`.
    pub cluster_operator: Wake,
}

/// A kind whose objects the operator writes: where they are and how they are looked up.
pub trait Cached: Resource<DynamicType = ()> + Send + Sync + 'static {
    /// The API of the one place where the operator keeps objects of this kind.
    fn api(client: &Client, cache: &Cache) -> Api<Self>
    where
        Self: Sized;
    /// The object of this name there, as last seen.
    fn find(cache: &Cache, name: &str) -> Option<Arc<Self>>
    where
        Self: Sized;
}

/// Everything watched. Cloning shares the stores.
#[derive(Clone)]
pub struct Cache {
    /// The operator's namespace.
    pub namespace: String,
    configs: Store<Config>,
    image_pruners: Store<ImagePruner>,
    cluster_operators: Store<ClusterOperator>,
    image_configs: Store<ImageConfig>,
    infrastructures: Store<Infrastructure>,
    proxies: Store<Proxy>,
    namespaces: Store<Namespace>,
    deployments: Store<Deployment>,
    daemon_sets: Store<DaemonSet>,
    services: Store<Service>,
    service_accounts: Store<ServiceAccount>,
    secrets: Store<Secret>,
    config_maps: Store<ConfigMap>,
    claims: Store<PersistentVolumeClaim>,
    disruption_budgets: Store<PodDisruptionBudget>,
    routes: Store<Route>,
    cron_jobs: Store<CronJob>,
    jobs: Store<Job>,
    cluster_roles: Store<ClusterRole>,
    cluster_role_bindings: Store<ClusterRoleBinding>,
    given_secrets: Store<Secret>,
    given_config_maps: Store<ConfigMap>,
    changes: watch::Receiver<u64>,
}

macro_rules! cached {
    ($($kind:ty: namespaced $store:ident;)* @ $($global:ty: cluster $global_store:ident;)*) => {
        $(impl Cached for $kind {
            fn api(client: &Client, cache: &Cache) -> Api<Self> {
                Api::namespaced(client.clone(), &cache.namespace)
            }
            fn find(cache: &Cache, name: &str) -> Option<Arc<Self>> {
                cache.$store.get(&ObjectRef::new(name).within(&cache.namespace))
            }
        })*
        $(impl Cached for $global {
            fn api(client: &Client, _: &Cache) -> Api<Self> {
                Api::all(client.clone())
            }
            fn find(cache: &Cache, name: &str) -> Option<Arc<Self>> {
                cache.$global_store.get(&ObjectRef::new(name))
            }
        })*
    };
}

cached! {
    Deployment: namespaced deployments;
    DaemonSet: namespaced daemon_sets;
    Service: namespaced services;
    ServiceAccount: namespaced service_accounts;
    Secret: namespaced secrets;
    ConfigMap: namespaced config_maps;
    PersistentVolumeClaim: namespaced claims;
    PodDisruptionBudget: namespaced disruption_budgets;
    Route: namespaced routes;
    CronJob: namespaced cron_jobs;
    Job: namespaced jobs;
    @
    Config: cluster configs;
    ImagePruner: cluster image_pruners;
    ClusterOperator: cluster cluster_operators;
    ImageConfig: cluster image_configs;
    Infrastructure: cluster infrastructures;
    Proxy: cluster proxies;
    Namespace: cluster namespaces;
    ClusterRole: cluster cluster_roles;
    ClusterRoleBinding: cluster cluster_role_bindings;
}

/// Pauses of a failing watch: from 100 ms, doubled up to half a minute, short again after a quiet minute.
///
/// The watch's own resets are ignored, because it counts the begin of each attempt as a success.
#[derive(Default)]
struct Pauses {
    failures: u32,
    last: Option<Instant>,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.last.is_some_and(|last| last.elapsed() > Duration::from_secs(60)) {
            self.failures = 0;
        }
        self.last = Some(Instant::now());
        self.failures = self.failures.saturating_add(1);
        let doubled = 1_u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX);
        Some(Duration::from_millis(100).saturating_mul(doubled).min(Duration::from_secs(30)))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {}
}

struct Watches<'a> {
    tracker: &'a TaskTracker,
    stop: &'a CancellationToken,
    changes: Arc<watch::Sender<u64>>,
}

impl Watches<'_> {
    fn start<K>(&self, api: Api<K>, config: watcher::Config, wakes: &[&Wake]) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
        K::DynamicType: Eq + Hash + Clone,
    {
        let (store, writer) = reflector::store::<K>();
        let wakes: Vec<Wake> = wakes.iter().map(|wake| (*wake).clone()).collect();
        let (stop, changes) = (self.stop.clone(), self.changes.clone());
        self.tracker.spawn(async move {
            let mut events = watcher(api, config).backoff(Pauses::default()).reflect(writer).boxed();
            let mut failing = false;
            loop {
                let event = tokio::select! {
                    () = stop.cancelled() => return,
                    event = events.next() => event,
                };
                match event {
                    Some(Ok(watcher::Event::Init | watcher::Event::InitApply(_))) => {}
                    Some(Ok(_)) => {
                        failing = false;
                        changes.send_modify(|count| *count += 1);
                        wakes.iter().for_each(Wake::wake);
                    }
                    Some(Err(error)) => {
                        if !failing {
                            warn!(kind = %K::kind(&()), %error, "cannot watch {}, trying again", K::plural(&()));
                        }
                        failing = true;
                    }
                    None => return,
                }
            }
        });
        store
    }

    fn named<K>(&self, api: Api<K>, name: &str, wakes: &[&Wake]) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        self.start(api, watcher::Config::default().fields(&format!("metadata.name={name}")), wakes)
    }
}

impl Cache {
    /// Starts one watch per kind on `tracker`; they end with `stop`. Use [`Cache::ready`] before reading.
    pub fn start(
        client: &Client,
        namespace: &str,
        wakes: &Wakes,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        fn own<K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>>(
            client: &Client,
            namespace: &str,
        ) -> Api<K> {
            Api::namespaced(client.clone(), namespace)
        }
        let (sender, changes) = watch::channel(0);
        let watches = Watches { tracker, stop, changes: Arc::new(sender) };
        let any = watcher::Config::default;
        let Wakes { registry, image_config, certificates, node_ca, pruner, cluster_operator } = wakes;
        Self {
            namespace: namespace.to_owned(),
            configs: watches.named(
                Api::all(client.clone()),
                names::CLUSTER,
                &[registry, image_config, certificates, node_ca, pruner, cluster_operator],
            ),
            image_pruners: watches.named(Api::all(client.clone()), names::CLUSTER, &[pruner, cluster_operator]),
            cluster_operators: watches.named(Api::all(client.clone()), names::CLUSTER_OPERATOR, &[cluster_operator]),
            image_configs: watches.named(
                Api::all(client.clone()),
                names::CLUSTER,
                &[image_config, certificates, pruner],
            ),
            infrastructures: watches.named(Api::all(client.clone()), names::CLUSTER, &[registry]),
            proxies: watches.named(Api::all(client.clone()), names::CLUSTER, &[registry]),
            namespaces: watches.named(Api::all(client.clone()), namespace, &[registry]),
            deployments: watches.start(own(client, namespace), any(), &[registry, cluster_operator]),
            daemon_sets: watches.start(own(client, namespace), any(), &[node_ca]),
            services: watches.start(own(client, namespace), any(), &[registry, image_config, certificates]),
            service_accounts: watches.start(own(client, namespace), any(), &[registry, pruner]),
            secrets: watches.start(own(client, namespace), any(), &[registry]),
            config_maps: watches.start(own(client, namespace), any(), &[registry, certificates, pruner]),
            claims: watches.start(own(client, namespace), any(), &[registry]),
            disruption_budgets: watches.start(own(client, namespace), any(), &[registry]),
            routes: watches.start(own(client, namespace), any(), &[registry, image_config]),
            cron_jobs: watches.start(own(client, namespace), any(), &[pruner]),
            jobs: watches.start(own(client, namespace), any(), &[pruner]),
            cluster_roles: watches.named(Api::all(client.clone()), names::REGISTRY_CLUSTER_ROLE, &[registry]),
            cluster_role_bindings: watches.start(Api::all(client.clone()), any(), &[registry, pruner]),
            given_secrets: watches.named(
                Api::namespaced(client.clone(), names::CONFIG_NAMESPACE),
                names::PULL_SECRET,
                &[registry],
            ),
            given_config_maps: watches.start(
                Api::namespaced(client.clone(), names::CONFIG_NAMESPACE),
                any(),
                &[registry, certificates],
            ),
            changes,
        }
    }

    /// Waits until what is cached satisfies `condition`, at most for `limit`; says whether it did.
    pub async fn wait_for(&self, limit: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let mut changes = self.changes.clone();
        let met = async {
            loop {
                changes.mark_unchanged();
                if condition(self) {
                    return true;
                }
                if changes.changed().await.is_err() {
                    return false;
                }
            }
        };
        tokio::time::timeout(limit, met).await.unwrap_or(false)
    }

    /// Waits until every watch has delivered its first list; without the needed kinds this waits for ever.
    pub async fn ready(&self) -> Result<(), WriterDropped> {
        macro_rules! wait {
            ($($store:ident),*) => { $(self.$store.wait_until_ready().await?;)* };
        }
        wait!(
            configs,
            image_pruners,
            cluster_operators,
            image_configs,
            infrastructures,
            proxies,
            namespaces,
            deployments,
            daemon_sets,
            services,
            service_accounts,
            secrets,
            config_maps,
            claims,
            disruption_budgets,
            routes,
            cron_jobs,
            jobs,
            cluster_roles,
            cluster_role_bindings,
            given_secrets,
            given_config_maps
        );
        Ok(())
    }

    /// All routes of the namespace.
    pub fn routes(&self) -> Vec<Arc<Route>> {
        self.routes.state()
    }

    /// All jobs of the namespace.
    pub fn jobs(&self) -> Vec<Arc<Job>> {
        self.jobs.state()
    }

    /// The cluster's pull secret in `openshift-config`.
    pub fn pull_secret(&self) -> Option<Arc<Secret>> {
        self.given_secrets.get(&ObjectRef::new(names::PULL_SECRET).within(names::CONFIG_NAMESPACE))
    }

    /// A ConfigMap the administrator put into `openshift-config`.
    pub fn given_config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
        self.given_config_maps.get(&ObjectRef::new(name).within(names::CONFIG_NAMESPACE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute() {
        let millis: Vec<u128> = Pauses::default().take(11).map(|pause| pause.as_millis()).collect();
        assert_eq!(millis[..3], [100, 200, 400]);
        assert_eq!(millis[10], 30_000);
    }
}
