//! Scopes: registries, namespaces, repositories and `*.domain` patterns as users write them. Says which names are
//! lawful and which scope lies inside which.

use regex::Regex;
use std::sync::LazyLock;

/// True when `inner` is the same scope as `outer` or lies inside it.
///
/// `host/ns` lies inside `host`, `a.example.com/x` inside `*.example.com`; `host:443` does not lie inside `host` and
/// `*.example.com` does not hold `example.com` itself.
///
/// Source: OpenShift runtime-utils pkg/registries/registries.go:15-37 (master 7bdb5b9).
pub fn is_nested(inner: &str, outer: &str) -> bool {
    if inner == outer || inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/')) {
        return true;
    }
    let Some(suffix) = outer.strip_prefix('*').filter(|suffix| suffix.starts_with('.')) else { return false };
    let host = inner.split([':', '/']).next().unwrap_or_default();
    host.ends_with(suffix)
}

/// True for a scope written as a domain pattern such as `*.example.com`.
pub fn is_wildcard(scope: &str) -> bool {
    scope.starts_with("*.")
}

/// True when an entry of insecureRegistries, blockedRegistries or allowedRegistries can be used.
///
/// Only emptiness and the place of `*` are looked at: `*.` may open the entry and then neither path, port, tag nor
/// another `*` may follow (machine-config-operator helpers.go:752-769, release-4.16).
pub fn is_valid_list_entry(entry: &str) -> bool {
    match entry.strip_prefix("*.") {
        Some(rest) => !rest.is_empty() && !rest.contains(['/', '@', ':', '*']),
        None => !entry.is_empty() && !entry.contains('*'),
    }
}

const NAME: &str = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?";
const PATH: &str = "(?:/[a-z0-9]+(?:(?:[._]|__|-*)[a-z0-9]+)*)*";

static REPOSITORY: LazyLock<Regex> = LazyLock::new(|| pattern(&format!(r"^{NAME}(?:\.{NAME})*(?::[0-9]+)?{PATH}$")));
static WILDCARD: LazyLock<Regex> = LazyLock::new(|| pattern(&format!(r"^\*(?:\.{NAME})+$")));

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a fixed pattern compiles")
}

/// True when `source` may be mirrored: a host with optional port and lower-case path, or `*.` and a domain.
pub fn is_valid_source(source: &str) -> bool {
    WILDCARD.is_match(source) || REPOSITORY.is_match(source)
}

/// True when `mirror` may serve content: as a source, but without a pattern. Schemes, tags and digests are refused.
pub fn is_valid_mirror(mirror: &str) -> bool {
    REPOSITORY.is_match(mirror)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("r.com", "r.com", true)]
    #[case("r.com/ns", "r.com", true)]
    #[case("r.com/", "r.com", true)]
    #[case("r.com:443", "r.com", false)]
    #[case("r.community", "r.com", false)]
    #[case("a.example.com", "*.example.com", true)]
    #[case("a.b.example.com:5000/x", "*.example.com", true)]
    #[case("example.com", "*.example.com", false)]
    #[case("*.example.com", "*.example.com", true)]
    #[case("r.com", "r.com/ns", false)]
    fn nesting(#[case] inner: &str, #[case] outer: &str, #[case] expected: bool) {
        assert_eq!(is_nested(inner, outer), expected);
    }

    #[rstest]
    #[case("quay.io", true)]
    #[case("localhost:5000/a/b", true)]
    #[case("*.local", true)]
    #[case("https://r.ex", true)]
    #[case("r.ex/", true)]
    #[case("", false)]
    #[case("*", false)]
    #[case("*.a.com/x", false)]
    #[case("a.*.com", false)]
    fn list_entries(#[case] entry: &str, #[case] expected: bool) {
        assert_eq!(is_valid_list_entry(entry), expected, "{entry}");
    }

    #[rstest]
    #[case("registry.example.com", true, true)]
    #[case("registry.example.com:443/ocp/release", true, true)]
    #[case("r.com/a_b/c--d/e__f.g", true, true)]
    #[case("*.example.com", true, false)]
    #[case("*.example.com/x", false, false)]
    #[case("r.com/ns/app:latest", false, false)]
    #[case("https://r.com", false, false)]
    #[case("r.com/Upper", false, false)]
    #[case("r.com/", false, false)]
    #[case("", false, false)]
    fn sources_and_mirrors(#[case] text: &str, #[case] source: bool, #[case] mirror: bool) {
        assert_eq!((is_valid_source(text), is_valid_mirror(text)), (source, mirror), "{text}");
    }
}
