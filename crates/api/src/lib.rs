//! Kubernetes and OpenShift types that judge and judged share, and the names both sides must agree on.
//! Types only: every rule of behaviour belongs to the crate that keeps or checks it.
//!
//! Objects written by strangers survive a round trip: each open structure keeps the fields it does not name in
//! a `rest` map, and the schemas made from these types preserve unknown fields in the same places.

pub mod address;
pub mod condition;
pub mod config;
pub mod crds;
pub mod image;
pub mod imageregistry;
pub mod kind;
pub mod mirror;
pub mod names;
pub mod resources;
pub mod route;
mod schema;
pub mod volumes;

/// Fields an object carries that its type does not name; kept so that a read-modify-write loses nothing.
pub type Rest = std::collections::BTreeMap<String, serde_json::Value>;
