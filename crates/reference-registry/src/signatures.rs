//! Image signatures beside the distribution API, as clients ask for them with every pull
//! (registry source pkg/dockerregistry/server/signaturedispatcher.go).

use api::image::ImageSignature;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderValue, Response, StatusCode, header};
use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::json;

use crate::{
    body::{self, Body},
    digest::{Digest, Repository},
    error::{Code, Refusal},
    manifest::MAX_BYTES,
    registry::Registry,
    request::{Identity, Request},
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signature {
    schema_version: i64,
    name: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    content: String,
}

fn bare(status: StatusCode, reason: String) -> Refusal {
    Refusal::Bare { status, reason }
}

impl Registry {
    /// GET of an image's signatures.
    pub async fn get_signatures(&self, repository: &Repository, digest: &Digest) -> Result<Response<Body>, Refusal> {
        let image = self.cluster.stream_image(repository, digest).await.map_err(|error| match error.code() {
            Some(404) => bare(StatusCode::NOT_FOUND, error.to_string()),
            _ => Code::Unknown.because(error),
        })?;
        let signatures: Vec<_> = image
            .image
            .signatures
            .iter()
            .map(|signature| {
                json!({
                    "schemaVersion": 2,
                    "name": signature.metadata.name.clone().unwrap_or_default(),
                    "type": signature.type_,
                    "content": BASE64_STANDARD.encode(&signature.content.0),
                })
            })
            .collect();
        let mut response = body::json(&json!({"signatures": signatures}));
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        Ok(response)
    }

    /// PUT of a signature, in the user's name.
    pub async fn put_signature(
        &self,
        request: &mut Request,
        digest: &Digest,
        identity: &Identity,
    ) -> Result<Response<Body>, Refusal> {
        let invalid = |why: String| Code::SignatureInvalid.because(why);
        let sent = std::mem::replace(&mut request.body, body::received(""));
        let sent = body::collect(sent, MAX_BYTES).await.map_err(|error| invalid(error.to_string()))?;
        let sent: Signature = serde_json::from_slice(&sent).map_err(|error| invalid(error.to_string()))?;
        if sent.schema_version != 2 {
            return Err(invalid("only schemaVersion=2 is currently supported".into()));
        }
        let named = sent.name.split_once('@').filter(|(image, id)| *image == digest.to_string() && !id.is_empty());
        if named.is_none() {
            return Err(invalid(format!("the name {:?} must be {digest}@<id>", sent.name)));
        }
        let content = BASE64_STANDARD.decode(&sent.content).map_err(|error| invalid(error.to_string()))?;
        let mut signature = ImageSignature { content: ByteString(content), ..ImageSignature::default() };
        signature.type_ = if sent.kind.is_empty() { "AtomicImageV1".into() } else { sent.kind };
        signature.metadata.name = Some(sent.name);
        match self.cluster.create_signature(identity.caller.clone(), &signature).await {
            Ok(()) => {
                let mut response = body::nothing();
                *response.status_mut() = StatusCode::CREATED;
                Ok(response)
            }
            Err(error) => Err(match error.code() {
                Some(409) => Code::SignatureExists.into(),
                Some(404) => bare(StatusCode::NOT_FOUND, error.to_string()),
                Some(400 | 422) => invalid(error.to_string()),
                Some(401 | 403) => Code::Unauthorized.because(error),
                _ => Code::Unknown.because(error),
            }),
        }
    }
}
