//! What the registry and other clients rely on, each fact as a test against a real control plane: the shapes the
//! registry needs, how its failures come about, and how a Kubernetes resource behaves.

mod access;
mod import;
mod look;
mod push;
mod resource;
mod stage;
mod survival;
mod tags;
