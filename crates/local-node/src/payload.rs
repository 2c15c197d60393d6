//! The content of secret, configMap, downwardAPI and projected volumes, including service account tokens and their renewal.
//! It computes what a volume shall hold; writing it is left to `atomic_folder`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{
        ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccount, ServiceAccountTokenProjection,
        Volume, VolumeProjection,
    },
};
use kube::{Api, Client, api::PostParams};

use crate::{
    atomic_folder::{Payload, PayloadFile},
    downward::{self, Addresses},
    rewrite,
    source::{SourceError, SourceName, Sources},
};

const DEFAULT_MODE: i32 = 0o644;
/// The kubelet's default life of a projected token; its API server may shorten or lengthen it.
const DEFAULT_TOKEN_SECONDS: i64 = 3600;
/// Tokens are renewed after 80 % of their life, or after a day if that is sooner (Kubernetes documentation, projected volumes).
const LONGEST_USE: Duration = Duration::from_secs(24 * 3600);
const TOKEN_LIMIT: Duration = Duration::from_secs(10);

/// Why the content of a volume could not be computed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PayloadError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("references non-existent key {key} of {kind} {name}")]
    MissingKey { kind: &'static str, name: String, key: String },
    #[error("failed to fetch a token for service account {account}: {reason}")]
    Token { account: String, reason: String },
}

/// The tokens of one pod, kept until they must be renewed.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    held: BTreeMap<(String, String), Token>,
}

#[derive(Debug, Clone)]
struct Token {
    text: String,
    renew_at: Timestamp,
}

/// What computing a payload needs beside the volume.
pub(crate) struct Context<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) addresses: &'a Addresses,
    pub(crate) sources: &'a Sources,
    pub(crate) client: &'a Client,
}

/// Whether the volume is one whose content this file computes.
pub(crate) fn has_payload(volume: &Volume) -> bool {
    volume.secret.is_some()
        || volume.config_map.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
}

/// The Secrets and ConfigMaps whose change changes the volume.
pub(crate) fn references(volume: &Volume, namespace: &str) -> BTreeSet<SourceName> {
    let mut names = Vec::new();
    if let Some(name) = volume.secret.as_ref().and_then(|secret| secret.secret_name.clone()) {
        names.push(("Secret", name));
    }
    if let Some(config_map) = &volume.config_map {
        names.push(("ConfigMap", config_map.name.clone()));
    }
    for projection in projections(volume) {
        if let Some(secret) = &projection.secret {
            names.push(("Secret", secret.name.clone()));
        }
        if let Some(config_map) = &projection.config_map {
            names.push(("ConfigMap", config_map.name.clone()));
        }
    }
    names.into_iter().map(|(kind, name)| SourceName { kind, namespace: namespace.to_owned(), name }).collect()
}

fn projections(volume: &Volume) -> impl Iterator<Item = &VolumeProjection> {
    volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten())
}

/// Computes the content of `volume`; tokens still fresh enough are taken from `tokens`, new ones are put there.
pub(crate) async fn compute(
    volume: &Volume,
    context: &Context<'_>,
    tokens: &mut Tokens,
) -> Result<Payload, PayloadError> {
    let namespace = context.pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut payload = Payload::new();
    if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let optional = source.optional.unwrap_or(false);
        let name = source.secret_name.as_deref().unwrap_or_default();
        let secret = context.sources.secret(namespace, name, !optional).await?;
        payload.extend(chosen("Secret", name, secret_data(secret), source.items.as_deref(), mode, optional)?);
    }
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let optional = source.optional.unwrap_or(false);
        let object = context.sources.config_map(namespace, &source.name, !optional).await?;
        let data = localised(config_map_data(object), context);
        payload.extend(chosen("ConfigMap", &source.name, data, source.items.as_deref(), mode, optional)?);
    }
    if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        payload.extend(downward_files(source.items.as_deref(), context, mode)?);
    }
    let mode = volume.projected.as_ref().and_then(|projected| projected.default_mode).unwrap_or(DEFAULT_MODE);
    for projection in projections(volume) {
        payload.extend(projected(volume, projection, mode, context, tokens).await?);
    }
    Ok(payload)
}

async fn projected(
    volume: &Volume,
    projection: &VolumeProjection,
    mode: i32,
    context: &Context<'_>,
    tokens: &mut Tokens,
) -> Result<Payload, PayloadError> {
    let namespace = context.pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut payload = Payload::new();
    if let Some(source) = &projection.secret {
        let optional = source.optional.unwrap_or(false);
        let secret = context.sources.secret(namespace, &source.name, !optional).await?;
        let data = secret_data(secret);
        payload.extend(chosen("Secret", &source.name, data, source.items.as_deref(), mode, optional)?);
    }
    if let Some(source) = &projection.config_map {
        let optional = source.optional.unwrap_or(false);
        let object = context.sources.config_map(namespace, &source.name, !optional).await?;
        let data = localised(config_map_data(object), context);
        payload.extend(chosen("ConfigMap", &source.name, data, source.items.as_deref(), mode, optional)?);
    }
    if let Some(source) = &projection.downward_api {
        payload.extend(downward_files(source.items.as_deref(), context, mode)?);
    }
    if let Some(source) = &projection.service_account_token {
        let token = tokens.get(&volume.name, source, context).await?;
        payload.insert(PathBuf::from(&source.path), PayloadFile { content: token.into_bytes(), mode: bits(mode) });
    }
    Ok(payload)
}

type Data = Option<BTreeMap<String, Vec<u8>>>;

