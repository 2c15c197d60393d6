//! harness.
pub mod doorway;
pub mod exposition;
pub mod failure;
pub mod mirrors;
pub mod oci;
pub mod shell;
pub mod standin;
pub mod storage;
pub mod trust;
pub mod wait;
