//! ClusterOperator `image-registry`: the operator's conditions drawn together for those who watch the whole cluster.
//! A pure union of what the other controllers said; nothing is judged here.

use api::condition::OperatorCondition;
use api::config::{ClusterOperator, ClusterOperatorSpec, ClusterOperatorStatus, ObjectReference, OperandVersion};
use api::imageregistry::{Config, ImagePruner, ManagementState};
use api::names;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;

use crate::cache::Cached;
use crate::condition::{Statement, record};
use crate::context::Context;
use crate::error::{SyncError, is_code};
use crate::status;
use crate::worker::Next;

/// Draws the conditions whose type ends with `type_` into one
/// (operator source pkg/resource/clusteroperator.go:39-112, main). `normal` is the status all of them should have.
pub fn union(type_: &str, normal: bool, conditions: &[OperatorCondition]) -> Option<Statement> {
    let mut concerned: Vec<&OperatorCondition> = conditions.iter().filter(|c| c.type_.ends_with(type_)).collect();
    if concerned.is_empty() {
        return None;
    }
    concerned.sort_by(|a, b| a.type_.cmp(&b.type_));
    let wanted = if normal { "True" } else { "False" };
    let all_normal = concerned.iter().all(|condition| condition.status == wanted);
    let mut reasons: Vec<String> = concerned
        .iter()
        .filter(|condition| !condition.reason.is_empty() && condition.reason != "AsExpected")
        .map(|condition| format!("{}{}", condition.type_.strip_suffix(type_).unwrap_or_default(), condition.reason))
        .collect();
    reasons.sort();
    let reason = if reasons.is_empty() && all_normal { "AsExpected".to_owned() } else { reasons.join("::") };
    let lines: Vec<String> = concerned
        .iter()
        .flat_map(|condition| condition.message.lines().map(|line| format!("{}: {line}", condition.type_)))
        .collect();
    Some(Statement::new(type_, normal == all_normal, &reason, lines.join("\n")))
}

/// The version to report: the Deployment's when it is managed and fully rolled out, the operator's own when there is
/// nothing to roll out, else `None` for what was reported before
/// (operator source pkg/resource/clusteroperator.go:243-282, main).
pub fn version(
    state: Option<ManagementState>,
    deployment: Option<&Deployment>,
    release_version: &str,
) -> Option<String> {
    match state {
        Some(ManagementState::Unmanaged | ManagementState::Removed) => Some(release_version.to_owned()),
        _ => deployment
            .filter(|deployment| status::is_complete(deployment))
            .and_then(|deployment| deployment.metadata.annotations.as_ref())
            .and_then(|annotations| annotations.get(names::VERSION_ANNOTATION))
            .cloned(),
    }
    .filter(|version| !version.is_empty())
}

/// Objects worth looking at (operator source pkg/operator/starter.go:145-152, main).
pub fn related_objects(namespace: &str) -> Vec<ObjectReference> {
    let object = |group: &str, resource: &str, name: &str| ObjectReference {
        group: group.into(),
        resource: resource.into(),
        namespace: String::new(),
        name: name.into(),
    };
    let (own, rbac) = ("imageregistry.operator.openshift.io", "rbac.authorization.k8s.io");
    vec![
        object(own, "configs", names::CLUSTER),
        object(own, "imagepruners", names::CLUSTER),
        object(rbac, "clusterroles", names::REGISTRY_CLUSTER_ROLE),
        object(rbac, "clusterrolebindings", names::REGISTRY_CLUSTER_ROLE_BINDING),
        object(rbac, "clusterrolebindings", names::PRUNER_CLUSTER_ROLE_BINDING),
        object("", "namespaces", namespace),
    ]
}

/// One pass: the object if missing, then its status.
///
/// # Errors
/// [`SyncError::Api`].
pub async fn sync(context: &Context) -> Result<Next, SyncError> {
    let api: Api<ClusterOperator> = Api::all(context.client.clone());
    let name = names::CLUSTER_OPERATOR;
    let existing = match ClusterOperator::find(&context.cache, name) {
        Some(found) => found.as_ref().clone(),
        None => {
            let first = ClusterOperator::new(name, ClusterOperatorSpec::default());
            match api.create(&PostParams::default(), &first).await {
                Err(error) if is_code(&error, 409) => {
                    api.get(name).await.map_err(SyncError::api("read ClusterOperator image-registry"))?
                }
                result => result.map_err(SyncError::api("create ClusterOperator image-registry"))?,
            }
        }
    };
    let config = Config::find(&context.cache, names::CLUSTER);
    let pruner = ImagePruner::find(&context.cache, names::CLUSTER);
    let before = existing.status.clone().unwrap_or_default();
    let after = desired(context, before.clone(), config.as_deref(), pruner.as_deref());
    if before == after && existing.status.is_some() {
        return Ok(Next::Change);
    }
    let changed = ClusterOperator { status: Some(after), ..existing };
    api.replace_status(name, &PostParams::default(), &changed)
        .await
        .map_err(SyncError::api("update the status of ClusterOperator image-registry"))?;
    Ok(Next::Change)
}

