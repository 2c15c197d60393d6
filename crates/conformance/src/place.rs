//! Where a run takes place beyond the target's name: which cluster, from which files, and what may happen to it.
//! Each target reads what concerns it and refuses what does not.

use std::path::PathBuf;

use clap::Args;

/// The flags about the place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Place {
    /// Target kind: use this running cluster instead of making one; it stays
    #[arg(long, env = "CONFORMANCE_CLUSTER", value_name = "NAME")]
    pub cluster: Option<String>,
    /// Target kind: load images from the archives in this folder and pull none
    #[arg(long, env = "CONFORMANCE_IMAGES", value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Target kind: a file of kind-config/ by its name [default: default]
    #[arg(long, env = "CONFORMANCE_KIND_CONFIG", value_name = "NAME")]
    pub kind_config: Option<String>,
}
