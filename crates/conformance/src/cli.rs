//! The command line: what can be asked and with which flags. Each command stands in its own file.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    catalog, cluster, compare, data::Data, doctor, exit, lane::Wiring, place::Place, plan, prove, report, results, run,
    steps, stop::Stop,
};

/// Judges an OpenShift image registry by its documentation.
#[derive(Debug, Parser)]
#[command(
    name = "registry-conformance",
    version,
    about = "Takes the OpenShift image-registry documentation as a contract and judges a real operator, registry and node agent by it",
    after_help = "Exit codes: 0 everything selected passed; 1 a documented promise was broken; 2 it could not be judged.\n\nExamples:\n  registry-conformance run\n  registry-conformance run --select '@storage and not @STO-S3-SECRET' --lanes 2\n  registry-conformance prove --select @operator\n  registry-conformance report latest"
)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenarios and give verdicts
    #[command(
        after_help = "Examples:\n  registry-conformance run --select '@STO-S3-SECRET or @mirroring'\n  registry-conformance run --select features/storage/s3.feature:12 --keep\n  registry-conformance run --select 'name~\"token logs in\"' --seed 7"
    )]
    Run(Options),
    /// Show that the suite can fail: switch every fault on and want red
    #[command(
        after_help = "Examples:\n  registry-conformance prove\n  registry-conformance prove --fault operator-ignores-readonly --collateral all"
    )]
    Prove(ProveOptions),
    /// Show what would run, where, and why the rest would not
    #[command(
        after_help = "Examples:\n  registry-conformance plan --select @access --lanes 2 --format json\n  registry-conformance plan --target kind --images"
    )]
    Plan(PlanOptions),
    /// Show how much of the documents is covered, or check that everything fits together
    #[command(
        after_help = "Examples:\n  registry-conformance catalog --docs-version 4.6\n  registry-conformance catalog --format json\n  registry-conformance catalog check"
    )]
    Catalog(CatalogOptions),
    /// Print the report of an earlier run again, from its events
    #[command(
        after_help = "Examples:\n  registry-conformance report latest\n  registry-conformance report latest --format junit"
    )]
    Report(ReportOptions),
    /// Show how two runs differ, requirement by requirement
    #[command(
        after_help = "Exit codes: 0 the same verdicts, but for what one of two targets cannot run; 1 they differ; 2 it could not be compared.\n\nExamples:\n  registry-conformance compare latest 20260131-142501-embedded-reference-1a2b\n  registry-conformance compare runs/a runs/b --format yaml"
    )]
    Compare(CompareOptions),
    /// Say what this machine has and lacks, and how to get it
    Doctor,
    /// Start, end or look at an embedded cluster by hand
    #[command(
        after_help = "Example:\n  registry-conformance cluster up &\n  kubectl --kubeconfig $(registry-conformance cluster kubeconfig) get nodes\n  registry-conformance cluster down"
    )]
    Cluster(ClusterOptions),
    /// List every step that scenarios can use
    #[command(after_help = "Example:\n  registry-conformance steps --format json")]
    Steps(StepsOptions),
}

/// What to judge, where, and what of it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Where to run [default: embedded]
    #[arg(long, env = "CONFORMANCE_TARGET", value_name = "NAME")]
    pub target: Option<String>,
    /// What to judge: a file of systems/ by its name
    #[arg(long, env = "CONFORMANCE_SYSTEM", default_value = "reference", value_name = "NAME")]
    pub system: String,
    /// The folder with the programs of the system's components, for systems that come as programs
    #[arg(long, env = "CONFORMANCE_BIN_DIR", value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
    /// Tag expression; requirement ids, FILE:LINE and name~"pattern" are tags too. Several are joined by `or`
    #[arg(long, env = "CONFORMANCE_SELECT", value_name = "EXPRESSION")]
    pub select: Vec<String>,
    /// Only what this documentation version states, like 4.6; can be given several times
    #[arg(long = "docs-version", env = "CONFORMANCE_DOCS_VERSION", value_name = "VERSION", value_delimiter = ',')]
    pub docs_versions: Vec<String>,
    /// How many control planes side by side [default: one per two cores, two at most]
    #[arg(long, env = "CONFORMANCE_LANES", value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub lanes: Option<u8>,
    /// Shuffle the order; the same seed gives the same order
    #[arg(long, env = "CONFORMANCE_SEED", value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// Where results are written
    #[arg(long, env = "CONFORMANCE_OUT", default_value = results::FOLDER, value_name = "DIR")]
    pub out: PathBuf,
    /// After a failure leave everything running and say how to look at it
    #[arg(long, env = "CONFORMANCE_KEEP", value_parser = clap::builder::FalseyValueParser::new())]
    pub keep: bool,
    /// Also let known deviations of the system make exit code 1
    #[arg(long, env = "CONFORMANCE_STRICT", value_parser = clap::builder::FalseyValueParser::new())]
    pub strict: bool,
    /// The folder with features/, requirements/, systems/ and the others [default: the repository, else built-in copies]
    #[arg(long, env = "CONFORMANCE_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub place: Place,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ProveOptions {
    #[command(flatten)]
    pub options: Options,
    /// Only this fault; can be given several times
    #[arg(long = "fault", env = "CONFORMANCE_FAULT", value_name = "ID", value_delimiter = ',')]
    pub faults: Vec<String>,
    /// What else to run under each fault, to see what turns red beside what should
    #[arg(long, env = "CONFORMANCE_COLLATERAL", value_enum, default_value_t = Collateral::Feature)]
    pub collateral: Collateral,
}

