//! What the runner needs of a target: how a lane is opened, gives a scenario its World, is cleaned after it, made bad
//! by a fault, and closed. Targets implement it; the runner knows nothing else of them.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use futures::future::LocalBoxFuture;
use harness::{
    datafile::DataFile,
    evidence::Evidence,
    failure::Failure,
    fault::FaultEntry,
    plan::Capabilities,
    scenario::Scenario,
    system::{Limits, System},
    verdict::Verdict,
};

use crate::{binaries::Binaries, data::Data, images::RunImage, place::Place, stop::Stop};

/// A place where systems run: it opens lanes, each with its own control plane. It is shared by the lanes' threads.
pub trait Target: Send + Sync + 'static {
    /// What steps work on.
    type World: 'static;

    /// What can be done here. It is asked before the plan is made, so it may look at the machine but start nothing.
    fn capabilities(&self) -> Capabilities;

    /// The images that a run needs whose scenarios have these needs (`backend-s3`); none where nothing runs from images.
    ///
    /// # Errors
    /// When a file that names images is wrong.
    fn images(&self, needs: &BTreeSet<String>) -> Result<Vec<RunImage>, Failure> {
        let _ = needs;
        Ok(vec![])
    }

    /// How long a lane may take to open; the system's `start` unless the target needs longer for itself.
    fn start_limit(&self, limits: &Limits) -> Duration {
        limits.start
    }

    /// How long a lane may take to end after everything in it has been asked to.
    fn close_limit(&self, _: &Limits) -> Duration {
        Duration::from_secs(30)
    }

    /// Whether faults can be switched on in the lanes of this target.
    ///
    /// # Errors
    /// Why they cannot.
    fn faults(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Gets ready what all lanes share and may take long, like building binaries. No deadline applies; `progress`
    /// shows a line to the user.
    fn prepare<'a>(&'a self, progress: &'a dyn Fn(&str)) -> LocalBoxFuture<'a, Result<(), Failure>>;

    /// Starts the environment of a lane, numbered from 1, and the system in it. It is called on the lane's own thread,
    /// which lives until the lane is closed. The limit is [`Target::start_limit`]. `needs` (`backend-s3`) are those of the
    /// scenarios that will run in it first: what takes its time can be got ready ahead.
    fn open(
        &self,
        lane: usize,
        needs: BTreeSet<String>,
        evidence: Evidence,
    ) -> LocalBoxFuture<'_, Result<LaneOf<Self>, Failure>>;
}

/// An opened lane of a target.
pub type LaneOf<T> = Box<dyn Lane<<T as Target>::World>>;

/// One environment in which scenarios run one after the other.
pub trait Lane<W> {
    /// The World of a scenario. It owns nothing that outlives it but what [`Lane::after`] removes.
    fn world<'a>(&'a self, scenario: &'a Scenario) -> LocalBoxFuture<'a, Result<W, Failure>>;

    /// Removes what the scenario made and says what could not be removed. It also runs when a step panicked, hung or
    /// was interrupted, so the World may be half-way through something. The limit is the system's `cleanup`.
    fn after<'a>(&'a self, world: &'a mut W, verdict: Verdict) -> LocalBoxFuture<'a, Result<Vec<Leak>, Failure>>;

    /// The last log lines of a component, for the report of a failure.
    fn logs<'a>(&'a self, component: &'a str, lines: usize) -> LocalBoxFuture<'a, Vec<String>>;

    /// Resolves when a component of the system turns out to be unable to run at all, which is no fault of the system's
    /// behaviour; never where nobody watches for it. What was going on then is given up as an Error.
    fn broken(&self) -> LocalBoxFuture<'_, Failure> {
        Box::pin(std::future::pending())
    }

    /// Switches a fault on. It holds until [`Lane::clear_faults`].
    fn set_fault<'a>(&'a self, fault: &'a FaultFile) -> LocalBoxFuture<'a, Result<(), Failure>>;

    /// Switches all faults off and waits until the system is good again.
    fn clear_faults(&self) -> LocalBoxFuture<'_, Result<(), Failure>>;

    /// How a person looks at this lane while it is kept: commands, one a line.
    fn how_to_look(&self) -> Vec<String>;

    /// Ends everything that [`Target::open`] started, in reverse order.
    fn close(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), Failure>>;
}

/// Something a scenario made that is still there after its clean-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    /// Like `ImageStream` or `bucket`.
    pub kind: String,
    pub name: String,
}

/// A fault and the file it is written in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultFile {
    pub entry: FaultEntry,
    pub file: DataFile,
}

/// What is known of a target before one is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetName {
    /// As `--target` calls it.
    pub name: &'static str,
    /// In one line.
    pub about: &'static str,
    /// How many lanes it can have at most; as many as wanted when absent.
    pub most_lanes: Option<usize>,
}

/// What a target is made for.
#[derive(Debug, Clone)]
pub struct Request {
    /// One of [`Wiring::targets`].
    pub target: String,
    pub system: System,
    /// The programs of the system's components.
    pub binaries: Binaries,
    pub data: Data,
    /// The folder of this run; everything the target writes lies below it.
    pub folder: PathBuf,
    /// Whether what runs is kept after a failure.
    pub keep: bool,
    /// Which cluster, from which files.
    pub place: Place,
}

/// What the command line needs from its binary: the vocabulary's World and the targets.
pub trait Wiring: Send + Sync + 'static {
    type World: cucumber::World + cucumber::codegen::WorldInventory + std::fmt::Debug + 'static;
    type Target: Target<World = Self::World>;

    /// The targets there are; the first is the default.
    fn targets(&self) -> Vec<TargetName>;

    /// Makes a target. Nothing is started yet.
    ///
    /// # Errors
    /// When the request cannot be met, such as a kubeconfig that does not exist.
    fn target(&self, request: Request) -> Result<Self::Target, Failure>;

    /// What the machine has and lacks.
    fn doctor(&self) -> LocalBoxFuture<'_, Vec<Checked>>;

    /// `cluster up|down|kubeconfig|gc`; the text is for standard output. `up` returns when the cluster is ready and
    /// has been told to `stop`, or at once when it goes on by itself.
    fn cluster(&self, action: ClusterAction, stop: Stop) -> LocalBoxFuture<'_, Result<String, Failure>>;
}

/// One thing that `doctor` looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub what: String,
    /// What was found, or what is missing.
    pub found: Result<String, String>,
    /// How to get it.
    pub remedy: Option<String>,
    /// Whether a run is impossible without it.
    pub required: bool,
}

/// What to do with a cluster by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterAction {
    /// Start one, install a system in it if one is named, and stay until told to stop.
    Up { name: String, system: Option<String> },
    /// End one.
    Down { name: String },
    /// Print the path of its kubeconfig.
    Kubeconfig { name: String },
    /// Remove what killed runs left.
    Gc,
}
