//! The image pruner: its resource ImagePruner `cluster`, the CronJob made of it, and what is said about both.
//! The pruning itself is done by the command-line client in the CronJob's pods.

use std::sync::Arc;
use std::time::Duration;

use api::condition::OperatorCondition;
use api::config::ImageConfig;
use api::imageregistry::{Config, ImagePruner, ImagePrunerSpec, LogLevel, ManagementState};
use api::names;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use tracing::info;

use crate::cache::Cached;
use crate::condition::{Statement, record};
use crate::context::Context;
use crate::error::{SyncError, is_code};
use crate::metrics::PrunerInstall;
use crate::object::{Drift, Merge, untyped};
use crate::operand;
use crate::worker::Next;

const DEFAULT_SCHEDULE: &str = "0 0 * * *";
const CA_DIRECTORY: &str = "/var/run/configmaps/serviceca";
const ATTEMPTS: u32 = 5;

/// The first ImagePruner (operator source pkg/operator/controllerimagepruner.go:42-48,173-202, main).
pub fn first() -> ImagePruner {
    ImagePruner::new(
        names::CLUSTER,
        ImagePrunerSpec {
            suspend: Some(false),
            keep_tag_revisions: Some(3),
            successful_jobs_history_limit: Some(3),
            failed_jobs_history_limit: Some(3),
            ignore_invalid_image_references: Some(true),
            log_level: Some(LogLevel::Normal),
            ..ImagePrunerSpec::default()
        },
    )
}

/// Whether runs also remove blobs: only while the operator manages a registry
/// (OpenShift 4.6 registry docs, section 2.1; the original looks at the registry's host name instead and so prunes
/// an Unmanaged registry too).
pub fn prunes_registry(state: Option<ManagementState>) -> bool {
    state == Some(ManagementState::Managed)
}

/// Age as the pruner's flag takes it: the duration field, else the older field of nanoseconds, else one hour.
fn keep_younger_than(spec: &ImagePrunerSpec) -> String {
    match (&spec.keep_younger_than_duration, spec.keep_younger_than) {
        (Some(duration), _) if !duration.is_empty() => duration.clone(),
        (_, Some(nanoseconds)) => go_duration(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))),
        _ => "60m".into(),
    }
}

/// A duration as Go prints it, in seconds and smaller as far as needed.
fn go_duration(duration: Duration) -> String {
    let (seconds, nanoseconds) = (duration.as_secs(), duration.subsec_nanos());
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let rest = if nanoseconds == 0 {
        format!("{rest}s")
    } else {
        format!("{}s", format!("{rest}.{nanoseconds:09}").trim_end_matches('0'))
    };
    match (hours, minutes) {
        (0, 0) => rest,
        (0, _) => format!("{minutes}m{rest}"),
        _ => format!("{hours}h{minutes}m{rest}"),
    }
}

/// Number of the `--loglevel` flag (operator source pkg/resource/prunercronjob.go:250-270, main).
fn log_number(level: Option<LogLevel>) -> u8 {
    match level.unwrap_or_default() {
        LogLevel::Unset | LogLevel::Normal => 1,
        LogLevel::Debug => 4,
        LogLevel::Trace => 6,
        LogLevel::TraceAll => 8,
    }
}

/// Arguments of a run (operator source pkg/resource/prunercronjob.go:85-104, release-4.6).
pub fn arguments(spec: &ImagePrunerSpec, prune_registry: bool, internal_hostname: &str) -> Vec<String> {
    let mut arguments: Vec<String> = ["adm", "prune", "images", "--confirm=true"].map(str::to_owned).into();
    arguments.extend([
        format!("--certificate-authority={CA_DIRECTORY}/{}", names::SERVICE_CA_KEY),
        format!("--keep-tag-revisions={}", spec.keep_tag_revisions.unwrap_or(3)),
        format!("--keep-younger-than={}", keep_younger_than(spec)),
        format!("--ignore-invalid-refs={}", spec.ignore_invalid_image_references.unwrap_or(false)),
        format!("--loglevel={}", log_number(spec.log_level)),
        format!("--prune-registry={prune_registry}"),
    ]);
    if prune_registry && !internal_hostname.is_empty() {
        arguments.push(format!("--registry-url=https://{internal_hostname}"));
    }
    arguments
}

