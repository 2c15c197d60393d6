//! What a container engine makes of registries.conf: the judge's own statement of containers-registries.conf(5), by
//! which "where does a node pull from" is decided without any engine at hand. It never writes the file.

use serde::Deserialize;
use thiserror::Error;

use crate::oci::Reference;

/// A parsed registries.conf, version 2.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RegistriesConf {
    #[serde(default)]
    pub unqualified_search_registries: Vec<String>,
    #[serde(default)]
    pub short_name_mode: Option<String>,
    #[serde(default, rename = "registry")]
    pub registries: Vec<RegistryTable>,
}

/// One `[[registry]]` table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RegistryTable {
    #[serde(default)]
    pub prefix: String,
    #[serde(default)]
    pub location: String,
    #[serde(default)]
    pub insecure: bool,
    #[serde(default)]
    pub blocked: bool,
    #[serde(default)]
    pub mirror_by_digest_only: bool,
    #[serde(default, rename = "mirror")]
    pub mirrors: Vec<MirrorTable>,
}

/// One `[[registry.mirror]]` table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MirrorTable {
    pub location: String,
    #[serde(default)]
    pub insecure: bool,
    #[serde(default)]
    pub pull_from_mirror: Option<String>,
}

/// Source, mirror and when the mirror is asked: the meaning of one mirror table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pairing {
    pub source: String,
    pub mirror: String,
    /// `digest-only`, `tag-only` or `all`.
    pub pull: String,
}

/// Why a file is no registries.conf that an engine would load.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfError {
    #[error("not TOML of registries.conf version 2: {0}")]
    Syntax(String),
    #[error("a [[registry]] table has neither location nor prefix")]
    Unplaced,
    #[error("[[registry]] '{0}' is defined twice with different {1} values")]
    Conflict(String, &'static str),
    #[error("pull-from-mirror = '{0}' is none of all, digest-only, tag-only")]
    PullFromMirror(String),
}

/// One address an engine tries, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidate {
    /// A mirror or the source, to be asked.
    Ask(Reference),
    /// Not asked, because its registry is blocked.
    Blocked(Reference),
}

impl RegistriesConf {
    /// Reads a file as an engine does and refuses what an engine refuses.
    pub fn parse(text: &str) -> Result<Self, ConfError> {
        let conf: Self = toml::from_str(text).map_err(|error| ConfError::Syntax(error.to_string()))?;
        for (index, table) in conf.registries.iter().enumerate() {
            if table.location.is_empty() && table.prefix.is_empty() {
                return Err(ConfError::Unplaced);
            }
            for mirror in &table.mirrors {
                if let Some(value) = &mirror.pull_from_mirror
                    && !["all", "digest-only", "tag-only", ""].contains(&value.as_str())
                {
                    return Err(ConfError::PullFromMirror(value.clone()));
                }
            }
            for other in &conf.registries[..index] {
                if other.location == table.location && other.blocked != table.blocked {
                    return Err(ConfError::Conflict(table.location.clone(), "blocked"));
                }
                if other.location == table.location && other.insecure != table.insecure {
                    return Err(ConfError::Conflict(table.location.clone(), "insecure"));
                }
            }
        }
        Ok(conf)
    }

    /// Every (source, mirror, when) triple, sorted; how tables are grouped and ordered does not show.
    pub fn pairings(&self) -> Vec<Pairing> {
        let mut all: Vec<_> = self
            .registries
            .iter()
            .flat_map(|table| {
                table.mirrors.iter().map(|mirror| Pairing {
                    source: table.matches().to_owned(),
                    mirror: mirror.location.clone(),
                    pull: mirror.pull(table).to_owned(),
                })
            })
            .collect();
        all.sort();
        all
    }

    /// The addresses an engine tries for `reference`, in order.
    pub fn candidates(&self, reference: &Reference) -> Vec<Candidate> {
        let Some(table) = self.table_for(reference) else { return vec![Candidate::Ask(reference.clone())] };
        let by_digest = reference.digest.is_some();
        let mut out = vec![];
        for mirror in &table.mirrors {
            let used = match mirror.pull(table) {
                "digest-only" => by_digest,
                "tag-only" => !by_digest,
                _ => true,
            };
            if let Some(moved) = table.moved(reference, &mirror.location).filter(|_| used) {
                out.push(self.asked_or_blocked(moved));
            }
        }
        let location = if table.location.is_empty() { table.prefix.as_str() } else { table.location.as_str() };
        let source = table.moved(reference, location).unwrap_or_else(|| reference.clone());
        // The engine looks the physical address up again, so the table that matched decides about the source itself.
        out.push(if table.blocked { Candidate::Blocked(source) } else { self.asked_or_blocked(source) });
        out
    }

