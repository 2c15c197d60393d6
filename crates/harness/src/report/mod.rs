//! The report of a run: computed from its events and nothing else, so that it can be made again at any time. Each
//! submodule prints it in one form.

pub mod comparison;
pub mod json;
pub mod junit;
pub mod terminal;
pub mod yaml;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::{
    event::{Event, Opening, Stated, What},
    failure::Failure,
    verdict::{Exit, Totals, Verdict},
};

/// How people read a Fail that the system file explains.
pub(crate) const KNOWN: &str = "known fail";

/// How many commands, exchanges and refusals before a failed step a report shows; the rest is in the events.
const TRAIL: usize = 5;

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
    /// Lanes that could not be started or ended by themselves, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken_lanes: Vec<BrokenLane>,
    /// Known deviations that were not seen: the system file is out of date.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stale_deviations: Vec<String>,
}

/// A lane in which nothing could be judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokenLane {
    pub lane: usize,
    pub failure: Failure,
    /// Whether it had been ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_ready: bool,
}

impl BrokenLane {
    /// Whether nothing more is known of a scenario than that this lane, its own, was not there.
    pub fn explains(&self, scenario: &ScenarioReport) -> bool {
        let begins = format!("{}: ", self.reason());
        scenario.lane == Some(self.lane) && scenario.reason.as_ref().is_some_and(|reason| reason.starts_with(&begins))
    }

    /// How the reasons of its scenarios begin.
    pub fn reason(&self) -> String {
        reason(self.lane, self.was_ready)
    }
}