/// The CronJob. Its container has no command: the image's own entry point is the client.
pub fn cron_job(namespace: &str, image: &str, spec: &ImagePrunerSpec, arguments: &[String]) -> Value {
    let schedule = if spec.schedule.is_empty() { DEFAULT_SCHEDULE } else { &spec.schedule };
    let resources =
        spec.resources.as_ref().map_or_else(|| json!({ "requests": { "cpu": "100m", "memory": "256Mi" } }), untyped);
    let mut pod = json!({
        "restartPolicy": "Never",
        "serviceAccountName": names::PRUNER_SERVICE_ACCOUNT,
        "priorityClassName": "system-cluster-critical",
        "containers": [{
            "name": names::PRUNER_CRON_JOB,
            "image": image,
            "args": arguments,
            "resources": resources,
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [{ "name": "serviceca", "mountPath": CA_DIRECTORY, "readOnly": true }],
        }],
        "volumes": [{ "name": "serviceca", "configMap": { "name": names::SERVICE_CA_CONFIG_MAP } }],
    });
    if let Some(affinity) = &spec.affinity {
        pod["affinity"] = untyped(affinity);
    }
    if !spec.node_selector.is_empty() {
        pod["nodeSelector"] = json!(spec.node_selector);
    }
    if !spec.tolerations.is_empty() {
        pod["tolerations"] = untyped(&spec.tolerations);
    }
    let labels = json!({ "created-by": names::PRUNER_CRON_JOB });
    json!({
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": { "name": names::PRUNER_CRON_JOB, "namespace": namespace },
        "spec": {
            "schedule": schedule,
            "suspend": spec.suspend.unwrap_or(false),
            "concurrencyPolicy": "Forbid",
            "successfulJobsHistoryLimit": spec.successful_jobs_history_limit.unwrap_or(3),
            "failedJobsHistoryLimit": spec.failed_jobs_history_limit.unwrap_or(3),
            "jobTemplate": {
                "metadata": { "labels": labels },
                "spec": { "backoffLimit": 0, "template": { "metadata": { "labels": labels }, "spec": pod } },
            },
        },
    })
}

/// The newest finished pruner job: when it ended and, if it failed, why.
fn last_run(jobs: &[Arc<Job>]) -> Option<(Timestamp, Option<(String, String)>)> {
    let ours = |job: &&Arc<Job>| {
        let labels = job.metadata.labels.as_ref();
        labels.and_then(|all| all.get("created-by")).is_some_and(|by| by == names::PRUNER_CRON_JOB)
    };
    let finished = jobs.iter().filter(ours).filter_map(|job| {
        let conditions = job.status.as_ref()?.conditions.as_deref()?;
        let ended = conditions.iter().find(|c| c.status == "True" && (c.type_ == "Complete" || c.type_ == "Failed"))?;
        let failure = (ended.type_ == "Failed")
            .then(|| (ended.reason.clone().unwrap_or_default(), ended.message.clone().unwrap_or_default()));
        Some((ended.last_transition_time.as_ref()?.0, failure))
    });
    finished.max_by_key(|(when, _)| *when)
}

/// What is said about the pruner (operator source pkg/operator/status.go:135-216, main). Only the pruner's own jobs
/// count; the original looks at every job of the namespace.
pub fn conditions(spec: &ImagePrunerSpec, jobs: &[Arc<Job>], error: Option<&SyncError>) -> [Statement; 4] {
    let available = match error {
        None => Statement::new("Available", true, "AsExpected", "Pruner CronJob has been created"),
        Some(error) => Statement::new("Available", false, "Error", error.to_string()),
    };
    let scheduled = if spec.suspend.unwrap_or(false) {
        Statement::new("Scheduled", false, "Suspended", "The pruner job has been suspended")
    } else {
        Statement::new("Scheduled", true, "Scheduled", "Pruner CronJob has been scheduled")
    };
    let failure = last_run(jobs).and_then(|(_, failure)| failure);
    let failed = match &failure {
        Some((reason, message)) => Statement::new("Failed", true, reason, message.clone()),
        None => Statement::new("Failed", false, "Complete", "Pruner completed successfully"),
    };
    let degraded = match (error, &failure) {
        (Some(error), _) => Statement::new("Degraded", true, "SyncError", error.to_string()),
        (None, Some((_, message))) => Statement::new("Degraded", true, "JobFailed", message.clone()),
        (None, None) => Statement::new("Degraded", false, "AsExpected", ""),
    };
    [available, failed, scheduled, degraded]
}

