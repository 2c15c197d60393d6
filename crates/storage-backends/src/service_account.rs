//! A service account of Google Cloud, made for one run: its key file, and the checks that Google makes of what it signed.
//! The key pair is made by `openssl`, since nothing else here can make one.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use harness::storage::Secret;
use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::gcs_front::STORAGE_HOST;

/// The program that makes the key pair.
pub const KEY_MAKER: &str = "openssl";

/// A service account.
#[derive(Clone)]
pub struct ServiceAccount {
    email: String,
    key_file: Secret,
    public_key: Vec<u8>,
}

impl std::fmt::Debug for ServiceAccount {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "ServiceAccount({})", self.email)
    }
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    exp: u64,
}

impl ServiceAccount {
    /// Makes an account of the project with a new key.
    ///
    /// # Errors
    /// [`Error::NoKey`] without a working `openssl`.
    pub async fn make(project: &str, token_uri: &str) -> Result<ServiceAccount, Error> {
        let no_key = |reason: String| Error::NoKey { program: KEY_MAKER, reason };
        let made = tokio::process::Command::new(KEY_MAKER)
            .args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| no_key(error.to_string()))?;
        if !made.status.success() {
            return Err(no_key(String::from_utf8_lossy(&made.stderr).trim().to_owned()));
        }
        let pem = String::from_utf8(made.stdout).map_err(|error| no_key(error.to_string()))?;
        ServiceAccount::of_key(project, token_uri, &pem)
    }

    fn of_key(project: &str, token_uri: &str, pem: &str) -> Result<ServiceAccount, Error> {
        let no_key = |reason: String| Error::NoKey { program: KEY_MAKER, reason };
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = STANDARD.decode(body).map_err(|error| no_key(error.to_string()))?;
        let pair = RsaKeyPair::from_pkcs8(&der).map_err(|error| no_key(error.to_string()))?;
        let email = format!("registry@{project}.iam.gserviceaccount.com");
        let key_file = serde_json::json!({
            "type": "service_account",
            "project_id": project,
            "private_key_id": hex(&Sha256::digest(pair.public_key().as_ref())[..20]),
            "private_key": pem,
            "client_email": email,
            "client_id": "100000000000000000001",
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": token_uri,
        });
        let key_file = Secret::new(format!("{key_file:#}\n"));
        Ok(ServiceAccount { email, key_file, public_key: pair.public_key().as_ref().to_vec() })
    }

    /// The account's address.
    pub fn email(&self) -> &str {
        &self.email
    }

    /// The key file, as the administrator gets it from Google.
    pub fn key_file(&self) -> &Secret {
        &self.key_file
    }

    /// Checks a JWT: signed by this account's key, issued by the account, not yet over.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn check_jwt(&self, jwt: &str, now: SystemTime) -> Result<(), String> {
        let (message, signature) = jwt.rsplit_once('.').ok_or("it is no JWT")?;
        let (_, claims) = message.split_once('.').ok_or("it is no JWT")?;
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|error| error.to_string());
        self.check_signature(message.as_bytes(), &decoded(signature)?)?;
        let claims: Claims = serde_json::from_slice(&decoded(claims)?).map_err(|error| error.to_string())?;
        if claims.iss != self.email {
            return Err(format!("it is issued by {}", claims.iss));
        }
        if UNIX_EPOCH + Duration::from_secs(claims.exp) < now {
            return Err("its time is over".to_owned());
        }
        Ok(())
    }

    /// Checks a signed URL (Google Cloud Storage documentation, "V4 signing process"): signed by this account's key for
    /// this method and this host, not yet over. `query` is as it stands in the request.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn check_url(&self, method: &str, host: &str, path: &str, query: &str, now: SystemTime) -> Result<(), String> {
        let mut signed: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("X-Goog-Signature=")).collect();
        signed.sort_unstable();
        let value = |name: &str| {
            let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            pair.ok_or_else(|| format!("it has no {name}"))
        };
        let (algorithm, date, expires) = (value("X-Goog-Algorithm")?, value("X-Goog-Date")?, value("X-Goog-Expires")?);
        if algorithm != "GOOG4-RSA-SHA256" {
            return Err(format!("it is signed by {algorithm}"));
        }
        if value("X-Goog-SignedHeaders")? != "host" {
            return Err("more than the host is signed".to_owned());
        }
        let credential = value("X-Goog-Credential")?.replace("%2F", "/").replace("%2f", "/").replace("%40", "@");
        let scope = credential.strip_prefix(&format!("{}/", self.email)).ok_or("it is another account's")?;
        let request = format!("{method}\n{path}\n{}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD", signed.join("&"));
        let message = format!("{algorithm}\n{date}\n{scope}\n{}", hex(&Sha256::digest(request.as_bytes())));
        self.check_signature(message.as_bytes(), &unhex(value("X-Goog-Signature")?).ok_or("its signature is no hex")?)?;
        let begun = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", date)
            .and_then(|begun| begun.to_zoned(jiff::tz::TimeZone::UTC))
            .map_err(|error| error.to_string())?;
        let lasts = expires.parse().map_err(|_| "its life is no number of seconds")?;
        if SystemTime::from(begun.timestamp()) + Duration::from_secs(lasts) < now {
            return Err("its time is over".to_owned());
        }
        Ok(())
    }

    /// Checks a URL that is signed in the older way, version 2, which the registry's driver uses: method, end and resource.
    ///
    /// # Errors
    /// Why it is not valid.
    pub fn check_old_url(&self, method: &str, path: &str, query: &str, now: SystemTime) -> Result<(), String> {
        let url =
            reqwest::Url::parse(&format!("https://{STORAGE_HOST}{path}?{query}")).map_err(|error| error.to_string())?;
        let value = |name: &str| {
            let pair = url.query_pairs().find_map(|(key, value)| (key == name).then(|| value.into_owned()));
            pair.ok_or_else(|| format!("it has no {name}"))
        };
        if value("GoogleAccessId")? != self.email {
            return Err("it is another account's".to_owned());
        }
        let ends = value("Expires")?;
        let signature = STANDARD.decode(value("Signature")?).map_err(|_| "its signature is no base64")?;
        self.check_signature(format!("{method}\n\n\n{ends}\n{path}").as_bytes(), &signature)?;
        let ends = ends.parse().map_err(|_| "its end is no number of seconds")?;
        let over = SystemTime::UNIX_EPOCH + Duration::from_secs(ends) < now;
        if over { Err("its time is over".to_owned()) } else { Ok(()) }
    }

    fn check_signature(&self, message: &[u8], signature: &[u8]) -> Result<(), String> {
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public_key);
        key.verify(message, signature).map_err(|_| "it is not signed by the account's key".to_owned())
    }
}

/// Whether key pairs can be made on this machine.
///
/// # Errors
/// Why not.
pub fn can_be_made() -> Result<(), String> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&folders).any(|folder| Path::new(&folder).join(KEY_MAKER).is_file());
    there.then_some(()).ok_or_else(|| format!("{KEY_MAKER} is not in PATH, which makes the key of a service account"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
