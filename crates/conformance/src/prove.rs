//! `prove`: shows that the suite can fail. Each fault is switched on in a good lane, the scenarios it aims at must turn
//! red there, and what else turns red beside them is recorded.

use std::{
    collections::VecDeque,
    io::IsTerminal as _,
    sync::{Arc, Mutex},
    time::Instant,
};

use anyhow::Context as _;
use harness::{
    event::{Event, Opening, What},
    nearest::did_you_mean,
    proof::{self, FaultProof, Proof},
    report::Report,
    scenario::Scenario,
    selection::Selection,
    verdict::Exit,
};

use crate::{
    cli::{Collateral, ProveOptions},
    lane::{FaultFile, Target as _, Wiring},
    output,
    plan::Prepared,
    progress::Progress,
    results,
    run::{docs_versions, stated},
    runner::{Job, Runner},
    stop::Stop,
};

/// The command.
pub(crate) async fn command<W: Wiring>(wiring: &W, options: &ProveOptions, stop: &Stop) -> anyhow::Result<Exit> {
    let selection = Selection::parse_any(&options.options.select)?;
    let prepared = Prepared::new(wiring, &options.options, selection)?;
    prepared.target.faults()?;
    let runnable: Vec<Scenario> = prepared.plan(&options.options)?.lanes.into_iter().flatten().collect();
    let faults = chosen(&prepared, options, &runnable)?;
    let jobs: Vec<Job> = faults.iter().map(|fault| job(&prepared, options, fault, &runnable)).collect();

    let evidence = results::open(&options.options.out, &prepared.run)?;
    let progress = Progress::start(std::io::stderr().is_terminal());
    evidence.listen(progress.listener());
    for text in prepared.binaries.replaced(&prepared.system) {
        evidence.note(text);
    }
    let began = Instant::now();
    let show = |line: &str| progress.line(line);
    tokio::select! {
        biased;
        () = stop.asked() => anyhow::bail!("{}", stop.reason().unwrap_or_default()),
        ready = prepared.target.prepare(&show) => ready.context("getting the target ready")?,
    }
    let lanes = prepared.lanes(&options.options).min(jobs.len());
    let shared = Arc::new(Mutex::new(VecDeque::from(jobs)));
    let runner = Runner {
        target: prepared.target.clone(),
        features: prepared.features.clone(),
        collection: prepared.vocabulary.collection().clone(),
        limits: prepared.system.limits.clone(),
        evidence: evidence.clone(),
        stop: stop.clone(),
        keep: options.options.keep,
        queues: vec![shared; lanes],
    };
    runner.drive().await;
    progress.finish();
    if let Some(broken) = evidence.broken() {
        return Err(broken.into());
    }
    let events = evidence.events()?;
    let proof = Proof {
        system: prepared.system.name.clone(),
        target: prepared.target_name.clone(),
        seconds: (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
        faults: faults.iter().map(|fault| judge(fault, &events)).collect(),
    };
    results::write(&evidence.folder().join(proof::FILE), &serde_yaml::to_string(&proof)?)?;
    output::print(&format!("{}Results are in {}\n", proof.table(), evidence.folder().display()))?;
    if let Some(reason) = stop.reason() {
        anyhow::bail!("not every fault was tried: {reason}");
    }
    Ok(if proof.complete() { Exit::Passed } else { Exit::Failed })
}

/// The faults that are asked for by id, or that aim at a selected scenario.
fn chosen<W: Wiring>(
    prepared: &Prepared<W>,
    options: &ProveOptions,
    runnable: &[Scenario],
) -> anyhow::Result<Vec<FaultFile>> {
    let all = prepared.data.faults()?;
    for id in &options.faults {
        if !all.iter().any(|fault| fault.entry.id == *id) {
            let hint = did_you_mean(id, all.iter().map(|fault| fault.entry.id.as_str()));
            anyhow::bail!("there is no fault {id:?}; {hint}");
        }
    }
    let chosen: Vec<FaultFile> = all
        .into_iter()
        .filter(|fault| options.faults.is_empty() || options.faults.contains(&fault.entry.id))
        .filter(|fault| !options.faults.is_empty() || runnable.iter().any(|one| fault.entry.aims_at(one)))
        .collect();
    anyhow::ensure!(
        !chosen.is_empty(),
        "no fault aims at a scenario selected by {}; `catalog --format json` shows which faults there are",
        prepared.selection
    );
    Ok(chosen)
}

fn job<W: Wiring>(prepared: &Prepared<W>, options: &ProveOptions, fault: &FaultFile, runnable: &[Scenario]) -> Job {
    let (aimed, rest): (Vec<&Scenario>, Vec<&Scenario>) =
        runnable.iter().partition(|scenario| fault.entry.aims_at(scenario));
    let beside = rest.into_iter().filter(|scenario| match options.collateral {
        Collateral::None => false,
        Collateral::Feature => aimed.iter().any(|target| target.file == scenario.file),
        Collateral::Subject => aimed.iter().any(|target| target.subject == scenario.subject),
        Collateral::All => true,
    });
    let scenarios: Vec<Scenario> = aimed.iter().copied().chain(beside).cloned().collect();
    let opening = Opening {
        run: prepared.run.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        system: prepared.system.name.clone(),
        target: prepared.target_name.clone(),
        docs_versions: docs_versions(&options.options, &prepared.system, &prepared.catalogue),
        selection: prepared.selection.to_string(),
        seed: options.options.seed,
        requirements: stated(&prepared.catalogue, scenarios.iter()),
        known_deviations: Vec::new(),
        lanes: vec![scenarios.clone()],
        not_run: Vec::new(),
    };
    Job { fault: Some((fault.clone(), Box::new(opening))), scenarios: scenarios.iter().map(Scenario::id).collect() }
}

/// Judges a fault by the part of the evidence that was made under it.
fn judge(fault: &FaultFile, events: &[Event]) -> FaultProof {
    let own: Vec<Event> =
        events.iter().filter(|event| event.fault.as_deref() == Some(&fault.entry.id)).cloned().collect();
    let report = Report::of(&own);
    let seconds = own
        .iter()
        .find_map(|event| match event.what {
            What::RunFinished { seconds } => Some(seconds),
            _ => None,
        })
        .unwrap_or_default();
    FaultProof::of(&fault.entry, &report, seconds)
}
