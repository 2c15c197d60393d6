//! What this binary is made of: the vocabulary, the targets, the doctor and clusters by hand.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{FutureExt as _, future::LocalBoxFuture};
use harness::{
    failure::{Failure, Tried as _},
    system::System,
};
use local_cluster::{Tool, doctor, ledger};
use nix::{sys::signal::Signal, unistd::Pid};
use steps::World;

use crate::{
    data::Data,
    executable::own_executable,
    lane::{Checked, ClusterAction, Request, TargetName, Wiring},
    output,
    stop::Stop,
    target::{
        chosen::{self, Chosen},
        cluster::{Cluster, ClusterOptions},
        recover_all,
    },
};

/// How long a cluster by hand may take to start.
const START: Duration = Duration::from_secs(60);
/// How long `cluster down` waits for the cluster to end.
const END: Duration = Duration::from_secs(15);

/// The wiring of the released binary.
#[derive(Debug, Clone, Copy, Default)]
pub struct Native;

impl Wiring for Native {
    type World = World;
    type Target = Chosen;

    fn targets(&self) -> Vec<TargetName> {
        chosen::NAMES.to_vec()
    }

    fn target(&self, request: Request) -> Result<Chosen, Failure> {
        Chosen::new(request)
    }

    fn doctor(&self) -> LocalBoxFuture<'_, Vec<Checked>> {
        async { doctor::examine().await.into_iter().map(checked).collect() }.boxed_local()
    }

    fn cluster(&self, action: ClusterAction, stop: Stop) -> LocalBoxFuture<'_, Result<String, Failure>> {
        async move {
            match action {
                ClusterAction::Up { name, system } => up(&name, system.as_deref(), stop).await,
                ClusterAction::Down { name } => down(&name).await,
                ClusterAction::Kubeconfig { name } => Ok(Handle::read(&name)?.kubeconfig.display().to_string()),
                ClusterAction::Gc => gc().await,
            }
        }
        .boxed_local()
    }
}

fn checked(finding: doctor::Finding) -> Checked {
    let found = match finding.state {
        doctor::State::Missing => Err(finding.detail),
        _ => Ok(finding.detail),
    };
    let required =
        finding.state == doctor::State::Missing && Tool::LANE.iter().any(|tool| tool.name() == finding.subject);
    Checked { what: finding.subject, found, remedy: finding.remedy, required }
}

/// A cluster by hand, as other invocations find it: the process that holds it, and its kubeconfig.
#[derive(serde::Serialize, serde::Deserialize)]
struct Handle {
    process: ledger::ProcessIdentity,
    kubeconfig: PathBuf,
}

impl Handle {
    fn path(name: &str) -> Result<PathBuf, Failure> {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if name.is_empty() || !plain {
            return Err(Failure::error(format!("naming a cluster {name:?}"), "only letters, digits and - make a name"));
        }
        Ok(ledger::folder().join("clusters").join(format!("{name}.json")))
    }

    fn find(name: &str) -> Result<Option<Self>, Failure> {
        let path = Self::path(name)?;
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::error(format!("reading {}", path.display()), error)),
        };
        let handle: Self = serde_json::from_str(&text).tried(format!("reading {}", path.display()))?;
        Ok(handle.process.is_alive().then_some(handle))
    }

    fn read(name: &str) -> Result<Self, Failure> {
        Self::find(name)?.ok_or_else(|| {
            Failure::error(format!("finding the cluster {name}"), "it is not running")
                .next(format!("start it with `registry-conformance cluster up {name}`"))
        })
    }

    fn write(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = Self::path(name)?;
        let tried = || format!("writing {}", path.display());
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).tried(tried())?;
        let text = serde_json::to_string(self).tried(tried())?;
        std::fs::write(&path, text).tried(tried())?;
        Ok(path)
    }
}

