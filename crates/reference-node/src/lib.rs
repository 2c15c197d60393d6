//! The reference node agent: mirror objects become the node's registries.conf (and containerd's hosts.toml), and registry
//! certificates become trust folders. Reads the API and writes files of one node; knows nothing of who checks them.

pub mod agent;
pub mod ca;
pub mod containerd_hosts;
pub mod disruption;
mod folder_watch;
pub mod mirror_order;
pub mod mirror_rules;
pub mod node_file;
pub mod policy_json;
pub mod registries_conf;
pub mod scope;
