//! The kinds a server serves and how users name them: plural, singular, short name, with or without group.

use crate::failure::Failure;
use crate::session::Session;
use http::Method;
use serde_json::Value;

/// One kind as the server serves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
}

impl Resource {
    /// `group/version`, or just the version for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The path of the collection; without a namespace that of the whole cluster.
    pub fn collection(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", self.group) };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/{}/namespaces/{}/{}", self.version, escape(namespace), self.plural),
            None => format!("{root}/{}/{}", self.version, self.plural),
        }
    }

    /// The path of one object.
    pub fn object(&self, namespace: Option<&str>, name: &str) -> String {
        format!("{}/{}", self.collection(namespace), escape(name))
    }

    /// The kind as `oc` prints it before a name: `secret`, `deployment.apps`.
    pub fn printed(&self) -> String {
        let singular = if self.singular.is_empty() { self.kind.to_lowercase() } else { self.singular.clone() };
        if self.group.is_empty() { singular } else { format!("{singular}.{}", self.group) }
    }

    fn is_called(&self, name: &str) -> bool {
        self.plural == name
            || self.singular == name
            || self.kind.to_lowercase() == name
            || self.short_names.iter().any(|short| short == name)
    }
}

/// Percent-encodes one path segment.
pub fn escape(segment: &str) -> String {
    let mut text = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'@' => {
                text.push(byte as char)
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

/// All kinds of a server, the preferred version of each group first.
#[derive(Clone, Debug, Default)]
pub struct Catalogue(Vec<Resource>);

impl Catalogue {
    /// Asks the server for everything it serves, in two requests.
    ///
    /// # Errors
    /// The server cannot be reached or refuses.
    pub async fn discover(session: &Session) -> Result<Self, Failure> {
        const AGGREGATED: &str =
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        let mut resources = Vec::new();
        for path in ["/api", "/apis"] {
            let text = session.send(Method::GET, path, &[("Accept", AGGREGATED)], Vec::new()).await?;
            let list: Value = serde_json::from_str(&text)
                .map_err(|error| Failure::usage(format!("the answer to {path} is not JSON: {error}")))?;
            if list["kind"] != "APIGroupDiscoveryList" {
                return Err(Failure::usage(format!(
                    "the server answered {path} with {} instead of a discovery list; Kubernetes 1.27 or later is needed",
                    list["kind"]
                )));
            }
            resources.extend(read(&list));
        }
        Ok(Catalogue(resources))
    }

    /// The kind a user means by `TYPE`, `TYPE.GROUP` or `TYPE.VERSION.GROUP`; a group may be shortened at its end.
    ///
    /// # Errors
    /// The server has no such kind.
    pub fn find(&self, name: &str) -> Result<&Resource, Failure> {
        let lower = name.to_lowercase();
        let (word, rest) = lower.split_once('.').unwrap_or((&lower, ""));
        let called = || self.0.iter().filter(|resource| resource.is_called(word));
        let versioned = rest.split_once('.').unwrap_or((rest, ""));
        let found = if rest.is_empty() {
            called().next()
        } else {
            called()
                .find(|resource| resource.group == rest)
                .or_else(|| called().find(|r| r.version == versioned.0 && r.group == versioned.1))
                .or_else(|| called().find(|resource| resource.group.starts_with(rest)))
        };
        found.ok_or_else(|| {
            Failure::usage(format!("the server doesn't have a resource type {word:?}{}", in_group(rest)))
        })
    }

    /// The kind of a manifest.
    pub fn kind(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        self.0.iter().find(|resource| resource.kind == kind && resource.api_version() == api_version)
    }

    /// The kind by its plural and group, if it is served.
    pub fn served(&self, plural: &str, group: &str) -> Option<&Resource> {
        self.0.iter().find(|resource| resource.plural == plural && resource.group == group)
    }

    /// The kinds of a category such as `all`.
    pub fn category(&self, name: &str) -> Vec<&Resource> {
        self.0.iter().filter(|resource| resource.categories.iter().any(|category| category == name)).collect()
    }
}

fn in_group(group: &str) -> String {
    if group.is_empty() { String::new() } else { format!(" in group {group:?}") }
}

fn read(list: &Value) -> Vec<Resource> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let mut resources = Vec::new();
    for group in list["items"].as_array().into_iter().flatten() {
        for version in group["versions"].as_array().into_iter().flatten() {
            for resource in version["resources"].as_array().into_iter().flatten() {
                let kind = &resource["responseKind"];
                resources.push(Resource {
                    group: text(&group["metadata"]["name"]),
                    version: text(&version["version"]),
                    kind: text(&kind["kind"]),
                    plural: text(&resource["resource"]),
                    singular: text(&resource["singularResource"]),
                    short_names: texts(&resource["shortNames"]),
                    categories: texts(&resource["categories"]),
                    namespaced: resource["scope"] == "Namespaced",
                });
            }
        }
    }
    resources
}

/// What a command line names: one kind and perhaps names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub resource: Resource,
    /// `None` means every object of the kind.
    pub name: Option<String>,
}

