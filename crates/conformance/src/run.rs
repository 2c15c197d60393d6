//! `run`: works through the plan and gives verdicts. Everything that can be wrong with the request is found before
//! anything is started; whatever happens after that is in the evidence.

use std::{collections::BTreeMap, io::IsTerminal as _, sync::Arc};

use anyhow::Context as _;
use cucumber::Parser as _;
use futures::StreamExt as _;
use harness::{
    event::{Opening, Stated, What},
    evidence::Evidence,
    plan::{NotRun, Plan},
    report::{Report, terminal},
    requirement::Catalogue,
    scenario::Scenario,
    selection::Selection,
    system::System,
    verdict::Exit,
};

use crate::{
    cli::Options,
    lane::{Target as _, Wiring},
    output,
    plan::Prepared,
    progress::Progress,
    results,
    runner::{Job, Runner, queue},
    stop::Stop,
};

/// The command.
pub(crate) async fn command<W: Wiring>(wiring: &W, options: &Options, stop: &Stop) -> anyhow::Result<Exit> {
    let prepared = Prepared::new(wiring, options, Selection::parse_any(&options.select)?)?;
    let progress = Progress::start(std::io::stderr().is_terminal());
    let report = execute(prepared, options, stop, &progress).await?;
    progress.finish();
    let place = options.out.join(&report.run);
    output::print(&format!("{}Results are in {}\n", terminal::print(&report, colour()), place.display()))?;
    Ok(report.exit(options.strict))
}

/// Plans, runs and writes the reports.
pub(crate) async fn execute<W: Wiring>(
    prepared: Prepared<W>,
    options: &Options,
    stop: &Stop,
    progress: &Progress,
) -> anyhow::Result<Report> {
    let plan = prepared.plan(options)?;
    let evidence = results::open(&options.out, &prepared.run)?;
    evidence.listen(progress.listener());
    let began = std::time::Instant::now();
    let opening = Opening {
        run: prepared.run.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        system: prepared.system.name.clone(),
        target: prepared.target_name.clone(),
        docs_versions: docs_versions(options, &prepared.system, &prepared.catalogue),
        selection: prepared.selection.to_string(),
        seed: plan.seed,
        requirements: stated(&prepared.catalogue, all(&plan)),
        known_deviations: prepared.system.known_deviations.clone(),
        lanes: plan.lanes.clone(),
        not_run: plan.not_run.iter().map(|one| one.scenario.clone()).collect(),
    };
    evidence.record(What::RunStarted(Box::new(opening)));
    for text in prepared.binaries.replaced(&prepared.system) {
        evidence.note(text);
    }
    for NotRun { scenario, reason } in &plan.not_run {
        evidence.record_of(scenario.id(), What::NotRun { reason: reason.clone() });
    }
    if !plan.is_empty() {
        let show = |line: &str| progress.line(line);
        let ready = tokio::select! {
            biased;
            () = stop.asked() => None,
            ready = prepared.target.prepare(&show) => Some(ready),
        };
        match ready {
            None => evidence.record(What::Stopping { reason: stop.reason().unwrap_or_default().to_owned() }),
            Some(Err(failure)) => {
                write_all(&evidence, began)?;
                return Err(failure).context("getting the target ready");
            }
            Some(Ok(())) => run_lanes(prepared, &plan, options, &evidence, stop).await,
        }
    }
    write_all(&evidence, began)
}

async fn run_lanes<W: Wiring>(prepared: Prepared<W>, plan: &Plan, options: &Options, evidence: &Evidence, stop: &Stop) {
    let jobs = |lane: &Vec<Scenario>| Job { fault: None, scenarios: lane.iter().map(Scenario::id).collect() };
    let runner = Runner {
        target: prepared.target,
        features: prepared.features.clone(),
        collection: prepared.vocabulary.collection().clone(),
        limits: prepared.system.limits.clone(),
        evidence: evidence.clone(),
        stop: stop.clone(),
        keep: options.keep,
        queues: plan.lanes.iter().map(|lane| queue([jobs(lane)])).collect(),
    };
    let features = Arc::unwrap_or_clone(prepared.features).parse((), cucumber::cli::Empty);
    let mut events = cucumber::Runner::run(runner, features, cucumber::cli::Empty);
    while events.next().await.is_some() {}
}

/// Ends the record, computes the report from it and writes it.
fn write_all(evidence: &Evidence, began: std::time::Instant) -> anyhow::Result<Report> {
    evidence.record(What::RunFinished { seconds: began.elapsed().as_secs_f64() });
    if let Some(broken) = evidence.broken() {
        return Err(broken.into());
    }
    let report = Report::of(&evidence.events()?);
    results::write_reports(evidence.folder(), &report)?;
    Ok(report)
}

fn all(plan: &Plan) -> impl Iterator<Item = &Scenario> {
    plan.scenarios().map(|(_, scenario)| scenario).chain(plan.not_run.iter().map(|one| &one.scenario))
}

/// What reports say of the requirements of these scenarios.
pub(crate) fn stated<'a>(
    catalogue: &Catalogue,
    scenarios: impl Iterator<Item = &'a Scenario>,
) -> BTreeMap<String, Stated> {
    scenarios
        .flat_map(|scenario| &scenario.requirements)
        .filter_map(|id| catalogue.get(id))
        .map(|requirement| {
            let sources = requirement.sources.iter().map(ToString::to_string).collect();
            (requirement.id.clone(), Stated { title: requirement.title.clone(), sources })
        })
        .collect()
}

/// The versions judged by: those asked for, else those the system follows, else all there are.
pub(crate) fn docs_versions(options: &Options, system: &System, catalogue: &Catalogue) -> Vec<String> {
    [&options.docs_versions, &system.claims.docs_versions]
        .into_iter()
        .find(|versions| !versions.is_empty())
        .cloned()
        .unwrap_or_else(|| catalogue.versions())
}

/// Colour when standard output is a terminal that wants it.
pub(crate) fn colour() -> terminal::Colour {
    if console::colors_enabled() { terminal::Colour::Ansi } else { terminal::Colour::Plain }
}
