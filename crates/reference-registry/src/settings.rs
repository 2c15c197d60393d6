//! What the registry is told by its environment and its optional configuration file.
//! A key `storage.s3.bucket` is looked up as `REGISTRY_STORAGE_S3_BUCKET`, then as a YAML value in a shorter variable, then in
//! the file (distribution configuration/parser.go:157-283); a value that cannot be used is one error that names its variable.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use serde_yaml::Value;

use crate::log::Level;

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// A value that is missing.
    #[error("{variable} is not set: {what}")]
    Missing {
        /// The environment variable.
        variable: String,
        /// What it is for.
        what: &'static str,
    },
    /// A value that has the wrong form.
    #[error("{variable}={value:?} cannot be used: {problem}")]
    Wrong {
        /// The environment variable, or the file's key written as one.
        variable: String,
        /// The value seen.
        value: String,
        /// Why not, and what would do.
        problem: String,
    },
    /// The configuration file cannot be read.
    #[error("reading configuration file {}: {problem}; give a readable YAML file or none", path.display())]
    File {
        /// Where it was looked for.
        path: PathBuf,
        /// What happened.
        problem: String,
    },
}

/// Everything the registry can be told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen.
    pub addr: String,
    /// Serving certificate and key; plain HTTP without.
    pub tls: Option<TlsFiles>,
    /// Key of the upload state signatures; replicas must share it.
    pub http_secret: Option<String>,
    /// `http.host`: what Location headers start with, instead of the request's own host.
    pub public_host: Option<String>,
    /// `http.relativeurls`: Location headers without scheme and host.
    pub relative_urls: bool,
    /// The name under which the registry refers to itself in image references.
    pub server_addr: String,
    /// Basic realm of the challenges.
    pub realm: String,
    /// Scheme and host of the token endpoint in challenges, instead of the request's own.
    pub token_realm: Option<String>,
    /// Which store, and where.
    pub store: Store,
    /// Blobs and manifests may be deleted.
    pub delete_enabled: bool,
    /// No writes through the distribution API.
    pub read_only: bool,
    /// Blobs are always served by the registry itself.
    pub redirect_disabled: bool,
    /// Metrics endpoint exists.
    pub metrics_enabled: bool,
    /// The only password of the metrics endpoint, when set.
    pub metrics_secret: Option<String>,
    /// Announce that the API enforces quota.
    pub quota_enabled: bool,
    /// Limits for GET, HEAD and OPTIONS.
    pub read_limit: RequestLimit,
    /// Limits for everything else.
    pub write_limit: RequestLimit,
    /// Log level.
    pub log_level: Level,
    /// The level named was unknown; info is used.
    pub log_level_unknown: bool,
    /// Access lines are written.
    pub access_log: bool,
    /// Watch over the store; `None` when switched off.
    pub storage_health: Option<StorageHealth>,
    /// How long a blob is believed to be in a repository without asking again.
    pub blob_ttl: Duration,
    /// Keep local copies of what is pulled through.
    pub mirror_pullthrough: bool,
    /// Uploads older than this are removed; `None` when switched off.
    pub upload_age: Option<Duration>,
    /// Variables with the registry's prefix that mean nothing to it.
    pub unknown: Vec<String>,
}

/// PEM files of the serving certificate.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Refuse anything older than TLS 1.3.
    pub only_tls13: bool,
    /// IANA names of the allowed TLS 1.2 suites; empty for all.
    pub cipher_suites: Vec<String>,
}

/// A store and where it is.
#[derive(Debug, Clone)]
pub enum Store {
    /// A folder.
    Filesystem {
        /// Its path.
        root: PathBuf,
    },
    /// A bucket.
    S3(S3Settings),
    /// A bucket of Google Cloud Storage.
    Gcs(GcsSettings),
    /// A container of Azure Blob Storage.
    Azure(AzureSettings),
}

