//! The vocabulary of the features: the World a scenario lives in and its steps, a noun per file. A step translates a
//! sentence into one call and compares; waiting, wire and shell belong to the harness.

mod access;
mod command;
mod drain;
mod image;
mod kubelet;
mod made;
mod metrics;
mod mirror;
mod node;
mod operator;
mod project;
mod pruner;
mod registry;
mod route;
mod storage;
mod trust;
mod world;

pub use made::Leak;
pub use operator::{is_serving, reset};
pub use world::World;