fn secret_data(secret: Option<Secret>) -> Data {
    Some(secret?.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect())
}

fn config_map_data(object: Option<ConfigMap>) -> Data {
    let object = object?;
    let text = object.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
    Some(text.chain(object.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0))).collect())
}

/// Configuration files name listen addresses, too.
fn localised(data: Data, context: &Context<'_>) -> Data {
    let Ok(address) = context.addresses.pod.parse() else { return data };
    let address = api::address::listen_address(address).to_string();
    let ports = rewrite::declared_ports(context.pod);
    let localise = |content: Vec<u8>| match String::from_utf8(content) {
        Ok(text) => rewrite::listen_addresses(&text, &ports, &address).into_bytes(),
        Err(binary) => binary.into_bytes(),
    };
    Some(data?.into_iter().map(|(key, content)| (key, localise(content))).collect())
}

fn chosen(
    kind: &'static str,
    name: &str,
    data: Data,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<Payload, PayloadError> {
    let mut data = data.unwrap_or_default();
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let file = |(key, content)| (PathBuf::from(key), PayloadFile { content, mode: bits(mode) });
        return Ok(data.into_iter().map(file).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.remove(&item.key) {
            Some(content) => {
                let file = PayloadFile { content, mode: bits(item.mode.unwrap_or(mode)) };
                payload.insert(PathBuf::from(&item.path), file);
            }
            None if optional => {}
            None => return Err(PayloadError::MissingKey { kind, name: name.to_owned(), key: item.key.clone() }),
        }
    }
    Ok(payload)
}

fn downward_files(
    items: Option<&[DownwardAPIVolumeFile]>,
    context: &Context<'_>,
    mode: i32,
) -> Result<Payload, PayloadError> {
    let mut payload = Payload::new();
    for item in items.unwrap_or_default() {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => downward::field(context.pod, &field.field_path, context.addresses)?,
            (None, Some(resource)) => downward::resource(context.pod, None, resource)?,
            (None, None) => continue,
        };
        let file = PayloadFile { content: text.into_bytes(), mode: bits(item.mode.unwrap_or(mode)) };
        payload.insert(PathBuf::from(&item.path), file);
    }
    Ok(payload)
}

fn bits(mode: i32) -> u32 {
    mode.cast_unsigned() & 0o777
}

impl Tokens {
    /// When the first token must be renewed.
    pub(crate) fn renew_at(&self) -> Option<Timestamp> {
        self.held.values().map(|token| token.renew_at).min()
    }

    async fn get(
        &mut self,
        volume: &str,
        projection: &ServiceAccountTokenProjection,
        context: &Context<'_>,
    ) -> Result<String, PayloadError> {
        let key = (volume.to_owned(), projection.path.clone());
        if let Some(token) = self.held.get(&key).filter(|token| token.renew_at > Timestamp::now()) {
            return Ok(token.text.clone());
        }
        let token = request(projection, context).await?;
        let text = token.text.clone();
        self.held.insert(key, token);
        Ok(text)
    }
}

async fn request(projection: &ServiceAccountTokenProjection, context: &Context<'_>) -> Result<Token, PayloadError> {
    let metadata = &context.pod.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let account = context.pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    let failed = |reason: String| PayloadError::Token { account: format!("{namespace}/{account}"), reason };
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: projection.audience.iter().cloned().collect(),
            expiration_seconds: Some(projection.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS)),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: metadata.name.clone(),
                uid: metadata.uid.clone(),
            }),
        },
        ..TokenRequest::default()
    };
    let accounts = Api::<ServiceAccount>::namespaced(context.client.clone(), namespace);
    let parameters = PostParams::default();
    let asked_at = Timestamp::now();
    let call = accounts.create_token_request(account, &parameters, &request);
    let answer: TokenRequest = match tokio::time::timeout(TOKEN_LIMIT, call).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("no answer within {}s", TOKEN_LIMIT.as_secs()))),
    };
    let status = answer.status.ok_or_else(|| failed("the answer has no status".into()))?;
    Ok(Token { text: status.token, renew_at: renewal(asked_at, status.expiration_timestamp.0) })
}

fn renewal(asked_at: Timestamp, expires_at: Timestamp) -> Timestamp {
    let life = Duration::try_from(expires_at.duration_since(asked_at)).unwrap_or_default();
    asked_at + life.mul_f64(0.8).min(LONGEST_USE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(600, 480)]
    #[case(3600, 2880)]
    #[case(1_000_000, 86_400)]
    #[case(-5, 0)]
    fn tokens_are_renewed_in_time(#[case] life: i64, #[case] after: i64) {
        let asked = Timestamp::from_second(1_000_000).unwrap();
        let expires = Timestamp::from_second(1_000_000 + life).unwrap();
        assert_eq!(renewal(asked, expires).as_second() - asked.as_second(), after);
    }

    #[test]
    fn items_choose_and_rename() {
        let data = || Some(BTreeMap::from([("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]));
        let item = |key: &str| [KeyToPath { key: key.into(), path: "x/y".into(), mode: Some(0o400) }];
        let payload = chosen("Secret", "s", data(), Some(&item("b")), 0o644, false).unwrap();
        assert_eq!(payload[&PathBuf::from("x/y")], PayloadFile { content: b"2".to_vec(), mode: 0o400 });
        assert_eq!(payload.len(), 1);
        assert!(chosen("Secret", "s", data(), Some(&item("none")), 0o644, false).is_err());
        assert!(chosen("Secret", "s", data(), Some(&item("none")), 0o644, true).unwrap().is_empty());
    }
}
