//! An image reference as people type it: `host[:port]/repository[:tag][@digest]`. No default registry and no default
//! namespace are added: the documents always name the registry.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// A parsed image reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `host` or `host:port`, as typed.
    pub registry: String,
    /// The repository path below the registry, e.g. `openshift/image`.
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<String>,
}

/// Why a text is no image reference.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{text}' is no image reference: {why}; write host[:port]/repository[:tag|@digest]")]
pub struct ReferenceError {
    text: String,
    why: &'static str,
}

impl Reference {
    /// Tag or digest, as a manifest URL ends with; `latest` when neither was typed.
    pub fn manifest(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// `registry/repository`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same image under another name (a mirror), tag and digest kept.
    pub fn under(&self, name: &str) -> Result<Self, ReferenceError> {
        let mut moved: Self = name.parse()?;
        moved.tag.clone_from(&self.tag);
        moved.digest.clone_from(&self.digest);
        Ok(moved)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |why| ReferenceError { text: text.to_owned(), why };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) if digest.contains(':') => (name, Some(digest.to_owned())),
            Some(_) => return Err(wrong("what follows @ is no digest")),
            None => (text, None),
        };
        let (registry, path) = name.split_once('/').ok_or_else(|| wrong("there is no repository"))?;
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) if !tag.is_empty() => (repository, Some(tag.to_owned())),
            Some(_) => return Err(wrong("the tag is empty")),
            None => (path, None),
        };
        if registry.is_empty() || repository.is_empty() {
            return Err(wrong("registry or repository is empty"));
        }
        Ok(Self { registry: registry.to_owned(), repository: repository.to_owned(), tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("name.io/image", "name.io", "image", "latest")]
    #[case("r.svc:5000/openshift/image:v1", "r.svc:5000", "openshift/image", "v1")]
    #[case("r.svc:5000/a/b@sha256:00", "r.svc:5000", "a/b", "sha256:00")]
    fn reads(#[case] text: &str, #[case] registry: &str, #[case] repository: &str, #[case] manifest: &str) {
        let reference: Reference = text.parse().expect("a reference");
        assert_eq!((&*reference.registry, &*reference.repository), (registry, repository));
        assert_eq!(reference.manifest(), manifest);
        assert_eq!(reference.to_string(), text);
    }

    #[rstest]
    #[case("image")]
    #[case("name.io/image:")]
    #[case("name.io/image@latest")]
    #[case("/image")]
    fn refuses(#[case] text: &str) {
        assert!(text.parse::<Reference>().is_err());
    }
}
