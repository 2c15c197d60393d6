//! The harness: what is asked for, what will run, what happened and what it came to. It knows no cucumber, no Docker
//! and no reference system; targets, steps and the command line are built on it.

pub mod check;
pub mod component;
pub mod coverage;
pub mod datafile;
pub mod doorway;
pub mod environment;
pub mod event;
pub mod evidence;
pub mod exposition;
pub mod failure;
pub mod fault;
pub mod limit;
pub mod mirrors;
pub mod nearest;
pub mod oci;
pub mod plan;
pub mod proof;
pub mod redact;
pub mod report;
pub mod requirement;
pub mod scenario;
pub mod selection;
pub mod shell;
pub mod standin;
pub mod storage;
pub mod suite;
pub mod system;
pub mod tenancy;
pub mod trust;
pub mod verdict;
pub mod wait;
