//! `catalog check`: whether catalogue, scenarios, faults and systems fit together. Every finding says what is wrong,
//! where, and what to do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    datafile::Place,
    fault::FaultEntry,
    nearest::did_you_mean,
    requirement::{self, Catalogue},
    suite::Suite,
};

/// Something that does not fit, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub place: Place,
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

/// Tags with a meaning of their own, besides subjects, names of feature files and requirement ids. One that ends in `-` is a beginning.
const TAGS: [&str; 7] = ["needs-", "backend-", "claims-", "disruptive", "kind-smoke", "slow", "client-"];

/// Checks everything; empty when all fits.
pub fn check(catalogue: &Catalogue, suite: &Suite, faults: &[FaultEntry]) -> Vec<Finding> {
    let mut findings = Vec::new();
    duplicates(catalogue, &mut findings);
    entries(catalogue, suite, &mut findings);
    scenarios(catalogue, suite, &mut findings);
    check_faults(catalogue, suite, faults, &mut findings);
    findings.sort_by(|a, b| a.place.cmp(&b.place));
    findings
}

fn duplicates(catalogue: &Catalogue, findings: &mut Vec<Finding>) {
    let mut first = BTreeMap::<&str, &Place>::new();
    for requirement in &catalogue.requirements {
        if let Some(place) = first.get(requirement.id.as_str()) {
            let problem = format!("{} stands already at {place}; ids are given once", requirement.id);
            findings.push(Finding { place: requirement.place.clone(), problem });
        } else {
            first.insert(&requirement.id, &requirement.place);
        }
    }
}

fn entries(catalogue: &Catalogue, suite: &Suite, findings: &mut Vec<Finding>) {
    for requirement in &catalogue.requirements {
        let shown = suite.showing(&requirement.id).next();
        let mut found = |problem: String| findings.push(Finding { place: requirement.place.clone(), problem });
        let id = &requirement.id;
        match (requirement.testable.somehow(), shown, &requirement.planned) {
            (true, None, None) => {
                found(format!("{id} is testable and has no scenario; write one or say in `planned` why there is none"));
            }
            (true, Some(scenario), Some(_)) => {
                found(format!("{id} says why it has no scenario, but {} shows it; remove `planned`", scenario.id()));
            }
            (false, None, _) if requirement.why.is_none() => {
                found(format!("{id} is documentation-only and does not say `why`"));
            }
            (false, Some(scenario), _) => {
                found(format!("{id} is documentation-only, but {} shows it; correct `testable`", scenario.id()));
            }
            _ => {}
        }
        if requirement.sources.is_empty() {
            found(format!("{id} has no source; name the document and its section"));
        }
        if requirement.versions.is_empty() {
            found(format!("{id} names no documentation version"));
        }
    }
}

fn scenarios(catalogue: &Catalogue, suite: &Suite, findings: &mut Vec<Finding>) {
    for scenario in suite.scenarios() {
        let mut found = |problem: String| findings.push(Finding { place: scenario.place(), problem });
        if scenario.requirements.is_empty() {
            found(format!("{:?} shows no requirement; tag it with the id of one", scenario.name));
        }
    }
    findings.extend(unknown_tags(catalogue, suite));
}

/// Tags of scenarios that mean nothing: a requirement that does not exist would be judged under no name.
pub fn unknown_tags(catalogue: &Catalogue, suite: &Suite) -> Vec<Finding> {
    let topics: BTreeSet<&str> =
        suite.scenarios().iter().flat_map(|scenario| [scenario.subject.as_str(), stem(&scenario.file)]).collect();
    let mut findings = Vec::new();
    for scenario in suite.scenarios() {
        let mut found = |problem: String| findings.push(Finding { place: scenario.place(), problem });
        for tag in &scenario.tags {
            if requirement::is_id(tag) {
                if catalogue.get(tag).is_none() {
                    found(format!("there is no requirement @{tag}; {}", did_you_mean(tag, catalogue.ids())));
                }
            } else if !known(tag, &topics) {
                let known = TAGS.iter().filter(|known| !known.ends_with('-')).chain(&topics);
                found(format!("unknown tag @{tag}; {}", did_you_mean(tag, known.copied())));
            }
        }
    }
    findings
}

/// The name of a feature file, which is a tag too.
fn stem(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file).trim_end_matches(".feature")
}

fn known(tag: &str, topics: &BTreeSet<&str>) -> bool {
    topics.contains(tag)
        || TAGS.iter().any(|known| match known.strip_suffix('-') {
            Some(_) => tag.len() > known.len() && tag.starts_with(known),
            None => tag == *known,
        })
}

