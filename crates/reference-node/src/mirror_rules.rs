//! What the cluster's objects say about mirrors and registries, and the checks that refuse a set of objects.
//! Nothing here knows about files.

use crate::scope;
use std::collections::BTreeMap;

/// Whether the source may still be contacted when no mirror has the content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourcePolicy {
    /// The source is tried after the mirrors; also meant when an object does not say.
    #[default]
    AllowContactingSource,
    /// The source is never contacted.
    NeverContactSource,
}

/// One entry of a mirror object: where content is looked for instead of `source`, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorRule {
    pub source: String,
    pub mirrors: Vec<String>,
    pub policy: SourcePolicy,
}

impl MirrorRule {
    /// True when the rule names a mirror other than the source; other rules change nothing.
    pub fn redirects(&self) -> bool {
        self.mirrors.iter().any(|mirror| *mirror != self.source)
    }
}

/// Everything that decides the content of a node's registry configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorRules {
    /// Entries of all ImageDigestMirrorSets, in the order of the objects' names.
    pub digest: Vec<MirrorRule>,
    /// Entries of all ImageContentSourcePolicies, likewise.
    pub content_source: Vec<MirrorRule>,
    /// Entries of all ImageTagMirrorSets, likewise.
    pub tag: Vec<MirrorRule>,
    /// True when at least one mirror object exists, also one without entries.
    pub any_object: bool,
    /// `spec.registrySources` of the image configuration; `None` is different from an empty list.
    pub insecure: Option<Vec<String>>,
    pub blocked: Option<Vec<String>>,
    pub allowed: Option<Vec<String>>,
    /// `spec.registrySources.containerRuntimeSearchRegistries`.
    pub search: Vec<String>,
    /// Repository of the release payload, which must stay reachable; `None` where the platform does not say.
    pub payload: Option<String>,
}

/// Why a set of objects is refused. The text is what the machine config controller says for the same cause
/// (helpers.go:495-506 and 752-793, release-4.16).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RuleError {
    #[error("invalid entry for {list} registries {entry:?}")]
    ListEntry { list: &'static str, entry: String },
    #[error("invalid format for source {0:?}")]
    Source(String),
    #[error("invalid format for mirror {0:?}")]
    Mirror(String),
    #[error(
        "conflicting mirrorSourcePolicy is set for the same source {0:?} in imagedigestmirrorsets, \
         imagetagmirrorsets, or imagecontentsourcepolicies"
    )]
    ConflictingPolicy(String),
    #[error("cannot set mirrorSourcePolicy: NeverContactSource if the source {0:?} is one of the mirrors")]
    NeverContactsItself(String),
    #[error("invalid images config: only one of AllowedRegistries or BlockedRegistries may be specified")]
    AllowedAndBlocked,
    #[error("internal error: mirrorsAdjustedForNestedScope for a wildcard scope {0:?}")]
    NestedInWildcard(String),
}

impl MirrorRules {
    /// True when registries.conf is written from these rules, false when the node keeps its default file.
    pub fn configure_registries(&self) -> bool {
        self.any_object || self.insecure.is_some() || self.blocked.is_some()
    }

    /// Digest rules in the order in which they are merged: mirror sets first, then content source policies.
    pub fn digest_rules(&self) -> impl Iterator<Item = &MirrorRule> {
        self.digest.iter().chain(&self.content_source)
    }

    /// Checks everything the controller checks before it touches a node.
    ///
    /// # Errors
    /// The first contradiction or malformed name, in the order lists, entries, policies.
    pub fn validate(&self) -> Result<(), RuleError> {
        for (list, entries) in [("insecure", &self.insecure), ("blocked", &self.blocked), ("allowed", &self.allowed)] {
            if let Some(entry) = entries.iter().flatten().find(|entry| !scope::is_valid_list_entry(entry)) {
                return Err(RuleError::ListEntry { list, entry: entry.clone() });
            }
        }
        let mut policies = BTreeMap::new();
        for rule in self.digest_rules().chain(&self.tag) {
            if !scope::is_valid_source(&rule.source) {
                return Err(RuleError::Source(rule.source.clone()));
            }
            if *policies.entry(rule.source.as_str()).or_insert(rule.policy) != rule.policy {
                return Err(RuleError::ConflictingPolicy(rule.source.clone()));
            }
            for mirror in &rule.mirrors {
                if !scope::is_valid_mirror(mirror) {
                    return Err(RuleError::Mirror(mirror.clone()));
                }
                if rule.policy == SourcePolicy::NeverContactSource && *mirror == rule.source {
                    return Err(RuleError::NeverContactsItself(rule.source.clone()));
                }
            }
        }
        let filled = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|entries| !entries.is_empty());
        let only_payload = self.allowed.as_deref().is_some_and(|list| Some(list) == self.payload.as_slice().get(..1));
        if filled(&self.allowed) && filled(&self.blocked) && !only_payload {
            return Err(RuleError::AllowedAndBlocked);
        }
        Ok(())
    }

    /// The blocked scopes that may really be blocked: one that holds the release payload is left out unless the
    /// digest rules still give the payload a location that is not blocked (helpers.go:629-718, release-4.16).
    pub fn effective_blocked(&self) -> Vec<&str> {
        let all: Vec<&str> = self.blocked.iter().flatten().map(String::as_str).collect();
        let Some(payload) = self.payload.as_deref() else { return all };
        if self.payload_locations(payload).iter().any(|place| !all.iter().any(|scope| scope::is_nested(place, scope))) {
            return all;
        }
        let (kept, dropped): (Vec<&str>, Vec<&str>) =
            all.into_iter().partition(|scope| !scope::is_nested(payload, scope));
        for scope in dropped {
            tracing::warn!(scope, payload, "cannot block the repository being used by the payload");
        }
        kept
    }

    fn payload_locations(&self, payload: &str) -> Vec<String> {
        let best = self
            .digest_rules()
            .filter(|rule| rule.redirects() && scope::is_nested(payload, &rule.source))
            .map(|rule| rule.source.as_str())
            .max_by_key(|source| source.len());
        let Some(best) = best else { return Vec::new() };
        let rest = if scope::is_wildcard(best) { "" } else { &payload[best.len()..] };
        self.digest_rules()
            .filter(|rule| rule.source == best)
            .flat_map(|rule| &rule.mirrors)
            .map(|mirror| format!("{mirror}{rest}"))
            .collect()
    }
}
