//! Whether a backend can run on this machine, seen before anything is started, so that scenarios that need it can be
//! reported as not run with the reason.

use std::process::{Command, Stdio};

use local_cluster::{Tool, npm, tool};

use crate::backend::Kind;
use crate::{Backend, ContainerRun, Program, Run, service_account};

/// Whether a backend can run here.
///
/// # Errors
/// What is missing, and what helps.
pub fn possible(backend: &Backend) -> Result<(), String> {
    if backend.kind == Kind::Gcs {
        service_account::can_be_made()?;
    }
    match backend.run() {
        Run::Process(Program::Versitygw) | Run::Endpoint(_) => Ok(()),
        Run::Process(Program::FakeGcsServer) => {
            let at_hand = tool::at_hand(Tool::FakeGcsServer, &mut Vec::new()).is_some();
            let go = Command::new("go").arg("version").stdin(Stdio::null()).output();
            let can_be_built = go.is_ok_and(|go| go.status.success());
            let why = "fake-gcs-server is not there and cannot be built; install Go or put it into PATH";
            (at_hand || can_be_built).then_some(()).ok_or_else(|| why.to_owned())
        }
        Run::Process(Program::Azurite) => npm::can_be_had().map_err(|why| format!("Azurite needs Node and npm: {why}")),
        Run::Container(run) => has_image(run),
    }
}

fn has_image(run: &ContainerRun) -> Result<(), String> {
    let engine = |args: &[&str]| {
        let output = Command::new("docker").args(args).stdin(Stdio::null()).output();
        output.map_err(|error| format!("docker cannot be run: {error}"))
    };
    let answer = engine(&["version", "--format", "{{.Server.Version}}"])?;
    if !answer.status.success() {
        return Err(format!("no container engine answers: {}", String::from_utf8_lossy(&answer.stderr).trim()));
    }
    let here =
        |image: &str| engine(&["image", "inspect", "--format", "{{.Id}}", image]).map(|seen| seen.status.success());
    if run.published || here(&run.archive)? || here(&run.image)? {
        return Ok(());
    }
    let (archive, image) = (&run.archive, &run.image);
    Err(format!(
        "the engine has neither {archive} nor {image}, which is no longer published; build the archive with ci/air-gap and load it with --images"
    ))
}
