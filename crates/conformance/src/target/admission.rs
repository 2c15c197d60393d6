//! What pods of a cluster are given as they are made: the doorway, the authorities to trust, other ways to the API server.
//! On the embedded target the nodes give all that; here it is an admission webhook, so that manifests stay the same.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, RwLock},
};

use axum::{Json, Router, extract::State, routing::post};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use harness::{
    failure::{Failure, Tried as _},
    trust::Authority,
};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    core::v1::{Container, EnvVar, HostPathVolumeSource, PodSpec, Volume, VolumeMount},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::seams::{Detour, Detours};

/// Name of the webhook's object, and of the volume it adds.
pub(super) const NAME: &str = "registry-conformance";
/// Where the nodes have the bundle, and where pods see it.
pub(super) const TRUST: &str = "/etc/registry-conformance/trust.pem";
/// Namespaces whose pods are the cluster's own.
pub(super) const OWN_NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];
/// Where nodes' containerd looks for mirrors by default; a node agent is told, because not every containerd looks there.
const CONTAINERD_CERTS: (&str, &str) = ("NODE_CONTAINERD_CERTS_DIR", "/etc/containerd/certs.d");
/// The variable by which a node agent is known.
const NODE_ROOT: &str = "NODE_ROOT";
/// Variables by which a pod says that it looks after proxies itself.
const PROXIES: [&str; 4] = ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"];

/// What every pod is given.
#[derive(Debug, Clone)]
pub(super) struct Gifts {
    /// The doorway's URL, as pods reach it.
    pub proxy: String,
    /// What pods reach without it.
    pub no_proxy: String,
    /// Registry part of image names that lie on the nodes and must never be pulled.
    pub loaded: String,
}

/// The running webhook; dropping it closes it.
pub(super) struct Admission {
    giver: Arc<Giver>,
    address: SocketAddr,
    handle: axum_server::Handle<SocketAddr>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

impl Admission {
    /// Serves on a free port of `listen`, with a certificate of `authority`, and tells the API server. Pods in `spared`
    /// namespaces are left as they are.
    ///
    /// # Errors
    /// When the address is not ours, or the API server refuses.
    pub(super) async fn open(
        client: &Client,
        listen: IpAddr,
        authority: &Authority,
        gifts: Gifts,
        spared: &[&str],
    ) -> Result<Self, Failure> {
        let tried = || format!("serving an admission webhook on {listen}");
        let config = authority.server_config(&[listen.to_string()]).tried(tried())?;
        let listener = std::net::TcpListener::bind((listen, 0)).tried(tried())?;
        listener.set_nonblocking(true).tried(tried())?;
        let address = listener.local_addr().tried(tried())?;
        let giver = Arc::new(Giver { gifts, detours: RwLock::default() });
        let app = Router::new().route("/pods", post(review)).with_state(giver.clone());
        let handle = axum_server::Handle::new();
        let config = axum_server::tls_rustls::RustlsConfig::from_config(config);
        let server = axum_server::from_tcp_rustls(listener, config).tried(tried())?.handle(handle.clone());
        tokio::spawn(server.serve(app.into_make_service()));
        let admission = Self { giver, address, handle };
        admission.register(client, authority, spared).await?;
        Ok(admission)
    }

    async fn register(&self, client: &Client, authority: &Authority, spared: &[&str]) -> Result<(), Failure> {
        let object = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": NAME},
            "webhooks": [{
                "name": "pods.registry-conformance.local",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {
                    "url": format!("https://{}/pods", self.address),
                    "caBundle": STANDARD.encode(authority.pem()),
                },
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
                    "scope": "Namespaced",
                }],
                "namespaceSelector": {"matchExpressions": [{
                    "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": spared,
                }]},
                "sideEffects": "None",
                // A pod without its gifts would be judged wrongly.
                "failurePolicy": "Fail",
                "timeoutSeconds": 5,
            }],
        });
        let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
        let parameters = PatchParams::apply("registry-conformance").force();
        api.patch(NAME, &parameters, &Patch::Apply(&object))
            .await
            .map(drop)
            .tried("telling the API server of the admission webhook")
    }

    /// The ways to the API server that faults need.
    pub(super) fn detours(&self) -> Arc<dyn Detours> {
        self.giver.clone()
    }
}

struct Giver {
    gifts: Gifts,
    /// By namespace and service account.
    detours: RwLock<BTreeMap<(String, String), SocketAddr>>,
}

impl Detours for Giver {
    fn lead(&self, detours: &[Detour]) -> Result<(), Failure> {
        let entries = detours
            .iter()
            .map(|detour| ((detour.namespace.to_owned(), detour.service_account.to_owned()), detour.api_server));
        *self.detours.write().expect("no panic while leading") = entries.collect();
        Ok(())
    }
}

