//! The World: what one scenario knows and has made. It lives as long as the scenario; the environment outlives it.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use api::{imageregistry::Config, names};
use harness::{
    environment::{Environment, Tls, User},
    exposition::Exposition,
    failure::{Failure, Step, Tried},
    oci::{Image, Pulled, Reference, Registry},
    shell::{Ran, Shell},
    standin::StandIn,
    storage::StorageEndpoint,
    tenancy::Tenancy,
};
use kube::Api;

use crate::{drain::Watched, made::Made};

/// An image that a scenario has pushed, or has put into another registry.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub image: Image,
    pub reference: Reference,
}

/// A bucket that a scenario works with.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    pub endpoint: StorageEndpoint,
    pub name: String,
}

/// The state of one scenario.
#[derive(cucumber::World)]
#[world(init = Self::without_lane)]
pub struct World {
    pub(crate) env: Arc<Environment>,
    /// Unique among all scenarios of all runs; names of made things end with it.
    pub(crate) id: String,
    pub(crate) shell: Shell,
    /// The project of the scenario, once there is one.
    pub(crate) project: Option<String>,
    pub(crate) user: Option<User>,
    pub(crate) images: BTreeMap<String, Known>,
    pub(crate) pulled: Option<Pulled>,
    pub(crate) ran: Option<Ran>,
    pub(crate) metrics: Option<Exposition>,
    pub(crate) bucket: Option<Bucket>,
    pub(crate) stand_in: Option<StandIn>,
    /// The generation of the Deployment of the registry when it was last looked at.
    pub(crate) generation: Option<i64>,
    /// The nodes' past, once a step began to watch it.
    pub(crate) watched: Option<Watched>,
    pub(crate) made: Vec<Made>,
    /// Whether the scenario may change what others share.
    may_disturb: bool,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "World({} in lane {})", self.id, self.env.lane)
    }
}

impl World {
    /// A World for one scenario in the lane of `env`; in a cluster of others, `disruptive` says whether the scenario may
    /// change what they share.
    ///
    /// # Errors
    /// When the scenario's private folder or kubeconfig cannot be made.
    pub async fn open(env: Arc<Environment>, disruptive: bool) -> Result<Self, Failure> {
        let id = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
        let folder = env.folder(&format!("scenario-{id}"))?;
        let kubeconfig = folder.join("kubeconfig");
        std::fs::copy(&env.kubeconfig, &kubeconfig).tried("copying the administrator's kubeconfig")?;
        let shell = Shell {
            folder: folder.clone(),
            tools: env.tools.clone(),
            kubeconfig,
            proxy: env.doorway.url(),
            trust: env.trust.clone(),
            variables: BTreeMap::new(),
        };
        let may_disturb = disruptive || matches!(env.tenancy, Tenancy::Own);
        Ok(Self {
            env,
            id,
            shell,
            project: None,
            user: None,
            images: BTreeMap::new(),
            pulled: None,
            ran: None,
            metrics: None,
            bucket: None,
            stand_in: None,
            generation: None,
            watched: None,
            made: vec![Made::Folder(folder)],
            may_disturb,
        })
    }

    async fn without_lane() -> Result<Self, Failure> {
        Err(Failure::error("making a World", "only a lane can: World::open is given its environment"))
    }

    /// The scenario's private folder.
    pub(crate) fn folder(&self) -> PathBuf {
        self.shell.folder.clone()
    }

    /// Whether the scenario may change what others share.
    pub(crate) fn may_disturb(&self) -> bool {
        self.may_disturb
    }

    /// Stops a scenario that is about to change what others share without saying so by its tag.
    pub(crate) fn disturbs(&self, what: &str) -> Step {
        if self.may_disturb {
            return Ok(());
        }
        Err(Failure::error(what, "others use this cluster, and the scenario is not tagged @disruptive")
            .next("tag the scenario @disruptive, and run it with --allow-disruption"))
    }

    pub(crate) fn configs(&self) -> Api<Config> {
        Api::all(self.env.client.clone())
    }

    /// An API for objects of the registry's namespace.
    pub(crate) fn in_registry_namespace<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.env.client.clone(), names::REGISTRY_NAMESPACE)
    }

    /// The registry under its documented name, as the administrator.
    pub(crate) fn registry(&self) -> Result<Registry, Failure> {
        let administrator = self.env.users.administrator().credentials();
        self.env.registry(names::REGISTRY_INTERNAL_HOST, administrator, Tls::Verified)
    }

    /// The registry under its documented name, as the scenario's user.
    pub(crate) fn registry_as_user(&self) -> Result<Registry, Failure> {
        self.env.registry(names::REGISTRY_INTERNAL_HOST, self.user()?.credentials(), Tls::Verified)
    }

    pub(crate) fn user(&self) -> Result<&User, Failure> {
        self.user.as_ref().ok_or_else(|| Failure::error("finding the scenario's user", "no step has made one"))
    }

    pub(crate) fn known(&self, name: &str) -> Result<&Known, Failure> {
        self.images
            .get(name)
            .ok_or_else(|| Failure::error("finding an image", format!("no step has made the image {name:?}")))
    }

    pub(crate) fn ran(&self) -> Result<&Ran, Failure> {
        self.ran.as_ref().ok_or_else(|| Failure::error("finding the last command", "no step has run one"))
    }

    pub(crate) fn bucket(&self) -> Result<&Bucket, Failure> {
        self.bucket.as_ref().ok_or_else(|| Failure::error("finding the bucket", "no step has made one"))
    }
}