/// How to reach a bucket of Google Cloud Storage.
#[derive(Debug, Clone)]
pub struct GcsSettings {
    /// Bucket name.
    pub bucket: String,
    /// File with a service account's key, JSON.
    pub key_file: PathBuf,
    /// Folder inside the bucket.
    pub root: String,
    /// Size of the chunks of an upload, bytes.
    pub chunk_bytes: u64,
    /// URL of the service.
    pub endpoint: String,
}

/// How to reach a container of Azure Blob Storage.
#[derive(Clone, Default)]
pub struct AzureSettings {
    /// Storage account.
    pub account_name: String,
    /// Its key, base64. Never shown.
    pub account_key: String,
    /// Container name.
    pub container: String,
    /// Suffix of the blob endpoints of the account's cloud.
    pub realm: String,
    /// URL of a service that does not follow the account's cloud.
    pub service_url: Option<String>,
    /// Folder inside the container.
    pub root: String,
}

impl std::fmt::Debug for AzureSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AzureSettings({}/{})", self.account_name, self.container)
    }
}

/// How to reach a bucket.
#[derive(Debug, Clone, Default)]
pub struct S3Settings {
    /// Bucket name.
    pub bucket: String,
    /// Region, also for stores that only need one for signing.
    pub region: String,
    /// Endpoint of a store that is not AWS.
    pub endpoint: Option<String>,
    /// Fixed access key.
    pub access_key: Option<String>,
    /// Its secret.
    pub secret_key: Option<String>,
    /// File with keys in AWS ini form.
    pub credentials_file: Option<PathBuf>,
    /// Ask the store to encrypt.
    pub encrypt: bool,
    /// KMS key to encrypt with.
    pub key_id: Option<String>,
    /// Bucket in the path instead of in the host name.
    pub path_style: bool,
    /// Folder inside the bucket.
    pub root: String,
    /// Part size, bytes.
    pub chunk_bytes: u64,
}

/// Bounds on simultaneous requests; all zero means none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestLimit {
    /// Requests served at once; 0 for any number.
    pub max_running: usize,
    /// Requests that may wait.
    pub max_in_queue: usize,
    /// How long one may wait; zero for ever.
    pub max_wait: Duration,
}

/// How the store is watched.
#[derive(Debug, Clone, Copy)]
pub struct StorageHealth {
    /// Time between two looks.
    pub interval: Duration,
    /// Failures in a row that make the registry unhealthy.
    pub threshold: u32,
}

struct Source {
    env: BTreeMap<String, String>,
    file: Value,
}

impl Source {
    /// The value of a dotted key with the name of the variable it has or would have.
    fn find(&self, key: &str) -> (String, Option<Value>) {
        let variable = format!("REGISTRY_{}", key.replace('.', "_").to_uppercase());
        let parts: Vec<&str> = key.split('.').collect();
        for taken in (1..=parts.len()).rev() {
            let name = format!("REGISTRY_{}", parts[..taken].join("_").to_uppercase());
            let Some(text) = self.env.get(&name) else { continue };
            if taken == parts.len() {
                return (variable, Some(Value::String(text.clone())));
            }
            let value = serde_yaml::from_str(text).unwrap_or(Value::Null);
            if let Some(found) = descend(&value, &parts[taken..]) {
                return (name, Some(found));
            }
            // `REGISTRY_STORAGE=s3` replaces the whole section of the file.
            if taken == 1 {
                return (variable, None);
            }
        }
        let found = descend(&self.file, &parts);
        (variable, found)
    }

    fn text(&self, key: &str) -> Option<String> {
        scalar(&self.find(key).1?).filter(|text| !text.is_empty())
    }

