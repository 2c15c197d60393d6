//! What containerd is told of the same rules that registries.conf holds: one hosts.toml for each registry host. Pure; and
//! what containerd cannot be told, because it knows hosts only, is part of the result instead of being left out silently.
//!
//! | registries.conf | hosts.toml |
//! |---|---|
//! | location is a host | a file for that host |
//! | mirrors in order | `[host."…"]` tables in order, the source after them |
//! | mirror with a path | URL with `/v2/` and the path, `override_path` |
//! | `digest-only` | `capabilities = ["pull"]`: tags are resolved at the source, content still comes from the mirror |
//! | `tag-only` | `capabilities = ["pull", "resolve"]`: [`Departure::TagMirrorServesDigests`] |
//! | both at one mirror | `capabilities = ["pull", "resolve"]` |
//! | `blocked` | `server` with `capabilities = ["push"]`: no pull asks it |
//! | `insecure` | `http://` and `skip_verify`: HTTPS without verification is tried first, then plain HTTP |
//! | mirror inside a blocked scope | left out, as the consumers of registries.conf do not ask it |
//! | location has a path | [`Departure::BelowHost`] |
//! | prefix is a domain pattern | [`Departure::Pattern`] |
//!
//! policy.json and search lists have no counterpart in containerd. Source: containerd docs/hosts.md and
//! core/remotes/docker/config/hosts.go (main).

use crate::registries_conf::{Mirror, PullFromMirror, Registry, quoted};
use crate::scope;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

/// First line of every file made here, by which they are known again.
pub const MARKER: &str =
    "# Made by the registry-conformance node agent, which overwrites changes and removes the file.";

/// What a client needs to trust one registry host, as paths on the node or relative to the host's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostTrust {
    /// Files with certificates of authorities.
    pub authorities: Vec<String>,
    /// Files with a client's certificate and key; the key is empty when it lies in the certificate's file.
    pub clients: Vec<(String, String)>,
}

/// Trust by `host` or `host:port`.
pub type Trust = BTreeMap<String, HostTrust>;

/// Where containerd does not do what registries.conf says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Departure {
    /// A rule for a part of a host is not followed.
    BelowHost { scope: String },
    /// A rule for a domain pattern is not followed.
    Pattern { scope: String },
    /// The mirror for tags also delivers what is asked for by digest.
    TagMirrorServesDigests { scope: String, mirror: String },
    /// Somebody else configures the host; nothing is written for it.
    Foreign { host: String, path: String },
}

impl Departure {
    /// True when a rule has no effect at all, false when it has more effect than it should.
    pub fn is_loss(&self) -> bool {
        !matches!(self, Departure::TagMirrorServesDigests { .. })
    }
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Departure::BelowHost { scope } => {
                write!(f, "{scope} is a part of a registry host, and containerd has rules for whole hosts only")
            }
            Departure::Pattern { scope } => {
                write!(f, "{scope} is a domain pattern, and containerd has rules for single hosts only")
            }
            Departure::TagMirrorServesDigests { scope, mirror } => {
                write!(f, "containerd asks {mirror} for images of {scope} by digest too, although it is for tags")
            }
            Departure::Foreign { host, path } => {
                write!(
                    f,
                    "{host} is configured by {path}, which was made by somebody else; remove it to have the rules"
                )
            }
        }
    }
}

/// The files of all hosts and what they do not express.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFiles {
    /// Text of hosts.toml by `host` or `host:port`.
    pub files: BTreeMap<String, String>,
    pub departures: BTreeSet<Departure>,
}

/// What containerd is to be told of these tables, with the given trust.
///
/// Every host with trust gets a file, because a hosts.toml makes containerd overlook certificates beside it.
pub fn render(tables: &[Registry], trust: &Trust) -> HostFiles {
    let mut out = HostFiles::default();
    let mut hosts: BTreeMap<&str, HostFile> = BTreeMap::new();
    for table in tables {
        match place(&table.scope) {
            Place::Host => {
                let file = HostFile::of(table, tables, trust, &mut out.departures);
                hosts.insert(&table.scope, file);
            }
            Place::Pattern => drop(out.departures.insert(Departure::Pattern { scope: table.scope.clone() })),
            Place::BelowHost => drop(out.departures.insert(Departure::BelowHost { scope: table.scope.clone() })),
        }
    }
    for host in trust.keys().filter(|host| place(host) == Place::Host) {
        hosts.entry(host).or_insert_with(|| HostFile::new(trust.get(host)));
    }
    out.files = hosts
        .into_iter()
        .filter(|(_, file)| !file.says_nothing())
        .map(|(host, file)| (host.to_owned(), file.text()))
        .collect();
    out
}

#[derive(PartialEq, Eq)]
enum Place {
    Host,
    BelowHost,
    Pattern,
}

fn place(scope: &str) -> Place {
    match scope {
        _ if scope::is_wildcard(scope) => Place::Pattern,
        _ if scope.contains('/') || !scope::is_valid_mirror(scope) => Place::BelowHost,
        _ => Place::Host,
    }
}

/// One place that containerd asks; as the last, without a URL, it is the source itself.
#[derive(Default)]
struct Endpoint {
    url: Option<String>,
    /// Empty means everything.
    capabilities: Vec<&'static str>,
    override_path: bool,
    skip_verify: bool,
    trust: HostTrust,
}