    fn asked_or_blocked(&self, reference: Reference) -> Candidate {
        if self.table_for(&reference).is_some_and(|table| table.blocked) {
            Candidate::Blocked(reference)
        } else {
            Candidate::Ask(reference)
        }
    }

    fn table_for(&self, reference: &Reference) -> Option<&RegistryTable> {
        let text = reference.to_string();
        let matching = self.registries.iter().filter(|table| matched_length(&text, table.matches()).is_some());
        matching.max_by_key(|table| table.matches().len())
    }
}

impl RegistryTable {
    /// What a reference must begin with for this table to apply: the prefix, else the location.
    pub fn matches(&self) -> &str {
        if self.prefix.is_empty() { &self.location } else { &self.prefix }
    }

    fn moved(&self, reference: &Reference, location: &str) -> Option<Reference> {
        let name = reference.name();
        let rest = &name[matched_length(&name, self.matches())?..];
        reference.under(&format!("{location}{rest}")).ok()
    }
}

impl MirrorTable {
    fn pull<'a>(&'a self, table: &RegistryTable) -> &'a str {
        match self.pull_from_mirror.as_deref() {
            Some(value) if !value.is_empty() => value,
            _ if table.mirror_by_digest_only => "digest-only",
            _ => "all",
        }
    }
}

/// How many bytes of a reference a prefix matches: whole path components only; `*.example.com` matches host names
/// below example.com, up to the end of the host.
fn matched_length(reference: &str, prefix: &str) -> Option<usize> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let host = &reference[..reference.find('/').unwrap_or(reference.len())];
        return host.ends_with(domain).then_some(host.len());
    }
    let rest = reference.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with(['/', ':', '@'])).then_some(prefix.len())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const CONF: &str = r#"
unqualified-search-registries = ["registry.access.redhat.com"]

[[registry]]
  prefix = ""
  location = "registry.example.com/ubi"
  [[registry.mirror]]
    location = "mirror.example.net/ubi"
    pull-from-mirror = "digest-only"

[[registry]]
  location = "closed.example.com"
  blocked = true
  [[registry.mirror]]
    location = "mirror.example.net/closed"
    pull-from-mirror = "tag-only"

[[registry]]
  prefix = "*.wild.example"
  location = "wild.example"
  [[registry.mirror]]
    location = "mirror.example.net/wild"
"#;

    fn ask(text: &str) -> Candidate {
        Candidate::Ask(text.parse().expect("a reference"))
    }

    #[rstest]
    #[case::digest_goes_to_the_mirror_first("registry.example.com/ubi/min@sha256:aa",
        vec![ask("mirror.example.net/ubi/min@sha256:aa"), ask("registry.example.com/ubi/min@sha256:aa")])]
    #[case::tag_skips_a_digest_mirror("registry.example.com/ubi/min:1", vec![ask("registry.example.com/ubi/min:1")])]
    #[case::a_prefix_matches_whole_components("registry.example.com/ubi9:1", vec![ask("registry.example.com/ubi9:1")])]
    #[case::blocked_source("closed.example.com/a:1",
        vec![ask("mirror.example.net/closed/a:1"), Candidate::Blocked("closed.example.com/a:1".parse().unwrap())])]
    #[case::blocked_without_a_mirror_for_digests("closed.example.com/a@sha256:aa",
        vec![Candidate::Blocked("closed.example.com/a@sha256:aa".parse().unwrap())])]
    #[case::wildcard("x.wild.example/a:1", vec![ask("mirror.example.net/wild/a:1"), ask("wild.example/a:1")])]
    #[case::unknown("other.example/a:1", vec![ask("other.example/a:1")])]
    fn an_engine_tries(#[case] reference: &str, #[case] expected: Vec<Candidate>) {
        let conf = RegistriesConf::parse(CONF).expect("a file");
        assert_eq!(conf.candidates(&reference.parse().expect("a reference")), expected);
    }

    #[rstest]
    #[case("registry = 3", "Syntax")]
    #[case("[[registry]]\nblocked = true", "Unplaced")]
    #[case("[[registry]]\nlocation='a'\n[[registry]]\nlocation='a'\nblocked=true", "Conflict")]
    #[case("[[registry]]\nlocation='a'\n[[registry.mirror]]\nlocation='b'\npull-from-mirror='never'", "PullFromMirror")]
    fn an_engine_refuses(#[case] text: &str, #[case] why: &str) {
        let error = RegistriesConf::parse(text).expect_err("refused");
        assert!(format!("{error:?}").starts_with(why), "{error:?}");
    }
}
