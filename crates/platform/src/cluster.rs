//! The API server the platform serves, and the tasks that do so until the platform is stopped.
//! Small on purpose: what is handed to every controller.

use std::path::Path;

use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Error;
use crate::error::is_lost_race;

/// Who the platform is in `managedFields`.
pub(crate) const FIELD_MANAGER: &str = "registry-conformance-platform";

/// A connection, and what runs on it.
#[derive(Clone)]
pub(crate) struct Cluster {
    /// Has the rights of an administrator.
    pub client: Client,
    /// Ends every task.
    pub stop: CancellationToken,
    /// Every task.
    pub tasks: TaskTracker,
}

impl Cluster {
    /// Reads the kubeconfig; makes no request.
    pub(crate) async fn connect(kubeconfig: Option<&Path>, stop: CancellationToken) -> Result<Self, Error> {
        let wrong = |source: Box<dyn std::error::Error + Send + Sync>| Error::Kubeconfig {
            path: kubeconfig.map(Path::to_owned),
            source,
        };
        let mut config = match kubeconfig {
            Some(path) => {
                let read = Kubeconfig::read_from(path).map_err(|error| wrong(error.into()))?;
                Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                    .await
                    .map_err(|error| wrong(error.into()))?
            }
            None => Config::infer().await.map_err(|error| wrong(error.into()))?,
        };
        // The control plane is beside us; a proxy in the environment is for what is outside.
        config.proxy_url = None;
        // Of what is written without naming a field manager it is the manager.
        config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(FIELD_MANAGER)));
        let client = Client::try_from(config).map_err(|error| wrong(error.into()))?;
        Ok(Self { client, stop, tasks: TaskTracker::new() })
    }

    /// Creates `object` unless one of that name exists; says whether it did.
    pub(crate) async fn create_if_absent<K>(&self, api: &Api<K>, object: &K) -> Result<bool, Error>
    where
        K: Resource + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
        K::DynamicType: Default,
    {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        match api.create(&params, object).await {
            Ok(_) => Ok(true),
            Err(error) if is_lost_race(&error) => Ok(false),
            Err(error) => {
                let kind = K::kind(&K::DynamicType::default()).into_owned();
                let name = object.meta().name.as_deref().unwrap_or_default().to_owned();
                Err(Error::api(format!("creating {kind} {name}"))(error))
            }
        }
    }

    /// Merges `patch` into an object; a lost race is no error, because the winner's event brings us back.
    pub(crate) async fn merge<K>(&self, api: &Api<K>, name: &str, patch: &serde_json::Value) -> Result<(), Error>
    where
        K: Resource + Clone + std::fmt::Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        settle::<K>(name, api.patch(name, &params, &Patch::Merge(patch)).await)
    }

    /// As [`Cluster::merge`], into the status.
    pub(crate) async fn merge_status<K>(&self, api: &Api<K>, name: &str, patch: &serde_json::Value) -> Result<(), Error>
    where
        K: Resource + Clone + std::fmt::Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        settle::<K>(name, api.patch_status(name, &params, &Patch::Merge(patch)).await)
    }
}

fn settle<K>(name: &str, outcome: Result<K, kube::Error>) -> Result<(), Error>
where
    K: Resource,
    K::DynamicType: Default,
{
    match outcome {
        Ok(_) => Ok(()),
        // Changed or deleted since it was looked at.
        Err(error) if is_lost_race(&error) || crate::error::is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::api(format!("changing {} {name}", K::kind(&K::DynamicType::default())))(error)),
    }
}
