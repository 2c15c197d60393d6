//! Image references as the cluster writes them: `host[:port]/repository[:tag][@digest]`.
//! Pure; short names mean Docker Hub, as everywhere (distribution reference/normalize.go).

use crate::digest::Digest;

/// A repository on some registry, and which image of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference {
    /// Host with port, if any.
    pub host: String,
    /// Path of the repository.
    pub repository: String,
    /// The tag, if named.
    pub tag: Option<String>,
    /// The digest, if named.
    pub digest: Option<Digest>,
}

impl ImageReference {
    /// Reads a reference; `None` when it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().ok()?)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (rest, None),
        };
        let (host, path) = match name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
            _ => ("docker.io", name),
        };
        if path.is_empty() {
            return None;
        }
        let short = host == "docker.io" && !path.contains('/');
        let repository = if short { format!("library/{path}") } else { path.to_owned() };
        Some(Self { host: host.to_owned(), repository, tag, digest })
    }

    /// `host/repository`, as mirror policies name their sources.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// The host that answers for this one.
    pub fn api_host(&self) -> &str {
        if self.host == "docker.io" { "registry-1.docker.io" } else { &self.host }
    }

    /// The same image under the first mirror rule that fits; a source fits whole path components only.
    pub fn mirrored(&self, source: &str, mirror: &str) -> Option<Self> {
        let name = self.name();
        let rest = name.strip_prefix(source).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
        let mirrored = Self::parse(&format!("{mirror}{rest}"))?;
        Some(Self { tag: self.tag.clone(), digest: self.digest.clone(), ..mirrored })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("quay.io/org/app:v1", "quay.io", "org/app", Some("v1"))]
    #[case("localhost:5000/app", "localhost:5000", "app", None)]
    #[case("busybox", "docker.io", "library/busybox", None)]
    #[case("org/app:v2", "docker.io", "org/app", Some("v2"))]
    fn references(#[case] text: &str, #[case] host: &str, #[case] repository: &str, #[case] tag: Option<&str>) {
        let reference = ImageReference::parse(text).unwrap();
        assert_eq!((reference.host.as_str(), reference.repository.as_str()), (host, repository));
        assert_eq!(reference.tag.as_deref(), tag);
        assert_eq!(reference.digest, None);
    }

    #[rstest]
    #[case("quay.io/org", "mirror:5000/copy", Some("mirror:5000/copy/app"))]
    #[case("quay.io/org/app", "mirror:5000/x", Some("mirror:5000/x"))]
    #[case("quay.io/or", "mirror:5000/x", None)]
    fn mirrors_replace_whole_components(#[case] source: &str, #[case] mirror: &str, #[case] expected: Option<&str>) {
        let digest = Digest::of(b"x");
        let reference = ImageReference::parse(&format!("quay.io/org/app@{digest}")).unwrap();
        let mirrored = reference.mirrored(source, mirror);
        assert_eq!(mirrored.as_ref().map(ImageReference::name).as_deref(), expected);
        if let Some(mirrored) = mirrored {
            assert_eq!(mirrored.digest, Some(digest));
        }
    }

    #[test]
    fn what_is_no_reference() {
        assert_eq!(ImageReference::parse("quay.io/app@sha256:00"), None);
        assert_eq!(ImageReference::parse(""), None);
    }
}
