//! A pull spec taken apart: registry, namespace, name, tag and digest.
//! The rules are those of OpenShift's library-go pkg/image/reference; nothing is looked up here.

use std::fmt;

/// `registry/namespace/name:tag@id`, every part but the name optional (then empty).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reference {
    pub registry: String,
    pub namespace: String,
    pub name: String,
    pub tag: String,
    pub id: String,
}

impl Reference {
    /// Takes a pull spec apart; `None` if it is none.
    pub fn parse(spec: &str) -> Option<Self> {
        let (rest, id) = match spec.split_once('@') {
            Some((rest, id)) => (rest, is_digest(id).then_some(id)?),
            None => (spec, ""),
        };
        let last_slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (path, tag) = match rest[last_slash..].rfind(':') {
            Some(at) => (&rest[..last_slash + at], &rest[last_slash + at + 1..]),
            None => (rest, ""),
        };
        if rest.ends_with(':') || !(tag.is_empty() || is_tag(tag)) {
            return None;
        }
        let is_registry = |part: &str| part.contains(['.', ':']) || part == "localhost";
        let (registry, repository) = match path.split_once('/') {
            Some((first, repository)) if is_registry(first) || repository.contains('/') => (first, repository),
            _ => ("", path),
        };
        let (namespace, name) = repository.split_once('/').unwrap_or(("", repository));
        let components_are_good = repository.split('/').all(is_name_component);
        if spec.len() > 512 || registry.contains(char::is_whitespace) || !components_are_good {
            return None;
        }
        Some(Self {
            registry: registry.into(),
            namespace: namespace.into(),
            name: name.into(),
            tag: tag.into(),
            id: id.into(),
        })
    }

    /// With the defaults a container client applies: Docker Hub, `library`, and `latest` where neither tag nor
    /// digest is given.
    #[must_use]
    pub fn with_client_defaults(mut self) -> Self {
        if self.registry.is_empty() {
            self.registry = "docker.io".into();
        }
        if self.namespace.is_empty() && matches!(self.registry.as_str(), "docker.io" | "index.docker.io") {
            self.namespace = "library".into();
        }
        if self.tag.is_empty() && self.id.is_empty() {
            self.tag = "latest".into();
        }
        self
    }

    /// The same repository at `id`, without a tag.
    #[must_use]
    pub fn at(mut self, id: &str) -> Self {
        self.tag.clear();
        self.id = id.into();
        self
    }

    /// `namespace/name` as it stands in registry URLs.
    pub fn repository(&self) -> String {
        if self.namespace.is_empty() { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.registry.is_empty() {
            write!(f, "{}/", self.registry)?;
        }
        f.write_str(&self.repository())?;
        if !self.id.is_empty() {
            return write!(f, "@{}", self.id);
        }
        if self.tag.is_empty() { Ok(()) } else { write!(f, ":{}", self.tag) }
    }
}

fn is_name_component(part: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    edge(part.chars().next())
        && edge(part.chars().last())
        && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
}

/// Whether `tag` is a tag of the distribution specification.
pub fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128 && tag.starts_with(word) && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

/// Whether `text` is `algorithm:hex`.
pub fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty() && hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit())
    })
}

/// Whether `asked` names the image called `name`: in full, or by the beginning of its digest with or without
/// the algorithm.
pub fn matches_image(name: &str, asked: &str) -> bool {
    if name == asked {
        return true;
    }
    let Some((_, hex)) = name.split_once(':') else { return name.starts_with(asked) && !asked.is_empty() };
    !asked.is_empty() && (hex.starts_with(asked) || (asked.contains(':') && name.starts_with(asked)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[rstest]
    #[case("app", "", "", "app", "", "")]
    #[case("p/app:v1", "", "p", "app", "v1", "")]
    #[case("localhost/app", "localhost", "", "app", "", "")]
    #[case("registry.svc:5000/p/app:v1", "registry.svc:5000", "p", "app", "v1", "")]
    #[case("quay.io/org/team/app", "quay.io", "org", "team/app", "", "")]
    fn specs_are_taken_apart(
        #[case] spec: &str,
        #[case] registry: &str,
        #[case] namespace: &str,
        #[case] name: &str,
        #[case] tag: &str,
        #[case] id: &str,
    ) {
        let reference = Reference::parse(spec).expect("a pull spec");
        let parts = [&reference.registry, &reference.namespace, &reference.name, &reference.tag, &reference.id];
        assert_eq!(parts, [registry, namespace, name, tag, id]);
        assert_eq!(reference.to_string(), spec);
    }

    #[rstest]
    #[case("")]
    #[case("App")]
    #[case("p//app")]
    #[case("app:")]
    #[case("app:-x")]
    #[case("app@sha256:short")]
    fn other_texts_are_refused(#[case] spec: &str) {
        assert_eq!(Reference::parse(spec), None);
    }

    #[test]
    fn clients_fill_in_the_rest() {
        let parse = |spec| Reference::parse(spec).expect("a pull spec").with_client_defaults().to_string();
        assert_eq!(parse("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(parse(&format!("quay.io/a/b:1@{DIGEST}")), format!("quay.io/a/b@{DIGEST}"));
    }

    #[rstest]
    #[case(DIGEST, true)]
    #[case("sha256:0123", true)]
    #[case("0123456", true)]
    #[case("sha256:1", false)]
    #[case("", false)]
    fn images_are_found_by_prefix(#[case] asked: &str, #[case] found: bool) {
        assert_eq!(matches_image(DIGEST, asked), found);
    }
}
