//! The suite as a test target: the part of libtest's command line that cargo, nextest and editors use. A scenario is a
//! test; the rest is chosen by the same environment variables as the flags of `run`.

use std::{ffi::OsString, fmt::Write as _, process::ExitCode, sync::Arc};

use clap::{Args as _, FromArgMatches as _, Parser};
use harness::{
    report::{Report, ScenarioReport, terminal},
    selection::Selection,
    verdict::{Exit, Verdict},
};

use crate::{
    cli::Options, data::Data, exit, lane::Wiring, output, plan::Prepared, progress::Progress, run, stop::Stop,
};

/// The flags of a libtest binary, as far as they mean something here.
#[derive(Debug, Parser)]
#[command(name = "conformance", disable_version_flag = true)]
struct Flags {
    /// Parts of names; all tests when there is none
    filters: Vec<String>,
    /// Print the names and end
    #[arg(long)]
    list: bool,
    /// Filters are whole names
    #[arg(long)]
    exact: bool,
    /// Leave tests out whose name contains this
    #[arg(long)]
    skip: Vec<String>,
    /// Only ignored tests: there are none, what cannot run is reported as ignored with its reason
    #[arg(long)]
    ignored: bool,
    #[arg(long)]
    include_ignored: bool,
    /// Show progress on standard error
    #[arg(long, alias = "no-capture")]
    nocapture: bool,
    #[arg(long, value_parser = ["pretty", "terse", "json"], default_value = "pretty")]
    format: String,
    /// How many lanes
    #[arg(long)]
    test_threads: Option<u8>,
    #[arg(short, long)]
    quiet: bool,
    #[arg(long)]
    color: Option<String>,
    #[arg(long)]
    show_output: bool,
    #[arg(short = 'Z')]
    unstable: Option<String>,
    #[arg(long)]
    report_time: bool,
}

