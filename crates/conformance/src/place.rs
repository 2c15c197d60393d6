//! Where a run takes place beyond the target's name: which cluster, from which files, and what may happen to it.
//! Each flag concerns one target and is refused with any other.

use std::path::PathBuf;

use clap::Args;
use harness::failure::Failure;

/// The flags about the place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Place {
    /// Target kind: use this running cluster instead of making one; it is as before afterwards
    #[arg(long, env = "CONFORMANCE_CLUSTER", value_name = "NAME")]
    pub cluster: Option<String>,
    /// Target kind: load images from the archives in this folder and pull none
    #[arg(long, env = "CONFORMANCE_IMAGES", value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Target kind: a file of kind-config/ by its name [default: default]
    #[arg(long, env = "CONFORMANCE_KIND_CONFIG", value_name = "NAME")]
    pub kind_config: Option<String>,
    /// Target cluster: the way to the cluster, as one of its administrators
    #[arg(long, env = "CONFORMANCE_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Target cluster: also run scenarios that disturb those who use it; what they change is put back
    #[arg(long, env = "CONFORMANCE_ALLOW_DISRUPTION", value_parser = clap::builder::FalseyValueParser::new())]
    pub allow_disruption: bool,
    /// Target cluster: where traffic to its routes enters [default: where their names lead]
    #[arg(long, env = "CONFORMANCE_ROUTER", value_name = "HOST:PORT")]
    pub router: Option<String>,
}

impl Place {
    /// Looks whether every flag that was given concerns the target.
    ///
    /// # Errors
    /// For the first one that does not.
    pub fn check(&self, target: &str) -> Result<(), Failure> {
        let flags = [
            ("--cluster", "kind", self.cluster.is_some()),
            ("--images", "kind", self.images.is_some()),
            ("--kind-config", "kind", self.kind_config.is_some()),
            ("--kubeconfig", "cluster", self.kubeconfig.is_some()),
            ("--allow-disruption", "cluster", self.allow_disruption),
            ("--router", "cluster", self.router.is_some()),
        ];
        match flags.iter().find(|(_, whose, given)| *given && *whose != target) {
            None => Ok(()),
            Some((flag, whose, _)) => {
                Err(Failure::error(format!("using target {target}"), format!("{flag} is for target {whose}"))
                    .next(format!("add --target {whose}, or leave {flag} out")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_of_another_target_is_refused() {
        let place = Place { allow_disruption: true, ..Default::default() };
        assert!(place.check("cluster").is_ok());
        assert!(place.check("embedded").unwrap_err().text().contains("--allow-disruption is for target cluster"));
        assert!(Place::default().check("embedded").is_ok());
    }
}