/// Reads `TYPE NAME...`, `TYPE/NAME...` or `TYPE1,TYPE2` words.
///
/// # Errors
/// The words do not fit together or name an unknown kind.
pub fn targets(catalogue: &Catalogue, words: &[String]) -> Result<Vec<Target>, Failure> {
    let slashes = words.iter().filter(|word| word.contains('/')).count();
    if slashes > 0 && slashes < words.len() {
        return Err(Failure::usage(
            "there is no need to specify a resource type as a separate argument when passing arguments in \
             resource/name form (e.g. 'oc get resource/<resource_name>' instead of 'oc get resource resource/<resource_name>'",
        ));
    }
    if slashes > 0 {
        return words
            .iter()
            .map(|word| match word.split_once('/') {
                Some((kind, name)) if !kind.is_empty() && !name.is_empty() && !name.contains('/') => {
                    Ok(Target { resource: catalogue.find(kind)?.clone(), name: Some(name.to_owned()) })
                }
                _ => Err(Failure::usage("arguments in resource/name form must have a single resource and name")),
            })
            .collect();
    }
    let Some((kinds, names)) = words.split_first() else { return Ok(Vec::new()) };
    let mut targets = Vec::new();
    for kind in kinds.split(',').filter(|kind| !kind.is_empty()) {
        let category = catalogue.category(kind);
        let resources = if category.is_empty() { vec![catalogue.find(kind)?] } else { category };
        for resource in resources {
            if names.is_empty() {
                targets.push(Target { resource: resource.clone(), name: None });
            }
            targets.extend(names.iter().map(|name| Target { resource: resource.clone(), name: Some(name.clone()) }));
        }
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn catalogue() -> Catalogue {
        let group = |name: &str, version: &str, resources: Value| json!({"metadata": {"name": name}, "versions": [{"version": version, "resources": resources}]});
        let kind = |plural: &str, singular: &str, kind: &str, scope: &str, short: &[&str]| json!({"resource": plural, "singularResource": singular, "responseKind": {"kind": kind}, "scope": scope, "shortNames": short});
        Catalogue(read(&json!({"items": [
            group("", "v1", json!([kind("pods", "pod", "Pod", "Namespaced", &["po"]), kind("nodes", "node", "Node", "Cluster", &["no"])])),
            group("apps", "v1", json!([kind("deployments", "deployment", "Deployment", "Namespaced", &["deploy"])])),
            group("samples.operator.openshift.io", "v1", json!([kind("configs", "config", "Config", "Cluster", &[])])),
            group("imageregistry.operator.openshift.io", "v1", json!([kind("configs", "config", "Config", "Cluster", &[])])),
        ]})))
    }

    #[rstest]
    #[case("pod", "pods", "")]
    #[case("Pods", "pods", "")]
    #[case("po", "pods", "")]
    #[case("deployments", "deployments", "apps")]
    #[case("deployment.apps", "deployments", "apps")]
    #[case("deployments.v1.apps", "deployments", "apps")]
    #[case("config.imageregistry.operator.openshift.io", "configs", "imageregistry.operator.openshift.io")]
    #[case("configs.imageregistry.operator.openshift.io", "configs", "imageregistry.operator.openshift.io")]
    #[case("configs.imageregistry", "configs", "imageregistry.operator.openshift.io")]
    fn found(#[case] name: &str, #[case] plural: &str, #[case] group: &str) {
        let catalogue = catalogue();
        let resource = catalogue.find(name).expect("a kind");
        assert_eq!((resource.plural.as_str(), resource.group.as_str()), (plural, group));
    }

    #[rstest]
    #[case("foo", "error: the server doesn't have a resource type \"foo\"")]
    #[case("pods.apps", "error: the server doesn't have a resource type \"pods\" in group \"apps\"")]
    fn unknown(#[case] name: &str, #[case] message: &str) {
        assert_eq!(catalogue().find(name).expect_err("unknown").to_string(), message);
    }

    #[rstest]
    #[case(&["pods"], &["pod"])]
    #[case(&["pod", "a", "b"], &["pod/a", "pod/b"])]
    #[case(&["pod/a", "deploy/b"], &["pod/a", "deployment.apps/b"])]
    #[case(&["pods,nodes"], &["pod", "node"])]
    fn named(#[case] words: &[&str], #[case] expected: &[&str]) {
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        let found: Vec<String> = targets(&catalogue(), &words)
            .expect("targets")
            .into_iter()
            .map(|target| match target.name {
                Some(name) => format!("{}/{name}", target.resource.printed()),
                None => target.resource.printed(),
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[rstest]
    #[case(&["pod/a", "b"])]
    #[case(&["pod/"])]
    #[case(&["pod/a/b"])]
    fn refused(#[case] words: &[&str]) {
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        assert!(targets(&catalogue(), &words).is_err());
    }

    #[test]
    fn paths() {
        let catalogue = catalogue();
        let deployment = catalogue.find("deploy").expect("a kind");
        assert_eq!(deployment.object(Some("ns"), "a"), "/apis/apps/v1/namespaces/ns/deployments/a");
        let node = catalogue.find("node").expect("a kind");
        assert_eq!(node.object(Some("ns"), "a b"), "/api/v1/nodes/a%20b");
    }
}
