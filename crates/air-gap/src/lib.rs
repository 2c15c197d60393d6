//! Everything that a kind cluster and its emulators need, made without pulling an image: from packages of a distribution, pinned
//! modules and our own programs. Also the engine that runs it, where a machine has one installed but not started.

mod collection;
mod distribution;
mod emulators;
pub mod engine;
mod error;
mod node_image;
mod pod_images;
mod program;
mod store;

pub use collection::{Collection, Entry, IMAGES_FILE};
pub use distribution::Distribution;
pub use error::Error;
pub use program::Program;
pub use store::Store;

use std::path::{Path, PathBuf};
use std::time::Instant;

use local_cluster::npm;
use local_cluster::tool::{self, Tool};

/// Name of the node image, without its tag.
pub const NODE_IMAGE: &str = "registry-conformance.local/kind-node";

/// What is made.
#[derive(Clone, Debug)]
pub struct Order {
    /// Where the archives and their list go.
    pub out: PathBuf,
    /// Our program for nodes (`kind-node`).
    pub helper: PathBuf,
    /// Names of groups; all when empty.
    pub only: Vec<Group>,
}

/// What can be made on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Group {
    /// The image of kind's nodes, with all that runs in them.
    Node,
    /// The balancer of clusters with several control planes.
    Balancer,
    /// MinIO.
    Minio,
    /// The emulator of Google's storage.
    FakeGcs,
    /// The emulator of Azure's storage.
    Azurite,
}

impl Group {
    /// Every group.
    pub const ALL: [Group; 5] = [Group::Node, Group::Balancer, Group::Minio, Group::FakeGcs, Group::Azurite];

    /// Programs that have to be built first.
    fn tools(self) -> &'static [Tool] {
        match self {
            Group::Node => &[
                Tool::EtcD,
                Tool::KubeApiserver,
                Tool::KubeControllerManager,
                Tool::KubeScheduler,
                Tool::Kubeadm,
                Tool::Kubectl,
                Tool::Kubelet,
                Tool::KubeProxy,
                Tool::CoreDns,
                Tool::LocalPathProvisioner,
            ],
            Group::Minio => &[Tool::Minio],
            Group::FakeGcs => &[Tool::FakeGcsServer],
            Group::Balancer | Group::Azurite => &[],
        }
    }
}

/// Makes archives and writes their list. What is in the cache is not made again; two processes that need the same wait for
/// each other.
///
/// # Errors
/// [`Error`] for the first thing that cannot be had; what was finished before stays in the cache.
pub async fn build(order: &Order, progress: impl Fn(&str)) -> Result<Collection, Error> {
    let groups: &[Group] = if order.only.is_empty() { &Group::ALL } else { &order.only };
    let store = Store::open(&local_cluster::cache::folder().join("images"), &progress)?;
    let helper = Program::of(&order.helper)?;
    // The packages come over the network while the compiler has both cores.
    let distribution = {
        let store = store.clone();
        tokio::task::spawn_blocking(move || Distribution::obtain(&store))
    };
    let began = Instant::now();
    let wanted: Vec<Tool> = groups.iter().flat_map(|group| group.tools()).copied().collect();
    let tools = tool::locate_pinned(&wanted, &progress).await?;
    progress(&format!("{} programs after {:.1} s", wanted.len(), began.elapsed().as_secs_f64()));
    let azurite = match groups.contains(&Group::Azurite) {
        true => Some(npm::obtain(&npm::AZURITE, &progress).await?),
        false => None,
    };
    let distribution = distribution.await.map_err(|error| Error::Interrupted(error.to_string()))??;
    progress(&format!("the distribution's layers after {:.1} s", began.elapsed().as_secs_f64()));
    let mut collection = Collection::new(&order.out)?;
    for group in groups {
        let began = Instant::now();
        let made = match (group, &azurite) {
            (Group::Node, _) => node_image::archive(&store, &distribution, &tools, &helper)?,
            (Group::Balancer, _) => pod_images::balancer(&store, &distribution, &helper)?,
            (Group::Minio, _) => emulators::minio(&store, &tools)?,
            (Group::FakeGcs, _) => emulators::fake_gcs(&store, &tools)?,
            (Group::Azurite, Some(script)) => emulators::azurite(&store, &distribution, script)?,
            (Group::Azurite, None) => continue,
        };
        collection.add(&made)?;
        let seconds = began.elapsed().as_secs_f64();
        progress(&format!("{}: {} in {seconds:.1} s", made.display(), megabytes(&made)));
    }
    collection.save()?;
    Ok(collection)
}

fn megabytes(path: &Path) -> String {
    std::fs::metadata(path).map(|data| format!("{} MB", data.len() / 1_000_000)).unwrap_or_default()
}
