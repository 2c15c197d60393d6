//! The proof that the suite can fail: for every fault, whether the scenarios it aims at turned red, and what else
//! did. Running them is left to the command; this only judges what was seen.

use serde::{Deserialize, Serialize};

use crate::{fault::FaultEntry, report::Report, verdict::Verdict};

/// The file's name beside the reports.
pub const FILE: &str = "proof.yaml";

/// What all faults came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    pub system: String,
    pub target: String,
    pub seconds: f64,
    pub faults: Vec<FaultProof>,
}

/// What one fault came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultProof {
    pub id: String,
    pub seam: String,
    pub requirements: Vec<String>,
    pub verdict: Caught,
    /// Why it is missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub seconds: f64,
    /// Other scenarios that turned red under it, as `file:line`.
    pub collateral: Vec<String>,
}

/// Whether the suite noticed the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Caught {
    Caught,
    Missed,
}

impl FaultProof {
    /// Judges a run that was made with the fault on. It is caught when every requirement it names was shown red by a
    /// Fail (an Error does not count: it says that we could not look); with no requirement named, one of its scenarios
    /// must be.
    pub fn of(fault: &FaultEntry, run: &Report, seconds: f64) -> Self {
        let aimed = |id: &str| fault.scenarios.is_empty() || fault.scenarios.iter().any(|name| name == id);
        let target = |one: &crate::report::ScenarioReport| {
            if fault.scenarios.is_empty() {
                one.requirements.iter().any(|id| fault.requirements.contains(id))
            } else {
                aimed(&one.name) || aimed(&one.file) || aimed(&format!("{}:{}", one.file, one.line))
            }
        };
        let targets: Vec<_> = run.scenarios.iter().filter(|one| target(one)).collect();
        let collateral = run
            .scenarios
            .iter()
            .filter(|one| !target(one) && matches!(one.verdict, Verdict::Fail | Verdict::Error))
            .map(|one| format!("{}:{}", one.file, one.line))
            .collect();
        let red = |one: &&crate::report::ScenarioReport| one.verdict == Verdict::Fail;
        let green: Vec<&String> = fault
            .requirements
            .iter()
            .filter(|id| !targets.iter().filter(|one| one.requirements.contains(id)).any(&red))
            .collect();
        let reason = if targets.is_empty() {
            Some("no scenario of the requirements it names was run".to_owned())
        } else if !green.is_empty() || !targets.iter().any(&red) {
            let seen: Vec<String> = targets
                .iter()
                .filter(|one| !red(one))
                .map(|one| {
                    let reason = one.reason.as_deref().map_or(String::new(), |reason| format!(" ({reason})"));
                    format!("{}:{} came to {}{reason}", one.file, one.line, one.verdict)
                })
                .collect();
            Some(seen.join("; "))
        } else {
            None
        };
        Self {
            id: fault.id.clone(),
            seam: fault.seam.clone(),
            requirements: fault.requirements.clone(),
            verdict: if reason.is_none() { Caught::Caught } else { Caught::Missed },
            reason,
            seconds: (seconds * 1000.0).round() / 1000.0,
            collateral,
        }
    }
}

impl Proof {
    /// Whether every fault was caught.
    pub fn complete(&self) -> bool {
        self.faults.iter().all(|fault| fault.verdict == Caught::Caught)
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let width = self.faults.iter().map(|fault| fault.id.len()).max().unwrap_or(5).max(5) + 2;
        let mut out = format!("{:<width$}{:<18}{:<8}{:>8}  collateral\n", "fault", "seam", "", "seconds");
        for fault in &self.faults {
            let word = match fault.verdict {
                Caught::Caught => "caught",
                Caught::Missed => "MISSED",
            };
            let collateral = if fault.collateral.is_empty() { "none".to_owned() } else { fault.collateral.join(" ") };
            out.push_str(&format!(
                "{:<width$}{:<18}{word:<8}{:>8.1}  {collateral}\n",
                fault.id, fault.seam, fault.seconds
            ));
            if let Some(reason) = &fault.reason {
                out.push_str(&format!("  {reason}\n"));
            }
        }
        let caught = self.faults.iter().filter(|fault| fault.verdict == Caught::Caught).count();
        out.push_str(&format!("\n{caught} of {} faults caught, {:.1} s\n", self.faults.len(), self.seconds));
        out
    }
}
