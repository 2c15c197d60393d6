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
    /// Requirements it names of which nothing was said, because no scenario that shows them was selected or could run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unjudged: Vec<String>,
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
    /// Fail (an Error does not count: it says that we could not look), as far as the run had a scenario for it; with no
    /// requirement named, one of its scenarios must be.
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
        let (judged, unjudged): (Vec<&String>, Vec<&String>) =
            fault.requirements.iter().partition(|id| targets.iter().any(|one| one.requirements.contains(id)));
        let green = judged.iter().any(|id| !targets.iter().filter(|one| one.requirements.contains(id)).any(&red));
        let reason = if targets.is_empty() {
            Some("no scenario of the requirements it names was run".to_owned())
        } else if green || !targets.iter().any(&red) {
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
            unjudged: unjudged.into_iter().cloned().collect(),
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
            if !fault.unjudged.is_empty() {
                let ids = fault.unjudged.join(", ");
                out.push_str(&format!("  no scenario was run that shows {ids}\n"));
            }
        }
        let caught = self.faults.iter().filter(|fault| fault.verdict == Caught::Caught).count();
        out.push_str(&format!("\n{caught} of {} faults caught, {:.1} s\n", self.faults.len(), self.seconds));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{datafile::Place, report::ScenarioReport};

    fn scenario(name: &str, id: &str, verdict: Verdict) -> ScenarioReport {
        ScenarioReport {
            name: name.into(),
            file: "features/access/login.feature".into(),
            line: 3,
            requirements: vec![id.into()],
            verdict,
            reason: None,
            known: None,
            seconds: 1.0,
            lane: None,
            failed: None,
            leaks: vec![],
        }
    }

    fn judged(scenarios: Vec<ScenarioReport>) -> FaultProof {
        let fault = FaultEntry {
            id: "every-token-is-good".into(),
            seam: "registry-api".into(),
            title: String::new(),
            requirements: vec!["ACC-TOKEN".into(), "ACC-COLON".into()],
            scenarios: vec!["A token logs in".into(), "A colon is refused".into()],
            place: Place::default(),
        };
        FaultProof::of(&fault, &Report { scenarios, ..Report::default() }, 1.0)
    }

    #[test]
    fn every_requirement_that_was_run_must_be_red() {
        let colon = |verdict| scenario("A colon is refused", "ACC-COLON", verdict);
        let token = scenario("A token logs in", "ACC-TOKEN", Verdict::Fail);
        let both = judged(vec![token.clone(), colon(Verdict::Fail)]);
        assert_eq!((both.verdict, both.unjudged), (Caught::Caught, vec![]));
        for other in [Verdict::Pass, Verdict::Error, Verdict::NotRun] {
            let proof = judged(vec![token.clone(), colon(other)]);
            assert_eq!(proof.verdict, Caught::Missed, "{other}");
            assert!(proof.reason.expect("a reason").contains("login.feature:3 came to"));
        }
    }

    #[test]
    fn what_was_not_selected_is_named_and_misses_nothing() {
        let proof = judged(vec![scenario("A token logs in", "ACC-TOKEN", Verdict::Fail)]);
        assert_eq!((proof.verdict, proof.unjudged.as_slice()), (Caught::Caught, ["ACC-COLON".to_owned()].as_slice()));
        let table = Proof { faults: vec![proof], ..Proof::default() }.table();
        assert!(table.contains("no scenario was run that shows ACC-COLON"), "{table}");
        let none = judged(vec![scenario("Another", "ACC-OTHER", Verdict::Fail)]);
        assert_eq!(none.verdict, Caught::Missed);
        assert_eq!(none.collateral, ["features/access/login.feature:3"]);
    }
}
