//! Names and passwords for remote registries, from the pull secrets of a project and the install's own.
//! (registry source pkg/dockerregistry/server/util.go:29,59-68.) Passwords are never printed.

use std::collections::BTreeMap;

use api::image::SecretList;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;

use crate::{reference::ImageReference, trust::mounted};

/// Where the install pull secret is mounted (operator source pkg/resource/podtemplatespec.go:385-408).
const INSTALL_SECRET: &str = "/var/lib/kubelet/config.json";
const EXCLUDE: &str = "openshift.io/image.excludeSecret";

/// A login.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User name.
    pub user: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({}, …)", self.user)
    }
}

/// Logins by registry or repository.
#[derive(Debug, Default)]
pub struct PullSecrets {
    logins: BTreeMap<String, Login>,
}

#[derive(Deserialize)]
struct Config {
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

impl Entry {
    fn login(self) -> Option<Login> {
        if !self.username.is_empty() {
            return Some(Login { user: self.username, password: self.password });
        }
        let decoded = String::from_utf8(BASE64_STANDARD.decode(self.auth.trim()).ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        Some(Login { user: user.to_owned(), password: password.to_owned() })
    }
}

impl PullSecrets {
    /// The secrets of a project before those of the install.
    pub fn collect(project: &SecretList) -> Self {
        let mut secrets = Self::default();
        if let Ok(text) = std::fs::read(mounted(INSTALL_SECRET)) {
            secrets.add(&text);
        }
        for secret in &project.items {
            let annotations = secret.metadata.annotations.as_ref();
            if annotations.is_some_and(|all| all.get(EXCLUDE).is_some_and(|value| value == "true")) {
                continue;
            }
            let data = secret.data.as_ref();
            let text = |key: &str| data.and_then(|data| data.get(key)).map(|value| value.0.clone());
            match secret.type_.as_deref() {
                Some("kubernetes.io/dockerconfigjson") => {
                    secrets.add(&text(".dockerconfigjson").unwrap_or_default());
                }
                Some("kubernetes.io/dockercfg") => {
                    // The old form is the inner map alone.
                    let inner = String::from_utf8(text(".dockercfg").unwrap_or_default()).unwrap_or_default();
                    secrets.add(format!("{{\"auths\":{inner}}}").as_bytes());
                }
                _ => {}
            }
        }
        secrets
    }

    fn add(&mut self, text: &[u8]) {
        let Ok(config) = serde_json::from_slice::<Config>(text) else { return };
        for (name, entry) in config.auths {
            let name = name.trim_start_matches("https://").trim_start_matches("http://");
            let name = name.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
            let name = if name == "index.docker.io" { "docker.io" } else { name };
            if let Some(login) = entry.login() {
                self.logins.insert(name.to_owned(), login);
            }
        }
    }

    /// The login for a repository; the longest name that fits wins.
    pub fn login(&self, reference: &ImageReference) -> Option<&Login> {
        let name = reference.name();
        let fits = |known: &str| name.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.logins.iter().filter(|(known, _)| fits(known)).max_by_key(|(known, _)| known.len()).map(|(_, login)| login)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_closest_login_of_either_kind_of_secret_is_used() {
        let encode = |text: String| BASE64_STANDARD.encode(text);
        let auth = |user: &str| json!({"auth": encode(format!("{user}:pass:word"))});
        let new = json!({"auths": {"quay.io": auth("host"), "https://quay.io/org": auth("org")}}).to_string();
        let old = json!({"other.io": {"username": "old", "password": "p"}}).to_string();
        let hidden = json!({"auths": {"hidden.io": auth("hidden")}}).to_string();
        let secrets: SecretList = serde_json::from_value(json!({"items": [
            {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": encode(new)}},
            {"type": "kubernetes.io/dockercfg", "data": {".dockercfg": encode(old)}},
            {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": encode(hidden)},
             "metadata": {"annotations": {EXCLUDE: "true"}}},
            {"type": "Opaque", "data": {}},
        ]}))
        .unwrap();
        let secrets = PullSecrets::collect(&secrets);
        let user = |text: &str| secrets.login(&ImageReference::parse(text).unwrap()).map(|login| login.user.as_str());
        assert_eq!(user("quay.io/org/app"), Some("org"));
        assert_eq!(user("quay.io/else"), Some("host"));
        assert_eq!(user("other.io/x"), Some("old"));
        assert_eq!(user("hidden.io/x"), None);
        assert!(!format!("{secrets:?}").contains("word"));
    }
}
