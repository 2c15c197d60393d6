//! Pods behind a name such as `deployments/image-registry`, and waiting for an object by watch.

use crate::failure::Failure;
use crate::resource::{Resource, escape};
use crate::session::Session;
use futures::io::AsyncBufReadExt;
use futures::stream::StreamExt;
use http::Request;
use serde_json::Value;
use std::time::Duration;

/// What a watch saw of one object.
pub enum Watched<'a> {
    Object(&'a Value),
    Absent,
}

/// Calls `decide` with every state of one object until it returns a result.
///
/// # Errors
/// The server cannot be reached or refuses, or `decide` fails.
pub async fn watch<T>(
    session: &Session,
    resource: &Resource,
    namespace: Option<&str>,
    name: &str,
    mut decide: impl FnMut(Watched<'_>) -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let selector = format!("fieldSelector={}", escape(&format!("metadata.name={name}")));
    let collection = resource.collection(namespace);
    loop {
        let list = session.get(&format!("{collection}?{selector}")).await?;
        let first = list["items"].as_array().and_then(|items| items.first());
        if let Some(end) = decide(first.map_or(Watched::Absent, Watched::Object))? {
            return Ok(end);
        }
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let path = format!("{collection}?{selector}&watch=true&timeoutSeconds=290&resourceVersion={}", escape(version));
        let request = Request::get(&path).body(Vec::new()).map_err(|error| Failure::usage(error.to_string()))?;
        let connection = session.connection().await?;
        let server = connection.config.cluster_url.to_string();
        let stream =
            connection.client.request_stream(request).await.map_err(|error| Failure::from_client(error, &server))?;
        let mut lines = std::pin::pin!(stream.lines());
        while let Some(Ok(line)) = lines.next().await {
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            let seen = match event["type"].as_str() {
                Some("ADDED" | "MODIFIED") => Watched::Object(&event["object"]),
                Some("DELETED") => Watched::Absent,
                _ => break,
            };
            if let Some(end) = decide(seen)? {
                return Ok(end);
            }
        }
    }
}

/// A pod chosen for a name, and how many there were to choose from.
pub struct ChosenPod {
    pub pod: Value,
    pub candidates: usize,
}

/// The pod that `POD`, `pod/NAME` or `TYPE/NAME` means: of several the most useful one, ready before not ready.
///
/// # Errors
/// The object does not exist, selects no pods, or is of a kind without pods.
pub async fn pod(session: &Session, word: &str) -> Result<ChosenPod, Failure> {
    let catalogue = session.catalogue().await?;
    let (kind, name) = word.split_once('/').unwrap_or(("pods", word));
    let resource = catalogue.find(kind)?;
    let namespace = session.scope(resource).await?;
    let object = session.get(&resource.object(namespace.as_deref(), name)).await?;
    if resource.kind == "Pod" {
        return Ok(ChosenPod { pod: object, candidates: 1 });
    }
    let Some(selector) = selector(&resource.kind, &object) else {
        return Err(Failure::usage(format!("cannot get the logs from {}: it has no pods", resource.printed())));
    };
    let pods = catalogue.find("pods")?;
    let list =
        session.get(&format!("{}?labelSelector={}", pods.collection(namespace.as_deref()), escape(&selector))).await?;
    let mut found = list["items"].as_array().cloned().unwrap_or_default();
    let candidates = found.len();
    found.sort_by_key(rank);
    let pod = found.into_iter().next().ok_or_else(|| {
        Failure::usage(format!("timed out waiting for the condition: no pods of {}/{name} found", resource.printed()))
    })?;
    Ok(ChosenPod { pod, candidates })
}

fn selector(kind: &str, object: &Value) -> Option<String> {
    let selector = &object["spec"]["selector"];
    let labels = match kind {
        "Service" | "ReplicationController" => selector.as_object()?,
        "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet" | "Job" => selector["matchLabels"].as_object()?,
        _ => return None,
    };
    let pairs = labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    Some(pairs.collect::<Vec<_>>().join(","))
}

/// Smaller is better: assigned, running, ready, and for long.
fn rank(pod: &Value) -> (bool, u8, bool, String) {
    let phase = match pod["status"]["phase"].as_str() {
        Some("Running") => 0,
        Some("Pending") => 2,
        _ => 1,
    };
    (pod["spec"]["nodeName"].is_null(), phase, !is_ready(pod), pod["metadata"]["creationTimestamp"].to_string())
}

/// True when the pod's condition `Ready` is true.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Reads a Go duration such as `90s`, `1h30m` or `500ms`; a bare number counts seconds.
///
/// # Errors
/// The text is no duration.
pub fn duration(text: &str) -> Result<Duration, Failure> {
    let bad = || Failure::usage(format!("invalid duration {text:?}; write for example 90s, 10m or 1h30m"));
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| bad());
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|place| *place > 0).ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |place| place + digits);
        total += number
            * match &rest[digits..unit] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(bad()),
            };
        rest = &rest[unit..];
    }
    if text.is_empty() { Err(bad()) } else { Duration::try_from_secs_f64(total).map_err(|_| bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case("60m", 3600.0)]
    #[case("1h30m", 5400.0)]
    #[case("60m0s", 3600.0)]
    #[case("1.5s", 1.5)]
    #[case("500ms", 0.5)]
    #[case("7", 7.0)]
    #[case("0", 0.0)]
    fn durations(#[case] text: &str, #[case] seconds: f64) {
        assert_eq!(duration(text).expect("a duration").as_secs_f64(), seconds);
    }

    #[rstest]
    #[case("")]
    #[case("m")]
    #[case("5 minutes")]
    #[case("-1s")]
    fn no_durations(#[case] text: &str) {
        assert!(duration(text).is_err());
    }

    #[test]
    fn ready_pods_come_first() {
        let pod = |name: &str, phase: &str, ready: &str| json!({"metadata": {"name": name}, "spec": {"nodeName": "n"}, "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}});
        let mut pods =
            [pod("pending", "Pending", "False"), pod("starting", "Running", "False"), pod("ready", "Running", "True")];
        pods.sort_by_key(rank);
        let names: Vec<&str> = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
        assert_eq!(names, ["ready", "starting", "pending"]);
    }
}