fn check_faults(catalogue: &Catalogue, suite: &Suite, faults: &[FaultEntry], findings: &mut Vec<Finding>) {
    let mut first = BTreeMap::<&str, &Place>::new();
    for fault in faults {
        let mut found = |problem: String| findings.push(Finding { place: fault.place.clone(), problem });
        if let Some(place) = first.insert(&fault.id, &fault.place) {
            found(format!("fault {} stands already at {place}; ids are given once", fault.id));
        }
        if fault.requirements.is_empty() && fault.scenarios.is_empty() {
            found(format!("fault {} names nothing that must turn red", fault.id));
        }
        for id in &fault.requirements {
            if catalogue.get(id).is_none() {
                let hint = did_you_mean(id, catalogue.ids());
                found(format!("fault {} names requirement {id}, which does not exist; {hint}", fault.id));
            } else if suite.showing(id).next().is_none() {
                found(format!("fault {} names requirement {id}, which no scenario shows", fault.id));
            } else if !suite.showing(id).any(|scenario| fault.aims_at(scenario)) {
                found(format!("fault {} names requirement {id}, which none of its scenarios shows", fault.id));
            }
        }
        for name in &fault.scenarios {
            let exists = suite
                .scenarios()
                .iter()
                .any(|scenario| *name == scenario.name || *name == scenario.id() || *name == scenario.file);
            if !exists {
                let hint = did_you_mean(name, suite.scenarios().iter().map(|scenario| scenario.name.as_str()));
                found(format!("fault {} names scenario {name:?}, which does not exist; {hint}", fault.id));
            }
        }
    }
    for scenario in suite.scenarios() {
        if !faults.iter().any(|fault| fault.aims_at(scenario)) {
            let problem = format!("no fault turns {:?} red; add one to faults/", scenario.name);
            findings.push(Finding { place: scenario.place(), problem });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{datafile::DataFile, suite::tests::scenario};

    fn entry(id: &str, testable: &str, rest: &str) -> String {
        format!(
            "  - id: {id}\n    title: t\n    statement: s\n    kind: state\n    versions: [\"4.6\"]\n    sources: [{{document: \"4.6\", section: \"3\"}}]\n    observable: o\n    components: [operator]\n    testable: {testable}\n{rest}"
        )
    }

    fn fault(id: &str, requirements: &[&str], scenarios: &[&str], line: usize) -> FaultEntry {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        FaultEntry {
            id: id.into(),
            seam: "operator-api".into(),
            title: String::new(),
            requirements: owned(requirements),
            scenarios: owned(scenarios),
            place: Place::new(format!("faults/{id}.yaml"), line),
        }
    }

    #[test]
    fn what_fits_has_no_finding() {
        let text = format!(
            "subject: storage\nrequirements:\n{}{}{}",
            entry("STO-SHOWN", "full", ""),
            entry("STO-LATER", "partial", "    planned: needs a block device\n"),
            entry("STO-TEXT", "documentation-only", "    why: a recommendation\n"),
        );
        let catalogue = Catalogue::read([&DataFile::new("requirements/storage.yaml", text)]).unwrap();
        let tags = ["storage", "s3", "STO-SHOWN", "needs-podman", "backend-s3"];
        let suite = Suite::new(vec![scenario("features/storage/s3.feature", 3, "Blobs lie there", &tags)]);
        assert_eq!(check(&catalogue, &suite, &[fault("lost", &["STO-SHOWN"], &[], 1)]), []);
    }

    #[test]
    fn everything_that_does_not_fit_is_found_with_its_place() {
        let text = format!(
            "subject: storage\nrequirements:\n{}{}{}{}{}",
            entry("STO-SHOWN", "full", "    planned: later\n"),
            entry("STO-NOBODY", "full", ""),
            entry("STO-SHOWN", "full", ""),
            entry("STO-TEXT", "documentation-only", ""),
            entry("STO-BARE", "partial", "    planned: later\n").replace("[{document: \"4.6\", section: \"3\"}]", "[]"),
        );
        let catalogue = Catalogue::read([&DataFile::new("requirements/storage.yaml", text)]).unwrap();
        let suite = Suite::new(vec![
            scenario("features/storage/s3.feature", 3, "Blobs lie there", &["STO-SHOWN"]),
            scenario("features/storage/s3.feature", 9, "Something happens", &["storag"]),
            scenario("features/storage/s3.feature", 15, "Somebody pulls", &["STO-SHOWM"]),
        ]);
        let faults = [
            fault("lost", &["STO-SHOWN", "STO-GONE"], &[], 2),
            fault("lost", &["STO-NOBODY"], &["Blobs lie here"], 4),
            fault("idle", &[], &[], 1),
        ];
        let findings: Vec<String> = check(&catalogue, &suite, &faults).iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(findings.join("\n"));
    }
}
