//! A lane in which a system is installed and can be judged, whatever it stands on: Worlds, clean-up, faults and logs are
//! the same on every target. The ground is what the target made for it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::{FutureExt as _, future::LocalBoxFuture};
use harness::{
    environment::Environment,
    failure::{Failure, Tried as _},
    scenario::Scenario,
    verdict::Verdict,
};
use kube::Client;
use steps::World;
use storage_backends::StorageBackends;

use super::{
    cluster::GRACE,
    seams::Seams,
    startup::{self, Startup},
};
use crate::{
    executable::own_executable,
    lane::{FaultFile, Lane, Leak, Request},
};

/// What a lane stands on.
pub(super) trait Ground: 'static {
    /// The administrator's kubeconfig.
    fn kubeconfig(&self) -> &Path;

    /// Resolves when it has ended by itself; never where nobody watches for it.
    fn broken(&self) -> LocalBoxFuture<'_, Failure> {
        Box::pin(std::future::pending())
    }

    /// Ends it and removes what belongs to it.
    fn stop(self) -> LocalBoxFuture<'static, Result<(), Failure>>;
}

/// An installed system with everything around it.
pub(super) struct SystemLane<G> {
    pub environment: Arc<Environment>,
    pub backends: Arc<StorageBackends>,
    pub seams: Seams,
    pub startup: Startup,
    pub ground: G,
}

impl<G: Ground> Lane<World> for SystemLane<G> {
    fn world<'a>(&'a self, _: &'a Scenario) -> LocalBoxFuture<'a, Result<World, Failure>> {
        World::open(self.environment.clone(), true).boxed_local()
    }

    fn after<'a>(&'a self, world: &'a mut World, _: Verdict) -> LocalBoxFuture<'a, Result<Vec<Leak>, Failure>> {
        async move {
            let leaks = world.close().await;
            Ok(leaks.into_iter().map(|leak| Leak { kind: leak.what, name: leak.why }).collect())
        }
        .boxed_local()
    }

    fn logs<'a>(&'a self, component: &'a str, lines: usize) -> LocalBoxFuture<'a, Vec<String>> {
        self.environment.logs.tail(component, lines).boxed_local()
    }

    fn set_fault<'a>(&'a self, fault: &'a FaultFile) -> LocalBoxFuture<'a, Result<(), Failure>> {
        async move {
            let read = fault_proxy::Fault::read(&fault.file.path, &fault.file.text);
            let read = read.tried(format!("reading the fault {}", fault.entry.id))?;
            self.startup.pause(true);
            self.seams.set(read, &self.environment.doorway).await
        }
        .boxed_local()
    }

    fn clear_faults(&self) -> LocalBoxFuture<'_, Result<(), Failure>> {
        async {
            self.seams.clear(&self.environment.doorway).await?;
            steps::reset(self.environment.clone()).await?;
            self.startup.pause(false);
            Ok(())
        }
        .boxed_local()
    }

    fn broken(&self) -> LocalBoxFuture<'_, Failure> {
        async {
            tokio::select! {
                biased;
                failure = self.ground.broken() => failure,
                failure = self.startup.broken() => failure,
            }
        }
        .boxed_local()
    }

    fn how_to_look(&self) -> Vec<String> {
        super::how_to_look(self.ground.kubeconfig(), &self.environment)
    }

    fn close(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), Failure>> {
        async move {
            let Self { environment, backends, seams, startup, ground } = *self;
            drop((seams, startup));
            let ended = backends.close(GRACE).await.tried("ending the storage products");
            let folder = environment.folder.clone();
            drop(environment);
            // Whatever storage is up to, the ground is not left as it is.
            ground.stop().await?;
            ended?;
            match folder.parent() {
                Some(lane) => std::fs::remove_dir_all(lane).tried(format!("removing {}", lane.display())),
                None => Ok(()),
            }
        }
        .boxed_local()
    }
}

/// Waits until the components that report do so for the first time, unless one turns out to be unable to run.
///
/// # Errors
/// When one does not.
pub(super) async fn started(request: &Request, client: &Client, startup: &Startup) -> Result<(), Failure> {
    let within = request.system.limits.ready;
    for component in &request.system.components {
        let (Some(object), Some(_)) = (&component.reports_on, request.binaries.of(component)) else { continue };
        tokio::select! {
            biased;
            failure = startup.broken() => return Err(failure),
            reported = tokio::time::timeout(within, startup::reported(client, object)) => match reported {
                Ok(reported) => reported?,
                Err(_) => {
                    let what = format!("it did not report on {} {}", object.kind, object.name);
                    return Err(startup.late(&component.name, &what).await);
                }
            },
        }
    }
    Ok(())
}

/// Puts the system's `oc` where documented commands find it.
///
/// # Errors
/// When the link cannot be made.
pub(super) fn link_cli(request: &Request, folder: &Path) -> Result<(), Failure> {
    let program = match request.system.cli.as_deref() {
        None | Some([]) => own_executable(),
        Some([program, ..]) => PathBuf::from(program.replace("{self}", &own_executable().display().to_string())),
    };
    let link = folder.join("oc");
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(program, &link).tried(format!("linking {}", link.display()))
}
