//! The targets a system can run on. Each turns a request into lanes; what a scenario sees of them is one Environment.

use std::path::Path;

use harness::failure::{Failure, Tried as _};

pub mod cluster;
pub mod embedded;

mod image_files;
mod manifests;
mod pod_logs;
mod program;
mod seams;
mod startup;

fn make_folder(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path).tried(format!("making the folder {}", path.display()))
}
