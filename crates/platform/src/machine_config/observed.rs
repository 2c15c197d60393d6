//! Copies of the cluster's objects that decide what is rendered, kept by watches.
//! What they add up to is in `inputs`.

use std::sync::Arc;

use futures::StreamExt as _;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{
    WatchStreamExt as _,
    reflector::{self, Store},
    watcher,
};
use kube::{Client, ResourceExt as _};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::inputs::Inputs;

/// A kind that is read.
#[derive(Debug)]
struct Kind {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    /// The one name that counts, for kinds of which there is one object.
    only: Option<&'static str>,
}

const fn singleton(kind: &'static str, plural: &'static str, name: &'static str) -> Kind {
    Kind { group: "config.openshift.io", version: "v1", kind, plural, only: Some(name) }
}

const fn mirrors(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind { group, version, kind, plural, only: None }
}

const KINDS: [Kind; 7] = [
    singleton("ClusterVersion", "clusterversions", api::names::CLUSTER_VERSION),
    singleton("FeatureGate", "featuregates", api::names::CLUSTER),
    singleton("Infrastructure", "infrastructures", api::names::CLUSTER),
    singleton("Image", "images", api::names::CLUSTER),
    mirrors("config.openshift.io", "v1", "ImageDigestMirrorSet", "imagedigestmirrorsets"),
    mirrors("config.openshift.io", "v1", "ImageTagMirrorSet", "imagetagmirrorsets"),
    mirrors("operator.openshift.io", "v1alpha1", "ImageContentSourcePolicy", "imagecontentsourcepolicies"),
];

/// Everything that is watched.
pub(super) struct Observed {
    stores: Vec<Store<DynamicObject>>,
    changed: Arc<Notify>,
}

impl Observed {
    /// Watches until `stop`; returns once every kind has been listed.
    pub(super) async fn watch(client: &Client, stop: &CancellationToken) -> Self {
        let changed = Arc::new(Notify::new());
        let stores: Vec<_> = KINDS.iter().map(|kind| follow(kind, client, &changed, stop)).collect();
        let listed = futures::future::join_all(stores.iter().map(Store::wait_until_ready));
        tokio::select! {
            _ = listed => {}
            () = stop.cancelled() => {}
        }
        changed.notify_one();
        Self { stores, changed }
    }

    /// Resolves when something may have changed since the last call; several changes may count as one.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What there is to render from; `None` while something indispensable is not known.
    pub(super) fn inputs(&self) -> Option<Inputs> {
        let mut objects: Vec<DynamicObject> =
            self.stores.iter().flat_map(Store::state).map(|object| (*object).clone()).collect();
        objects.sort_by_key(|object| (object.types.clone().unwrap_or_default().kind, object.name_any()));
        Inputs::of(&objects)
    }
}

fn follow(kind: &Kind, client: &Client, changed: &Arc<Notify>, stop: &CancellationToken) -> Store<DynamicObject> {
    let gvk = GroupVersionKind::gvk(kind.group, kind.version, kind.kind);
    let resource = ApiResource::from_gvk_with_plural(&gvk, kind.plural);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let config = match kind.only {
        Some(name) => watcher::Config::default().fields(&format!("metadata.name={name}")),
        None => watcher::Config::default(),
    };
    let writer = reflector::store::Writer::<DynamicObject>::new(resource);
    let store = writer.as_reader();
    let stream = reflector::reflector(writer, watcher(api, config)).default_backoff();
    let (changed, stop, kind) = (Arc::clone(changed), stop.clone(), kind.kind);
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream.take_until(stop.cancelled_owned()));
        while let Some(event) = stream.next().await {
            match event {
                // Objects of a list are shown all at once, when the list is complete.
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Ok(_) => changed.notify_one(),
                Err(error) => tracing::warn!(kind, %error, "watch was interrupted and goes on"),
            }
        }
    });
    store
}
