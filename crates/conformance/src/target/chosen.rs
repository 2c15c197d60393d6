//! The target that was chosen, one of several that differ in everything but their contract.

use std::{collections::BTreeSet, time::Duration};

use futures::future::LocalBoxFuture;
use harness::{evidence::Evidence, failure::Failure, plan::Capabilities, system::Limits};
use steps::World;

use super::{embedded::Embedded, installed::Installed, kind::Kind};
use crate::{
    images::RunImage,
    lane::{LaneOf, Request, Target, TargetName},
};

/// The targets there are; the first is the default.
pub const NAMES: [TargetName; 3] = [
    TargetName {
        name: "embedded",
        about: "control planes and pods as processes of this machine; no Docker, no root, no cluster",
        most_lanes: None,
    },
    TargetName {
        name: "kind",
        about: "a cluster of containers made by kind, storage products in containers beside it; needs Docker",
        most_lanes: Some(1),
    },
    TargetName {
        name: "cluster",
        about: "what the cluster of a kubeconfig has; nothing is installed, and what is changed is put back",
        most_lanes: Some(1),
    },
];

/// One of the targets.
pub enum Chosen {
    Embedded(Box<Embedded>),
    Kind(Box<Kind>),
    Cluster(Box<Installed>),
}

impl Chosen {
    /// The target that the request names. Nothing is started yet.
    ///
    /// # Errors
    /// When the request has what the target cannot do.
    pub fn new(request: Request) -> Result<Self, Failure> {
        request.place.check(&request.target)?;
        match request.target.as_str() {
            "cluster" => Installed::new(request).map(Box::new).map(Self::Cluster),
            "kind" => Kind::new(request).map(Box::new).map(Self::Kind),
            _ => Embedded::new(request).map(Box::new).map(Self::Embedded),
        }
    }

    fn any(&self) -> &dyn Target<World = World> {
        match self {
            Self::Embedded(target) => target.as_ref(),
            Self::Kind(target) => target.as_ref(),
            Self::Cluster(target) => target.as_ref(),
        }
    }
}

impl Target for Chosen {
    type World = World;

    fn capabilities(&self) -> Capabilities {
        self.any().capabilities()
    }

    fn images(&self, needs: &BTreeSet<String>) -> Result<Vec<RunImage>, Failure> {
        self.any().images(needs)
    }

    fn start_limit(&self, limits: &Limits) -> Duration {
        self.any().start_limit(limits)
    }

    fn close_limit(&self, limits: &Limits) -> Duration {
        self.any().close_limit(limits)
    }

    fn faults(&self) -> Result<(), Failure> {
        self.any().faults()
    }

    fn prepare<'a>(&'a self, progress: &'a dyn Fn(&str)) -> LocalBoxFuture<'a, Result<(), Failure>> {
        self.any().prepare(progress)
    }

    fn open(
        &self,
        lane: usize,
        needs: BTreeSet<String>,
        evidence: Evidence,
    ) -> LocalBoxFuture<'_, Result<LaneOf<Self>, Failure>> {
        self.any().open(lane, needs, evidence)
    }
}