struct HostFile {
    mirrors: Vec<Endpoint>,
    server: Endpoint,
}

impl HostFile {
    fn new(trust: Option<&HostTrust>) -> Self {
        let server = Endpoint { trust: trust.cloned().unwrap_or_default(), ..Endpoint::default() };
        HostFile { mirrors: Vec::new(), server }
    }

    fn of(table: &Registry, tables: &[Registry], trust: &Trust, departures: &mut BTreeSet<Departure>) -> Self {
        let mut file = HostFile::new(trust.get(&table.scope));
        if table.blocked {
            file.server.url = Some(url("https", &table.scope));
            file.server.capabilities = vec!["push"];
        } else if table.insecure {
            file.server.url = Some(url("http", &table.scope));
            file.server.skip_verify = true;
        }
        for mirror in table.mirrors.iter().filter(|mirror| !is_blocked(&mirror.location, tables)) {
            file.add(mirror, trust);
        }
        for mirror in table.mirrors.iter().filter(|mirror| mirror.pull == PullFromMirror::TagOnly) {
            let by_digest_too = table
                .mirrors
                .iter()
                .any(|other| other.location == mirror.location && other.pull == PullFromMirror::DigestOnly);
            if !by_digest_too && !is_blocked(&mirror.location, tables) {
                departures.insert(Departure::TagMirrorServesDigests {
                    scope: table.scope.clone(),
                    mirror: mirror.location.clone(),
                });
            }
        }
        file
    }

    /// A mirror that is named twice, for digests and for tags, is one place with both abilities.
    fn add(&mut self, mirror: &Mirror, trust: &Trust) {
        let host = mirror.location.split('/').next().unwrap_or_default();
        let url = url(if mirror.insecure { "http" } else { "https" }, &mirror.location);
        let known = self.mirrors.iter().position(|known| known.url.as_ref() == Some(&url));
        let index = known.unwrap_or_else(|| {
            self.mirrors.push(Endpoint {
                override_path: mirror.location.contains('/'),
                url: Some(url),
                capabilities: vec!["pull"],
                skip_verify: mirror.insecure,
                trust: trust.get(host).cloned().unwrap_or_default(),
            });
            self.mirrors.len() - 1
        });
        let endpoint = &mut self.mirrors[index];
        if mirror.pull == PullFromMirror::TagOnly && !endpoint.capabilities.contains(&"resolve") {
            endpoint.capabilities.push("resolve");
        }
    }

    fn says_nothing(&self) -> bool {
        self.mirrors.is_empty() && self.server.url.is_none() && self.server.trust == HostTrust::default()
    }

    fn text(&self) -> String {
        let mut out = format!("{MARKER}\n");
        if let Some(server) = &self.server.url {
            let _ = writeln!(out, "server = {}", quoted(server));
        }
        self.server.keys("", &mut out);
        if self.mirrors.is_empty() {
            // containerd 1.7 takes a file without the table for a broken one (containerd issue 10027).
            out.push_str("\n[host]\n");
        }
        for mirror in &self.mirrors {
            let _ = writeln!(out, "\n[host.{}]", quoted(mirror.url.as_deref().unwrap_or_default()));
            mirror.keys("  ", &mut out);
        }
        out
    }
}

impl Endpoint {
    fn keys(&self, indent: &str, out: &mut String) {
        let mut line = |key: &str, value: String| {
            let _ = writeln!(out, "{indent}{key} = {value}");
        };
        if !self.capabilities.is_empty() {
            line("capabilities", list(self.capabilities.iter().map(|one| quoted(one))));
        }
        for (key, set) in [("override_path", self.override_path), ("skip_verify", self.skip_verify)] {
            if set {
                line(key, "true".to_owned());
            }
        }
        if !self.trust.authorities.is_empty() {
            line("ca", list(self.trust.authorities.iter().map(|path| quoted(path))));
        }
        if !self.trust.clients.is_empty() {
            let pairs = self.trust.clients.iter();
            line("client", list(pairs.map(|(certificate, key)| list([quoted(certificate), quoted(key)].into_iter()))));
        }
    }
}

/// The URL below which the API of a location is found. A location with a path has its API root inside that path, which
/// containerd takes as it is under `override_path`; Docker Hub's API has another host than its images.
fn url(scheme: &str, location: &str) -> String {
    let (host, path) = match location.split_once('/') {
        Some((host, path)) => (host, Some(path)),
        None => (location, None),
    };
    let host = if host == "docker.io" { "registry-1.docker.io" } else { host };
    match path {
        Some(path) => format!("{scheme}://{host}/v2/{path}"),
        None => format!("{scheme}://{host}"),
    }
}

/// Whether the consumers of registries.conf refuse a location: the longest scope that holds it decides. A host's scope
/// also holds the ports of the host there (containers/image pkg/sysregistriesv2, refMatchingPrefix).
fn is_blocked(location: &str, tables: &[Registry]) -> bool {
    let holds = |scope: &str| {
        scope::is_nested(location, scope) || location.strip_prefix(scope).is_some_and(|rest| rest.starts_with(':'))
    };
    let nearest = tables.iter().filter(|table| holds(&table.scope)).max_by_key(|table| table.scope.len());
    nearest.is_some_and(|table| table.blocked)
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests;
