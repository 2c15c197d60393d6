//! The targets a system can run on. Each turns a request into lanes; what a scenario sees of them is one Environment.

use std::path::{Path, PathBuf};

use harness::{
    environment::Environment,
    event::What,
    evidence::Evidence,
    failure::{Failure, Tried as _},
    scenario::DISRUPTION,
};
use local_cluster::secret_file;

use crate::session::summary;

pub mod chosen;
pub mod cluster;
pub mod embedded;
pub mod installed;
pub mod kind;

mod admission;
mod api_certificate;
mod engine;
mod guest;
mod held;
mod holding;
mod image_files;
mod kept_logs;
mod kind_cluster;
mod kind_config;
mod kind_words;
mod kubeconfig;
mod manifests;
mod node_pods;
mod node_rules;
mod node_watch;
mod ours;
mod people;
mod platform_parts;
mod pod_logs;
mod port_forward;
mod program;
mod running_kind;
mod seams;
mod startup;
mod storage;
mod survey;
mod system_lane;

/// What every cluster offers that was made for the run: nobody else is in it, and nothing of others.
const OF_OWN_CLUSTERS: [&str; 11] = [
    DISRUPTION,
    "managed-registry",
    "routes",
    "node-files",
    "two-nodes",
    "quiet-nodes",
    "own-images",
    "no-mirrors",
    "free-image-name",
    "free-role-name",
    "free-claim-name",
];

/// Puts back what killed runs have changed in clusters of others, and says of which; what could not be put back, and why,
/// comes second.
pub async fn recover_all() -> (Vec<String>, Vec<Failure>) {
    let (mut clusters, mut failures) = held::recover_all().await;
    match guest::recover_all().await {
        Ok(names) => clusters.extend(names.into_iter().map(|name| format!("the kind cluster {name}"))),
        Err(failure) => failures.push(failure),
    }
    (clusters, failures)
}

/// The files in which runs wrote down what clusters of others held; none where there is no such folder.
fn records(folder: &Path, suffix: &'static str) -> impl Iterator<Item = PathBuf> {
    let files = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|file| file.path());
    files.filter(move |path| path.extension().is_some_and(|end| end == suffix))
}

/// Verdicts or not: a run that leaves a cluster of others changed did not do its job, and says so.
fn left_changed(evidence: &Evidence, failure: Failure) -> Failure {
    let next = failure.next.clone().unwrap_or_default();
    evidence.record(What::Stopping { reason: format!("{}; {next}", summary(&failure)) });
    failure
}

/// What to type to look at a lane that was kept.
fn how_to_look(kubeconfig: &Path, environment: &Environment) -> Vec<String> {
    vec![
        format!("export KUBECONFIG={}", kubeconfig.display()),
        format!("export HTTPS_PROXY={} SSL_CERT_FILE={}", environment.doorway.url(), environment.trust.display()),
        format!("export PATH={}:$PATH", environment.tools.display()),
        "oc get pods -n openshift-image-registry".to_owned(),
    ]
}

/// A folder that only this user can enter: keys and tokens of a lane lie below it.
fn make_folder(path: &Path) -> Result<(), Failure> {
    secret_file::make_private_folder(path).tried("making a folder of a lane")
}
