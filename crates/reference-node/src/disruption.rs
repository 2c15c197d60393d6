//! Whether a change of registries.conf may reach a node while pods run on it. Pure: compares the file that a node has with
//! the one it is to get.

use crate::registries_conf::{Mirror, PullFromMirror, Registry};
use crate::scope;
use serde::Deserialize;
use std::fmt;

/// Why the pods of a node have to leave before a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disruption {
    /// Mirrors for tags came or went: the same tag may be another image from now on.
    TagMirrors { scope: String },
    /// A registry is blocked or insecure, or no longer so, by the image configuration.
    Registry { scope: String },
    /// The search list for short names changed.
    SearchList,
    /// The file is none that can be compared.
    Unreadable,
}

impl fmt::Display for Disruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Disruption::TagMirrors { scope } => write!(f, "the mirrors of {scope} for tags change"),
            Disruption::Registry { scope } => write!(f, "{scope} becomes blocked or insecure, or ceases to be"),
            Disruption::SearchList => f.write_str("the search list for short names changes"),
            Disruption::Unreadable => f.write_str("the present registries.conf cannot be read"),
        }
    }
}

/// The first reason to drain for a change from the text `present` to the tables `wanted`; `None` when the change is safe.
///
/// Mirrors for digests are always safe: a digest is the same image wherever it comes from (OpenShift 4.16 images
/// documentation, section 9.3.1: nodes are drained for ImageTagMirrorSets only, not for ImageDigestMirrorSets and
/// ImageContentSourcePolicies). For what the documents do not speak of the machine config daemon's rules hold
/// (machine-config-operator pkg/daemon/drain.go:224-325, release-4.16).
pub fn of_change(present: &str, wanted: &[Registry]) -> Option<Disruption> {
    let Ok(present) = parse(present) else { return Some(Disruption::Unreadable) };
    let (before, after) = (&present[..], wanted);
    for table in before.iter().chain(after) {
        let old = before.iter().find(|other| other.scope == table.scope);
        let new = after.iter().find(|other| other.scope == table.scope);
        if tags(old) != tags(new) {
            return Some(Disruption::TagMirrors { scope: table.scope.clone() });
        }
        let (was, is) = (old.is_some_and(|old| old.insecure), new.is_some_and(|new| new.insecure));
        // Without mirrors, only the image configuration can have blocked it.
        let listed = |table: Option<&Registry>| table.is_some_and(|table| table.mirrors.is_empty() && table.blocked);
        if was != is || listed(old) != listed(new) && !inherits(old, new) {
            return Some(Disruption::Registry { scope: table.scope.clone() });
        }
    }
    None
}

/// A blocked scope inside a source that gets mirrors takes those over, and is blocked as before.
fn inherits(old: Option<&Registry>, new: Option<&Registry>) -> bool {
    matches!((old, new), (Some(old), Some(new)) if old.blocked == new.blocked)
}

fn tags(table: Option<&Registry>) -> Vec<&Mirror> {
    table.iter().flat_map(|table| &table.mirrors).filter(|mirror| mirror.pull == PullFromMirror::TagOnly).collect()
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    registry: Vec<Table>,
}

#[derive(Deserialize)]
struct Table {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror: Vec<MirrorTable>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MirrorTable {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: String,
}

fn parse(text: &str) -> Result<Vec<Registry>, toml::de::Error> {
    let file: File = toml::from_str(text)?;
    let mirror = |mirror: MirrorTable| Mirror {
        pull: if mirror.pull_from_mirror == "digest-only" {
            PullFromMirror::DigestOnly
        } else {
            PullFromMirror::TagOnly
        },
        location: mirror.location,
        insecure: mirror.insecure,
    };
    Ok(file
        .registry
        .into_iter()
        .map(|table| Registry {
            scope: if scope::is_wildcard(&table.prefix) || table.location.is_empty() {
                table.prefix
            } else {
                table.location
            },
            insecure: table.insecure,
            blocked: table.blocked,
            mirrors: table.mirror.into_iter().map(mirror).collect(),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registries_conf::tests::rules;
    use crate::registries_conf::{render, tables};
    use rstest::rstest;

    fn change(from: &str, to: &str) -> Option<Disruption> {
        of_change(&render(&rules(from)).expect("lawful rules"), &tables(&rules(to)).expect("tables"))
    }

    #[rstest]
    #[case::nothing("", "")]
    #[case::same("T{s.com=>t.com} I{s.com=>m.com} blk[b.com]", "T{s.com=>t.com} I{s.com=>m.com} blk[b.com]")]
    #[case::digests_come("", "I{s.com=>m.com}")]
    #[case::digests_go("I{s.com=>m.com}", "")]
    #[case::another_digest_mirror("I{s.com=>m.com}", "I{s.com=>m.com,n.com}")]
    #[case::policy_object("", "C{s.com=>m.com}")]
    #[case::migration("C{s.com=>m.com}", "I{s.com=>m.com}")]
    #[case::source_forbidden("I{s.com=>m.com}", "I{s.com=>m.com!}")]
    #[case::forbidden_at_once("", "I{*.s.com=>m.com!}")]
    #[case::inherited("blk[s.com/x]", "blk[s.com/x] I{s.com=>m.com}")]
    #[case::digests_beside_tags("T{s.com=>t.com}", "T{s.com=>t.com} I{s.com=>m.com}")]
    #[case::allowed_only("", "alw[s.com]")]
    fn is_safe(#[case] from: &str, #[case] to: &str) {
        assert_eq!(change(from, to), None);
    }

    #[rstest]
    #[case::tags_come("", "T{s.com=>t.com}", "the mirrors of s.com for tags change")]
    #[case::tags_go("T{s.com=>t.com}", "", "the mirrors of s.com for tags change")]
    #[case::tags_beside_digests(
        "I{s.com=>m.com}",
        "I{s.com=>m.com} T{s.com=>t.com}",
        "the mirrors of s.com for tags change"
    )]
    #[case::other_tags("T{s.com=>t.com}", "T{s.com=>t.com,u.com}", "the mirrors of s.com for tags change")]
    #[case::blocked("", "blk[b.com]", "b.com becomes blocked or insecure, or ceases to be")]
    #[case::unblocked("blk[b.com]", "", "b.com becomes blocked or insecure, or ceases to be")]
    #[case::insecure(
        "I{s.com=>m.com}",
        "I{s.com=>m.com} ins[m.com]",
        "m.com becomes blocked or insecure, or ceases to be"
    )]
    fn drains(#[case] from: &str, #[case] to: &str, #[case] why: &str) {
        assert_eq!(change(from, to).expect("a drain").to_string(), why);
    }

    #[test]
    fn an_unreadable_file_is_no_reason_to_be_careless() {
        assert_eq!(of_change("[[registry", &[]), Some(Disruption::Unreadable));
    }
}
