//! Where nodes have the folder that all of them share, in which the volumes of claims lie.
//! Who makes nodes puts one there; who provisions volumes leads pods to it.

/// The shared folder, as every node sees it. A choice of this project; OpenShift leaves volumes to storage products.
pub const ON_NODES: &str = "/var/registry-conformance/volumes";