/// One pass: resource, CronJob and what it needs, then the conditions.
///
/// # Errors
/// What the conditions say, so that the pass is tried again.
pub async fn sync(context: &Context) -> Result<Next, SyncError> {
    let api: Api<ImagePruner> = Api::all(context.client.clone());
    let pruner = match api.get_opt(names::CLUSTER).await.map_err(SyncError::api("read ImagePruner cluster"))? {
        Some(found) if found.metadata.deletion_timestamp.is_some() => return Ok(Next::Change),
        Some(found) => found,
        None => match api.create(&PostParams::default(), &first()).await {
            Ok(made) => {
                info!("made the first ImagePruner cluster");
                made
            }
            Err(error) if is_code(&error, 409) => return Ok(Next::Change),
            Err(error) => return Err(SyncError::api("create ImagePruner cluster")(error)),
        },
    };
    let result = apply(context, &pruner.spec).await;
    context.metrics.pruner(match (&result, pruner.spec.suspend.unwrap_or(false)) {
        (Err(_), _) => PrunerInstall::Absent,
        (Ok(()), true) => PrunerInstall::Suspended,
        (Ok(()), false) => PrunerInstall::Enabled,
    });
    if !result.as_ref().is_err_and(SyncError::is_conflict) {
        let statements = conditions(&pruner.spec, &context.cache.jobs(), result.as_ref().err());
        report(&api, pruner, &statements).await?;
    }
    result.map(|()| Next::Change)
}

async fn apply(context: &Context, spec: &ImagePrunerSpec) -> Result<(), SyncError> {
    let (actor, cache, namespace) = (&context.actor, &context.cache, context.namespace());
    let (whole, drift) = (Merge::Fields, Drift::Checksum);
    let account = operand::service_account(names::PRUNER_SERVICE_ACCOUNT, namespace);
    actor.apply::<ServiceAccount>(cache, account, whole, drift).await?;
    let binding = operand::pruner_cluster_role_binding(namespace);
    actor.apply::<ClusterRoleBinding>(cache, binding, whole, drift).await?;
    let image_config = ImageConfig::find(cache, names::CLUSTER)
        .ok_or_else(|| SyncError::Missing { message: "images.config.openshift.io \"cluster\" not found".into() })?;
    let hostname = image_config.status.as_ref().map(|status| status.internal_registry_hostname.as_str());
    let state = Config::find(cache, names::CLUSTER).and_then(|config| config.spec.management_state);
    let arguments = arguments(spec, prunes_registry(state), hostname.unwrap_or_default());
    let job = cron_job(namespace, &context.options.image_pruner, spec, &arguments);
    actor.apply::<CronJob>(cache, job, whole, drift).await?;
    Ok(())
}

