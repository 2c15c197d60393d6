//! User names and passwords for registries, read from the pull secrets of a namespace.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// A login; its password never appears in messages.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({}, …)", self.user)
    }
}

/// All logins of some secrets, by the registry and path they are for.
#[derive(Debug, Clone, Default)]
pub struct Keyring(Vec<(String, Login)>);

impl Keyring {
    /// Reads `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg` secrets; what cannot be read is left out.
    pub fn from_secrets(secrets: &[Value]) -> Self {
        let mut logins = Vec::new();
        for secret in secrets {
            let (key, wrapped) = match secret["type"].as_str() {
                Some("kubernetes.io/dockerconfigjson") => (".dockerconfigjson", true),
                Some("kubernetes.io/dockercfg") => (".dockercfg", false),
                _ => continue,
            };
            let data = secret["data"][key].as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
            let mut config: Value = serde_json::from_slice(&data).unwrap_or_default();
            let auths = if wrapped { config["auths"].take() } else { config };
            for (place, entry) in auths.as_object().into_iter().flatten() {
                if let Some(login) = login(entry) {
                    logins.push((normal_place(place), login));
                }
            }
        }
        Self(logins)
    }

    /// The login for the longest place that `registry/repository` lies under.
    pub fn find(&self, registry: &str, repository: &str) -> Option<&Login> {
        let wanted = format!("{}/{repository}", normal_place(registry));
        let covers =
            |place: &str| wanted.strip_prefix(place).is_some_and(|rest| rest.starts_with('/') || rest.is_empty());
        let matching = self.0.iter().filter(|(place, _)| covers(place));
        matching.max_by_key(|(place, _)| place.len()).map(|(_, login)| login)
    }
}

fn login(entry: &Value) -> Option<Login> {
    let text = |key: &str| entry[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    if let (Some(user), Some(password)) = (text("username"), text("password")) {
        return Some(Login { user, password });
    }
    let decoded = String::from_utf8(STANDARD.decode(text("auth")?).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some(Login { user: user.to_owned(), password: password.to_owned() })
}

/// `https://index.docker.io/v1/` and the like, as host and path.
fn normal_place(place: &str) -> String {
    let place = place.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let place = place.trim_end_matches("/v1").trim_end_matches("/v2");
    match place {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn keyring() -> Keyring {
        let auth = |text: &str| json!({"auth": STANDARD.encode(text)});
        let config = json!({"auths": {
            "https://index.docker.io/v1/": auth("hub:1"),
            "quay.io": auth("all:2"),
            "quay.io/org/app": {"username": "one", "password": "3:colon"},
        }});
        let data = STANDARD.encode(config.to_string());
        Keyring::from_secrets(&[json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": data}})])
    }

    #[rstest]
    #[case("docker.io", "library/x", Some("hub"))]
    #[case("quay.io", "org/other", Some("all"))]
    #[case("quay.io", "org/app", Some("one"))]
    #[case("quay.io", "org/apple", Some("all"))]
    #[case("quay.io.evil", "org/app", None)]
    fn the_closest_login_is_taken(#[case] registry: &str, #[case] repository: &str, #[case] user: Option<&str>) {
        assert_eq!(keyring().find(registry, repository).map(|login| login.user.as_str()), user);
    }

    #[test]
    fn passwords_stay_out_of_messages() {
        assert!(!format!("{:?}", keyring()).contains("colon"));
    }
}
