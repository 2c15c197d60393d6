//! The command line of registry-conformance and the glue to cucumber: it finds the data, makes the plan, runs the lanes
//! and writes the reports. What is judged and how is left to the harness, steps and targets.

// Standard output and standard error have one place, `output`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod binaries;
pub mod cli;
pub mod component;
pub mod data;
pub mod executable;
pub mod exit;
pub mod images;
pub mod lane;
pub mod libtest;
pub mod manifest;
pub mod output;
pub mod parser;
pub mod place;
pub mod runner;
pub mod stop;
pub mod target;
pub mod vocabulary;
pub mod wiring;

mod catalog;
mod cluster;
mod compare;
mod cucumber_events;
mod doctor;
mod panics;
mod plan;
mod progress;
mod prove;
mod report;
mod results;
mod run;
mod session;
mod steps;
