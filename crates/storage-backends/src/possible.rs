//! Whether a backend can run on this machine, seen before anything is started, so that scenarios that need it can be
//! reported as not run with the reason.

use std::process::{Command, Stdio};

use local_cluster::{Tool, npm, tool};

use crate::backend::Kind;
use crate::{Backend, ContainerRun, Program, Run, service_account};

/// Whether a backend can run here. `brought` are the images that archives will bring before it is started, where nothing may
/// be pulled; without it what is published can be.
///
/// An engine that does not answer is no reason: a target that needs one says so when it gets ready.
///
/// # Errors
/// What is missing, and what helps.
pub fn possible(backend: &Backend, brought: Option<&[String]>) -> Result<(), String> {
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
        Run::Container(run) => has_image(run, brought),
    }
}

fn has_image(run: &ContainerRun, brought: Option<&[String]>) -> Result<(), String> {
    let (archive, image) = (&run.archive, &run.image);
    match brought {
        Some(names) if names.contains(archive) => return Ok(()),
        None if run.published => return Ok(()),
        _ => {}
    }
    let engine = |args: &[&str]| {
        let output = Command::new("docker").args(args).stdin(Stdio::null()).output();
        output.is_ok_and(|output| output.status.success())
    };
    let here = |image: &str| engine(&["image", "inspect", "--format", "{{.Id}}", image]);
    if !engine(&["version", "--format", "{{.Server.Version}}"]) || here(archive) || here(image) {
        return Ok(());
    }
    if brought.is_some() {
        return Err(format!(
            "the archives of --images lack {archive}, and nothing is pulled beside them; make them again with ci/air-gap/build"
        ));
    }
    Err(format!(
        "the engine has neither {archive} nor {image}, which is no longer published; build the archive with ci/air-gap and load it with --images"
    ))
}
