//! One scenario in one opened lane: its World, its steps with their deadlines, the hook after it, and the verdict.
//! Whatever a step does (fail, panic, hang), the hook runs and a verdict is recorded.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use cucumber::step::Collection;
use futures::FutureExt as _;
use harness::{
    event::What,
    evidence::Evidence,
    failure::{Failure, Kind},
    limit,
    system::Limits,
    verdict::Verdict,
};

use crate::{lane::Lane, panics, parser::Parsed, stop::Stop};

/// How many log lines of the component concerned go into the evidence of a failure.
const LOG_LINES: usize = 40;

/// How long the hook may take when the run was asked to stop.
const STOPPING: Duration = Duration::from_secs(10);

/// An opened lane with what is needed to run scenarios in it.
pub(crate) struct Session<'a, W> {
    pub lane: &'a dyn Lane<W>,
    pub collection: &'a Collection<W>,
    pub limits: &'a Limits,
    /// The lane's handle.
    pub evidence: &'a Evidence,
    pub stop: &'a Stop,
    /// Leave everything as it is after a failure.
    pub keep: bool,
}

/// What a scenario came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    pub verdict: Verdict,
    pub reason: Option<String>,
}

impl<W> Session<'_, W> {
    /// Runs one scenario and records everything about it.
    pub async fn run(&self, parsed: &Parsed) -> Outcome {
        panics::catch_here();
        let began = Instant::now();
        self.evidence.enter_scenario(Some(parsed.scenario.id()));
        self.evidence.record(What::ScenarioStarted);
        let outcome = self.judge(parsed, began).await;
        self.evidence.record(What::ScenarioFinished {
            verdict: outcome.verdict,
            reason: outcome.reason.clone(),
            seconds: began.elapsed().as_secs_f64(),
        });
        self.evidence.enter_scenario(None);
        outcome
    }

    async fn judge(&self, parsed: &Parsed, began: Instant) -> Outcome {
        let scenario_ends = began + self.limits.scenario;
        let made =
            self.within("scenario", self.limits.scenario, scenario_ends, self.lane.world(&parsed.scenario)).await;
        let mut world = match made {
            Ok(Ok(world)) => world,
            Ok(Err(failure)) | Err(failure) => {
                let first = &parsed.scenario.steps.first();
                self.step_failed(
                    "preparing the scenario",
                    first.map_or(parsed.scenario.line, |step| step.line),
                    &failure,
                    began,
                );
                return Outcome { verdict: failure.kind.into(), reason: Some(summary(&failure)) };
            }
        };
        let failed = self.steps(parsed, &mut world, scenario_ends).await;
        let mut outcome = match &failed {
            None => Outcome { verdict: Verdict::Pass, reason: None },
            Some(failure) => Outcome { verdict: failure.kind.into(), reason: Some(summary(failure)) },
        };
        if let Some(component) = failed.as_ref().and_then(|failure| failure.component.as_deref()) {
            let lines = self.lane.logs(component, LOG_LINES);
            if let Ok(lines) = tokio::time::timeout(STOPPING, lines).await {
                self.evidence.record(What::ComponentLog { component: component.to_owned(), lines });
            }
        }
        if !(self.keep && failed.is_some()) {
            self.clean(&mut world, &mut outcome).await;
        }
        outcome
    }

    /// Runs the steps until one does not hold, and records the rest as skipped.
    async fn steps(&self, parsed: &Parsed, world: &mut W, scenario_ends: Instant) -> Option<Failure> {
        let mut failed = None;
        for step in &parsed.steps {
            let text = format!("{} {}", step.keyword.trim(), step.value);
            let line = step.position.line;
            if failed.is_some() {
                self.evidence.record(What::StepSkipped { step: text, line });
                continue;
            }
            self.evidence.record(What::StepStarted {
                keyword: step.keyword.trim().to_owned(),
                text: step.value.clone(),
                line,
            });
            let began = Instant::now();
            match self.step(step, world, scenario_ends).await {
                Ok(()) => self.evidence.record(What::StepPassed { seconds: began.elapsed().as_secs_f64() }),
                Err(failure) => {
                    let failure = self.whose(failure);
                    self.step_failed(&text, line, &failure, began);
                    failed = Some(failure);
                }
            }
        }
        failed
    }

    /// On a full disk, or in a lane that has ended, nothing that a system does not do is its own fault.
    fn whose(&self, failure: Failure) -> Failure {
        if failure.kind == Kind::Fail
            && let Some(gone) = self.lane.broken().now_or_never()
        {
            return gone;
        }
        if failure.kind == Kind::Fail && self.evidence.disk_is_full() {
            let next = format!("make room for {}; the disk is full", self.evidence.folder().display());
            return Failure { kind: Kind::Error, ..failure }.next(next);
        }
        failure
    }

    async fn step(&self, step: &gherkin::Step, world: &mut W, scenario_ends: Instant) -> Result<(), Failure> {
        // Both are looked for before anything starts; a vocabulary cannot change while it runs.
        let (function, _, _, context) = match self.collection.find(step) {
            Ok(Some(found)) => found,
            Ok(None) => return Err(Failure::error(format!("finding the step {:?}", step.value), "none is defined")),
            Err(ambiguous) => return Err(Failure::error(format!("finding the step {:?}", step.value), ambiguous)),
        };
        let work = AssertUnwindSafe(async { function(world, context).await }).catch_unwind();
        let step_ends = Instant::now() + self.limits.step;
        let ended = if scenario_ends < step_ends {
            self.within("scenario", self.limits.scenario, scenario_ends, work).await
        } else {
            self.within("step", self.limits.step, step_ends, work).await
        };
        match ended? {
            Ok(()) => Ok(()),
            Err(payload) => {
                let text = panics::text(payload.as_ref());
                Err(Failure::from_panic(&text).unwrap_or_else(|| {
                    Failure::error(format!("running the step {:?}", step.value), format!("it panicked: {text}"))
                        .next("this is a mistake in the harness or the step, not in the system")
                }))
            }
        }
    }

    /// Waits for work until a deadline that its message names, or until the run is asked to stop. Work that is not
    /// done by then is dropped.
    async fn within<T>(
        &self,
        whose: &str,
        limit: Duration,
        until: Instant,
        work: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.stop.asked() => {
                Err(Failure::error("running the step", self.stop.reason().unwrap_or("the run was stopped")))
            }
            failure = self.lane.broken() => Err(failure),
            done = tokio::time::timeout_at(until.into(), work) => done.map_err(|_| {
                let limit = limit::text(limit);
                Failure::error(format!("{whose} deadline of {limit}"), "the step was still going on and was dropped")
                    .next(format!("a step waits by itself and says what for; raise `{whose}` in the system's limits if it needs longer"))
            }),
        }
    }

    fn step_failed(&self, step: &str, line: usize, failure: &Failure, began: Instant) {
        self.evidence.record(What::StepFailed {
            step: step.to_owned(),
            line,
            failure: failure.clone(),
            location: panics::place(),
            seconds: began.elapsed().as_secs_f64(),
        });
    }

    /// Calls the hook. What it could not do or what is left behind makes a Pass an Error; a Fail stays a Fail.
    async fn clean(&self, world: &mut W, outcome: &mut Outcome) {
        let limit = if self.stop.reason().is_some() { STOPPING.min(self.limits.cleanup) } else { self.limits.cleanup };
        let work = AssertUnwindSafe(self.lane.after(world, outcome.verdict)).catch_unwind();
        let problem = match tokio::time::timeout(limit, work).await {
            Ok(Ok(Ok(leaks))) if leaks.is_empty() => return,
            Ok(Ok(Ok(leaks))) => {
                for leak in &leaks {
                    self.evidence.record(What::Leak { kind: leak.kind.clone(), name: leak.name.clone() });
                }
                let names: Vec<String> = leaks.iter().map(|leak| format!("{} {}", leak.kind, leak.name)).collect();
                format!("it left behind: {}", names.join(", "))
            }
            Ok(Ok(Err(failure))) => format!("cleaning up after it: {}", summary(&failure)),
            Ok(Err(payload)) => format!("cleaning up after it panicked: {}", panics::text(payload.as_ref())),
            Err(_) => format!("cleanup deadline of {}: cleaning up after it was not done", limit::text(limit)),
        };
        self.evidence.note(problem.clone());
        if outcome.verdict == Verdict::Pass {
            *outcome = Outcome { verdict: Verdict::Error, reason: Some(problem) };
        } else if let Some(reason) = &mut outcome.reason {
            reason.push_str("; ");
            reason.push_str(&problem);
        }
    }
}

/// A failure in one line: what was tried, what was expected and what was seen.
pub(crate) fn summary(failure: &Failure) -> String {
    let seen = failure.seen.as_deref().map(first_line);
    match (&failure.expected, seen) {
        (Some(expected), Some(seen)) => {
            format!("{}: expected {}, last seen {seen}", failure.tried, first_line(expected))
        }
        (Some(expected), None) => format!("{}: expected {}", failure.tried, first_line(expected)),
        (None, Some(seen)) => format!("{}: {seen}", failure.tried),
        (None, None) => failure.tried.clone(),
    }
}

fn first_line(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(300) {
        Some((at, _)) => &line[..at],
        None => line,
    }
}
