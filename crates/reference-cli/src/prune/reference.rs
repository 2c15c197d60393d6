//! Image references as workloads write them, reduced to what the pruner must know.

use super::graph::Use;

/// What a reference needs.
///
/// `hosts` are the names under which the internal registry is known: only there a tag belongs to an image stream.
///
/// # Errors
/// The text is no image reference.
pub(super) fn parse(text: &str, hosts: &[String]) -> Result<Option<Use>, String> {
    let bad = |why: &str| Err(format!("invalid image reference {text:?}: {why}"));
    if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return bad("invalid reference format");
    }
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    if let Some(digest) = digest {
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.chars().all(|c| c.is_ascii_hexdigit()) {
            return bad("invalid checksum digest");
        }
        return Ok(Some(Use::Digest(digest.to_owned())));
    }
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (name, "latest"),
    };
    if tag.is_empty() || name.is_empty() || name.contains("//") || name.ends_with('/') {
        return bad("invalid reference format");
    }
    let path = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (Some(host), path),
        _ => (None, name),
    };
    if path.1.chars().any(|c| c.is_ascii_uppercase()) {
        return bad("repository name must be lowercase");
    }
    let (Some(host), Some((namespace, stream))) = (path.0, path.1.split_once('/')) else { return Ok(None) };
    if !hosts.iter().any(|known| known == host) || stream.contains('/') {
        return Ok(None);
    }
    Ok(Some(Use::Tag { namespace: namespace.to_owned(), stream: stream.to_owned(), tag: tag.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const DIGEST: &str = "sha256:0123456789012345678901234567890123456789012345678901234567890123";

    fn tag(namespace: &str, stream: &str, tag: &str) -> Option<Use> {
        Some(Use::Tag { namespace: namespace.into(), stream: stream.into(), tag: tag.into() })
    }

    #[rstest]
    #[case(format!("r:5000/ns/s@{DIGEST}"), Some(Use::Digest(DIGEST.into())))]
    #[case(format!("r:5000/ns/s:v1@{DIGEST}"), Some(Use::Digest(DIGEST.into())))]
    #[case("r:5000/ns/s:v1".into(), tag("ns", "s", "v1"))]
    #[case("r:5000/ns/s".into(), tag("ns", "s", "latest"))]
    #[case("quay.io/ns/s:v1".into(), None)]
    #[case("busybox".into(), None)]
    fn references(#[case] text: String, #[case] expected: Option<Use>) {
        assert_eq!(parse(&text, &["r:5000".to_owned()]), Ok(expected));
    }

    #[rstest]
    #[case("")]
    #[case("a b")]
    #[case("r:5000/ns/s@sha256:short")]
    #[case("Upper/Case")]
    #[case("host.x/a//b")]
    fn no_references(#[case] text: &str) {
        assert!(parse(text, &[]).is_err());
    }
}
