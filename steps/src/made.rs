//! What a scenario made, written down before it is made, and how it is taken away again. What cannot be taken away is
//! a leak, charged to the scenario.

use std::path::PathBuf;

use api::names;
use futures::{FutureExt as _, future};
use harness::{
    failure::Failure,
    tenancy::{ObjectName, Tenancy},
    wait::{Check, wait},
};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Namespace};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
    core::ApiResource,
};
use serde_json::{Value, json};

use crate::world::World;

/// One thing that must be gone, or back as it was, after the scenario.
#[derive(Debug, Clone)]
pub(crate) enum Made {
    /// An object, by type, namespace and name.
    Object(ObjectName),
    /// A project with everything in it.
    Project(String),
    /// A private folder.
    Folder(PathBuf),
    /// A bucket on the scenario's storage endpoint.
    Bucket(String),
    /// A host name placed in the doorway.
    Name(String),
    /// Fields of an object that get this merge patch at the end.
    Restore { resource: ApiResource, name: String, patch: Value },
    /// Mirrors of these sources on the nodes; written down before their object, so that it goes first.
    Mirrors(Vec<String>),
    /// Nodes that mirrors drain; written down before the mirrors, so that it is looked at last.
    Drained,
    /// The operator, which a scenario has stopped and which must run again.
    StoppedOperator,
}

/// Something that a scenario left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    pub what: String,
    pub why: String,
}

impl World {
    /// Writes an object down before it is made.
    pub(crate) fn will_make<K>(&mut self, namespace: Option<&str>, name: &str)
    where
        K: kube::Resource<DynamicType = ()>,
    {
        let object = ObjectName::of::<K>(namespace, name);
        self.write_down(&object);
        self.made.push(Made::Object(object));
    }

    /// Writes a project down before it is made.
    pub(crate) fn will_make_project(&mut self, name: &str) {
        self.write_down(&ObjectName::of::<Namespace>(None, name));
        self.made.push(Made::Project(name.to_owned()));
    }

    fn write_down(&self, object: &ObjectName) {
        if let Tenancy::Guest(journal) = &self.env.tenancy {
            journal.will_make(object.clone());
        }
    }

    /// Takes away everything the scenario made, newest first, and reports what would not go.
    pub async fn close(&mut self) -> Vec<Leak> {
        let mut leaks = vec![];
        while let Some(made) = self.made.pop() {
            if let Err(failure) = self.take_away(&made).await {
                leaks.push(Leak { what: format!("{made:?}"), why: failure.text() });
            }
        }
        leaks
    }

    async fn take_away(&self, made: &Made) -> Result<(), Failure> {
        let client = self.env.client.clone();
        match made {
            Made::Object(object) => {
                let api = object.api(&client);
                delete(&api, &object.name).await?;
                // A claim stays for as long as a pod uses it.
                tokio::select! {
                    outcome = self.gone(&api, &object.name) => outcome,
                    () = self.end_leaving_pods().then(|()| future::pending()) => Ok(()),
                }
            }
            Made::Project(name) => {
                let api: Api<Namespace> = Api::all(client);
                // The namespace controller empties a project in its own time; that it has begun is what counts here,
                // and that nothing of the scenario is seen by the next one follows from the name.
                delete(&api, name).await
            }
            Made::Folder(path) => match std::fs::remove_dir_all(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Failure::error(format!("removing {}", path.display()), error))
                }
                _ => Ok(()),
            },
            Made::Bucket(name) => match &self.bucket {
                Some(bucket) => bucket.endpoint.view.remove_bucket(name).await,
                None => Ok(()),
            },
            Made::Name(name) => {
                self.env.doorway.displace(name);
                Ok(())
            }
            Made::Restore { resource, name, patch } => {
                let api: Api<DynamicObject> = Api::all_with(client, resource);
                match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                    Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
                    other => other.map(drop).map_err(|error| Failure::error(format!("restoring {name}"), error)),
                }
            }
            Made::Mirrors(sources) => {
                // The next scenario may mirror the same source; what it then finds on a node must be its own.
                let what = format!("have no mirror of {sources:?} any more");
                self.on_every_node(&what, |conf| !conf.pairings().iter().any(|pair| sources.contains(&pair.source)))
                    .await
            }
            Made::Drained => self.recovered().await,
            Made::StoppedOperator => scale_operator(self, 1).await,
        }
    }

    async fn gone(&self, api: &Api<DynamicObject>, name: &str) -> Result<(), Failure> {
        wait(format!("{name} to be gone"), self.env.limits.cleanup)
            .object(api, name, |object: Option<&DynamicObject>| {
                Check::when(object.is_none(), || "it is still there".to_owned())
            })
            .await
    }
}

/// Scales the operator's own Deployment and waits until as many pods run.
pub(crate) async fn scale_operator(world: &World, replicas: i32) -> Result<(), Failure> {
    world.disturbs("scaling the operator")?;
    let deployments: Api<Deployment> = world.in_registry_namespace();
    let patch = json!({"spec": {"replicas": replicas}});
    deployments
        .patch(names::OPERATOR_DEPLOYMENT, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(|error| Failure::error(format!("scaling the operator to {replicas}"), error))?;
    wait(format!("{replicas} pods of the operator"), world.env.limits.rollout)
        .of("operator")
        .object(&deployments, names::OPERATOR_DEPLOYMENT, |deployment: Option<&Deployment>| {
            let status = deployment.and_then(|deployment| deployment.status.clone()).unwrap_or_default();
            let ready = status.ready_replicas.unwrap_or_default();
            let all = status.replicas.unwrap_or_default();
            let observed = status.observed_generation == deployment.and_then(|d| d.metadata.generation);
            Check::when(observed && ready == replicas && all == replicas, || format!("{ready} of {all} pods ready"))
        })
        .await
}

async fn delete<K>(api: &Api<K>, name: &str) -> Result<(), Failure>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    match api.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other.map(drop).map_err(|error| Failure::error(format!("deleting {name}"), error)),
    }
}
