//! Makes the serving certificate a Service asks for by annotation, and makes it anew when it is deleted or broken.
//! A Secret of that name that belongs to somebody else is never touched; the Service is told instead.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::names;
use futures::future;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PostParams;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::Notify;

use crate::Error;
use crate::cache;
use crate::certificate::{Authority, Pair};
use crate::cluster::{Cluster, FIELD_MANAGER};
use crate::error::{is_lost_race, is_not_found};
use crate::pki;

/// Annotations by which upstream's service CA marks its Secrets.
const ORIGIN_NAME: &str = "service.beta.openshift.io/originating-service-name";
const ORIGIN_UID: &str = "service.beta.openshift.io/originating-service-uid";
/// Annotation by which it tells a Service what went wrong.
const GENERATION_ERROR: &str = "service.beta.openshift.io/serving-cert-generation-error";
const TLS: &str = "kubernetes.io/tls";

/// Keeps the certificates of all annotated Services. Returns after all that exist have theirs.
pub(super) async fn start(cluster: &Cluster, authority: Authority) {
    let changed = Arc::new(Notify::new());
    let client = &cluster.client;
    let (services, secrets) = tokio::join!(
        cache::watch(cluster, Api::<Service>::all(client.clone()), watcher::Config::default(), &changed),
        // All Secrets, because one of another type may stand in the way.
        cache::watch(cluster, Api::<Secret>::all(client.clone()), watcher::Config::default(), &changed),
    );
    let signer = Arc::new(Signer { cluster: cluster.clone(), authority, services, secrets });
    let pass = move || {
        let signer = Arc::clone(&signer);
        async move { signer.pass().await }
    };
    cache::drive(cluster, "serving certificates", changed, pass).await;
}

struct Signer {
    cluster: Cluster,
    authority: Authority,
    services: Store<Service>,
    secrets: Store<Secret>,
}

/// What a Service's Secret needs.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// There is none.
    Create,
    /// Ours, but not what it should be.
    Replace,
    /// Belongs to somebody else.
    Refuse(String),
}

impl Signer {
    async fn pass(&self) -> Result<(), Error> {
        let services = self.services.state();
        let asking = services.iter().filter(|service| service.metadata.deletion_timestamp.is_none());
        future::try_join_all(asking.filter_map(|service| {
            let secret_name = wanted_secret(service)?;
            Some(self.serve(service, secret_name))
        }))
        .await?;
        Ok(())
    }

    async fn serve(&self, service: &Service, secret_name: &str) -> Result<(), Error> {
        let namespace = service.namespace().unwrap_or_default();
        let held = self.secrets.get(&ObjectRef::new(secret_name).within(&namespace));
        let names = host_names(service);
        let need = need(service, held.as_deref(), |pair| self.authority.vouches_for(pair, &names));
        let api = Api::<Secret>::namespaced(self.cluster.client.clone(), &namespace);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let doing = || format!("writing the serving certificate {namespace}/{secret_name}");
        let written = match need {
            Need::Nothing => return self.tell(service, None).await,
            Need::Refuse(reason) => return self.tell(service, Some(&reason)).await,
            Need::Create => api.create(&params, &secret(service, secret_name, self.authority.issue(&names)?)).await,
            Need::Replace => {
                let mut replacement = secret(service, secret_name, self.authority.issue(&names)?);
                let held = held.as_deref().map(|held| &held.metadata);
                replacement.metadata.resource_version = held.and_then(|held| held.resource_version.clone());
                replacement.metadata.labels = held.and_then(|held| held.labels.clone());
                api.replace(secret_name, &params, &replacement).await
            }
        };
        match written {
            Ok(_) => {
                tracing::info!(
                    service = service.name_any(),
                    namespace,
                    secret = secret_name,
                    "serving certificate made"
                );
                self.tell(service, None).await
            }
            // Our copy was behind; the event that mends it brings us back. Or the namespace is on its way out.
            Err(error) if is_lost_race(&error) || is_not_found(&error) => Ok(()),
            Err(kube::Error::Api(status)) if status.message.contains("being terminated") => Ok(()),
            Err(error) => Err(Error::api(doing())(error)),
        }
    }

    /// Sets or clears the annotation that says what went wrong.
    async fn tell(&self, service: &Service, problem: Option<&str>) -> Result<(), Error> {
        if service.annotations().get(GENERATION_ERROR).map(String::as_str) == problem {
            return Ok(());
        }
        let namespace = service.namespace().unwrap_or_default();
        let api = Api::<Service>::namespaced(self.cluster.client.clone(), &namespace);
        let patch = json!({ "metadata": { "annotations": { GENERATION_ERROR: problem } } });
        self.cluster.merge(&api, &service.name_any(), &patch).await
    }
}