    fn parsed<T>(&self, key: &str, default: T, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, SettingError> {
        let (variable, found) = self.find(key);
        match found.as_ref().and_then(scalar).filter(|text| !text.is_empty()) {
            None => Ok(default),
            Some(value) => parse(&value).map_err(|problem| SettingError::Wrong { variable, value, problem }),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, SettingError> {
        self.parsed(key, default, |text| match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "t" | "yes" | "on" => Ok(true),
            "false" | "0" | "f" | "no" | "off" => Ok(false),
            _ => Err("say true or false".into()),
        })
    }

    fn duration(&self, key: &str, default: Duration) -> Result<Duration, SettingError> {
        self.parsed(key, default, duration)
    }

    fn number(&self, key: &str, default: u64) -> Result<u64, SettingError> {
        self.parsed(key, default, |text| text.parse().map_err(|_| "say a whole number that is not negative".into()))
    }

    fn required(&self, key: &str, what: &'static str) -> Result<String, SettingError> {
        let variable = self.find(key).0;
        self.text(key).ok_or(SettingError::Missing { variable, what })
    }
}

fn descend(value: &Value, parts: &[&str]) -> Option<Value> {
    parts.iter().try_fold(value, |value, part| value.get(*part)).filter(|value| !value.is_null()).cloned()
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Reads a duration in Go's notation, such as `10s`, `1m30s` or `1.5h`; a bare number is nanoseconds.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "say a duration such as 10s, 1m30s or 2h".to_owned();
    if let Ok(nanoseconds) = text.parse::<u64>() {
        return Ok(Duration::from_nanos(nanoseconds));
    }
    let mut total = 0.0_f64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let amount: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += amount
            * match &rest[..unit_end] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(wrong()),
            };
        rest = &rest[unit_end..];
    }
    Duration::try_from_secs_f64(total).map_err(|_| wrong())
}

impl Settings {
    /// Reads the process environment and, when given, a configuration file.
    pub fn load(file: Option<&std::path::Path>) -> Result<Self, SettingError> {
        Self::from_parts(std::env::vars().collect(), file)
    }

    /// Reads a given environment.
    pub fn from_parts(env: BTreeMap<String, String>, file: Option<&std::path::Path>) -> Result<Self, SettingError> {
        let file = match file {
            None => Value::Null,
            Some(path) => {
                let problem = |problem: String| SettingError::File { path: path.to_owned(), problem };
                let text = std::fs::read_to_string(path).map_err(|error| problem(error.to_string()))?;
                serde_yaml::from_str(&text).map_err(|error| problem(error.to_string()))?
            }
        };
        let source = Source { env, file };
        let level = source.text("log.level");
        Ok(Self {
            addr: source.parsed("http.addr", ":5000".to_owned(), listen_address)?,
            tls: tls(&source)?,
            http_secret: source.text("http.secret"),
            public_host: source.text("http.host"),
            relative_urls: source.flag("http.relativeurls", false)?,
            server_addr: match source.env.get("DOCKER_REGISTRY_URL").filter(|url| !url.is_empty()) {
                Some(url) => url.clone(),
                None => source.required(
                    "openshift.server.addr",
                    "it must be set when running outside of a Kubernetes cluster; say the host and port under which \
                     images are referred to, such as image-registry.openshift-image-registry.svc:5000",
                )?,
            },
            realm: source.text("openshift.auth.realm").unwrap_or_else(|| "openshift".into()),
            token_realm: source.text("openshift.auth.tokenrealm"),
            store: store(&source)?,
            delete_enabled: source.flag("storage.delete.enabled", false)?,
            read_only: source.flag("storage.maintenance.readonly.enabled", false)?,
            redirect_disabled: source.flag("storage.redirect.disable", false)?,
            metrics_enabled: source.flag("openshift.metrics.enabled", false)?,
            metrics_secret: source.text("openshift.metrics.secret"),
            quota_enabled: source.flag("openshift.quota.enabled", false)?,
            read_limit: limit(&source, "openshift.requests.read")?,
            write_limit: limit(&source, "openshift.requests.write")?,
            log_level: level.as_deref().and_then(|level| level.parse().ok()).unwrap_or(Level::Info),
            log_level_unknown: level.is_some_and(|level| level.parse::<Level>().is_err()),
            access_log: !source.flag("log.accesslog.disabled", false)?,
            storage_health: source
                .flag("health.storagedriver.enabled", false)?
                .then(|| storage_health(&source))
                .transpose()?,
            blob_ttl: source.duration("openshift.cache.blobrepositoryttl", Duration::from_secs(600))?,
            mirror_pullthrough: source.flag("openshift.pullthrough.mirror", true)?,
            upload_age: source
                .flag("storage.maintenance.uploadpurging.enabled", true)?
                .then(|| source.duration("storage.maintenance.uploadpurging.age", Duration::from_secs(168 * 3600)))
                .transpose()?,
            unknown: unknown(&source),
        })
    }

