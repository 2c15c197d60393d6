//! Storage in an S3 bucket: names, credentials, the registry's environment, and what is said about the bucket.
//! Requests are made by `bucket`; a bucket somebody else manages is only looked at.

use std::collections::BTreeMap;

use api::config::{Infrastructure, InfrastructureStatus};
use api::imageregistry::{Config, S3, Storage, StorageManagementState};
use api::names;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::bucket::{Address, Bucket, Credentials, Failure};
use super::{Outcome, PodStorage, STORAGE_EXISTS, UNKNOWN, from_secret, generated_name, literal, minted_key, user_key};
use crate::cache::Cached;
use crate::certificates;
use crate::condition::{Statement, Truth};
use crate::context::Context;
use crate::error::SyncError;

const ACCESS_KEY: &str = "REGISTRY_STORAGE_S3_ACCESSKEY";
const SECRET_KEY: &str = "REGISTRY_STORAGE_S3_SECRETKEY";

/// Fills in what is left open: region and endpoint of the platform if neither is given, and a generated bucket name.
/// Says whether the name was generated (operator source pkg/storage/s3/s3.go:131-172, main).
pub fn complete(s3: &mut S3, infrastructure: Option<&InfrastructureStatus>) -> bool {
    let aws =
        infrastructure.and_then(|status| status.platform_status.as_ref()).and_then(|platform| platform.aws.as_ref());
    if s3.region.is_empty()
        && s3.region_endpoint.is_empty()
        && let Some(aws) = aws
    {
        s3.region = aws["region"].as_str().unwrap_or_default().to_owned();
        let endpoints = aws["serviceEndpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
        if let Some(url) = endpoints.iter().find(|each| each["name"] == "s3").and_then(|each| each["url"].as_str()) {
            s3.region_endpoint = url.to_owned();
            s3.virtual_hosted_style = true;
        }
    }
    if !s3.bucket.is_empty() {
        return false;
    }
    let cluster = infrastructure.map(|status| status.infrastructure_name.as_str()).unwrap_or_default();
    s3.bucket = generated_name(cluster, &s3.region);
    true
}

/// The credentials in force: the administrator's Secret whenever it exists, else the cluster's own
/// (OpenShift 4.6 registry docs, section 3.1.1; operator source pkg/storage/s3/s3.go:199-231, main).
///
/// # Errors
/// [`SyncError::Missing`] naming Secret and key.
pub fn credentials(user: Option<&Secret>, minted: Option<&Secret>, namespace: &str) -> Result<Credentials, SyncError> {
    if let Some(secret) = user {
        return Ok(Credentials {
            access_key: user_key(secret, ACCESS_KEY)?,
            secret_key: user_key(secret, SECRET_KEY)?,
        });
    }
    let value = |key: &str| minted_key(minted, key, namespace);
    Ok(Credentials { access_key: value("aws_access_key_id")?, secret_key: value("aws_secret_access_key")? })
}

/// What the registry's pods need (operator source pkg/storage/s3/s3.go:215-238, release-4.6; later variables that do
/// no harm from pkg/storage/s3/s3.go:403-547, main). A key id counts only with encryption, as the documents say.
pub fn pod_storage(s3: &S3, credentials: &Credentials) -> PodStorage {
    let mut env = vec![
        literal("REGISTRY_STORAGE", "s3"),
        literal("REGISTRY_STORAGE_S3_BUCKET", &s3.bucket),
        literal("REGISTRY_STORAGE_S3_REGION", &s3.region),
        literal("REGISTRY_STORAGE_S3_ENCRYPT", s3.encrypt.to_string()),
        literal("REGISTRY_STORAGE_S3_VIRTUALHOSTEDSTYLE", s3.virtual_hosted_style.to_string()),
        literal("REGISTRY_STORAGE_S3_FORCEPATHSTYLE", (!s3.virtual_hosted_style).to_string()),
        literal("REGISTRY_STORAGE_S3_USEDUALSTACK", "true"),
        from_secret(ACCESS_KEY, ACCESS_KEY),
        from_secret(SECRET_KEY, SECRET_KEY),
    ];
    if !s3.region_endpoint.is_empty() {
        env.push(literal("REGISTRY_STORAGE_S3_REGIONENDPOINT", &s3.region_endpoint));
    }
    if s3.encrypt && !s3.key_id.is_empty() {
        env.push(literal("REGISTRY_STORAGE_S3_KEYID", &s3.key_id));
    }
    if let Some(size) = s3.chunk_size_mib {
        env.push(literal("REGISTRY_STORAGE_S3_CHUNKSIZE", (i64::from(size) * 1024 * 1024).to_string()));
    }
    let (mut volumes, mut mounts) = (Vec::new(), Vec::new());
    if let Some(front) = &s3.cloud_front {
        let duration = if front.duration.is_empty() { "1200s" } else { &front.duration };
        let middleware = json!([{ "name": "cloudfront", "options": {
            "baseurl": front.base_url,
            "privatekey": "/etc/docker/cloudfront/private.pem",
            "keypairid": front.keypair_id,
            "duration": duration,
            "ipfilteredby": "none",
        } }]);
        env.push(literal("REGISTRY_MIDDLEWARE_STORAGE", middleware.to_string()));
        volumes.push(json!({ "name": "registry-cloudfront", "secret": {
            "secretName": front.private_key.name,
            "items": [{ "key": front.private_key.key, "path": "private.pem" }],
        } }));
        mounts.push(json!({ "name": "registry-cloudfront", "mountPath": "/etc/docker/cloudfront", "readOnly": true }));
    }
    let secret: BTreeMap<String, String> = [
        (ACCESS_KEY.to_owned(), credentials.access_key.clone()),
        (SECRET_KEY.to_owned(), credentials.secret_key.clone()),
    ]
    .into();
    PodStorage { env, volumes, mounts, secret }
}

/// What a failure of looking at the bucket is called (operator source pkg/storage/s3/s3.go:585-605, main).
fn absence(failure: &Failure) -> (Truth, String) {
    match failure {
        Failure::Refused { status: 403 | 404, code, .. } => (Truth::False, code.clone()),
        _ => (Truth::Unknown, UNKNOWN.to_owned()),
    }
}

/// What a failure of making the bucket is called (operator source pkg/storage/s3/s3.go:665-722, main).
fn refusal(failure: &Failure) -> (Truth, String) {
    match failure {
        Failure::Refused { code, .. } if code == "BucketAlreadyExists" => {
            (Truth::False, "Unable to Access Bucket".into())
        }
        Failure::Refused { code, .. } => (Truth::False, code.clone()),
        Failure::Unreachable(_) => (Truth::Unknown, UNKNOWN.to_owned()),
    }
}

fn open(context: &Context, s3: &S3, user: Option<&Secret>) -> Result<(Bucket, Credentials), SyncError> {
    let minted = Secret::find(&context.cache, names::MINTED_STORAGE_SECRET);
    let credentials = credentials(user, minted.as_deref(), context.namespace())?;
    let trusted_ca = match s3.trusted_ca.as_ref().map(|reference| reference.name.as_str()).unwrap_or_default() {
        "" => None,
        name => Some(certificates::storage_ca(context, name)?),
    };
    let address = Address {
        endpoint: s3.region_endpoint.clone(),
        region: s3.region.clone(),
        bucket: s3.bucket.clone(),
        virtual_hosted: s3.virtual_hosted_style,
    };
    let bucket = Bucket::new(&address, &credentials, trusted_ca.as_deref())
        .map_err(|failure| SyncError::Storage { message: failure.to_string() })?;
    Ok((bucket, credentials))
}

/// Looks at the bucket, makes and configures it if the storage is the operator's, and says what was found.
/// A named bucket with state Unmanaged is only looked at (OpenShift 4.6 registry docs, section 2.3); one whose name was
/// `generated` in this pass has to be made whatever the state.
pub async fn ensure(context: &Context, config: &Config, s3: &S3, user: Option<&Secret>, generated: bool) -> Outcome {
    let storage = &config.spec.storage;
    let (bucket, credentials) = match open(context, s3, user) {
        Ok(opened) => opened,
        Err(error) => {
            let said = Statement::new(STORAGE_EXISTS, Truth::Unknown, UNKNOWN, error.to_string());
            return Outcome { storage: storage.clone(), statements: vec![said], pods: Err(error) };
        }
    };
    let managed = storage.management_state == Some(StorageManagementState::Managed);
    let in_use = config.status.as_ref().is_some_and(|status| status.storage == *storage);
    let refused = |(truth, reason): (Truth, String), failure: &Failure, what: &str| {
        Outcome::refused(storage, truth, &reason, format!("unable to {what} S3 bucket {}: {failure}", s3.bucket))
    };
    let found = match bucket.head().await {
        Ok(()) => Statement::new(
            STORAGE_EXISTS,
            true,
            "S3 Bucket Exists",
            if managed {
                "S3 bucket exists and is accessible"
            } else {
                "User supplied S3 bucket exists and is accessible"
            },
        ),
        Err(failure @ Failure::Refused { status: 403 | 404, .. }) if managed || generated => {
            match bucket.create().await {
                Ok(()) => {
                    tracing::info!(bucket = s3.bucket, "made S3 bucket {}", s3.bucket);
                    Statement::new(STORAGE_EXISTS, true, "Creation Successful", "S3 bucket was successfully created")
                }
                Err(second) => {
                    tracing::warn!(bucket = s3.bucket, %failure, %second, "could neither use nor make S3 bucket {}", s3.bucket);
                    return refused(refusal(&second), &second, "create");
                }
            }
        }
        Err(failure) => return refused(absence(&failure), &failure, "access"),
    };
    let created = found.reason == "Creation Successful";
    let mut statements = vec![found];
    let mut storage = storage.clone();
    if managed && (created || !in_use) {
        let infrastructure = Infrastructure::find(&context.cache, names::CLUSTER);
        let cluster = infrastructure.as_ref().and_then(|found| found.status.as_ref());
        let settings = settings(s3, cluster);
        for setting in settings {
            let result = bucket.configure(setting.resource, setting.document).await;
            if setting.condition == "StorageEncrypted" && result.is_ok() {
                encrypt(&mut storage);
            }
            statements.push(setting_statement(setting.condition, setting.done, result));
        }
    } else if in_use {
        // Nothing was made or changed; what was said at creation stands.
        let known = config.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        if known.iter().any(|said| said.type_ == STORAGE_EXISTS && said.is_true()) {
            statements.clear();
        }
    }
    let stanza = storage.s3.clone().unwrap_or_default();
    Outcome { pods: Ok(pod_storage(&stanza, &credentials)), storage, statements }
}

fn encrypt(storage: &mut Storage) {
    if let Some(s3) = &mut storage.s3 {
        s3.encrypt = true;
    }
}

fn setting_statement(condition: &str, done: (&str, &str), result: Result<(), Failure>) -> Statement {
    match result {
        Ok(()) => Statement::new(condition, true, done.0, done.1),
        Err(Failure::Refused { code, message, .. }) => {
            Statement::new(condition, false, &code, if message.is_empty() { code.clone() } else { message })
        }
        Err(Failure::Unreachable(message)) => Statement::new(condition, Truth::Unknown, UNKNOWN, message),
    }
}

struct Setting {
    condition: &'static str,
    resource: &'static str,
    document: String,
    done: (&'static str, &'static str),
}

/// What a managed bucket is set to (operator source pkg/storage/s3/s3.go:725-881, main).
fn settings(s3: &S3, infrastructure: Option<&InfrastructureStatus>) -> Vec<Setting> {
    let cluster = infrastructure.map(|status| status.infrastructure_name.as_str()).unwrap_or_default();
    let own_tags = infrastructure
        .and_then(|status| status.platform_status.as_ref()?.aws.as_ref()?["resourceTags"].as_array().cloned())
        .unwrap_or_default();
    let text = |tag: &Value, field: &str| tag[field].as_str().unwrap_or_default().to_owned();
    let mut tags = vec![
        (format!("kubernetes.io/cluster/{cluster}"), "owned".to_owned()),
        ("Name".to_owned(), format!("{cluster}-image-registry")),
    ];
    tags.extend(own_tags.iter().map(|tag| (text(tag, "key"), text(tag, "value"))));
    let tags: String =
        tags.iter().map(|(key, value)| format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>")).collect();
    let xmlns = "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"";
    let algorithm = if s3.encrypt && !s3.key_id.is_empty() {
        format!("<SSEAlgorithm>aws:kms</SSEAlgorithm><KMSMasterKeyID>{}</KMSMasterKeyID>", s3.key_id)
    } else {
        "<SSEAlgorithm>AES256</SSEAlgorithm>".to_owned()
    };
    vec![
        Setting {
            condition: "StoragePublicAccessBlocked",
            resource: "publicAccessBlock",
            document: format!(
                "<PublicAccessBlockConfiguration {xmlns}><BlockPublicAcls>true</BlockPublicAcls>\
                 <IgnorePublicAcls>true</IgnorePublicAcls><BlockPublicPolicy>true</BlockPublicPolicy>\
                 <RestrictPublicBuckets>true</RestrictPublicBuckets></PublicAccessBlockConfiguration>"
            ),
            done: (
                "Public Access Block Successful",
                "Public access to the S3 bucket and its contents have been successfully blocked.",
            ),
        },
        Setting {
            condition: "StorageTagged",
            resource: "tagging",
            document: format!("<Tagging {xmlns}><TagSet>{tags}</TagSet></Tagging>"),
            done: ("Tagging Successful", "Tags were successfully applied to the S3 bucket"),
        },
        Setting {
            condition: "StorageEncrypted",
            resource: "encryption",
            document: format!(
                "<ServerSideEncryptionConfiguration {xmlns}><Rule><ApplyServerSideEncryptionByDefault>{algorithm}\
                 </ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>"
            ),
            done: ("Encryption Successful", "Default encryption was successfully enabled on the S3 bucket"),
        },
        Setting {
            condition: "StorageIncompleteUploadCleanupEnabled",
            resource: "lifecycle",
            document: format!(
                "<LifecycleConfiguration {xmlns}><Rule><ID>cleanup-incomplete-multipart-registry-uploads</ID>\
                 <Filter><Prefix></Prefix></Filter><Status>Enabled</Status><AbortIncompleteMultipartUpload>\
                 <DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>\
                 </LifecycleConfiguration>"
            ),
            done: (
                "Enable Cleanup Successful",
                "Default cleanup of incomplete multipart uploads after one (1) day was successfully enabled",
            ),
        },
    ]
}

/// Empties and deletes the bucket.
///
/// # Errors
/// Missing credentials, or the service's refusal; the bucket then stays and the removal is tried again.
pub async fn delete(context: &Context, s3: &S3) -> Result<(), SyncError> {
    let user = Secret::find(&context.cache, names::USER_STORAGE_SECRET);
    let (bucket, _) = open(context, s3, user.as_deref())?;
    bucket.delete().await.map_err(|failure| SyncError::Storage {
        message: format!("unable to delete S3 bucket {}: {failure}", s3.bucket),
    })?;
    tracing::info!(bucket = s3.bucket, "deleted S3 bucket {}", s3.bucket);
    Ok(())
}

#[cfg(test)]
mod tests {
    use api::config::PlatformStatus;
    use k8s_openapi::ByteString;
    use rstest::rstest;

    use super::*;

    fn secret(keys: &[(&str, &str)]) -> Secret {
        let data = keys.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()))).collect();
        Secret { data: Some(data), ..Secret::default() }
    }

    fn aws(region: &str) -> InfrastructureStatus {
        InfrastructureStatus {
            infrastructure_name: "Lane-1".into(),
            platform_status: Some(PlatformStatus {
                type_: "AWS".into(),
                aws: Some(json!({ "region": region })),
                ..PlatformStatus::default()
            }),
            ..InfrastructureStatus::default()
        }
    }

    #[test]
    fn open_fields_are_filled_from_the_platform() {
        let mut s3 = S3::default();
        assert!(complete(&mut s3, Some(&aws("eu-west-1"))));
        assert_eq!(s3.region, "eu-west-1");
        assert!(s3.bucket.starts_with("lane-1-image-registry-eu-west-1-") && s3.bucket.len() == 62, "{}", s3.bucket);
        let mut given = S3 { bucket: "mine".into(), region_endpoint: "http://s3".into(), ..S3::default() };
        assert!(!complete(&mut given, Some(&aws("eu-west-1"))));
        assert_eq!((given.bucket.as_str(), given.region.as_str()), ("mine", ""));
    }

    #[rstest]
    #[case::user(Some(secret(&[(ACCESS_KEY, "a"), (SECRET_KEY, "s")])), Some(secret(&[("aws_access_key_id", "m")])), Ok("a"))]
    #[case::user_incomplete(Some(secret(&[(ACCESS_KEY, "a")])), Some(secret(&[("aws_access_key_id", "m"), ("aws_secret_access_key", "n")])),
        Err("does not contain required key \"REGISTRY_STORAGE_S3_SECRETKEY\""))]
    #[case::minted(None, Some(secret(&[("aws_access_key_id", "m"), ("aws_secret_access_key", "n")])), Ok("m"))]
    #[case::none(None, None, Err("unable to get cluster minted credentials \"ns/installer-cloud-credentials\""))]
    fn whose_credentials(
        #[case] user: Option<Secret>,
        #[case] minted: Option<Secret>,
        #[case] want: Result<&str, &str>,
    ) {
        match (credentials(user.as_ref(), minted.as_ref(), "ns"), want) {
            (Ok(got), Ok(want)) => assert_eq!(got.access_key, want),
            (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{error}"),
            (got, want) => panic!("got {got:?}, want {want:?}"),
        }
    }

    #[rstest]
    #[case::plain(json!({}), "REGISTRY_STORAGE_S3_ENCRYPT", Some("false"))]
    #[case::endpoint(json!({"regionEndpoint": "http://s3"}), "REGISTRY_STORAGE_S3_REGIONENDPOINT", Some("http://s3"))]
    #[case::no_endpoint(json!({}), "REGISTRY_STORAGE_S3_REGIONENDPOINT", None)]
    #[case::key_without_encryption(json!({"keyID": "k"}), "REGISTRY_STORAGE_S3_KEYID", None)]
    #[case::key(json!({"keyID": "k", "encrypt": true}), "REGISTRY_STORAGE_S3_KEYID", Some("k"))]
    #[case::path_style(json!({}), "REGISTRY_STORAGE_S3_FORCEPATHSTYLE", Some("true"))]
    #[case::virtual_hosted(json!({"virtualHostedStyle": true}), "REGISTRY_STORAGE_S3_FORCEPATHSTYLE", Some("false"))]
    #[case::chunks(json!({"chunkSizeMiB": 5}), "REGISTRY_STORAGE_S3_CHUNKSIZE", Some("5242880"))]
    fn stanza_becomes_environment(#[case] stanza: Value, #[case] name: &str, #[case] want: Option<&str>) {
        let s3: S3 = serde_json::from_value(stanza).expect("a stanza");
        let made = pod_storage(&s3, &Credentials { access_key: "a".into(), secret_key: "s".into() });
        let found = made.env.iter().find(|entry| entry["name"] == name).and_then(|entry| entry["value"].as_str());
        assert_eq!(found, want);
        assert!(made.env.iter().all(|entry| entry["value"] != "s"), "secrets stay in the Secret");
    }

    #[rstest]
    #[case(404, "NotFound", Truth::False, "NotFound")]
    #[case(403, "Forbidden", Truth::False, "Forbidden")]
    #[case(500, "InternalError", Truth::Unknown, UNKNOWN)]
    fn absence_has_a_reason(#[case] status: u16, #[case] code: &str, #[case] truth: Truth, #[case] reason: &str) {
        let failure = Failure::Refused { status, code: code.into(), message: String::new() };
        assert_eq!(absence(&failure), (truth, reason.to_owned()));
    }

    #[test]
    fn a_managed_bucket_gets_four_settings() {
        let made = settings(&S3::default(), Some(&aws("eu")));
        assert_eq!(made.len(), 4);
        assert!(made[1].document.contains("<Key>kubernetes.io/cluster/Lane-1</Key><Value>owned</Value>"));
        assert!(made[2].document.contains("AES256"));
        assert!(made[3].document.contains("<DaysAfterInitiation>1</DaysAfterInitiation>"));
    }
}
