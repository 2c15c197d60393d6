//! The report of a run: computed from its events and nothing else, so that it can be made again at any time. Each
//! submodule prints it in one form.

pub mod json;
pub mod junit;
pub mod terminal;
pub mod yaml;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    event::{Event, Opening, Stated, What},
    failure::Failure,
    verdict::{Exit, Totals, Verdict},
};

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub run: String,
    /// The harness' version.
    pub version: String,
    pub system: String,
    pub target: String,
    pub docs_versions: Vec<String>,
    pub selection: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    pub seconds: f64,
    /// Why the run ended early, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    pub totals: Totals,
    pub scenarios: Vec<ScenarioReport>,
    pub requirements: Vec<RequirementReport>,
    /// Known deviations that were not seen: the system file is out of date.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stale_deviations: Vec<String>,
}

/// What a scenario came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScenarioReport {
    pub name: String,
    pub file: String,
    pub line: usize,
    pub requirements: Vec<String>,
    pub verdict: Verdict,
    /// For all but Pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The system file's reason why a Fail is expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<String>,
    pub seconds: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailedStep>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaks: Vec<String>,
}

/// The step that decided a scenario, and what helps to understand it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedStep {
    pub step: String,
    pub line: usize,
    pub failure: Failure,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The requirements with their titles and document sections.
    pub sources: Vec<String>,
    /// The last log lines of the components concerned, by component.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub logs: BTreeMap<String, Vec<String>>,
}

/// What a requirement came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequirementReport {
    pub id: String,
    pub verdict: Verdict,
    /// `file:line` of the scenarios that show it.
    pub scenarios: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<String>,
}

impl Report {
    /// Computes the report. Scenarios that had begun when the record ends are Errors, those that had not are NotRun:
    /// nothing that was asked for is missing.
    pub fn of(events: &[Event]) -> Self {
        let opening = events.iter().find_map(|event| match &event.what {
            What::RunStarted(opening) => Some(opening.as_ref()),
            _ => None,
        });
        let Some(opening) = opening else { return Self::default() };
        let stopped = events.iter().find_map(|event| match &event.what {
            What::Stopping { reason } => Some(reason.clone()),
            _ => None,
        });
        let finished = events.iter().find_map(|event| match event.what {
            What::RunFinished { seconds } => Some(seconds),
            _ => None,
        });
        let stopped =
            stopped.or_else(|| finished.is_none().then(|| "the run was killed: its record has no end".to_owned()));
        let seconds = finished.unwrap_or_else(|| match (events.first(), events.last()) {
            (Some(first), Some(last)) => last.at.duration_since(first.at).as_secs_f64(),
            _ => 0.0,
        });

        let histories = histories(events);
        let mut scenarios: Vec<ScenarioReport> = opening
            .lanes
            .iter()
            .flatten()
            .chain(&opening.not_run)
            .map(|scenario| {
                let id = scenario.id();
                let history = histories.get(id.as_str()).map_or(&[][..], Vec::as_slice);
                let mut report = scenario_report(scenario, history, opening, stopped.as_deref());
                report.known = known(opening, &report);
                report
            })
            .collect();
        scenarios.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        let requirements = requirement_reports(&scenarios);
        let stale_deviations = stale(opening, &requirements);
        Self {
            run: opening.run.clone(),
            version: opening.version.clone(),
            system: opening.system.clone(),
            target: opening.target.clone(),
            docs_versions: opening.docs_versions.clone(),
            selection: opening.selection.clone(),
            seed: opening.seed,
            seconds: round(seconds),
            stopped,
            totals: Totals::of(scenarios.iter().map(|scenario| scenario.verdict)),
            scenarios,
            requirements,
            stale_deviations,
        }
    }

    /// How a process that made this run ends: any Fail that is not known is 1 (`strict` also counts known ones), and
    /// so is a listed deviation that was not seen; an Error, an early end or nothing that passed is 2.
    pub fn exit(&self, strict: bool) -> Exit {
        let unknown =
            |scenario: &&ScenarioReport| scenario.verdict == Verdict::Fail && (strict || scenario.known.is_none());
        if self.scenarios.iter().any(|scenario| unknown(&scenario)) || !self.stale_deviations.is_empty() {
            Exit::Failed
        } else if self.totals.error > 0 || self.stopped.is_some() || self.totals.pass + self.totals.fail == 0 {
            Exit::Unjudged
        } else {
            Exit::Passed
        }
    }
}