    /// The socket address of `addr`: an empty host means all interfaces.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        let (host, port) = self.addr.rsplit_once(':')?;
        let port = port.parse().ok()?;
        match host {
            "" => Some(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], port))),
            "localhost" => Some(SocketAddr::from(([127, 0, 0, 1], port))),
            host => Some(SocketAddr::new(host.trim_matches(['[', ']']).parse().ok()?, port)),
        }
    }
}

fn listen_address(text: &str) -> Result<String, String> {
    let problem = || "say HOST:PORT with an IP address or nothing as host, such as :5000".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(problem)?;
    port.parse::<u16>().map_err(|_| problem())?;
    let usable =
        host.is_empty() || host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    usable.then(|| text.to_owned()).ok_or_else(problem)
}

fn tls(source: &Source) -> Result<Option<TlsFiles>, SettingError> {
    let (certificate, key) = (source.text("http.tls.certificate"), source.text("http.tls.key"));
    let (certificate, key) = match (certificate, key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate.into(), key.into()),
        (Some(_), None) => {
            return Err(SettingError::Missing {
                variable: "REGISTRY_HTTP_TLS_KEY".into(),
                what: "a certificate needs its private key",
            });
        }
        (None, Some(_)) => {
            return Err(SettingError::Missing {
                variable: "REGISTRY_HTTP_TLS_CERTIFICATE".into(),
                what: "a private key needs its certificate",
            });
        }
    };
    let only_tls13 = source.parsed("http.tls.minversion", false, |text| match text {
        "VersionTLS13" | "tls1.3" => Ok(true),
        "VersionTLS10" | "VersionTLS11" | "VersionTLS12" | "tls1.0" | "tls1.1" | "tls1.2" => Ok(false),
        _ => Err("say VersionTLS12 or VersionTLS13".into()),
    })?;
    let suites = match source.env.get("OPENSHIFT_REGISTRY_HTTP_TLS_CIPHERSUITES") {
        Some(list) => Some(list.clone()),
        None => source.text("http.tls.ciphersuites"),
    };
    let cipher_suites = suites
        .unwrap_or_default()
        .split([',', ' ', '[', ']'])
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    Ok(Some(TlsFiles { certificate, key, only_tls13, cipher_suites }))
}

fn store(source: &Source) -> Result<Store, SettingError> {
    let (variable, named) = source.find("storage");
    let kind = match named {
        Some(Value::String(kind)) => kind,
        Some(Value::Mapping(section)) => {
            let known = ["filesystem", "s3", "gcs", "azure"].into_iter().find(|kind| section.contains_key(*kind));
            known.unwrap_or("filesystem").to_owned()
        }
        _ => return Err(SettingError::Missing { variable, what: "say filesystem, s3, gcs or azure" }),
    };
    match kind.as_str() {
        "filesystem" => Ok(Store::Filesystem {
            root: source.text("storage.filesystem.rootdirectory").unwrap_or_else(|| "/registry".into()).into(),
        }),
        "s3" => s3(source).map(Store::S3),
        "gcs" => gcs(source).map(Store::Gcs),
        "azure" => azure(source).map(Store::Azure),
        _ => Err(SettingError::Wrong {
            variable,
            value: kind,
            problem: "this registry stores in filesystem, s3, gcs or azure".into(),
        }),
    }
}

fn root(source: &Source, kind: &str) -> String {
    let root = source.text(&format!("storage.{kind}.rootdirectory")).unwrap_or_default();
    root.trim_matches('/').to_owned()
}