async fn report(api: &Api<ImagePruner>, pruner: ImagePruner, statements: &[Statement]) -> Result<(), SyncError> {
    let mut pruner = pruner;
    for attempt in 1.. {
        let mut status = pruner.status.clone().unwrap_or_default();
        let conditions: &mut Vec<OperatorCondition> = &mut status.conditions;
        record(conditions, statements, Timestamp::now());
        status.observed_generation = pruner.metadata.generation;
        if pruner.status.as_ref() == Some(&status) {
            return Ok(());
        }
        pruner.status = Some(status);
        match api.replace_status(names::CLUSTER, &PostParams::default(), &pruner).await {
            Err(error) if is_code(&error, 409) && attempt < ATTEMPTS => {
                let read = api.get_opt(names::CLUSTER).await.map_err(SyncError::api("read ImagePruner cluster"))?;
                let Some(found) = read else { return Ok(()) };
                pruner = found;
            }
            Err(error) if is_code(&error, 404) => return Ok(()),
            result => return result.map(|_| ()).map_err(SyncError::api("update the status of ImagePruner cluster")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn has(arguments: &[String], wanted: &str) -> bool {
        arguments.iter().any(|argument| argument == wanted)
    }

    #[rstest]
    #[case(Some(ManagementState::Managed), true)]
    #[case(Some(ManagementState::Unmanaged), false)]
    #[case(Some(ManagementState::Removed), false)]
    #[case(None, false)]
    fn blobs_are_pruned_only_while_managed(#[case] state: Option<ManagementState>, #[case] want: bool) {
        let arguments = arguments(&first().spec, prunes_registry(state), "registry:5000");
        assert!(has(&arguments, &format!("--prune-registry={want}")), "{arguments:?}");
        assert_eq!(has(&arguments, "--registry-url=https://registry:5000"), want);
    }

    #[rstest]
    #[case(json!({}), "--keep-younger-than=60m")]
    #[case(json!({"keepYoungerThan": 5_400_000_000_000_i64}), "--keep-younger-than=1h30m0s")]
    #[case(json!({"keepYoungerThan": 1_500_000_000}), "--keep-younger-than=1.5s")]
    #[case(json!({"keepYoungerThan": 1, "keepYoungerThanDuration": "90m"}), "--keep-younger-than=90m")]
    #[case(json!({"keepTagRevisions": 7}), "--keep-tag-revisions=7")]
    #[case(json!({"logLevel": "TraceAll"}), "--loglevel=8")]
    #[case(json!({"ignoreInvalidImageReferences": true}), "--ignore-invalid-refs=true")]
    fn fields_become_flags(#[case] spec: Value, #[case] want: &str) {
        let spec: ImagePrunerSpec = serde_json::from_value(spec).expect("a spec");
        let arguments = arguments(&spec, false, "");
        assert!(has(&arguments, want), "{arguments:?}");
    }

    #[test]
    fn the_cron_job_follows_schedule_and_suspension() {
        let spec =
            ImagePrunerSpec { schedule: "*/5 * * * *".into(), suspend: Some(true), ..ImagePrunerSpec::default() };
        let made = cron_job("ns", "image", &spec, &[]);
        assert_eq!((&made["spec"]["schedule"], &made["spec"]["suspend"]), (&json!("*/5 * * * *"), &json!(true)));
        assert!(serde_json::from_value::<CronJob>(made).is_ok());
        assert_eq!(cron_job("ns", "image", &first().spec, &[])["spec"]["schedule"], DEFAULT_SCHEDULE);
    }

    fn job(label: &str, type_: &str, second: i64) -> Arc<Job> {
        let at = Timestamp::from_second(second).expect("a time").to_string();
        Arc::new(
            serde_json::from_value(json!({
                "metadata": { "labels": { "created-by": label } },
                "spec": { "template": {} },
                "status": { "conditions": [{ "type": type_, "status": "True", "reason": "BackoffLimitExceeded",
                    "message": "m", "lastTransitionTime": at }] },
            }))
            .expect("a Job"),
        )
    }

    #[rstest]
    #[case::none(vec![], "False Complete")]
    #[case::failed(vec![job("image-pruner", "Failed", 1)], "True BackoffLimitExceeded")]
    #[case::recovered(vec![job("image-pruner", "Failed", 1), job("image-pruner", "Complete", 2)], "False Complete")]
    #[case::foreign(vec![job("other", "Failed", 1)], "False Complete")]
    fn the_newest_run_decides(#[case] jobs: Vec<Arc<Job>>, #[case] want: &str) {
        let said = conditions(&first().spec, &jobs, None);
        assert_eq!(format!("{} {}", said[1].truth.as_str(), said[1].reason), want);
        assert_eq!(said[3].reason, if want.starts_with("True") { "JobFailed" } else { "AsExpected" });
    }
}
