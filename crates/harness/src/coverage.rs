//! Coverage: how much of the documents the suite can show, and how much of that is proven able to fail. Counted from
//! catalogue, suite and faults alone, before anything runs.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    fault::FaultEntry,
    requirement::{Catalogue, Requirement, Testable},
    suite::Suite,
};

/// What `catalog --format json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Coverage {
    /// All requirements.
    pub requirements: usize,
    /// Those of which a scenario can show something.
    pub testable: usize,
    /// Testable ones with at least one scenario.
    pub shown: usize,
    /// Shown ones that at least one fault turns red.
    pub proven: usize,
    /// Testable ones without scenario that say why.
    pub planned: usize,
    pub by_subject: BTreeMap<String, Counts>,
    pub by_version: BTreeMap<String, Counts>,
    pub entries: Vec<Entry>,
}

/// The numbers of a part of the catalogue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    pub requirements: usize,
    pub testable: usize,
    pub shown: usize,
    pub proven: usize,
    pub planned: usize,
}

/// A requirement and what shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub id: String,
    pub subject: String,
    pub title: String,
    pub testable: Testable,
    pub versions: Vec<String>,
    /// `file:line` of its scenarios.
    pub scenarios: Vec<String>,
    /// The ids of the faults that must turn them red.
    pub faults: Vec<String>,
    /// Why there is no scenario.
    pub reason: Option<String>,
}

impl Coverage {
    /// Counts; only requirements that one of `versions` states, all when it is empty.
    pub fn of(catalogue: &Catalogue, suite: &Suite, faults: &[FaultEntry], versions: &[String]) -> Self {
        let mut coverage = Self {
            requirements: 0,
            testable: 0,
            shown: 0,
            proven: 0,
            planned: 0,
            by_subject: BTreeMap::new(),
            by_version: BTreeMap::new(),
            entries: Vec::new(),
        };
        let mut all = Counts::default();
        for requirement in &catalogue.requirements {
            if !versions.is_empty() && !requirement.versions.iter().any(|version| versions.contains(version)) {
                continue;
            }
            let entry = Entry::of(requirement, suite, faults);
            let counts = entry.counts(requirement);
            all.add(counts);
            coverage.by_subject.entry(requirement.subject.clone()).or_default().add(counts);
            for version in &requirement.versions {
                coverage.by_version.entry(version.clone()).or_default().add(counts);
            }
            coverage.entries.push(entry);
        }
        let Counts { requirements, testable, shown, proven, planned } = all;
        Self { requirements, testable, shown, proven, planned, ..coverage }
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut out = format!(
            "{:<16}{:>13}{:>10}{:>8}{:>8}{:>9}\n",
            "", "requirements", "testable", "shown", "proven", "planned"
        );
        let mut row = |name: &str, counts: &Counts| {
            out.push_str(&format!(
                "{name:<16}{:>13}{:>10}{:>8}{:>8}{:>9}\n",
                counts.requirements, counts.testable, counts.shown, counts.proven, counts.planned
            ));
        };
        for (subject, counts) in &self.by_subject {
            row(subject, counts);
        }
        let mut versions: Vec<_> = self.by_version.iter().collect();
        versions.sort_by_key(|(version, _)| crate::requirement::version_key(version));
        for (version, counts) in versions {
            row(&format!("version {version}"), counts);
        }
        let Self { requirements, testable, shown, proven, planned, .. } = *self;
        row("all", &Counts { requirements, testable, shown, proven, planned });
        out
    }
}

impl Entry {
    fn of(requirement: &Requirement, suite: &Suite, faults: &[FaultEntry]) -> Self {
        let scenarios: Vec<_> = suite.showing(&requirement.id).collect();
        let faults = faults
            .iter()
            .filter(|fault| {
                fault.requirements.contains(&requirement.id)
                    && (fault.scenarios.is_empty() || scenarios.iter().any(|scenario| fault.aims_at(scenario)))
            })
            .map(|fault| fault.id.clone())
            .collect();
        let reason =
            scenarios.is_empty().then(|| requirement.planned.clone().or_else(|| requirement.why.clone())).flatten();
        Self {
            id: requirement.id.clone(),
            subject: requirement.subject.clone(),
            title: requirement.title.clone(),
            testable: requirement.testable,
            versions: requirement.versions.clone(),
            scenarios: scenarios.iter().map(|scenario| scenario.id()).collect(),
            faults,
            reason,
        }
    }

    fn counts(&self, requirement: &Requirement) -> Counts {
        let testable = self.testable.somehow();
        let shown = testable && !self.scenarios.is_empty();
        Counts {
            requirements: 1,
            testable: usize::from(testable),
            shown: usize::from(shown),
            proven: usize::from(shown && !self.faults.is_empty()),
            planned: usize::from(testable && !shown && requirement.planned.is_some()),
        }
    }
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.requirements += other.requirements;
        self.testable += other.testable;
        self.shown += other.shown;
        self.proven += other.proven;
        self.planned += other.planned;
    }
}