/// The endpoint is fixed, except for the variable that all of Google's client libraries know.
fn gcs(source: &Source) -> Result<GcsSettings, SettingError> {
    let chunk_bytes = source.number("storage.gcs.chunksize", 5 << 20)?;
    if chunk_bytes == 0 || chunk_bytes % crate::storage::gcs::UNIT != 0 {
        return Err(SettingError::Wrong {
            variable: "REGISTRY_STORAGE_GCS_CHUNKSIZE".into(),
            value: chunk_bytes.to_string(),
            problem: "a chunk is a multiple of 262144 bytes".into(),
        });
    }
    let endpoint = match source.env.get("STORAGE_EMULATOR_HOST").filter(|host| !host.is_empty()) {
        Some(host) if host.contains("://") => host.clone(),
        Some(host) => format!("http://{host}"),
        None => "https://storage.googleapis.com".to_owned(),
    };
    Ok(GcsSettings {
        bucket: source.required("storage.gcs.bucket", "the GCS store needs a bucket")?,
        key_file: source.required("storage.gcs.keyfile", "the GCS store needs a service account's key file")?.into(),
        root: root(source, "gcs"),
        chunk_bytes,
        endpoint: endpoint.trim_end_matches('/').to_owned(),
    })
}

fn azure(source: &Source) -> Result<AzureSettings, SettingError> {
    Ok(AzureSettings {
        account_name: source.required("storage.azure.accountname", "the Azure store needs a storage account")?,
        account_key: source.required("storage.azure.accountkey", "the Azure store needs the account's key")?,
        container: source.required("storage.azure.container", "the Azure store needs a container")?,
        realm: source.text("storage.azure.realm").unwrap_or_else(|| "core.windows.net".into()),
        service_url: source.text("storage.azure.serviceurl"),
        root: root(source, "azure"),
    })
}

fn s3(source: &Source) -> Result<S3Settings, SettingError> {
    let chunk_bytes = source.number("storage.s3.chunksize", 10 << 20)?;
    if !(5 << 20..=5 << 30).contains(&chunk_bytes) {
        return Err(SettingError::Wrong {
            variable: "REGISTRY_STORAGE_S3_CHUNKSIZE".into(),
            value: chunk_bytes.to_string(),
            problem: "a part is between 5 MiB and 5 GiB, in bytes".into(),
        });
    }
    let endpoint = source.parsed("storage.s3.regionendpoint", None, |text| {
        let url = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        url.parse::<http::Uri>()
            .ok()
            .filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
            .map(|_| Some(url.trim_end_matches('/').to_owned()))
            .ok_or_else(|| "say a URL such as https://s3.example.com".into())
    })?;
    Ok(S3Settings {
        bucket: source.required("storage.s3.bucket", "the S3 store needs a bucket")?,
        region: source.required("storage.s3.region", "the S3 store needs a region, at least for signing requests")?,
        endpoint,
        access_key: source.text("storage.s3.accesskey"),
        secret_key: source.text("storage.s3.secretkey"),
        credentials_file: source.text("storage.s3.credentialsconfigpath").map(Into::into),
        encrypt: source.flag("storage.s3.encrypt", false)?,
        key_id: source.text("storage.s3.keyid"),
        path_style: match source.text("storage.s3.virtualhostedstyle") {
            Some(_) => !source.flag("storage.s3.virtualhostedstyle", false)?,
            None => source.flag("storage.s3.forcepathstyle", true)?,
        },
        root: root(source, "s3"),
        chunk_bytes,
    })
}

fn limit(source: &Source, key: &str) -> Result<RequestLimit, SettingError> {
    let count =
        |name: &str| source.number(&format!("{key}.{name}"), 0).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    Ok(RequestLimit {
        max_running: count("maxrunning")?,
        max_in_queue: count("maxinqueue")?,
        max_wait: source.duration(&format!("{key}.maxwaitinqueue"), Duration::ZERO)?,
    })
}

