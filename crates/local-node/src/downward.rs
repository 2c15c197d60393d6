//! The downward API: what a pod may learn about itself through env and volumes.
//! Source: Kubernetes documentation, "Downward API", available fields.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceFieldSelector},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{machine, source::SourceError};

/// Addresses that are known to the node before they stand in the pod's status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) pod: String,
    pub(crate) host: String,
}

/// The value of a field path such as `metadata.labels['app']`.
pub(crate) fn field(pod: &Pod, path: &str, addresses: &Addresses) -> Result<String, SourceError> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = subscript(path) {
        let entries = match map {
            "metadata.labels" => metadata.labels.as_ref(),
            "metadata.annotations" => metadata.annotations.as_ref(),
            _ => {
                return Err(SourceError::Field {
                    path: path.to_owned(),
                    reason: "only labels and annotations have keys",
                });
            }
        };
        return Ok(entries.and_then(|entries| entries.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => listed(metadata.labels.as_ref()),
        "metadata.annotations" => listed(metadata.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
        "status.podIP" | "status.podIPs" => addresses.pod.clone(),
        "status.hostIP" | "status.hostIPs" => addresses.host.clone(),
        _ => return Err(SourceError::Field { path: path.to_owned(), reason: "it is no field of the downward API" }),
    })
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.split_once("['")?;
    Some((map, key.strip_suffix("']")?))
}

/// `key="escaped value"`, a line each, sorted.
fn listed(entries: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<_> = entries.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// A container's limit or request, divided by the divisor and rounded up; without a limit it is the machine's capacity.
pub(crate) fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
) -> Result<String, SourceError> {
    let refused = |reason| SourceError::Field { path: selector.resource.clone(), reason };
    let container = match &selector.container_name {
        Some(name) => pod.spec.iter().flat_map(|spec| &spec.containers).find(|container| &container.name == name),
        None => own,
    };
    let container = container.ok_or_else(|| refused("no such container"))?;
    let (side, name) =
        selector.resource.split_once('.').ok_or_else(|| refused("it has no limits. or requests. before it"))?;
    let resources = container.resources.as_ref();
    let amounts = match side {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return Err(refused("it is neither limits nor requests")),
    };
    let capacity = machine::capacity();
    let amount = match (amounts.and_then(|amounts| amounts.get(name)), side) {
        (Some(amount), _) => amount.clone(),
        (None, "limits") => capacity.get(name).cloned().ok_or_else(|| refused("unknown resource"))?,
        (None, _) => Quantity("0".into()),
    };
    let amount = machine::millis(&amount).ok_or_else(|| refused("its amount is not a quantity"))?;
    let divisor = selector.divisor.as_ref().and_then(machine::millis).filter(|divisor| *divisor > 0).unwrap_or(1000);
    Ok(amount.div_ceil(divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"app": "x", "b": "say \"hi\""}},
            "spec": {"serviceAccountName": "sa", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}}]},
        }))
        .unwrap()
    }

    #[rstest]
    #[case("metadata.name", "p")]
    #[case("metadata.labels['app']", "x")]
    #[case("metadata.labels['none']", "")]
    #[case("metadata.labels", "app=\"x\"\nb=\"say \\\"hi\\\"\"")]
    #[case("status.podIP", "10.1.1.2")]
    #[case("spec.serviceAccountName", "sa")]
    fn fields(#[case] path: &str, #[case] expected: &str) {
        let addresses = Addresses { pod: "10.1.1.2".into(), host: "127.0.0.1".into() };
        assert_eq!(field(&pod(), path, &addresses).unwrap(), expected);
    }

    #[rstest]
    #[case("limits.cpu", None, "2")]
    #[case("limits.cpu", Some("1m"), "1500")]
    #[case("limits.memory", Some("1Mi"), "64")]
    #[case("requests.memory", None, "0")]
    fn resources(#[case] name: &str, #[case] divisor: Option<&str>, #[case] expected: &str) {
        let selector = ResourceFieldSelector {
            container_name: Some("c".into()),
            resource: name.into(),
            divisor: divisor.map(|text| Quantity(text.into())),
        };
        assert_eq!(resource(&pod(), None, &selector).unwrap(), expected);
    }
}
