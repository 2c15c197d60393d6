//! `config.openshift.io`: what a cluster says about itself and how its administrators configure it.
//! One file per kind; mirror sets, though of the same group, have their own module.

mod api_server;
mod cluster_operator;
mod cluster_version;
mod dns;
mod feature_gate;
mod image;
mod infrastructure;
mod ingress;
mod proxy;

pub use api_server::{APIServer, APIServerSpec};
pub use cluster_operator::{
    ClusterOperator, ClusterOperatorSpec, ClusterOperatorStatus, ObjectReference, OperandVersion,
};
pub use cluster_version::{ClusterVersion, ClusterVersionSpec, ClusterVersionStatus, Release, UpdateHistory};
pub use dns::{Dns, DnsSpec};
pub use feature_gate::{FeatureGate, FeatureGateDetails, FeatureGateSpec, FeatureGateStatus, FeatureName};
pub use image::{ConfigMapName, ImageConfig, ImageConfigSpec, ImageConfigStatus, RegistryLocation, RegistrySources};
pub use infrastructure::{Infrastructure, InfrastructureSpec, InfrastructureStatus, PlatformStatus};
pub use ingress::{Ingress, IngressSpec};
pub use proxy::{Proxy, ProxySpec, ProxyStatus};