/// Parses `args` (the program's name first) and runs what they ask for. It needs a tokio runtime.
pub async fn main<W: Wiring>(args: Vec<OsString>, wiring: Arc<W>) -> ExitCode {
    let flags = match Flags::try_parse_from(args) {
        Ok(flags) => flags,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match tests(&flags, wiring.as_ref()).await {
        Ok(exit) => exit::code(exit),
        Err(error) => exit::refused(&error),
    }
}

async fn tests<W: Wiring>(flags: &Flags, wiring: &W) -> anyhow::Result<Exit> {
    let mut options = options()?;
    // Cargo starts tests in their package's folder; results belong beside the data.
    if let (None, Data::Folder(root)) = (std::env::var_os("CONFORMANCE_OUT"), Data::find(options.data.as_deref())?) {
        options.out = root.join(&options.out);
    }
    if flags.test_threads.is_some() {
        options.lanes = flags.test_threads;
    }
    let mut prepared = Prepared::new(wiring, &options, Selection::parse_any(&options.select)?)?;
    prepared.selection.check(prepared.features.suite(), &prepared.catalogue)?;
    let names: Vec<(String, String)> = prepared
        .features
        .suite()
        .test_names()
        .filter(|(name, scenario)| prepared.selection.matches(scenario) && wanted(flags, name))
        .map(|(name, scenario)| (name.to_owned(), scenario.id()))
        .collect();
    if flags.list {
        output::print(&list(flags, &names))?;
        return Ok(Exit::Passed);
    }
    let total = prepared.features.suite().scenarios().len();
    if names.is_empty() || flags.ignored {
        output::print(&format!("\nrunning 0 tests\n\n{}\n", result_line(&[], total, 0.0)))?;
        return Ok(Exit::Passed);
    }
    if names.len() < total {
        prepared.selection = Selection::Scenarios(names.iter().map(|(_, id)| id.clone()).collect());
    }
    let stop = Stop::default();
    stop.on_signals()?;
    output::print(&format!("\nrunning {} test{}\n", names.len(), if names.len() == 1 { "" } else { "s" }))?;
    let progress = if flags.nocapture { Progress::start(false) } else { Progress::quiet() };
    let report = run::execute(prepared, &options, &stop, &progress).await?;
    output::print(&text(&report, &names, total))?;
    Ok(match report.exit(options.strict) {
        // A test that is ignored because it cannot run here is no failure for a test driver.
        Exit::Unjudged if report.totals.error == 0 && report.stopped.is_none() => Exit::Passed,
        exit => exit,
    })
}

/// The options of `run` from their environment variables and defaults.
fn options() -> anyhow::Result<Options> {
    let command = Options::augment_args(clap::Command::new("run"));
    Ok(Options::from_arg_matches(&command.try_get_matches_from(["run"])?)?)
}

fn wanted(flags: &Flags, name: &str) -> bool {
    let fits = |filter: &String| if flags.exact { name == filter } else { name.contains(filter.as_str()) };
    (flags.filters.is_empty() || flags.filters.iter().any(fits)) && !flags.skip.iter().any(fits)
}

fn list(flags: &Flags, names: &[(String, String)]) -> String {
    // There are no ignored tests: whether one can run is known only when it is asked for.
    let names = if flags.ignored { &[][..] } else { names };
    let mut out: String = names.iter().map(|(name, _)| format!("{name}: test\n")).collect();
    if flags.format != "terse" {
        let _ = writeln!(out, "\n{} tests, 0 benchmarks", names.len());
    }
    out
}

fn text(report: &Report, names: &[(String, String)], total: usize) -> String {
    let mut out = String::new();
    let found = |id: &str| report.scenarios.iter().find(|one| format!("{}:{}", one.file, one.line) == id);
    let mut judged: Vec<(&str, &ScenarioReport)> = Vec::new();
    for (name, id) in names {
        let Some(scenario) = found(id) else { continue };
        judged.push((name, scenario));
        let word = match (scenario.verdict, &scenario.reason) {
            (Verdict::Pass, _) => "ok".to_owned(),
            (Verdict::NotRun, Some(reason)) => format!("ignored, {reason}"),
            (Verdict::NotRun, None) => "ignored".to_owned(),
            (Verdict::Fail, _) if scenario.known.is_some() => "ok (known deviation)".to_owned(),
            (Verdict::Fail | Verdict::Error, _) => "FAILED".to_owned(),
        };
        let _ = writeln!(out, "test {name} ... {word}");
    }
    let failed: Vec<&(&str, &ScenarioReport)> = judged.iter().filter(|(_, one)| is_failed(one)).collect();
    if !failed.is_empty() {
        out.push_str("\nfailures:\n\n");
        for (name, scenario) in &failed {
            let _ = writeln!(out, "---- {name} ({}) ----\n{}", scenario.verdict, terminal::failure(scenario));
        }
        out.push_str("failures:\n");
        for (name, _) in &failed {
            let _ = writeln!(out, "    {name}");
        }
    }
    if let Some(stopped) = &report.stopped {
        let _ = writeln!(out, "\nThe run ended early: {stopped}");
    }
    let scenarios: Vec<&ScenarioReport> = judged.iter().map(|(_, scenario)| *scenario).collect();
    let _ = writeln!(out, "\n{}\n", result_line(&scenarios, total - names.len(), report.seconds));
    out
}

fn is_failed(scenario: &ScenarioReport) -> bool {
    matches!(scenario.verdict, Verdict::Fail | Verdict::Error) && scenario.known.is_none()
}

fn result_line(scenarios: &[&ScenarioReport], filtered: usize, seconds: f64) -> String {
    let failed = scenarios.iter().filter(|one| is_failed(one)).count();
    let ignored = scenarios.iter().filter(|one| one.verdict == Verdict::NotRun).count();
    format!(
        "test result: {}. {} passed; {failed} failed; {ignored} ignored; 0 measured; {filtered} filtered out; finished in {seconds:.2}s",
        if failed == 0 { "ok" } else { "FAILED" },
        scenarios.len() - failed - ignored,
    )
}
