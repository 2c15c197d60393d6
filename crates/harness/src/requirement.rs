//! The catalogue: every checkable statement of the documents, with a stable id, its sources and the versions that
//! state it. Which scenarios show a requirement is left to the suite; what is missing is left to `check`.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::datafile::{DataError, DataFile, Place};

/// All requirements, in the order of the files.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    pub requirements: Vec<Requirement>,
}

/// One checkable statement of the documents, in the project's own words.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requirement {
    /// Stable, like `STO-S3-SECRET`; a tag on the scenarios that show it.
    pub id: String,
    pub title: String,
    pub statement: String,
    pub kind: Kind,
    /// The documentation versions that state it, like `4.6`.
    pub versions: Vec<String>,
    pub sources: Vec<Source>,
    /// What a scenario can see of it from outside.
    pub observable: String,
    /// What must not be possible, or must be refused.
    #[serde(default)]
    pub negative: Option<String>,
    pub components: Vec<Component>,
    /// The storage backend it is about, if it is about one.
    #[serde(default)]
    pub backend: Option<String>,
    pub testable: Testable,
    /// Why it is not fully testable, or where products are known to depart from it.
    #[serde(default)]
    pub why: Option<String>,
    /// Versions that disagree with each other or with themselves.
    #[serde(default)]
    pub variance: Option<String>,
    /// Why there is no scenario yet.
    #[serde(default)]
    pub planned: Option<String>,
    /// The subject of its file, like `storage`.
    #[serde(skip)]
    pub subject: String,
    /// Where the entry stands.
    #[serde(skip)]
    pub place: Place,
}

/// Where a document states it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// The documentation version, like `4.6`.
    pub document: String,
    /// The section number printed in that document.
    pub section: String,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} section {}", self.document, self.section)
    }
}

/// What kind of statement it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Parameter,
    Procedure,
    Note,
    State,
    Output,
    Default,
    Warning,
    Error,
}

/// Which part of a system a statement is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    Operator,
    Registry,
    Cli,
    Storage,
    NodeAgent,
    Ingress,
}

/// How far a statement can be shown from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Testable {
    Full,
    Partial,
    DocumentationOnly,
}

impl Testable {
    /// Whether a scenario can show anything of it.
    pub fn somehow(self) -> bool {
        self != Self::DocumentationOnly
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    subject: String,
    requirements: Vec<Requirement>,
}

impl Catalogue {
    /// Reads the files of `requirements/`. An id that stands twice is kept twice; `check` reports it.
    ///
    /// # Errors
    /// [`DataError::Malformed`] for a file that does not have the form, with its line.
    pub fn read<'a>(files: impl IntoIterator<Item = &'a DataFile>) -> Result<Self, DataError> {
        let mut requirements = Vec::new();
        for file in files {
            let subject: Subject = file.yaml()?;
            let mut seen = std::collections::BTreeMap::<String, usize>::new();
            for mut requirement in subject.requirements {
                let nth = seen.entry(requirement.id.clone()).or_default();
                let line = file.lines_of("id", &requirement.id).nth(*nth).unwrap_or(1);
                *nth += 1;
                requirement.place = file.at(line);
                requirement.subject.clone_from(&subject.subject);
                if !is_id(&requirement.id) {
                    let message = format!(
                        "{:?} is not a requirement id; ids are capital words joined by dashes, like STO-S3-SECRET",
                        requirement.id
                    );
                    return Err(DataError::Malformed { place: requirement.place, message });
                }
                requirements.push(requirement);
            }
        }
        Ok(Self { requirements })
    }

    /// The requirement of that id.
    pub fn get(&self, id: &str) -> Option<&Requirement> {
        self.requirements.iter().find(|requirement| requirement.id == id)
    }

    /// All ids, in order of the files.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.requirements.iter().map(|requirement| requirement.id.as_str())
    }

    /// All documentation versions that any requirement names, oldest first.
    pub fn versions(&self) -> Vec<String> {
        let all: BTreeSet<&String> = self.requirements.iter().flat_map(|requirement| &requirement.versions).collect();
        let mut all: Vec<String> = all.into_iter().cloned().collect();
        all.sort_by_key(|version| version_key(version));
        all
    }
}

/// Orders `4.10` after `4.9`.
pub fn version_key(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or(u32::MAX)).collect()
}

/// Whether a tag has the form of a requirement id: three capitals, then capital words joined by dashes.
pub fn is_id(tag: &str) -> bool {
    let mut words = tag.split('-');
    words.next().is_some_and(|first| first.len() == 3 && first.chars().all(|c| c.is_ascii_uppercase()))
        && tag.contains('-')
        && words.all(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const ENTRY: &str = "subject: storage\nrequirements:\n  - id: STO-A\n    title: t\n    statement: s\n    kind: state\n    versions: [\"4.6\"]\n    sources: [{document: \"4.6\", section: \"3.1\"}]\n    observable: o\n    components: [operator, node-agent]\n    testable: full\n";

    #[test]
    fn entries_know_their_subject_and_line() {
        let catalogue = Catalogue::read([&DataFile::new("requirements/storage.yaml", ENTRY)]).unwrap();
        let entry = catalogue.get("STO-A").unwrap();
        assert_eq!(entry.subject, "storage");
        assert_eq!(entry.place.to_string(), "requirements/storage.yaml:3");
        assert_eq!(entry.sources[0].to_string(), "4.6 section 3.1");
    }

    #[test]
    fn a_wrong_key_is_an_error_with_its_line() {
        let text = ENTRY.replace("observable", "obsrevable");
        let error = Catalogue::read([&DataFile::new("requirements/storage.yaml", text)]).unwrap_err();
        assert!(error.to_string().starts_with("requirements/storage.yaml:9: "), "{error}");
        assert!(error.to_string().contains("unknown field `obsrevable`"), "{error}");
    }

    #[rstest]
    #[case("STO-S3-SECRET", true)]
    #[case("OPR-MGMT-MANAGED", true)]
    #[case("storage", false)]
    #[case("STO", false)]
    #[case("needs-podman", false)]
    fn ids_have_a_form(#[case] tag: &str, #[case] id: bool) {
        assert_eq!(is_id(tag), id);
    }

    #[test]
    fn versions_are_numbers_not_words() {
        let mut versions = vec!["4.16", "4.6", "4.2"];
        versions.sort_by_key(|version| version_key(version));
        assert_eq!(versions, ["4.2", "4.6", "4.16"]);
    }
}
