//! The node's containers policy.json, made from the allowed and blocked registries of the image configuration.
//! Signature policies are not part of it.

use crate::mirror_rules::MirrorRules;
use serde_json::{Map, Value, json};

/// The policy of a node for these rules: everything is accepted unless registries are allowed or blocked.
///
/// A list of allowed registries turns the default into a refusal; a blocked scope is refused under the name of the
/// source even when a mirror would serve it. The release payload is always accepted where it would be blocked.
///
/// Source: machine-config-operator pkg/controller/container-runtime-config/helpers.go:495-577 (release-4.16).
pub fn render(rules: &MirrorRules) -> String {
    let allowed: Vec<&str> = rules.allowed.iter().flatten().map(String::as_str).collect();
    let all_blocked = rules.effective_blocked();
    let payload = rules
        .payload
        .as_deref()
        .filter(|payload| all_blocked.iter().any(|scope| crate::scope::is_nested(payload, scope)));
    let blocked: Vec<&str> = all_blocked.iter().copied().filter(|scope| Some(*scope) != payload).collect();

    let accept = json!([{"type": "insecureAcceptAnything"}]);
    let reject = json!([{"type": "reject"}]);
    let mut docker = Map::new();
    let mut atomic = Map::new();
    let accepted = payload.into_iter().chain(allowed.iter().copied()).map(|scope| (scope, &accept));
    for (scope, requirement) in blocked.iter().map(|scope| (*scope, &reject)).chain(accepted) {
        docker.insert(scope.to_owned(), requirement.clone());
        if scope.matches('/').count() < 3 {
            atomic.insert(scope.to_owned(), requirement.clone());
        }
    }
    let mut transports = Map::from_iter([("docker-daemon".to_owned(), json!({"": accept.clone()}))]);
    for (transport, scopes) in [("atomic", atomic), ("docker", docker)] {
        if !scopes.is_empty() {
            transports.insert(transport.to_owned(), Value::Object(scopes));
        }
    }
    let default = if allowed.is_empty() { accept } else { reject };
    format!("{:#}\n", json!({"default": default, "transports": transports}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn list(entries: &[&str]) -> Option<Vec<String>> {
        Some(entries.iter().map(|entry| entry.to_string()).collect())
    }

    #[rstest]
    #[case::nothing(MirrorRules::default(), "insecureAcceptAnything", &[])]
    #[case::allowed(MirrorRules { allowed: list(&["s.com"]), ..Default::default() }, "reject", &[("docker", "s.com", "insecureAcceptAnything"), ("atomic", "s.com", "insecureAcceptAnything")])]
    #[case::blocked(MirrorRules { blocked: list(&["s.com"]), ..Default::default() }, "insecureAcceptAnything", &[("docker", "s.com", "reject"), ("atomic", "s.com", "reject")])]
    #[case::deep(MirrorRules { blocked: list(&["s.com/a/b/c"]), ..Default::default() }, "insecureAcceptAnything", &[("docker", "s.com/a/b/c", "reject")])]
    fn policies(#[case] rules: MirrorRules, #[case] default: &str, #[case] scopes: &[(&str, &str, &str)]) {
        let policy: Value = serde_json::from_str(&render(&rules)).expect("JSON");
        assert_eq!(policy["default"][0]["type"], default);
        assert_eq!(policy["transports"]["docker-daemon"][""][0]["type"], "insecureAcceptAnything");
        let found: usize =
            ["docker", "atomic"].iter().filter_map(|t| policy["transports"][t].as_object()).map(Map::len).sum();
        assert_eq!(found, scopes.len());
        for (transport, scope, requirement) in scopes {
            assert_eq!(policy["transports"][transport][scope][0]["type"], *requirement);
        }
    }
}
