//! Keeps secrets out of evidence. It is applied once, where an event is made, so that no file, report or terminal
//! ever sees what it removed; it knows the run's own secrets by value and others by their form.

use std::{
    borrow::Cow,
    sync::{LazyLock, PoisonError, RwLock},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use regex::{Captures, Regex};
use serde_json::Value;

/// What stands where a secret stood.
pub const REDACTED: &str = "[redacted]";

/// Values shorter than this are not taken as secrets: they would blacken ordinary words.
const SHORTEST: usize = 6;

static PATTERNS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        // A private key, also inside JSON, where line ends are `\n`.
        r"(?s)(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
        r"(?i)\b((?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}",
        r"(sha256~)[A-Za-z0-9_-]{8,}",
        // A JSON web token.
        r"\b(eyJ)[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*",
        r"(?i)(X-Amz-(?:Signature|Security-Token)=)[^&\s]+",
        r"(?i)((?:^|[?&;])(?:sig|(?:x-goog-)?signature)=)[A-Za-z0-9%+/=_-]{10,}",
        r"(?i)(--(?:password|token|creds|src-creds|dest-creds)[= ])\S+",
        r#"(?i)([A-Za-z0-9_]*(?:secret_?(?:access_?)?key|password|accountkey)"?\s*[=:]\s*"?)[^\s",}&]+"#,
        r#"("auth"\s*:\s*")[^"]+"#,
        r#"("(?:access_|refresh_|id_)?token"\s*:\s*")[^"]+"#,
    ]
    .into_iter()
    .map(|pattern| Regex::new(pattern).expect("the pattern is fixed and tested"))
    .collect()
});

/// Flags whose next argument is a secret.
const SECRET_FLAGS: [&str; 6] = ["-p", "--password", "--token", "--creds", "--src-creds", "--dest-creds"];

/// Removes secrets from texts and values.
#[derive(Debug, Default)]
pub struct Redactor {
    known: RwLock<Vec<String>>,
}

impl Redactor {
    /// Remembers a secret of this run, and its base64 form. Values under six characters are ignored.
    pub fn add(&self, secret: &str) {
        if secret.len() < SHORTEST {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for form in [secret.to_owned(), STANDARD.encode(secret)] {
            if !known.contains(&form) {
                known.push(form);
            }
        }
        // Longest first, so that a secret inside a longer one does not leave the rest of it behind.
        known.sort_by_key(|form| std::cmp::Reverse(form.len()));
    }

    /// The text without secrets.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut clean = Cow::Borrowed(text);
        for secret in self.known.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if clean.contains(secret.as_str()) {
                clean = Cow::Owned(clean.replace(secret.as_str(), REDACTED));
            }
        }
        if let Some(cleaned) = secret_object(&clean) {
            clean = Cow::Owned(cleaned);
        }
        for pattern in PATTERNS.iter() {
            if pattern.is_match(&clean) {
                let replaced = pattern.replace_all(&clean, |found: &Captures<'_>| {
                    let (whole, name) = (found.get(0).expect("the match"), &found[1]);
                    let value = &whole.as_str()[name.len()..];
                    if is_placeholder(value) || is_prose(name, value, &clean[whole.end()..]) {
                        whole.as_str().to_owned()
                    } else {
                        format!("{name}{REDACTED}")
                    }
                });
                clean = Cow::Owned(replaced.into_owned());
            }
        }
        clean
    }

    /// Removes secrets from every string of the value, the data of every `Secret` and the argument after flags like
    /// `--password`.
    pub fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Cow::Owned(clean) = self.text(text) {
                    *text = clean;
                }
            }
            Value::Array(items) => {
                for at in 1..items.len() {
                    let flagged = items[at - 1].as_str().is_some_and(|flag| SECRET_FLAGS.contains(&flag));
                    // `oc patch -p '{…}'` has the same flag for what is no secret.
                    let plain = items[at].as_str().is_none_or(|text| text.starts_with(['{', '[']));
                    if flagged && !plain {
                        items[at] = Value::String(REDACTED.to_owned());
                    }
                }
                items.iter_mut().for_each(|item| self.value(item));
            }
            Value::Object(fields) => {
                mask_secret_data(fields);
                for (key, field) in fields.iter_mut() {
                    let header = matches!(
                        key.to_ascii_lowercase().as_str(),
                        "authorization" | "proxy-authorization" | "cookie" | "set-cookie" | "x-registry-auth"
                    );
                    if header && field.is_string() {
                        *field = Value::String(REDACTED.to_owned());
                    } else {
                        self.value(field);
                    }
                }
            }
            _ => {}
        }
    }
}

/// A variable, a command substitution or a placeholder of the documents: `$KEY`, `kubeadmin:$(oc whoami -t)`, `<token>`.
fn is_placeholder(value: &str) -> bool {
    value.rsplit(':').next().is_some_and(|last| last.starts_with(['$', '`', '<']))
}

/// A sentence about a secret: `SECRETKEY: expected the key of the bucket`.
fn is_prose(name: &str, value: &str, rest: &str) -> bool {
    let next = rest.strip_prefix(' ').and_then(|rest| rest.chars().next());
    name.ends_with(": ") && value.bytes().all(|byte| byte.is_ascii_lowercase()) && next.is_some_and(char::is_alphabetic)
}