fn storage_health(source: &Source) -> Result<StorageHealth, SettingError> {
    let threshold = source.number("health.storagedriver.threshold", 1)?;
    let interval = source.duration("health.storagedriver.interval", Duration::from_secs(10))?;
    if interval.is_zero() {
        return Err(SettingError::Wrong {
            variable: "REGISTRY_HEALTH_STORAGEDRIVER_INTERVAL".into(),
            value: "0".into(),
            problem: "the store cannot be looked at without a pause; say 10s".into(),
        });
    }
    Ok(StorageHealth { interval, threshold: u32::try_from(threshold.max(1)).unwrap_or(u32::MAX) })
}

fn unknown(source: &Source) -> Vec<String> {
    const SECTIONS: &[&str] = &[
        "HTTP",
        "STORAGE",
        "OPENSHIFT",
        "LOG",
        "HEALTH",
        "AUTH",
        "CONFIGURATION",
        "LOGLEVEL",
        "VALIDATION",
        "MIDDLEWARE",
        "NOTIFICATIONS",
        "REDIS",
        "PROXY",
        "REPORTING",
        "COMPATIBILITY",
        "VERSION",
    ];
    let known = |name: &&String| {
        name.strip_prefix("REGISTRY_")
            .is_some_and(|rest| !SECTIONS.contains(&rest.split('_').next().unwrap_or_default()))
    };
    source.env.keys().filter(known).cloned().collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const OPERATOR: &[(&str, &str)] = &[
        ("REGISTRY_HTTP_ADDR", ":5000"),
        ("REGISTRY_HTTP_SECRET", "secret"),
        ("REGISTRY_STORAGE", "filesystem"),
        ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "/data"),
        ("REGISTRY_STORAGE_DELETE_ENABLED", "true"),
        ("REGISTRY_STORAGE_MAINTENANCE_READONLY", "{enabled: true}"),
        ("REGISTRY_OPENSHIFT_SERVER_ADDR", "registry.svc:5000"),
        ("REGISTRY_OPENSHIFT_METRICS_ENABLED", "true"),
        ("REGISTRY_OPENSHIFT_REQUESTS_READ_MAXRUNNING", "7"),
        ("REGISTRY_OPENSHIFT_REQUESTS_READ_MAXWAITINQUEUE", "1m30s"),
        ("REGISTRY_HEALTH_STORAGEDRIVER_ENABLED", "true"),
        ("REGISTRY_HEALTH_STORAGEDRIVER_INTERVAL", "10s"),
    ];

    fn with(changes: &[(&str, &str)]) -> Result<Settings, SettingError> {
        let pairs = OPERATOR.iter().chain(changes);
        Settings::from_parts(pairs.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(), None)
    }

    #[test]
    fn the_operators_environment_is_understood() {
        let settings = with(&[]).unwrap();
        assert!(settings.read_only && settings.delete_enabled && settings.metrics_enabled);
        assert_eq!(settings.read_limit.max_running, 7);
        assert_eq!(settings.read_limit.max_wait, Duration::from_secs(90));
        assert_eq!(settings.storage_health.unwrap().interval, Duration::from_secs(10));
        assert!(matches!(settings.store, Store::Filesystem { root } if root.as_os_str() == "/data"));
        assert!(settings.unknown.is_empty());
    }

    #[rstest]
    #[case("REGISTRY_HTTP_ADDR", "5000")]
    #[case("REGISTRY_STORAGE", "tape")]
    #[case("REGISTRY_STORAGE_DELETE_ENABLED", "maybe")]
    #[case("REGISTRY_STORAGE_MAINTENANCE_READONLY", "{enabled: perhaps}")]
    #[case("REGISTRY_OPENSHIFT_REQUESTS_READ_MAXRUNNING", "-1")]
    #[case("REGISTRY_OPENSHIFT_REQUESTS_READ_MAXWAITINQUEUE", "soon")]
    #[case("REGISTRY_HEALTH_STORAGEDRIVER_INTERVAL", "0s")]
    #[case("REGISTRY_OPENSHIFT_SERVER_ADDR", "")]
    fn a_wrong_value_is_named_by_its_variable(#[case] variable: &str, #[case] value: &str) {
        let error = with(&[(variable, value)]).unwrap_err().to_string();
        assert!(error.contains(variable), "{error}");
    }

    #[test]
    fn s3_needs_a_bucket_and_takes_a_bare_endpoint() {
        let error = with(&[("REGISTRY_STORAGE", "s3")]).unwrap_err().to_string();
        assert!(error.contains("REGISTRY_STORAGE_S3_BUCKET"), "{error}");
        let settings = with(&[
            ("REGISTRY_STORAGE", "s3"),
            ("REGISTRY_STORAGE_S3_BUCKET", "b"),
            ("REGISTRY_STORAGE_S3_REGION", "r"),
            ("REGISTRY_STORAGE_S3_REGIONENDPOINT", "s3.example.com:9000"),
        ])
        .unwrap();
        let Store::S3(s3) = settings.store else { panic!("not S3") };
        assert_eq!(s3.endpoint.as_deref(), Some("https://s3.example.com:9000"));
        assert!(s3.path_style);
    }

    #[test]
    fn the_operators_words_for_gcs_and_azure_are_understood() {
        let gcs = with(&[
            ("REGISTRY_STORAGE", "gcs"),
            ("REGISTRY_STORAGE_GCS_BUCKET", "b"),
            ("REGISTRY_STORAGE_GCS_KEYFILE", "/gcs/keyfile"),
        ]);
        let Store::Gcs(gcs) = gcs.unwrap().store else { panic!("not GCS") };
        assert_eq!((gcs.bucket.as_str(), gcs.endpoint.as_str()), ("b", "https://storage.googleapis.com"));
        let azure = [
            ("REGISTRY_STORAGE", "azure"),
            ("REGISTRY_STORAGE_AZURE_CONTAINER", "c"),
            ("REGISTRY_STORAGE_AZURE_ACCOUNTNAME", "acc"),
            ("REGISTRY_STORAGE_AZURE_ACCOUNTKEY", "c2VjcmV0"),
            ("REGISTRY_STORAGE_AZURE_REALM", "core.usgovcloudapi.net"),
        ];
        let settings = with(&azure).unwrap();
        assert!(!format!("{settings:?}").contains("c2VjcmV0"));
        let Store::Azure(found) = settings.store else { panic!("not Azure") };
        assert_eq!(found.realm, "core.usgovcloudapi.net");
    }

    #[rstest]
    #[case("gcs", "REGISTRY_STORAGE_GCS_BUCKET")]
    #[case("azure", "REGISTRY_STORAGE_AZURE_ACCOUNTNAME")]
    fn what_a_store_lacks_is_named(#[case] kind: &str, #[case] variable: &str) {
        let error = with(&[("REGISTRY_STORAGE", kind)]).unwrap_err().to_string();
        assert!(error.contains(variable), "{error}");
    }

    #[test]
    fn the_environment_wins_over_the_file_and_a_storage_type_replaces_its_section() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yml");
        std::fs::write(
            &path,
            "http: {addr: ':6000'}\nlog: {level: debug}\nstorage: {filesystem: {rootdirectory: /file}, delete: {enabled: true}}\n",
        )
        .unwrap();
        let env = |pairs: &[(&str, &str)]| {
            let mut env = BTreeMap::from([("REGISTRY_OPENSHIFT_SERVER_ADDR".to_owned(), "r:5000".to_owned())]);
            env.extend(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
            env
        };
        let settings = Settings::from_parts(env(&[("REGISTRY_HTTP_ADDR", ":7000")]), Some(&path)).unwrap();
        assert_eq!((settings.addr.as_str(), settings.log_level), (":7000", Level::Debug));
        assert!(settings.delete_enabled);
        assert!(matches!(settings.store, Store::Filesystem { root } if root.as_os_str() == "/file"));
        let settings = Settings::from_parts(env(&[("REGISTRY_STORAGE", "filesystem")]), Some(&path)).unwrap();
        assert!(!settings.delete_enabled);
        assert!(matches!(settings.store, Store::Filesystem { root } if root.as_os_str() == "/registry"));
    }
}
