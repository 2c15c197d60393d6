//! The service CA: certificates for Services that ask for one, and its bundle for ConfigMaps that ask for it.
//! The signing key lives in a Secret, so a restarted platform goes on with the same authority.

mod bundles;
mod serving;

use std::path::Path;
use std::sync::Arc;

use api::names;

use crate::Error;
use crate::certificate::Authority;
use crate::cluster::Cluster;
use crate::pki;

/// Secret with the signing key, in [`names::SERVICE_CA_NAMESPACE`]; the name is upstream's.
const SIGNING_KEY: &str = "signing-key";

/// The kept authority, or a new one that is kept from now on. Its certificate is written to `service-ca.crt`.
pub(crate) async fn load(cluster: &Cluster, pki_dir: &Path) -> Result<Authority, Error> {
    let authority =
        pki::authority(cluster, names::SERVICE_CA_NAMESPACE, SIGNING_KEY, "openshift-service-serving-signer").await?;
    pki::publish(pki_dir, "service-ca.crt", authority.certificate()).await?;
    Ok(authority)
}

/// Serves Services and ConfigMaps. Returns after all that exist are served.
pub(crate) async fn start(cluster: &Cluster, authority: Authority) {
    let bundle: Arc<str> = authority.certificate().into();
    tokio::join!(serving::start(cluster, authority), bundles::start(cluster, bundle));
}
