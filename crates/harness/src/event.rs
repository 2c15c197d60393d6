//! What can happen in a run, as the records of its evidence. Each carries everything a report needs, so that a report
//! never has to ask anything but the evidence.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{failure::Failure, scenario::Scenario, system::Deviation, verdict::Verdict};

/// One line of `events.ndjson`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Counts from 1 without gaps.
    pub sequence: u64,
    pub at: Timestamp,
    /// The lane it happened in; none for the run as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<usize>,
    /// The [`Scenario::id`] it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scenario: Option<String>,
    /// The fault that was switched on in the lane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum What {
    /// The first event: what is going to be done.
    RunStarted(Box<Opening>),
    /// A scenario that was asked for and will not run.
    NotRun {
        reason: String,
    },
    /// A lane's environment is being started.
    LaneOpening,
    /// The system of this lane can be judged.
    LaneReady {
        seconds: f64,
    },
    /// The environment of this lane could not be started, or ended by itself; its other scenarios are Errors.
    LaneFailed {
        failure: Failure,
        /// Whether it had been ready.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        was_ready: bool,
    },
    LaneClosed {
        seconds: f64,
    },
    ScenarioStarted,
    StepStarted {
        keyword: String,
        text: String,
        line: usize,
    },
    StepPassed {
        seconds: f64,
    },
    StepFailed {
        /// The whole step, with its keyword.
        step: String,
        line: usize,
        failure: Failure,
        /// The source line that failed, where it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        location: Option<String>,
        seconds: f64,
    },
    /// A step after a failed one.
    StepSkipped {
        step: String,
        line: usize,
    },
    /// Something a step saw.
    Note {
        text: String,
    },
    HttpExchange(Box<Exchange>),
    CommandRun {
        argv: Vec<String>,
        /// The exit status; none when it was ended by a signal.
        exit: Option<i32>,
        stdout: String,
        stderr: String,
        seconds: f64,
    },
    /// A name that the doorway did not let through, or behind which nothing answered. Repeated attempts are one event.
    DoorwayRefused {
        /// `host:port` as the client asked.
        asked: String,
        reason: String,
    },
    /// Lines of a component's log.
    ComponentLog {
        component: String,
        lines: Vec<String>,
    },
    /// Something a scenario made and that is still there after its clean-up.
    Leak {
        kind: String,
        name: String,
    },
    ScenarioFinished {
        verdict: Verdict,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        seconds: f64,
    },
    /// The fault of this event was switched on.
    FaultOn,
    FaultOff,
    /// The run was asked to stop, or a limit stopped it.
    Stopping {
        reason: String,
    },
    /// The last event. Without it the run was killed.
    RunFinished {
        seconds: f64,
    },
}

/// What is going to be done, and what reports need to know of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opening {
    /// The run's id, also the name of its folder.
    pub run: String,
    /// The harness' version.
    pub version: String,
    pub system: String,
    pub target: String,
    pub docs_versions: Vec<String>,
    pub selection: String,
    pub seed: Option<u64>,
    /// The scenarios of each lane in order.
    pub lanes: Vec<Vec<Scenario>>,
    /// Those that will not run; each has a [`What::NotRun`] too.
    pub not_run: Vec<Scenario>,
    /// What is known of every requirement of those scenarios.
    pub requirements: BTreeMap<String, Stated>,
    pub known_deviations: Vec<Deviation>,
}

/// What a report says of a requirement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stated {
    pub title: String,
    /// Like `4.6 section 3.1.2`.
    pub sources: Vec<String>,
}

/// One HTTP exchange of a client of the harness.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exchange {
    /// Who asked, like `registry client` or `podman`.
    pub client: String,
    pub method: String,
    pub url: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub request_headers: BTreeMap<String, String>,
    /// The body where it is short text, else its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_body: Option<String>,
    /// None when there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub response_headers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_body: Option<String>,
    /// Why there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub milliseconds: u64,
}

impl Exchange {
    /// One line: request, status, time and the start of what was answered.
    pub fn line(&self) -> String {
        let outcome = match (self.status, &self.error) {
            (Some(status), _) => status.to_string(),
            (None, Some(error)) => format!("no answer ({error})"),
            (None, None) => "no answer".to_owned(),
        };
        let body = self.response_body.as_deref().and_then(|body| body.lines().next()).unwrap_or_default();
        let body: String = body.chars().take(160).collect();
        let line = format!("{} {} -> {outcome} in {} ms {body}", self.method, self.url, self.milliseconds);
        line.trim_end().to_owned()
    }
}
