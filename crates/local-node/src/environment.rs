//! The environment of a container: what the pod asks for, over what the image brings, over a minimal set.
//! Nothing of the nodes' own environment reaches a container.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret};

use crate::{
    downward,
    source::{SourceError, SourceName, Sources},
};

/// Search path of a container whose image sets none.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variables of a container in the order of the pod, later ones winning; values not yet rewritten to this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    values: Vec<(String, String)>,
}

impl Environment {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        match self.values.iter_mut().find(|(known, _)| known == name) {
            Some(entry) => entry.1 = value,
            None => self.values.push((name.to_owned(), value)),
        }
    }

    pub(crate) fn set_default(&mut self, name: &str, value: impl Into<String>) {
        if self.get(name).is_none() {
            self.set(name, value);
        }
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.values.retain(|(known, _)| known != name);
    }

    pub(crate) fn into_vec(self) -> Vec<(String, String)> {
        self.values
    }

    /// Replaces `$(NAME)` by the value of a known variable; `$$` stands for one `$`; unknown references stay as they are.
    ///
    /// Source: Kubernetes API, `Container.command` and `EnvVar.value`.
    pub(crate) fn expand(&self, text: &str) -> String {
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            result.push_str(&rest[..dollar]);
            rest = &rest[dollar..];
            if let Some(after) = rest.strip_prefix("$$") {
                result.push('$');
                rest = after;
                continue;
            }
            let reference = rest.strip_prefix("$(").and_then(|inner| inner.split_once(')'));
            match reference {
                Some((name, after)) => {
                    match self.get(name) {
                        Some(value) => result.push_str(value),
                        None => result.push_str(&rest[..rest.len() - after.len()]),
                    }
                    rest = after;
                }
                None => {
                    result.push('$');
                    rest = &rest[1..];
                }
            }
        }
        result.push_str(rest);
        result
    }
}

/// Reads what `env` and `envFrom` of a container refer to, starting from `base` (variables that the pod may override).
/// Each value of the pod goes through `change`, which makes it true on this machine.
///
/// Errors name the missing object or key; the container then waits as `CreateContainerConfigError`.
pub(crate) async fn of_container(
    base: Environment,
    container: &Container,
    pod: &Pod,
    addresses: &downward::Addresses,
    sources: &Sources,
    change: &(dyn Fn(&str) -> String + Sync),
) -> Result<Environment, SourceError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let (config_maps, secrets) = referenced(container, namespace, sources).await?;
    let mut environment = base;
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(object) = from.config_map_ref.as_ref().and_then(|r| config_maps.get(r.name.as_str())) {
            for (key, value) in object.data.iter().flatten() {
                environment.set(&format!("{prefix}{key}"), change(value));
            }
        }
        if let Some(object) = from.secret_ref.as_ref().and_then(|r| secrets.get(r.name.as_str())) {
            for (key, value) in object.data.iter().flatten() {
                environment.set(&format!("{prefix}{key}"), change(&String::from_utf8_lossy(&value.0)));
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => Some(environment.expand(variable.value.as_deref().unwrap_or_default())),
            Some(source) => from_source(source, container, pod, addresses, &config_maps, &secrets)?,
        };
        if let Some(value) = value {
            environment.set(&variable.name, change(&value));
        }
    }
    Ok(environment)
}

/// The Secrets and ConfigMaps that the environments of a pod's containers are made from.
pub(crate) fn references(pod: &Pod) -> Vec<SourceName> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let spec = pod.spec.iter();
    let containers = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let mut names = Vec::new();
    for container in containers {
        for from in container.env_from.iter().flatten() {
            names.extend(from.config_map_ref.as_ref().map(|reference| ("ConfigMap", reference.name.clone())));
            names.extend(from.secret_ref.as_ref().map(|reference| ("Secret", reference.name.clone())));
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            names.extend(source.config_map_key_ref.as_ref().map(|reference| ("ConfigMap", reference.name.clone())));
            names.extend(source.secret_key_ref.as_ref().map(|reference| ("Secret", reference.name.clone())));
        }
    }
    names.into_iter().map(|(kind, name)| SourceName { kind, namespace: namespace.clone(), name }).collect()
}

type Found<'a, K> = HashMap<&'a str, K>;

