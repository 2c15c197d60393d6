//! Exit codes: 0 all selected requirements pass, 1 at least one Fail, 2 the harness could not do its job.

use std::process::ExitCode;

pub use harness::verdict::Exit;

use crate::output;

/// The exit code of a command that ended in this way.
pub fn code(exit: Exit) -> ExitCode {
    ExitCode::from(exit.code())
}

/// The exit code of a command that could not be carried out, after saying why on standard error.
pub fn refused(error: &anyhow::Error) -> ExitCode {
    output::tell(&format!("error: {}", sentence(error)));
    code(Exit::Unjudged)
}

/// An error with its causes, without repeating a cause that the error already names.
fn sentence(error: &anyhow::Error) -> String {
    let mut out = String::new();
    for cause in error.chain() {
        let text = match cause.downcast_ref::<harness::failure::Failure>() {
            Some(failure) => failure.text(),
            None => cause.to_string(),
        };
        if !out.contains(&text) {
            if !out.is_empty() {
                out.push_str(": ");
            }
            out.push_str(&text);
        }
    }
    out
}
