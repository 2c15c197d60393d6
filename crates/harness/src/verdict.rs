//! Verdicts: what a scenario came to, what that means for its requirements, and the exit code of the run. All of it
//! is computed from recorded facts; nothing here asks the system again.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::failure;

/// What a scenario or a requirement came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// The promise was seen to hold.
    Pass,
    /// The system broke it.
    Fail,
    /// The harness, the target or the machine kept us from judging.
    Error,
    /// It was asked for and could not run here; there is always a reason.
    NotRun,
}

impl Verdict {
    /// As people read it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Error => "ERROR",
            Self::NotRun => "not run",
        }
    }

    /// The verdict on a requirement from those on its scenarios: one Fail is a Fail, else one Error an Error, else one
    /// Pass a Pass; NotRun when nothing ran.
    pub fn of_requirement(scenarios: impl IntoIterator<Item = Verdict>) -> Self {
        let rank = |verdict: &Verdict| match verdict {
            Self::Fail => 3,
            Self::Error => 2,
            Self::Pass => 1,
            Self::NotRun => 0,
        };
        scenarios.into_iter().max_by_key(rank).unwrap_or(Self::NotRun)
    }
}

impl From<failure::Kind> for Verdict {
    fn from(kind: failure::Kind) -> Self {
        match kind {
            failure::Kind::Fail => Self::Fail,
            failure::Kind::Error => Self::Error,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Numbers of scenarios by verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    pub pass: usize,
    pub fail: usize,
    pub error: usize,
    pub not_run: usize,
}

impl Totals {
    /// Counts.
    pub fn of(verdicts: impl IntoIterator<Item = Verdict>) -> Self {
        let mut totals = Self::default();
        for verdict in verdicts {
            *match verdict {
                Verdict::Pass => &mut totals.pass,
                Verdict::Fail => &mut totals.fail,
                Verdict::Error => &mut totals.error,
                Verdict::NotRun => &mut totals.not_run,
            } += 1;
        }
        totals
    }

    /// All of them.
    pub fn all(self) -> usize {
        self.pass + self.fail + self.error + self.not_run
    }
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// 0: everything that ran passed, and something ran.
    Passed,
    /// 1: at least one Fail that no system file explains.
    Failed,
    /// 2: the harness could not do its job.
    Unjudged,
}

impl Exit {
    /// The process' exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Failed => 1,
            Self::Unjudged => 2,
        }
    }
}
