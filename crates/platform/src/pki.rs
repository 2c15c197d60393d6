//! Keeps certificate authorities in Secrets and shows their certificates to readers outside the cluster.
//! What is signed with them is decided elsewhere.

use std::path::Path;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams};

use crate::Error;
use crate::certificate::{Authority, Pair};
use crate::cluster::{Cluster, FIELD_MANAGER};

/// The authority kept in a Secret; a new one is made and kept if there is none, or none that is any good.
pub(crate) async fn authority(
    cluster: &Cluster,
    namespace: &str,
    secret_name: &str,
    common_name: &str,
) -> Result<Authority, Error> {
    let api = Api::<Secret>::namespaced(cluster.client.clone(), namespace);
    let kept = api
        .get_opt(secret_name)
        .await
        .map_err(Error::api(format!("reading the certificate authority {namespace}/{secret_name}")))?;
    if let Some(kept) = kept {
        match Authority::from_pair(pair(&kept)) {
            Ok(authority) => return Ok(authority),
            Err(error) => tracing::warn!(namespace, secret_name, %error, "a new certificate authority is made instead"),
        }
    }
    let authority = Authority::generate(common_name)?;
    keep(cluster, namespace, secret_name, authority.pair()).await?;
    Ok(authority)
}

/// Writes a pair into a Secret of type TLS, whatever was there.
pub(crate) async fn keep(cluster: &Cluster, namespace: &str, name: &str, pair: &Pair) -> Result<(), Error> {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let secret = Secret {
        metadata: ObjectMeta { name: Some(name.into()), namespace: Some(namespace.into()), ..ObjectMeta::default() },
        type_: Some("kubernetes.io/tls".into()),
        data: Some([("tls.crt".to_owned(), bytes(&pair.certificate)), ("tls.key".to_owned(), bytes(&pair.key))].into()),
        ..Secret::default()
    };
    let api = Api::<Secret>::namespaced(cluster.client.clone(), namespace);
    api.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&secret))
        .await
        .map_err(Error::api(format!("keeping the certificate {namespace}/{name}")))?;
    Ok(())
}

/// The pair a Secret of type TLS holds; blank where it lacks a key.
pub(crate) fn pair(secret: &Secret) -> Pair {
    let text = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
    };
    Pair { certificate: text("tls.crt"), key: text("tls.key") }
}

/// Writes a certificate into the folder for outside readers; they see either the old text or the new one.
pub(crate) async fn publish(folder: &Path, name: &str, pem: &str) -> Result<(), Error> {
    let path = folder.join(name);
    let half = folder.join(format!(".{name}.new"));
    let write = async {
        tokio::fs::create_dir_all(folder).await?;
        tokio::fs::write(&half, pem).await?;
        tokio::fs::rename(&half, &path).await
    };
    write.await.map_err(|source| Error::Write { path: path.clone(), source })
}
