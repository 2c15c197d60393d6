//! The node's registries.conf in version 2 format, made from the rules of the cluster. Pure: reading objects and
//! writing files are left to `agent`.

use crate::mirror_order;
use crate::mirror_rules::{MirrorRule, MirrorRules, RuleError, SourcePolicy};
use crate::scope;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The file as nodes have it while nothing in the cluster asks for anything else.
///
/// Source: machine-config-operator templates/worker/01-worker-container-runtime (release-4.16).
pub const DEFAULT_FILE: &str = "unqualified-search-registries = ['registry.access.redhat.com', 'docker.io']\n";

const SEARCH: [&str; 2] = ["registry.access.redhat.com", "docker.io"];

/// Which references a mirror serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullFromMirror {
    DigestOnly,
    TagOnly,
}

impl PullFromMirror {
    fn as_str(self) -> &'static str {
        match self {
            PullFromMirror::DigestOnly => "digest-only",
            PullFromMirror::TagOnly => "tag-only",
        }
    }
}

/// One `[[registry.mirror]]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    pub location: String,
    pub insecure: bool,
    pub pull: PullFromMirror,
}

/// One `[[registry]]` table; `scope` is its location, or its prefix when it is a domain pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    pub scope: String,
    pub insecure: bool,
    pub blocked: bool,
    pub mirrors: Vec<Mirror>,
}

/// The text of registries.conf for these rules.
///
/// # Errors
/// The rules contradict each other; the file on the node should then stay as it is.
pub fn render(rules: &MirrorRules) -> Result<String, RuleError> {
    rules.validate()?;
    Ok(write(rules, &tables(rules)?))
}

/// As [`render`], of rules that are lawful and with their tables.
pub fn write(rules: &MirrorRules, tables: &[Registry]) -> String {
    if rules.configure_registries() { text(tables) } else { DEFAULT_FILE.to_owned() }
}

/// The tables of the file in their order: mirrored by digest, mirrored by tag only, blocked, insecure.
///
/// Source: OpenShift runtime-utils pkg/registries/registries.go:240-349 (master 7bdb5b9).
///
/// # Errors
/// A scope without mirrors lies inside a mirrored domain pattern: its mirrors could not be written down.
pub fn tables(rules: &MirrorRules) -> Result<Vec<Registry>, RuleError> {
    let mut tables = Tables::default();
    let mut mirrored = tables.mirror(rules.digest_rules(), PullFromMirror::DigestOnly);
    mirrored.extend(tables.mirror(rules.tag.iter(), PullFromMirror::TagOnly));

    let blocked = rules.effective_blocked();
    let insecure: Vec<&str> = rules.insecure.iter().flatten().map(String::as_str).collect();
    for scope in blocked.iter().chain(&insecure) {
        tables.entry(scope);
    }
    insecure.iter().for_each(|scope| tables.mark_insecure(scope));
    blocked.iter().for_each(|scope| tables.mark_blocked(scope));
    for source in &mirrored {
        tables.inherit(source)?;
    }
    Ok(tables.0)
}

#[derive(Default)]
struct Tables(Vec<Registry>);

impl Tables {
    fn entry(&mut self, scope: &str) -> &mut Registry {
        let place = self.0.iter().position(|table| table.scope == scope).unwrap_or_else(|| {
            self.0.push(Registry { scope: scope.to_owned(), ..Registry::default() });
            self.0.len() - 1
        });
        &mut self.0[place]
    }

    /// Adds the mirrors of these rules and returns the sources they belong to.
    fn mirror<'a>(&mut self, rules: impl Iterator<Item = &'a MirrorRule>, pull: PullFromMirror) -> Vec<&'a str> {
        let mut by_source: BTreeMap<&str, Vec<&MirrorRule>> = BTreeMap::new();
        for rule in rules.filter(|rule| rule.redirects()) {
            by_source.entry(&rule.source).or_default().push(rule);
        }
        for (source, rules) in &by_source {
            let lists: Vec<&[String]> = rules.iter().map(|rule| rule.mirrors.as_slice()).collect();
            let table = self.entry(source);
            table.blocked |= rules.iter().any(|rule| rule.policy == SourcePolicy::NeverContactSource);
            let order = mirror_order::merge(source, &lists);
            table.mirrors.extend(order.into_iter().map(|location| Mirror { location, insecure: false, pull }));
        }
        by_source.into_keys().collect()
    }

    fn mark_insecure(&mut self, scope: &str) {
        for table in &mut self.0 {
            table.insecure |= scope::is_nested(&table.scope, scope);
            for mirror in &mut table.mirrors {
                mirror.insecure |= scope::is_nested(&mirror.location, scope);
            }
        }
    }

    fn mark_blocked(&mut self, scope: &str) {
        for table in &mut self.0 {
            table.blocked |= scope::is_nested(&table.scope, scope);
        }
    }

    /// A table hides the tables around it from the consumer, so one without mirrors takes over those of `source`.
    fn inherit(&mut self, source: &str) -> Result<(), RuleError> {
        let mirrors = self.entry(source).mirrors.clone();
        for table in &mut self.0 {
            if table.scope == source || !table.mirrors.is_empty() || !scope::is_nested(&table.scope, source) {
                continue;
            }
            if scope::is_wildcard(source) {
                return Err(RuleError::NestedInWildcard(source.to_owned()));
            }
            let rest = &table.scope[source.len()..];
            table.mirrors =
                mirrors.iter().map(|m| Mirror { location: format!("{}{rest}", m.location), ..m.clone() }).collect();
        }
        Ok(())
    }
}

fn text(tables: &[Registry]) -> String {
    let mut out = String::new();
    let mut line = |indent: usize, key: &str, value: String| {
        let _ = writeln!(out, "{:indent$}{key}{value}", "");
    };
    line(0, "unqualified-search-registries = ", list(&SEARCH));
    line(0, "short-name-mode = ", quoted(""));
    for table in tables {
        let (prefix, location) =
            if scope::is_wildcard(&table.scope) { (table.scope.as_str(), "") } else { ("", table.scope.as_str()) };
        line(0, "\n[[registry]]", String::new());
        line(2, "prefix = ", quoted(prefix));
        if !location.is_empty() {
            line(2, "location = ", quoted(location));
        }
        for (key, set) in [("insecure", table.insecure), ("blocked", table.blocked)] {
            if set {
                line(2, key, " = true".to_owned());
            }
        }
        for mirror in &table.mirrors {
            line(0, "\n  [[registry.mirror]]", String::new());
            line(4, "location = ", quoted(&mirror.location));
            if mirror.insecure {
                line(4, "insecure", " = true".to_owned());
            }
            line(4, "pull-from-mirror = ", quoted(mirror.pull.as_str()));
        }
    }
    out
}

/// The drop-in file that replaces the search list, or `None` when the list is not configured and the drop-in must
/// not exist.
pub fn search_drop_in(rules: &MirrorRules) -> Option<String> {
    let search: Vec<&str> = rules.search.iter().map(String::as_str).collect();
    (!search.is_empty()).then(|| format!("unqualified-search-registries = {}\nshort-name-mode = \"\"\n", list(&search)))
}

fn list(items: &[&str]) -> String {
    format!("[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", "))
}

/// A TOML basic string. Its escapes are those of JSON, save that DEL must be escaped as well.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

#[cfg(test)]
pub(crate) mod tests;