fn wanted_secret(service: &Service) -> Option<&str> {
    let annotations = service.annotations();
    [names::SERVING_CERT_ANNOTATION, names::SERVING_CERT_ANNOTATION_ALPHA]
        .into_iter()
        .find_map(|annotation| annotations.get(annotation))
        .map(String::as_str)
        .filter(|name| !name.is_empty())
}

/// The Service's names inside the cluster; a headless one's pods have names of their own below them.
fn host_names(service: &Service) -> Vec<String> {
    let host = format!("{}.{}.svc", service.name_any(), service.namespace().unwrap_or_default());
    let mut names = vec![host.clone(), format!("{host}.cluster.local")];
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        names.extend(names.clone().iter().map(|name| format!("*.{name}")));
    }
    names
}

fn need(service: &Service, secret: Option<&Secret>, is_good: impl FnOnce(&Pair) -> bool) -> Need {
    let Some(secret) = secret else { return Need::Create };
    let origin = |annotation| secret.annotations().get(annotation).map(String::as_str);
    if origin(ORIGIN_UID) != service.metadata.uid.as_deref() {
        // A Service of the same name that was made anew inherits the Secret; nobody else's is taken over.
        if origin(ORIGIN_NAME) == Some(service.name_any().as_str()) {
            return Need::Replace;
        }
        return Need::Refuse(format!(
            "secret {}/{} does not have corresponding service UID {}",
            secret.namespace().unwrap_or_default(),
            secret.name_any(),
            service.metadata.uid.as_deref().unwrap_or_default(),
        ));
    }
    match secret.type_.as_deref() == Some(TLS) && is_good(&pki::pair(secret)) {
        true => Need::Nothing,
        false => Need::Replace,
    }
}

fn secret(service: &Service, name: &str, pair: Pair) -> Secret {
    let uid = service.metadata.uid.clone().unwrap_or_default();
    let annotations =
        BTreeMap::from([(ORIGIN_NAME.to_owned(), service.name_any()), (ORIGIN_UID.to_owned(), uid.clone())]);
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Service".into(),
        name: service.name_any(),
        uid,
        ..OwnerReference::default()
    };
    let data = [("tls.crt", pair.certificate), ("tls.key", pair.key)];
    Secret {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: service.namespace(),
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        type_: Some(TLS.into()),
        data: Some(data.into_iter().map(|(key, pem)| (key.to_owned(), ByteString(pem.into_bytes()))).collect()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn service(uid: &str) -> Service {
        let mut service = Service::default();
        service.metadata.name = Some("image-registry".into());
        service.metadata.namespace = Some("openshift-image-registry".into());
        service.metadata.uid = Some(uid.into());
        service
    }

    fn made_for(uid: &str) -> Secret {
        let pair = Pair { certificate: "certificate".into(), key: "key".into() };
        secret(&service(uid), "image-registry-tls", pair)
    }

    fn somebody_elses() -> Secret {
        Secret {
            metadata: ObjectMeta { name: Some("image-registry-tls".into()), ..Default::default() },
            ..made_for("a")
        }
    }

    #[rstest]
    #[case::deleted(None, true, Need::Create)]
    #[case::good(Some(made_for("a")), true, Need::Nothing)]
    #[case::broken(Some(made_for("a")), false, Need::Replace)]
    #[case::service_made_anew(Some(made_for("b")), true, Need::Replace)]
    #[case::foreign(Some(somebody_elses()), true, Need::Refuse("secret /image-registry-tls does not have corresponding service UID a".into()))]
    fn need_follows_from_the_secret(#[case] secret: Option<Secret>, #[case] good: bool, #[case] expected: Need) {
        assert_eq!(need(&service("a"), secret.as_ref(), |_| good), expected);
    }

    #[test]
    fn the_older_annotation_counts_too() {
        let mut service = service("a");
        assert_eq!(wanted_secret(&service), None);
        service.annotations_mut().insert(names::SERVING_CERT_ANNOTATION_ALPHA.into(), "image-registry-tls".into());
        assert_eq!(wanted_secret(&service), Some("image-registry-tls"));
        assert_eq!(
            host_names(&service),
            [
                "image-registry.openshift-image-registry.svc",
                "image-registry.openshift-image-registry.svc.cluster.local"
            ]
        );
    }
}