/// The control group of a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Collateral {
    /// Nothing else
    None,
    /// The other scenarios of the same feature file
    Feature,
    /// The other scenarios of the same subject
    Subject,
    /// Everything
    All,
}

#[derive(Debug, Clone, Args)]
#[command(mut_arg("images", |argument| argument.num_args(0..=1).default_missing_value(plan::LIST).help(
    "List the images that the run would need instead; with DIR, plan for a run that loads its images from there",
)))]
pub(crate) struct PlanOptions {
    #[command(flatten)]
    pub options: Options,
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub format: Form,
}

/// A form for people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    Text,
    Json,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CatalogOptions {
    #[command(subcommand)]
    pub action: Option<CatalogAction>,
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub format: Form,
    /// Only what this documentation version states
    #[arg(long = "docs-version", env = "CONFORMANCE_DOCS_VERSION", value_name = "VERSION", value_delimiter = ',')]
    pub docs_versions: Vec<String>,
    /// The folder with features/, requirements/, systems/ and the others
    #[arg(long, env = "CONFORMANCE_DATA", value_name = "DIR", global = true)]
    pub data: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(crate) enum CatalogAction {
    /// Check that requirements, scenarios, steps, faults and systems fit together
    Check,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ReportOptions {
    /// The run: its folder, its id, or `latest`
    pub run: String,
    #[arg(long, value_enum, default_value_t = ReportForm::Text)]
    pub format: ReportForm,
    /// Where results were written
    #[arg(long, env = "CONFORMANCE_OUT", default_value = results::FOLDER, value_name = "DIR")]
    pub out: PathBuf,
    /// Also let known deviations of the system make exit code 1
    #[arg(long, env = "CONFORMANCE_STRICT", value_parser = clap::builder::FalseyValueParser::new())]
    pub strict: bool,
}

/// The forms of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportForm {
    Text,
    Yaml,
    Json,
    Junit,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CompareOptions {
    /// One run: its folder, its id, or `latest`
    pub before: String,
    /// The other run
    pub after: String,
    #[arg(long, value_enum, default_value_t = CompareForm::Text)]
    pub format: CompareForm,
    /// Also show what is the same
    #[arg(long, env = "CONFORMANCE_ALL", value_parser = clap::builder::FalseyValueParser::new())]
    pub all: bool,
    /// Where results were written
    #[arg(long, env = "CONFORMANCE_OUT", default_value = results::FOLDER, value_name = "DIR")]
    pub out: PathBuf,
}

/// The forms of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompareForm {
    Text,
    Yaml,
    Json,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterOptions {
    #[command(subcommand)]
    pub action: ClusterCommand,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Start a cluster and stay until Ctrl-C or `cluster down`
    Up(ClusterUp),
    /// End a cluster that `up` started
    Down(ClusterName),
    /// Print the path of a cluster's kubeconfig
    Kubeconfig(ClusterName),
    /// Remove what killed runs left behind, and put back what they changed in clusters of others
    Gc,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct ClusterUp {
    #[command(flatten)]
    pub name: ClusterName,
    /// Install this system in it: a file of systems/ by its name
    #[arg(long, value_name = "NAME")]
    pub system: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct ClusterName {
    /// Which one
    #[arg(default_value = "default")]
    pub name: String,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct StepsOptions {
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub format: Form,
}

/// Parses `args` (the program's name first) and does what they ask. It needs a tokio runtime.
pub async fn main<W: Wiring>(args: Vec<OsString>, wiring: Arc<W>) -> ExitCode {
    let command = match CommandLine::try_parse_from(args) {
        Ok(line) => line.command,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match dispatch(command, wiring).await {
        Ok(exit) => exit::code(exit),
        Err(error) => exit::refused(&error),
    }
}

async fn dispatch<W: Wiring>(command: Command, wiring: Arc<W>) -> anyhow::Result<exit::Exit> {
    let stop = Stop::default();
    let signals = || stop.on_signals().context("watching for Ctrl-C and SIGTERM");
    match command {
        Command::Run(options) => {
            signals()?;
            run::command(wiring.as_ref(), &options, &stop).await
        }
        Command::Prove(options) => {
            signals()?;
            prove::command(wiring.as_ref(), &options, &stop).await
        }
        Command::Plan(options) => plan::command(wiring.as_ref(), &options),
        Command::Catalog(options) => {
            let data = Data::find(options.data.as_deref())?;
            catalog::command::<W::World>(&data, &options)
        }
        Command::Report(options) => report::command(&options),
        Command::Compare(options) => compare::command(&options),
        Command::Doctor => doctor::command(wiring.as_ref()).await,
        Command::Cluster(options) => {
            signals()?;
            cluster::command(wiring.as_ref(), options.action, stop.clone()).await
        }
        Command::Steps(options) => steps::command::<W::World>(options.format),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_flag_of_run_has_an_environment_variable() {
        let command = CommandLine::command();
        let run = command.find_subcommand("run").unwrap();
        for argument in run.get_arguments().filter(|argument| argument.get_id() != "help") {
            let variable = argument.get_env().unwrap_or_else(|| panic!("--{} has no variable", argument.get_id()));
            assert!(variable.to_string_lossy().starts_with("CONFORMANCE_"));
        }
    }
}
