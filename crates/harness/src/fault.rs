//! What the harness needs to know of a fault: its id, its seam, and which requirements must turn red under it. How it
//! is applied is left to the proxies.

use serde::{Deserialize, Serialize};

use crate::{datafile::Place, scenario::Scenario, suite::Suite};

/// A fault as the catalogue and the proof see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultEntry {
    pub id: String,
    /// The connection it sits on, like `operator-api`.
    pub seam: String,
    pub title: String,
    /// The requirements that must turn red.
    pub requirements: Vec<String>,
    /// The scenarios that must turn red, by name or `file:line`; those of the requirements when empty.
    pub scenarios: Vec<String>,
    pub place: Place,
}

impl FaultEntry {
    /// Whether this fault is meant to turn the scenario red.
    pub fn aims_at(&self, scenario: &Scenario) -> bool {
        if self.scenarios.is_empty() {
            return scenario.requirements.iter().any(|id| self.requirements.contains(id));
        }
        self.scenarios.iter().any(|name| *name == scenario.name || *name == scenario.id() || *name == scenario.file)
    }

    /// The scenarios it must turn red.
    pub fn targets<'a>(&'a self, suite: &'a Suite) -> impl Iterator<Item = &'a Scenario> {
        suite.scenarios().iter().filter(|scenario| self.aims_at(scenario))
    }
}
