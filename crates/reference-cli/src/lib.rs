//! The documented subset of the OpenShift client: command lines of the documents run verbatim and answer as `oc` does.
//! What is not documented is refused by name, never passed over.

mod apply;
mod command_line;
mod create;
mod debug;
mod delete;
mod edit;
mod exec;
mod extract;
mod failure;
mod get;
mod go_template;
mod import_image;
mod jsonpath;
mod kubeconfig;
mod login;
mod logs;
mod manifest;
mod migrate_icsp;
mod patch;
mod policy;
mod project;
mod prune;
mod resource;
mod rollout;
mod scale;
mod session;
mod table;
mod tag;
mod trust;
mod whoami;
mod workload;
mod yaml;

use failure::Failure;
use session::Session;
use std::ffi::OsString;

/// Every command, in the order in which help lists them.
const COMMANDS: &[command_line::Command] = &[
    login::COMMAND,
    whoami::COMMAND,
    project::SWITCH,
    project::NEW,
    get::COMMAND,
    patch::COMMAND,
    edit::COMMAND,
    create::FILES,
    create::SECRET_GENERIC,
    create::SECRET_TLS,
    create::CONFIG_MAP,
    create::NAMESPACE,
    create::SERVICE_ACCOUNT,
    apply::COMMAND,
    delete::COMMAND,
    logs::COMMAND,
    exec::EXEC,
    exec::RSH,
    debug::COMMAND,
    extract::SECRET_OR_CONFIG_MAP,
    scale::COMMAND,
    rollout::STATUS,
    tag::COMMAND,
    import_image::COMMAND,
    policy::ADD_ROLE_TO_USER,
    policy::REMOVE_ROLE_FROM_USER,
    policy::ADD_ROLE_TO_GROUP,
    policy::REMOVE_ROLE_FROM_GROUP,
    policy::ADM_ADD_ROLE_TO_USER,
    policy::ADM_REMOVE_ROLE_FROM_USER,
    policy::ADM_ADD_ROLE_TO_GROUP,
    policy::ADM_REMOVE_ROLE_FROM_GROUP,
    policy::ADD_CLUSTER_ROLE_TO_USER,
    policy::REMOVE_CLUSTER_ROLE_FROM_USER,
    policy::ADD_CLUSTER_ROLE_TO_GROUP,
    policy::REMOVE_CLUSTER_ROLE_FROM_GROUP,
    migrate_icsp::COMMAND,
    prune::COMMAND,
];

/// Runs one command line, `args[0]` being the program's name, and returns the exit status of `oc`.
///
/// Results go to standard output, everything else to standard error. The caller must have installed a crypto
/// provider for rustls. Tokens are printed only by `whoami -t`.
pub async fn main(args: Vec<OsString>) -> i32 {
    let end = match words(args) {
        Ok(words) => run(&words).await,
        Err(failure) => Err(failure),
    };
    match end {
        Ok(()) => 0,
        Err(failure) => {
            match &failure {
                Failure::Help(text) => print(text),
                Failure::Reported => {}
                other => eprintln!("{other}"),
            }
            failure.exit_code()
        }
    }
}

async fn run(words: &[String]) -> Result<(), Failure> {
    let (command, arguments) = command_line::parse(COMMANDS, words)?;
    if arguments.is_on("help") {
        return Err(Failure::Help(command.help()));
    }
    let session = Session::new(command, &arguments);
    (command.run)(&session, &arguments).await
}

fn words(args: Vec<OsString>) -> Result<Vec<String>, Failure> {
    args.into_iter()
        .skip(1)
        .map(|arg| arg.into_string().map_err(|arg| Failure::usage(format!("argument {arg:?} is not UTF-8"))))
        .collect()
}

/// Writes to standard output; a reader that went away is a normal end.
fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
