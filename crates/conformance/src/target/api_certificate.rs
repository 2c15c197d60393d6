//! A certificate of the cluster's own authority for a proxy in front of the API server, asked for as nodes ask for
//! theirs. Pods trust the authority of their service account's token, so a proxy between them needs one of it.

use std::{net::IpAddr, path::Path, time::Duration};

use harness::{
    failure::{Failure, Tried as _},
    wait::{Check, wait},
};
use k8s_openapi::{ByteString, api::certificates::v1::CertificateSigningRequest};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use local_cluster::pki::CertificateFiles;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use serde_json::json;

/// The node that the certificate is for; there is none of that name.
const NODE: &str = "system:node:registry-conformance";
/// How long the controllers may take to sign.
const SIGNED: Duration = Duration::from_secs(20);

/// Gets a certificate for `address` and writes it and its key below `folder`.
///
/// # Errors
/// When the API server does not let us ask as a node, or its controllers do not sign.
pub(super) async fn obtain(
    client: &Client,
    config: &Config,
    address: IpAddr,
    folder: &Path,
) -> Result<CertificateFiles, Failure> {
    let tried = || format!("getting a certificate of the cluster for {address}");
    let key = KeyPair::generate().tried(tried())?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(address)];
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, NODE);
    let request = params.serialize_request(&key).tried(tried())?.pem().tried(tried())?;

    let name = format!("registry-conformance-{}", uuid::Uuid::new_v4().simple());
    let object: CertificateSigningRequest = serde_json::from_value(json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {
            "signerName": "kubernetes.io/kubelet-serving",
            "request": ByteString(request.into_bytes()),
            "usages": ["digital signature", "server auth"],
        },
    }))
    .tried(tried())?;
    let mut as_node = config.clone();
    as_node.auth_info.impersonate = Some(NODE.to_owned());
    as_node.auth_info.impersonate_groups = Some(vec!["system:nodes".to_owned(), "system:authenticated".to_owned()]);
    let as_node: Api<CertificateSigningRequest> = Api::all(Client::try_from(as_node).tried(tried())?);
    as_node.create(&PostParams::default(), &object).await.tried(tried())?;

    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let approval = json!({"status": {"conditions": [{
        "type": "Approved", "status": "True", "reason": "RegistryConformance",
        "message": "for a proxy in front of the API server",
    }]}});
    requests.patch_approval(&name, &PatchParams::default(), &Patch::Merge(&approval)).await.tried(tried())?;
    let certificate = wait(tried(), SIGNED)
        .object(&requests, &name, |request: Option<&CertificateSigningRequest>| {
            let status = request.and_then(|request| request.status.as_ref());
            match status.and_then(|status| status.certificate.clone()) {
                Some(certificate) => Check::Met(certificate),
                None => Check::NotYet(format!("{:?}", status.map(|status| &status.conditions))),
            }
        })
        .await
        .map_err(|failure| Failure { kind: harness::failure::Kind::Error, ..failure })?;
    // It has done its work; what is left of it would only be in the way.
    let _ = requests.delete(&name, &DeleteParams::default()).await;

    let files = CertificateFiles { certificate: folder.join("api-proxy.crt"), key: folder.join("api-proxy.key") };
    std::fs::write(&files.certificate, certificate.0).tried(tried())?;
    local_cluster::secret_file::write(&files.key, key.serialize_pem().as_bytes()).tried(tried())?;
    Ok(files)
}