fn mask_secret_data(fields: &mut serde_json::Map<String, Value>) -> bool {
    let kind = fields.get("kind").and_then(Value::as_str);
    if !matches!(kind, Some("Secret")) {
        return false;
    }
    let mut masked = false;
    for part in ["data", "stringData"] {
        if let Some(Value::Object(data)) = fields.get_mut(part) {
            for (_, secret) in data.iter_mut() {
                *secret = Value::String(REDACTED.to_owned());
                masked = true;
            }
        }
    }
    // The last-applied annotation repeats the data.
    if let Some(Value::Object(annotations)) = fields.get_mut("metadata").and_then(|meta| meta.get_mut("annotations"))
        && let Some(last) = annotations.get_mut("kubectl.kubernetes.io/last-applied-configuration")
    {
        *last = Value::String(REDACTED.to_owned());
    }
    masked
}

/// A text that is a Secret, or a list with Secrets, in JSON: the same with its data masked.
fn secret_object(text: &str) -> Option<String> {
    fn mask(value: &mut Value) -> bool {
        match value {
            Value::Object(fields) => {
                let own = mask_secret_data(fields);
                fields.iter_mut().fold(own, |masked, (_, field)| mask(field) | masked)
            }
            Value::Array(items) => items.iter_mut().fold(false, |masked, item| mask(item) | masked),
            _ => false,
        }
    }
    if !text.trim_start().starts_with('{') || !text.contains("\"Secret\"") {
        return None;
    }
    let mut value: Value = serde_json::from_str(text).ok()?;
    mask(&mut value).then(|| value.to_string())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case("Authorization: Bearer sha256~abcdefghij", "Authorization: Bearer [redacted]")]
    #[case("user sha256~AAAAbbbbCCCC_dd-ee logged in", "user sha256~[redacted] logged in")]
    #[case("Basic dXNlcjpwYXNz rest", "Basic [redacted] rest")]
    #[case(
        "-----BEGIN RSA PRIVATE KEY-----\\nMIIE\\n-----END RSA PRIVATE KEY-----\\n",
        "-----BEGIN RSA PRIVATE KEY-----[redacted]\\n"
    )]
    #[case("GET /b/k?X-Amz-Signature=0011aabb&x=1", "GET /b/k?X-Amz-Signature=[redacted]&x=1")]
    #[case("/b/k?GoogleAccessId=a&Signature=ow5BnuPiqE%2B4%3D%3D", "/b/k?GoogleAccessId=a&Signature=[redacted]")]
    #[case("/b/k?X-Goog-Signature=0011aabbccdd&x=1", "/b/k?X-Goog-Signature=[redacted]&x=1")]
    #[case("/b/k?sv=1&sig=ow5BnuPiqE%2B4%3D&x=1", "/b/k?sv=1&sig=[redacted]&x=1")]
    #[case("eyJhbGciOiJSUzI1.eyJpc3MiOiJrdWJl.c2lnbmF0dXJl end", "eyJ[redacted] end")]
    #[case("REGISTRY_STORAGE_S3_SECRETKEY=abc123 next", "REGISTRY_STORAGE_S3_SECRETKEY=[redacted] next")]
    #[case(r#"{"auth":"dTpw"}"#, r#"{"auth":"[redacted]"}"#)]
    #[case(r#"{"token":"tttt","expires_in":300}"#, r#"{"token":"[redacted]","expires_in":300}"#)]
    #[case("sha256:0123456789abcdef is a digest", "sha256:0123456789abcdef is a digest")]
    #[case("--dest-creds kubeadmin:$(oc whoami -t) docker://a", "--dest-creds kubeadmin:$(oc whoami -t) docker://a")]
    #[case("--dest-creds kubeadmin:hunter2 docker://a", "--dest-creds [redacted] docker://a")]
    #[case(
        "--from-literal=REGISTRY_STORAGE_S3_SECRETKEY=$KEY x",
        "--from-literal=REGISTRY_STORAGE_S3_SECRETKEY=$KEY x"
    )]
    #[case("REGISTRY_STORAGE_S3_SECRETKEY: expected to be set", "REGISTRY_STORAGE_S3_SECRETKEY: expected to be set")]
    #[case("password: hunter2 # mine", "password: [redacted] # mine")]
    #[case("password: hunter", "password: [redacted]")]
    #[case("the basic idea of a bearer", "the basic idea of a bearer")]
    fn removes_secrets_by_their_form(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(Redactor::default().text(text), expected);
    }

    #[test]
    fn removes_secrets_it_was_told_also_in_base64() {
        let redactor = Redactor::default();
        redactor.add("hunter2-hunter2");
        redactor.add("abc");
        assert_eq!(redactor.text("pw hunter2-hunter2 abc"), "pw [redacted] abc");
        assert_eq!(redactor.text("data aHVudGVyMi1odW50ZXIy"), "data [redacted]");
    }

    #[test]
    fn masks_the_data_of_secrets_in_objects_and_in_bodies() {
        let secret = json!({"kind": "Secret", "metadata": {"name": "n"}, "data": {"k": "dg=="}});
        let list = json!({"kind": "List", "items": [secret.clone()]});
        let mut event = json!({"object": secret, "body": list.to_string(), "other": {"data": {"k": "v"}}});
        Redactor::default().value(&mut event);
        assert_eq!(event["object"]["data"]["k"], REDACTED);
        assert_eq!(event["other"]["data"]["k"], "v");
        assert!(!event["body"].as_str().unwrap().contains("dg=="), "{event}");
    }

    #[test]
    fn masks_the_argument_after_a_flag_and_credential_headers() {
        let patch = json!(["oc", "patch", "-p", "{\"spec\":{}}"]);
        let mut event = json!({
            "argv": ["podman", "login", "-u", "kubeadmin", "-p", "tok"],
            "patch": patch.clone(),
            "headers": {"Authorization": "x"},
        });
        Redactor::default().value(&mut event);
        assert_eq!(event["argv"][5], REDACTED);
        assert_eq!(event["patch"], patch);
        assert_eq!(event["headers"]["Authorization"], REDACTED);
    }
}
