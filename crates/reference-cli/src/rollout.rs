//! `oc rollout status`: waits, by watch, until a workload runs as its spec says.

use crate::command_line::{Arguments, Command, switch, value};
use crate::failure::Failure;
use crate::print;
use crate::resource::targets;
use crate::session::Session;
use crate::workload::{self, Watched};
use futures::future::FutureExt;
use serde_json::Value;
use std::time::Duration;

pub const STATUS: Command = Command {
    path: "rollout status",
    usage: "TYPE NAME | TYPE/NAME",
    about: "Wait until a workload runs as its spec says",
    flags: &[
        value("timeout", None, "how long to wait, such as 30s; 0 is no limit"),
        switch("watch", Some('w'), "wait (the default)"),
    ],
    flags_after_words: true,
    run: |session, args| run(session, args).boxed_local(),
};

async fn run(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let targets = targets(session.catalogue().await?, &args.words)?;
    let [target] = targets.as_slice() else { return Err(Failure::usage("required resource not specified")) };
    let Some(name) = target.name.as_deref() else { return Err(Failure::usage("required resource not specified")) };
    let namespace = session.scope(&target.resource).await?;
    let waits = args.text("watch").is_none() || args.is_on("watch");
    let mut last = String::new();
    let limit = args.text("timeout").map(workload::duration).transpose()?.filter(|limit| !limit.is_zero());
    let wait = workload::watch(session, &target.resource, namespace.as_deref(), name, |seen| {
        let Watched::Object(object) = seen else {
            return Err(Failure::Unreachable(format!(
                "Error from server (NotFound): {} {name:?} not found",
                group_plural(&target.resource)
            )));
        };
        let (text, done) = progress(&target.resource.kind, name, object)?;
        if text != last {
            print(&format!("{text}\n"));
            last = text;
        }
        Ok((done || !waits).then_some(()))
    });
    match tokio::time::timeout(limit.unwrap_or(Duration::from_secs(u32::MAX.into())), wait).await {
        Ok(end) => end,
        Err(_) => Err(Failure::usage("timed out waiting for the condition")),
    }
}

fn group_plural(resource: &crate::resource::Resource) -> String {
    if resource.group.is_empty() { resource.plural.clone() } else { format!("{}.{}", resource.plural, resource.group) }
}

/// What to say about the workload now, and whether it is rolled out.
fn progress(kind: &str, name: &str, object: &Value) -> Result<(String, bool), Failure> {
    let status = |key: &str| object["status"][key].as_i64().unwrap_or(0);
    let observed = status("observedGeneration") >= object["metadata"]["generation"].as_i64().unwrap_or(0);
    match kind {
        "Deployment" => {
            let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
            let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
            if conditions.into_iter().any(|c| c["type"] == "Progressing" && c["reason"] == "ProgressDeadlineExceeded") {
                return Err(Failure::usage(format!("deployment {name:?} exceeded its progress deadline")));
            }
            let text = if !observed {
                "Waiting for deployment spec update to be observed...".to_owned()
            } else if status("updatedReplicas") < wanted {
                format!(
                    "Waiting for deployment {name:?} rollout to finish: {} out of {wanted} new replicas have been updated...",
                    status("updatedReplicas")
                )
            } else if status("replicas") > status("updatedReplicas") {
                format!(
                    "Waiting for deployment {name:?} rollout to finish: {} old replicas are pending termination...",
                    status("replicas") - status("updatedReplicas")
                )
            } else if status("availableReplicas") < status("updatedReplicas") {
                format!(
                    "Waiting for deployment {name:?} rollout to finish: {} of {} updated replicas are available...",
                    status("availableReplicas"),
                    status("updatedReplicas")
                )
            } else {
                return Ok((format!("deployment {name:?} successfully rolled out"), true));
            };
            Ok((text, false))
        }
        "DaemonSet" => {
            let wanted = status("desiredNumberScheduled");
            let text = if !observed {
                "Waiting for daemon set spec update to be observed...".to_owned()
            } else if status("updatedNumberScheduled") < wanted {
                format!(
                    "Waiting for daemon set {name:?} rollout to finish: {} out of {wanted} new pods have been updated...",
                    status("updatedNumberScheduled")
                )
            } else if status("numberAvailable") < wanted {
                format!(
                    "Waiting for daemon set {name:?} rollout to finish: {} of {wanted} updated pods are available...",
                    status("numberAvailable")
                )
            } else {
                return Ok((format!("daemon set {name:?} successfully rolled out"), true));
            };
            Ok((text, false))
        }
        other => Err(Failure::usage(format!("no status viewer has been implemented for {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case(json!({"metadata": {"generation": 2}, "spec": {"replicas": 1}, "status": {"observedGeneration": 1}}), false)]
    #[case(json!({"metadata": {"generation": 1}, "spec": {"replicas": 1}, "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1}}), false)]
    #[case(json!({"metadata": {"generation": 1}, "spec": {"replicas": 1}, "status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 1, "availableReplicas": 2}}), false)]
    #[case(json!({"metadata": {"generation": 1}, "spec": {"replicas": 1}, "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}}), true)]
    fn deployments(#[case] object: Value, #[case] expected: bool) {
        assert_eq!(progress("Deployment", "d", &object).expect("a deployment").1, expected);
    }
}