async fn up(name: &str, system: Option<&str>, stop: Stop) -> Result<String, Failure> {
    if Handle::find(name)?.is_some() {
        return Err(Failure::error(format!("starting the cluster {name}"), "a cluster of that name is running")
            .next(format!("end it with `registry-conformance cluster down {name}` or give another name")));
    }
    let data = Data::find(None).tried("finding the systems")?;
    let system = find(&data, system)?;
    collect()?;
    let tools = local_cluster::tool::locate(output::tell).await.tried("finding the programs of a control plane")?;
    let folder = std::env::temp_dir().join(format!("registry-conformance-cluster-{}", std::process::id()));
    let starting = Cluster::start(ClusterOptions {
        folder: &folder,
        tools: &tools,
        images: images(&system)?,
        doorway: None,
        trust: None,
        ready_within: START,
    });
    let cluster = tokio::select! {
        cluster = starting => cluster?,
        () = stop.asked() => return Ok("stopped before the cluster was ready".to_owned()),
    };
    cluster.install(&data, &system).await?;
    let process = ledger::ProcessIdentity::of(std::process::id())
        .ok_or_else(|| Failure::error("reading this process' identity", "there is none in /proc"))?;
    let kubeconfig = cluster.kubeconfig().to_owned();
    let path = Handle { process, kubeconfig: kubeconfig.clone() }.write(name)?;
    let ready = format!(
        "cluster {name} is ready; export KUBECONFIG={}\nits routes are entered at {}\n",
        kubeconfig.display(),
        cluster.router()
    );
    output::print(&ready).tried("saying that the cluster is ready")?;
    stop.asked().await;
    let _ = std::fs::remove_file(path);
    cluster.stop().await?;
    Ok(format!("cluster {name} has ended"))
}

/// The system to install; without a name the reference with nothing that installs it, so that it can be done by hand.
fn find(data: &Data, name: Option<&str>) -> Result<System, Failure> {
    let tried = format!("finding the system {}", name.unwrap_or("reference"));
    let systems = data.systems(&data.catalogue().tried(&tried)?).tried(&tried)?;
    let mut system = System::find(&systems, name.unwrap_or("reference")).tried(&tried)?.clone();
    if let Some(component) = system.components.first() {
        let seen = format!("its {} comes as a program", component.name);
        return Err(Failure::error(tried, seen).next("name a system that comes with this program, such as reference"));
    }
    if name.is_none() {
        system.manifests.clear();
    }
    Ok(system)
}

/// The image map of its nodes.
fn images(system: &System) -> Result<String, Failure> {
    let mut images = system.images.clone();
    for word in images.iter_mut().flat_map(|image| &mut image.command) {
        *word = word.replace("{self}", &own_executable().display().to_string());
    }
    serde_json::to_string(&images).tried("writing the image map")
}

async fn down(name: &str) -> Result<String, Failure> {
    let handle = Handle::read(name)?;
    let tried = format!("ending the cluster {name}");
    let pid = i32::try_from(handle.process.pid).tried(&tried)?;
    nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGTERM).tried(&tried)?;
    let until = tokio::time::Instant::now() + END;
    while handle.process.is_alive() {
        if tokio::time::Instant::now() >= until {
            return Err(Failure::error(tried, format!("process {pid} is still there after {END:?}"))
                .next(format!("kill -9 {pid}; registry-conformance cluster gc")));
        }
        // A process that is not our child announces its end to nobody.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(format!("cluster {name} has ended"))
}

/// Removes what killed runs left on this machine, and puts back what they changed elsewhere.
async fn gc() -> Result<String, Failure> {
    let mut said = collect()?;
    let (clusters, failures) = recover_all().await;
    for cluster in clusters {
        said.push_str(&format!("\nwhat a killed run has changed in {cluster} is as it was before"));
    }
    match failures.into_iter().next() {
        None => Ok(said),
        Some(failure) => Err(failure),
    }
}

fn collect() -> Result<String, Failure> {
    let report = ledger::gc().tried("removing what killed runs left")?;
    if let Some(first) = report.failures.first() {
        return Err(Failure::error("removing what killed runs left", first));
    }
    let (processes, folders, containers) = (report.processes.len(), report.folders.len(), report.containers.len());
    let runs = report.runs.len();
    Ok(format!(
        "removed {processes} processes, {folders} folders and {containers} containers, networks or images of {runs} ended runs"
    ))
}