/// Every object the container's environment needs, read at once; optional ones may be missing from the answer.
async fn referenced<'a>(
    container: &'a Container,
    namespace: &str,
    sources: &Sources,
) -> Result<(Found<'a, ConfigMap>, Found<'a, Secret>), SourceError> {
    let mut config_maps: BTreeMap<&str, bool> = BTreeMap::new();
    let mut secrets: BTreeMap<&str, bool> = BTreeMap::new();
    let need = |map: &mut BTreeMap<&'a str, bool>, name: &'a str, optional: Option<bool>| {
        *map.entry(name).or_default() |= !optional.unwrap_or(false);
    };
    for from in container.env_from.iter().flatten() {
        if let Some(reference) = &from.config_map_ref {
            need(&mut config_maps, &reference.name, reference.optional);
        }
        if let Some(reference) = &from.secret_ref {
            need(&mut secrets, &reference.name, reference.optional);
        }
    }
    for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        if let Some(reference) = &source.config_map_key_ref {
            need(&mut config_maps, &reference.name, reference.optional);
        }
        if let Some(reference) = &source.secret_key_ref {
            need(&mut secrets, &reference.name, reference.optional);
        }
    }
    let config_maps = config_maps.into_iter().map(async |(name, required)| {
        Ok::<_, SourceError>((name, sources.config_map(namespace, name, required).await?))
    });
    let secrets = secrets
        .into_iter()
        .map(async |(name, required)| Ok::<_, SourceError>((name, sources.secret(namespace, name, required).await?)));
    let (config_maps, secrets) =
        futures::try_join!(futures::future::try_join_all(config_maps), futures::future::try_join_all(secrets))?;
    Ok((
        config_maps.into_iter().filter_map(|(name, object)| object.map(|object| (name, object))).collect(),
        secrets.into_iter().filter_map(|(name, object)| object.map(|object| (name, object))).collect(),
    ))
}

fn from_source(
    source: &EnvVarSource,
    container: &Container,
    pod: &Pod,
    addresses: &downward::Addresses,
    config_maps: &Found<'_, ConfigMap>,
    secrets: &Found<'_, Secret>,
) -> Result<Option<String>, SourceError> {
    if let Some(field) = &source.field_ref {
        return downward::field(pod, &field.field_path, addresses).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return downward::resource(pod, Some(container), resource).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let value = config_maps
            .get(reference.name.as_str())
            .and_then(|object| object.data.as_ref()?.get(&reference.key).cloned());
        return keyed(value, reference.optional, "ConfigMap", &reference.name, &reference.key);
    }
    if let Some(reference) = &source.secret_key_ref {
        let value = secrets
            .get(reference.name.as_str())
            .and_then(|object| object.data.as_ref()?.get(&reference.key))
            .map(|value| String::from_utf8_lossy(&value.0).into_owned());
        return keyed(value, reference.optional, "Secret", &reference.name, &reference.key);
    }
    Ok(None)
}

fn keyed(
    value: Option<String>,
    optional: Option<bool>,
    kind: &'static str,
    name: &str,
    key: &str,
) -> Result<Option<String>, SourceError> {
    match value {
        None if !optional.unwrap_or(false) => {
            Err(SourceError::MissingKey { kind, name: name.to_owned(), key: key.to_owned() })
        }
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("$(A)/x", "1/x")]
    #[case("$(UNKNOWN)", "$(UNKNOWN)")]
    #[case("$$(A)", "$(A)")]
    #[case("$A ${A} $(", "$A ${A} $(")]
    #[case("a$(A)b$(B)c", "a1b2 $(A)c")]
    #[case("cost: 5$", "cost: 5$")]
    fn references(#[case] text: &str, #[case] expected: &str) {
        let mut environment = Environment::default();
        environment.set("A", "1");
        environment.set("B", "2 $(A)");
        assert_eq!(environment.expand(text), expected);
    }

    #[test]
    fn later_values_win_and_defaults_do_not() {
        let mut environment = Environment::default();
        environment.set("A", "image");
        environment.set("A", "pod");
        environment.set_default("A", "node");
        assert_eq!(environment.into_vec(), [("A".to_owned(), "pod".to_owned())]);
    }
}