impl Giver {
    /// The specification of a pod with everything it is to have.
    fn furnish(&self, namespace: &str, mut spec: PodSpec) -> PodSpec {
        let account = spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned());
        let detours = self.detours.read().expect("no panic while leading");
        let detour = detours.get(&(namespace.to_owned(), account)).copied();
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            self.furnish_container(container, detour);
        }
        spec.volumes.get_or_insert_default().push(Volume {
            name: NAME.to_owned(),
            host_path: Some(HostPathVolumeSource { path: TRUST.to_owned(), type_: Some("File".to_owned()) }),
            ..Volume::default()
        });
        spec
    }

    fn furnish_container(&self, container: &mut Container, detour: Option<SocketAddr>) {
        let Gifts { proxy, no_proxy, loaded } = &self.gifts;
        let image = container.image.as_deref().unwrap_or_default();
        if image.starts_with(&format!("{loaded}/")) {
            container.image_pull_policy = Some("Never".to_owned());
        }
        container.volume_mounts.get_or_insert_default().push(VolumeMount {
            name: NAME.to_owned(),
            mount_path: TRUST.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        });
        let env = container.env.get_or_insert_default();
        let writes_nodes = env.iter().any(|own| own.name == NODE_ROOT);
        let mut give = |name: &str, value: &str| {
            if !env.iter().any(|own| own.name == name) {
                env.push(EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() });
            }
        };
        give("SSL_CERT_FILE", TRUST);
        if writes_nodes {
            give(CONTAINERD_CERTS.0, CONTAINERD_CERTS.1);
        }
        if let Some(server) = detour {
            give("KUBERNETES_SERVICE_HOST", &server.ip().to_string());
            give("KUBERNETES_SERVICE_PORT", &server.port().to_string());
        }
        if !env.iter().any(|own| PROXIES.contains(&own.name.as_str())) {
            for (name, value) in [("HTTPS_PROXY", proxy), ("NO_PROXY", no_proxy)] {
                env.push(EnvVar { name: name.to_owned(), value: Some(value.clone()), ..EnvVar::default() });
            }
        }
    }
}

async fn review(State(giver): State<Arc<Giver>>, Json(review): Json<Value>) -> Json<Value> {
    let request = &review["request"];
    let namespace = request["namespace"].as_str().unwrap_or_default();
    let spec = serde_json::from_value::<PodSpec>(request["object"]["spec"].clone());
    let mut response = json!({"uid": request["uid"], "allowed": true});
    match spec.map(|spec| {
        serde_json::to_vec(&json!([{
            "op": "replace", "path": "/spec", "value": giver.furnish(namespace, spec),
        }]))
    }) {
        Ok(Ok(patch)) => {
            response["patchType"] = "JSONPatch".into();
            response["patch"] = STANDARD.encode(patch).into();
        }
        Ok(Err(error)) | Err(error) => {
            response["allowed"] = false.into();
            response["status"] = json!({"message": format!("registry-conformance cannot read the pod: {error}")});
        }
    }
    Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn giver() -> Giver {
        let gifts = Gifts {
            proxy: "http://172.19.0.1:3128".to_owned(),
            no_proxy: ".svc".to_owned(),
            loaded: "ours.local".to_owned(),
        };
        Giver { gifts, detours: RwLock::default() }
    }

    fn furnished(giver: &Giver, container: Value) -> Container {
        let spec = json!({"serviceAccountName": "operator", "containers": [container]});
        let spec = giver.furnish("registry", serde_json::from_value(spec).expect("a pod"));
        assert_eq!(spec.volumes.expect("a volume").len(), 1);
        spec.containers.into_iter().next().expect("a container")
    }

    fn value<'a>(container: &'a Container, name: &str) -> Option<&'a str> {
        container.env.iter().flatten().find(|own| own.name == name)?.value.as_deref()
    }

    #[test]
    fn what_the_pod_says_itself_wins() {
        let container = furnished(
            &giver(),
            json!({"name": "c", "image": "elsewhere/x", "env": [{"name": "HTTP_PROXY", "value": "http://own"}]}),
        );
        assert_eq!(value(&container, "HTTPS_PROXY"), None);
        assert_eq!(value(&container, "SSL_CERT_FILE"), Some(TRUST));
        assert_eq!(container.image_pull_policy, None);
    }

    #[test]
    fn only_the_named_account_takes_the_detour_and_loaded_images_are_never_pulled() {
        let giver = giver();
        let lead = |account| {
            let api_server = "172.19.0.1:7443".parse().expect("an address");
            giver.lead(&[Detour { namespace: "registry", service_account: account, api_server }]).expect("led");
        };
        lead("operator");
        let container = furnished(&giver, json!({"name": "c", "image": "ours.local/operator"}));
        assert_eq!(value(&container, "KUBERNETES_SERVICE_PORT"), Some("7443"));
        assert_eq!(container.image_pull_policy.as_deref(), Some("Never"));
        lead("registry");
        let container = furnished(&giver, json!({"name": "c", "image": "ours.local/operator"}));
        assert_eq!(value(&container, "KUBERNETES_SERVICE_HOST"), None);
        assert_eq!(value(&container, "HTTPS_PROXY"), Some("http://172.19.0.1:3128"));
    }
}