/// What became of a lane that is not there, for the reasons of its scenarios.
pub fn reason(lane: usize, was_ready: bool) -> String {
    if was_ready { format!("lane {lane} ended by itself") } else { format!("lane {lane} could not be started") }
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
    /// For all but Pass; the key is always there.
    #[serde(default)]
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
    /// The last commands, exchanges and refused names before it, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trail: Vec<String>,
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
            broken_lanes: broken_lanes(events),
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

fn broken_lanes(events: &[Event]) -> Vec<BrokenLane> {
    let failed = events.iter().filter_map(|event| match &event.what {
        What::LaneFailed { failure, was_ready } => {
            Some(BrokenLane { lane: event.lane.unwrap_or(1), failure: failure.clone(), was_ready: *was_ready })
        }
        _ => None,
    });
    failed.collect()
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
    let mut trail = VecDeque::new();
    for event in history {
        if report.failed.is_none()
            && let Some(line) = trail_line(&event.what)
        {
            trail.push_back(line);
            if trail.len() > TRAIL {
                trail.pop_front();
            }
        }
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
                    trail: trail.drain(..).collect(),
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

/// What a command, an exchange or a refusal says in a line.
fn trail_line(what: &What) -> Option<String> {
    match what {
        What::CommandRun { argv, exit, seconds, .. } => {
            let command = argv.last()?;
            let exit = exit.map_or("a signal".to_owned(), |code| format!("exit code {code}"));
            Some(format!("$ {command} -> {exit} in {seconds:.1} s"))
        }
        What::HttpExchange(exchange) => Some(exchange.line()),
        What::DoorwayRefused { asked, reason } => Some(format!("{asked} was refused by the doorway: {reason}")),
        _ => None,
    }
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use rstest::rstest;

    use super::*;
    use crate::{failure::Failure, suite::tests::scenario, system::Deviation};

    /// Events of a run with one scenario of each verdict, in two lanes.
    fn events(known: &[&str]) -> Vec<Event> {
        let all = [
            scenario("features/storage/s3.feature", 3, "Blobs lie in the bucket", &["STO-S3-SECRET"]),
            scenario("features/storage/s3.feature", 9, "Wrong keys are refused", &["STO-S3-SECRET"]),
            scenario("features/access/login.feature", 4, "A token logs in", &["ACC-LOGIN-TOKEN"]),
            scenario("features/access/login.feature", 12, "podman logs in", &["ACC-LOGIN-TOKEN", "needs-podman"]),
        ];
        let stated = |title: &str, sources: &[&str]| Stated {
            title: title.into(),
            sources: sources.iter().map(|source| (*source).to_owned()).collect(),
        };
        let opening = Opening {
            run: "20260131-142501-embedded-reference-1a2b".into(),
            version: "0.1.0".into(),
            system: "reference".into(),
            target: "embedded".into(),
            docs_versions: vec!["4.2".into(), "4.6".into()],
            selection: "everything".into(),
            seed: Some(7),
            lanes: vec![vec![all[0].clone(), all[1].clone()], vec![all[2].clone()]],
            not_run: vec![all[3].clone()],
            requirements: BTreeMap::from([
                ("STO-S3-SECRET".to_owned(), stated("Credentials come from a secret", &["4.6 section 3.1.2"])),
                ("ACC-LOGIN-TOKEN".to_owned(), stated("A token logs in", &["4.2 section 5.1", "4.6 section 4.2"])),
            ]),
            known_deviations: known
                .iter()
                .map(|id| Deviation {
                    requirement: (*id).to_owned(),
                    reason: "keys are read from elsewhere".into(),
                    source: "operator source pkg/storage/s3/s3.go (main)".into(),
                })
                .collect(),
        };
        let failure =
            Failure::fail("waited 20s for the bucket to hold the blob", "3 objects", "0 objects\nin bucket b")
                .of("registry")
                .next("read the registry's log");
        let failed = What::StepFailed {
            step: "Then the bucket holds it".into(),
            line: 6,
            failure,
            location: Some("steps/src/storage.rs:40".into()),
            seconds: 20.0,
        };
        let finished = |verdict, reason: Option<&str>, seconds| What::ScenarioFinished {
            verdict,
            reason: reason.map(str::to_owned),
            seconds,
        };
        let log = What::ComponentLog {
            component: "registry".into(),
            lines: vec!["level=info msg=start".into(), "level=error msg=\"s3: Forbidden\"".into()],
        };
        let (s3, keys, token, podman) = (Some(0), Some(1), Some(2), Some(3));
        let told: Vec<(Option<usize>, What)> = vec![
            (None, What::RunStarted(Box::new(opening))),
            (podman, What::NotRun { reason: "podman is not on this machine's PATH".into() }),
            (s3, What::ScenarioStarted),
            (s3, failed),
            (s3, log),
            (s3, finished(Verdict::Fail, Some("waited 20s for the bucket to hold the blob: 0 objects"), 21.5)),
            (keys, What::ScenarioStarted),
            (keys, What::Leak { kind: "Secret".into(), name: "image-registry-private-configuration-user".into() }),
            (keys, finished(Verdict::Error, Some("it left behind: Secret"), 2.0)),
            (token, What::ScenarioStarted),
            (token, finished(Verdict::Pass, None, 1.25)),
            (None, What::RunFinished { seconds: 24.0 }),
        ];
        told.into_iter()
            .enumerate()
            .map(|(index, (at, what))| Event {
                sequence: index as u64 + 1,
                at: Timestamp::from_second(1_769_869_501 + index as i64).unwrap(),
                lane: at.map(|at| 1 + at / 2),
                scenario: at.map(|at| all[at].id()),
                fault: None,
                what,
            })
            .collect()
    }

    #[test]
    fn people_read_what_failed_and_why() {
        insta::assert_snapshot!(terminal::print(&Report::of(&events(&[])), terminal::Colour::Plain));
    }

    #[test]
    fn scripts_read_fixed_names() {
        let report = Report::of(&events(&[]));
        insta::assert_snapshot!(yaml::print(&report));
        assert_eq!(yaml::read(&yaml::print(&report)).unwrap(), report);
        assert_eq!(serde_json::from_str::<Report>(&json::print(&report)).unwrap(), report);
    }

    #[test]
    fn junit_tells_failures_from_errors_and_says_what_was_skipped() {
        insta::assert_snapshot!(junit::print(&Report::of(&events(&[]))));
    }

    #[test]
    fn a_known_fail_stays_a_fail_and_a_stale_one_is_named() {
        let report = Report::of(&events(&["STO-S3-SECRET", "ACC-LOGIN-TOKEN"]));
        let failed = report.scenarios.iter().find(|one| one.verdict == Verdict::Fail).unwrap();
        assert_eq!(
            failed.known.as_deref(),
            Some("keys are read from elsewhere (operator source pkg/storage/s3/s3.go (main))")
        );
        assert_eq!(report.stale_deviations, ["ACC-LOGIN-TOKEN"]);
        assert_eq!(report.exit(false), Exit::Failed);
        let text = terminal::print(&report, terminal::Colour::Plain);
        assert!(text.starts_with("known fail Blobs lie in the bucket (known: keys are read"), "{text}");
        assert!(text.contains("ACC-LOGIN-TOKEN is listed as a known deviation of reference and passed"), "{text}");
        assert!(yaml::print(&report).contains("known: keys are read from elsewhere (operator source"));
    }

    #[test]
    fn only_known_fails_are_a_pass_unless_strict() {
        let mut report = Report::of(&events(&["STO-S3-SECRET"]));
        report.scenarios.retain(|one| one.verdict != Verdict::Error);
        report.totals = Totals::of(report.scenarios.iter().map(|one| one.verdict));
        assert_eq!((report.exit(false), report.exit(true)), (Exit::Passed, Exit::Failed));
        let text = terminal::print(&report, terminal::Colour::Plain);
        assert!(text.contains("1 known deviation of reference was seen"), "{text}");
    }

    #[test]
    fn a_lane_that_could_not_be_started_says_so_once() {
        let mut events = events(&[]);
        let failure = Failure::error("starting the operator as `/bin/op`", "exit status 2\nlast log lines:\n  boom");
        let last = events.last().unwrap().clone();
        events.push(Event { lane: Some(2), what: What::LaneFailed { failure, was_ready: false }, ..last });
        let report = Report::of(&events);
        assert_eq!(report.broken_lanes[0].lane, 2);
        let text = terminal::print(&report, terminal::Colour::Plain);
        assert_eq!(text.matches("boom").count(), 1, "{text}");
        let mut report = report;
        for scenario in report.scenarios.iter_mut().filter(|one| one.lane == Some(2) && one.verdict == Verdict::Pass) {
            scenario.verdict = Verdict::Error;
            scenario.reason = Some("lane 2 could not be started: starting the operator: boom".to_owned());
        }
        let text = terminal::print(&report, terminal::Colour::Plain);
        assert_eq!(text.matches("boom").count(), 1, "{text}");
        assert!(text.contains("  1 scenario was not judged for this\n"), "{text}");
        assert_eq!(yaml::read(&yaml::print(&report)).unwrap(), report);
    }

    #[test]
    fn a_killed_run_misses_nothing_that_was_asked_for() {
        let mut events = events(&[]);
        events.truncate(7);
        let report = Report::of(&events);
        let seen: Vec<(Verdict, &str)> =
            report.scenarios.iter().map(|one| (one.verdict, one.reason.as_deref().unwrap_or_default())).collect();
        assert_eq!(
            seen,
            [
                (Verdict::NotRun, "the run ended before its turn: the run was killed: its record has no end"),
                (Verdict::NotRun, "podman is not on this machine's PATH"),
                (Verdict::Fail, "waited 20s for the bucket to hold the blob: 0 objects"),
                (Verdict::Error, "it had begun when the run ended: the run was killed: its record has no end"),
            ]
        );
        assert_eq!(report.totals.all(), 4);
    }

    #[rstest]
    #[case(&[], &[Verdict::Pass, Verdict::NotRun], Exit::Passed)]
    #[case(&[], &[Verdict::Pass, Verdict::Fail, Verdict::Error], Exit::Failed)]
    #[case(&[], &[Verdict::Pass, Verdict::Error], Exit::Unjudged)]
    #[case(&[], &[Verdict::NotRun], Exit::Unjudged)]
    #[case(&["known"], &[Verdict::Pass, Verdict::Fail], Exit::Passed)]
    #[case(&["known", "strict"], &[Verdict::Pass, Verdict::Fail], Exit::Failed)]
    #[case(&["stopped"], &[Verdict::Pass], Exit::Unjudged)]
    fn the_exit_code_says_what_kind_of_end_it_was(
        #[case] circumstances: &[&str],
        #[case] verdicts: &[Verdict],
        #[case] expected: Exit,
    ) {
        let scenarios = verdicts
            .iter()
            .map(|verdict| ScenarioReport {
                name: String::new(),
                file: String::new(),
                line: 1,
                requirements: vec![],
                verdict: *verdict,
                reason: None,
                known: circumstances.contains(&"known").then(String::new),
                seconds: 0.0,
                lane: None,
                failed: None,
                leaks: vec![],
            })
            .collect();
        let report = Report {
            totals: Totals::of(verdicts.iter().copied()),
            scenarios,
            stopped: circumstances.contains(&"stopped").then(String::new),
            ..Report::default()
        };
        assert_eq!(report.exit(circumstances.contains(&"strict")), expected);
    }
}