fn histories(events: &[Event]) -> BTreeMap<&str, Vec<&Event>> {
    let mut histories = BTreeMap::<&str, Vec<&Event>>::new();
    for event in events {
        if let Some(id) = &event.scenario {
            histories.entry(id).or_default().push(event);
        }
    }
    histories
}

fn scenario_report(
    scenario: &crate::scenario::Scenario,
    history: &[&Event],
    opening: &Opening,
    stopped: Option<&str>,
) -> ScenarioReport {
    let mut report = ScenarioReport {
        name: scenario.name.clone(),
        file: scenario.file.clone(),
        line: scenario.line,
        requirements: scenario.requirements.clone(),
        verdict: Verdict::NotRun,
        reason: None,
        known: None,
        seconds: 0.0,
        lane: history.iter().find_map(|event| event.lane),
        failed: None,
        leaks: Vec::new(),
    };
    let mut finished = false;
    let mut started = false;
    let mut logs = BTreeMap::<String, Vec<String>>::new();
    for event in history {
        match &event.what {
            What::NotRun { reason } => {
                report.reason = Some(reason.clone());
                finished = true;
            }
            What::ScenarioStarted => started = true,
            What::StepFailed { step, line, failure, location, .. } if report.failed.is_none() => {
                report.failed = Some(FailedStep {
                    step: step.clone(),
                    line: *line,
                    failure: failure.clone(),
                    location: location.clone(),
                    sources: sources(&scenario.requirements, &opening.requirements),
                    logs: BTreeMap::new(),
                });
            }
            What::ComponentLog { component, lines } => {
                logs.entry(component.clone()).or_default().extend(lines.iter().cloned());
            }
            What::Leak { kind, name } => report.leaks.push(format!("{kind} {name}")),
            What::ScenarioFinished { verdict, reason, seconds } => {
                report.verdict = *verdict;
                report.reason.clone_from(reason);
                report.seconds = round(*seconds);
                finished = true;
            }
            _ => {}
        }
    }
    if let Some(failed) = &mut report.failed {
        failed.logs = logs;
    }
    if !finished {
        let why = stopped.unwrap_or("the run ended");
        if started {
            report.verdict = Verdict::Error;
            report.reason = Some(format!("it had begun when the run ended: {why}"));
        } else {
            report.reason = Some(format!("the run ended before its turn: {why}"));
        }
    }
    report
}

fn sources(requirements: &[String], stated: &BTreeMap<String, Stated>) -> Vec<String> {
    requirements
        .iter()
        .map(|id| match stated.get(id) {
            Some(stated) if stated.sources.is_empty() => format!("{id} {}", stated.title),
            Some(stated) => format!("{id} {} ({})", stated.title, stated.sources.join("; ")),
            None => id.clone(),
        })
        .collect()
}

fn known(opening: &Opening, report: &ScenarioReport) -> Option<String> {
    if report.verdict != Verdict::Fail {
        return None;
    }
    let deviation = opening.known_deviations.iter().find(|one| report.requirements.contains(&one.requirement))?;
    Some(format!("{} ({})", deviation.reason, deviation.source))
}

fn requirement_reports(scenarios: &[ScenarioReport]) -> Vec<RequirementReport> {
    let ids: BTreeSet<&String> = scenarios.iter().flat_map(|scenario| &scenario.requirements).collect();
    ids.into_iter()
        .map(|id| {
            let showing = || scenarios.iter().filter(|scenario| scenario.requirements.contains(id));
            RequirementReport {
                id: id.clone(),
                verdict: Verdict::of_requirement(showing().map(|scenario| scenario.verdict)),
                scenarios: showing().map(|scenario| format!("{}:{}", scenario.file, scenario.line)).collect(),
                known: showing().find_map(|scenario| scenario.known.clone()),
            }
        })
        .collect()
}

fn stale(opening: &Opening, requirements: &[RequirementReport]) -> Vec<String> {
    opening
        .known_deviations
        .iter()
        .filter(|deviation| {
            requirements.iter().any(|one| one.id == deviation.requirement && one.verdict == Verdict::Pass)
        })
        .map(|deviation| deviation.requirement.clone())
        .collect()
}

/// Milliseconds are as exact as a report needs to be.
fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}
