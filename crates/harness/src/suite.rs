//! The suite: every scenario there is, in the order of the files. It is handed in parsed; what runs of it is decided
//! by the plan.

use std::collections::{BTreeMap, BTreeSet};

use crate::scenario::Scenario;

/// All scenarios.
#[derive(Debug, Clone, Default)]
pub struct Suite {
    scenarios: Vec<Scenario>,
    test_names: BTreeMap<String, usize>,
}

impl Suite {
    /// A suite of these scenarios; they are put in the order of file and line.
    pub fn new(mut scenarios: Vec<Scenario>) -> Self {
        scenarios.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        let mut count = BTreeMap::<String, usize>::new();
        for scenario in &scenarios {
            *count.entry(scenario.test_name()).or_default() += 1;
        }
        let test_names = scenarios
            .iter()
            .enumerate()
            .map(|(index, scenario)| {
                let name = scenario.test_name();
                let name = if count[&name] > 1 { format!("{name}::line_{}", scenario.line) } else { name };
                (name, index)
            })
            .collect();
        Self { scenarios, test_names }
    }

    /// The scenarios, by file and line.
    pub fn scenarios(&self) -> &[Scenario] {
        &self.scenarios
    }

    /// The scenario with that [`Scenario::id`].
    pub fn get(&self, id: &str) -> Option<&Scenario> {
        self.scenarios.iter().find(|scenario| scenario.id() == id)
    }

    /// The names by which test drivers call scenarios: unique, without spaces, sorted.
    pub fn test_names(&self) -> impl Iterator<Item = (&str, &Scenario)> {
        self.test_names.iter().map(|(name, index)| (name.as_str(), &self.scenarios[*index]))
    }

    /// Every tag in use, subjects among them.
    pub fn tags(&self) -> BTreeSet<&str> {
        self.scenarios
            .iter()
            .flat_map(|scenario| scenario.tags.iter().map(String::as_str).chain([scenario.subject.as_str()]))
            .collect()
    }

    /// The scenarios that show a requirement.
    pub fn showing<'a>(&'a self, requirement: &'a str) -> impl Iterator<Item = &'a Scenario> {
        self.scenarios.iter().filter(move |scenario| scenario.requirements.iter().any(|id| id == requirement))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::scenario::Step;

    /// A scenario with the given file, line, name and tags, for tests of everything that reads scenarios.
    pub(crate) fn scenario(file: &str, line: usize, name: &str, tags: &[&str]) -> Scenario {
        let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        Scenario {
            name: name.into(),
            feature: "F".into(),
            file: file.into(),
            line,
            last_line: line + 3,
            outline: None,
            subject: file.split('/').nth(1).unwrap_or_default().into(),
            requirements: Scenario::requirements_of(&tags),
            tags,
            steps: (1..=3).map(|n| Step { keyword: "Given".into(), text: format!("s{n}"), line: line + n }).collect(),
        }
    }

    #[test]
    fn test_names_are_unique_and_have_no_spaces() {
        let suite = Suite::new(vec![
            scenario("features/storage/s3.feature", 9, "Blobs lie in the bucket", &[]),
            scenario("features/storage/s3.feature", 3, "Blobs lie in the bucket", &[]),
            scenario("features/access/pull.feature", 5, "A puller, who may not push", &[]),
        ]);
        let names: Vec<&str> = suite.test_names().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "access::pull::a_puller_who_may_not_push",
                "storage::s3::blobs_lie_in_the_bucket::line_3",
                "storage::s3::blobs_lie_in_the_bucket::line_9"
            ]
        );
    }
}
