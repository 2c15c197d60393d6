//! A real Kubernetes control plane as child processes of this one: etcd, kube-apiserver, kube-controller-manager and kube-scheduler.
//! It finds or builds the programs, makes every certificate, leases addresses that collide with nobody, and leaves nothing behind.

pub mod cache;
mod checksum;
pub mod containers;
pub mod control_plane;
pub mod doctor;
pub mod download;
mod error;
mod flags;
mod forward;
pub mod go_build;
pub mod kubeconfig;
pub mod ledger;
pub mod network;
pub mod npm;
pub mod pki;
pub mod port;
pub mod process;
mod readiness;
pub mod secret_file;
pub mod tool;
pub mod user;

pub use control_plane::{ControlPlane, ControlPlaneOptions};
pub use error::{Error, chain};
pub use ledger::Ledger;
pub use network::PodNetwork;
pub use process::{Child, ChildOptions, Exit, ReadyLine};
pub use tool::{Tool, Tools};
pub use user::User;