fn desired(
    context: &Context,
    before: ClusterOperatorStatus,
    config: Option<&Config>,
    pruner: Option<&ImagePruner>,
) -> ClusterOperatorStatus {
    let mut status = before;
    let mut said: Vec<OperatorCondition> =
        config.and_then(|config| config.status.as_ref()).map(|status| status.conditions.clone()).unwrap_or_default();
    let of_pruner = pruner.and_then(|pruner| pruner.status.as_ref()).map(|status| status.conditions.as_slice());
    said.extend(
        of_pruner.unwrap_or_default().iter().map(|condition| OperatorCondition {
            type_: format!("ImagePruner{}", condition.type_),
            ..condition.clone()
        }),
    );
    // Until the Config says something itself, the pruner's word alone would look like a registry's.
    let ready = said.iter().any(|condition| condition.type_ == "Available");
    let statements: Vec<Statement> = [("Available", true), ("Progressing", false), ("Degraded", false)]
        .iter()
        .filter(|_| ready)
        .filter_map(|(type_, normal)| union(type_, *normal, &said))
        .collect();
    record(&mut status.conditions, &statements, Timestamp::now());
    let deployment = Deployment::find(&context.cache, names::REGISTRY);
    let state = config.and_then(|config| config.spec.management_state);
    let version = config.and_then(|_| version(state, deployment.as_deref(), &context.options.release_version));
    if let Some(version) = version {
        status.versions = vec![OperandVersion { name: "operator".into(), version }];
    }
    status.related_objects = related_objects(context.namespace());
    status
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn said(type_: &str, status: &str, reason: &str, message: &str) -> OperatorCondition {
        serde_json::from_value(json!({ "type": type_, "status": status, "reason": reason, "message": message }))
            .expect("a condition")
    }

    #[rstest]
    #[case::removed(
        vec![said("Available", "True", "Removed", "The registry is removed"), said("NodeCADaemonAvailable", "True", "AsExpected", "fine")],
        "True", "Removed", "Available: The registry is removed\nNodeCADaemonAvailable: fine"
    )]
    #[case::node_ca_down(
        vec![said("Available", "True", "Ready", "a"), said("NodeCADaemonAvailable", "False", "NoAvailableReplicas", "b")],
        "False", "NodeCADaemonNoAvailableReplicas::Ready", "Available: a\nNodeCADaemonAvailable: b"
    )]
    #[case::all_fine(
        vec![said("Available", "True", "AsExpected", ""), said("ImagePrunerAvailable", "True", "AsExpected", "")],
        "True", "AsExpected", ""
    )]
    #[case::unknown_is_abnormal(vec![said("Available", "Unknown", "", "")], "False", "", "")]
    fn conditions_are_drawn_together(
        #[case] conditions: Vec<OperatorCondition>,
        #[case] status: &str,
        #[case] reason: &str,
        #[case] message: &str,
    ) {
        let union = union("Available", true, &conditions).expect("a union");
        assert_eq!((union.truth.as_str(), union.reason.as_str(), union.message.as_str()), (status, reason, message));
    }

    #[rstest]
    #[case(vec![said("Degraded", "False", "", ""), said("ImagePrunerDegraded", "True", "JobFailed", "x")], "True", "ImagePrunerJobFailed")]
    #[case(vec![said("Degraded", "False", "Removed", "")], "False", "Removed")]
    fn degraded_is_normally_false(
        #[case] conditions: Vec<OperatorCondition>,
        #[case] status: &str,
        #[case] reason: &str,
    ) {
        let union = union("Degraded", false, &conditions).expect("a union");
        assert_eq!((union.truth.as_str(), union.reason.as_str()), (status, reason));
    }

    #[test]
    fn nothing_said_is_no_condition() {
        assert_eq!(union("Available", true, &[said("Degraded", "True", "", "")]), None);
    }

    #[rstest]
    #[case(Some(ManagementState::Removed), Some("own"))]
    #[case(Some(ManagementState::Unmanaged), Some("own"))]
    #[case(Some(ManagementState::Managed), None)]
    fn versions_without_a_deployment(#[case] state: Option<ManagementState>, #[case] want: Option<&str>) {
        assert_eq!(version(state, None, "own").as_deref(), want);
    }
}
