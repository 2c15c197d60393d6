//! The targets a system can run on. Each turns a request into lanes; what a scenario sees of them is one Environment.

use std::path::Path;

use harness::failure::{Failure, Tried as _};
use local_cluster::secret_file;

pub mod cluster;
pub mod embedded;

mod image_files;
mod manifests;
mod pod_logs;
mod program;
mod seams;
mod startup;

/// A folder that only this user can enter: keys and tokens of a lane lie below it.
fn make_folder(path: &Path) -> Result<(), Failure> {
    secret_file::make_private_folder(path).tried("making a folder of a lane")
}
