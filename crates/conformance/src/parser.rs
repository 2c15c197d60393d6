//! Features from text: parsed by gherkin, outlines expanded, backgrounds put before the steps they belong to. It gives
//! the harness its suite and keeps the gherkin steps beside it for the runner.

use std::{collections::BTreeMap, sync::Arc};

use cucumber::feature::Ext as _;
use futures::{StreamExt as _, stream};
use gherkin::{Background, Feature, GherkinEnv};
use harness::{
    datafile::{DataError, DataFile},
    scenario::{Scenario, Step},
    suite::Suite,
};

/// All features, parsed.
#[derive(Debug, Clone, Default)]
pub struct Features {
    features: Vec<Arc<Feature>>,
    suite: Suite,
    parsed: BTreeMap<String, Parsed>,
}

/// A scenario and the steps that make it up, backgrounds first.
#[derive(Debug, Clone)]
pub struct Parsed {
    pub scenario: Scenario,
    pub steps: Vec<gherkin::Step>,
    feature: usize,
    /// Rule (if any) and scenario, by their places in the feature.
    at: (Option<usize>, usize),
}

impl Features {
    /// Parses the files of `features/`.
    ///
    /// # Errors
    /// [`DataError::Malformed`] with file and line for the first that is not Gherkin, or that names an unknown
    /// placeholder in an outline.
    pub fn read<'a>(files: impl IntoIterator<Item = &'a DataFile>) -> Result<Self, DataError> {
        let mut features = Self::default();
        for file in files {
            let feature = parse(file)?;
            features.add(file, feature);
        }
        features.suite = Suite::new(features.parsed.values().map(|parsed| parsed.scenario.clone()).collect());
        Ok(features)
    }

    /// The scenarios as the harness knows them.
    pub fn suite(&self) -> &Suite {
        &self.suite
    }

    /// A scenario by its [`Scenario::id`].
    pub fn get(&self, id: &str) -> Option<&Parsed> {
        self.parsed.get(id)
    }

    /// All scenarios, by their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Parsed> {
        self.parsed.values()
    }

    fn add(&mut self, file: &DataFile, feature: Feature) {
        let index = self.features.len();
        let plain = feature.scenarios.iter().enumerate().map(|(at, scenario)| (None, at, scenario));
        let ruled = feature.rules.iter().enumerate().flat_map(|(rule, inside)| {
            inside.scenarios.iter().enumerate().map(move |(at, scenario)| (Some(rule), at, scenario))
        });
        for (rule, at, scenario) in plain.chain(ruled) {
            let inside = rule.map(|rule| &feature.rules[rule]);
            let background = |background: Option<&Background>| background.map_or(Vec::new(), |it| it.steps.clone());
            let mut steps = background(feature.background.as_ref());
            steps.extend(background(inside.and_then(|rule| rule.background.as_ref())));
            steps.extend(scenario.steps.iter().cloned());
            let tags = feature.tags.iter().chain(inside.map_or(&[][..], |rule| &rule.tags)).chain(&scenario.tags);
            let record = record(file, &feature, scenario, tags, &steps);
            self.parsed.insert(record.id(), Parsed { scenario: record, steps, feature: index, at: (rule, at) });
        }
        self.features.push(Arc::new(feature));
    }

    /// The gherkin feature, rule and scenario, for cucumber's own events.
    pub(crate) fn sources(&self, id: &str) -> Option<(&Feature, Option<&gherkin::Rule>, &gherkin::Scenario)> {
        let parsed = self.parsed.get(id)?;
        let feature = &self.features[parsed.feature];
        Some(match parsed.at {
            (Some(rule), at) => (feature, Some(&feature.rules[rule]), &feature.rules[rule].scenarios[at]),
            (None, at) => (feature, None, &feature.scenarios[at]),
        })
    }
}

/// Cucumber's parser: the features are parsed already, so that errors come before anything is started.
impl cucumber::Parser<()> for Features {
    type Cli = cucumber::cli::Empty;
    type Output = stream::LocalBoxStream<'static, cucumber::parser::Result<Feature>>;

    fn parse(self, _: (), _: Self::Cli) -> Self::Output {
        stream::iter(self.features.into_iter().map(|feature| Ok((*feature).clone()))).boxed_local()
    }
}

fn parse(file: &DataFile) -> Result<Feature, DataError> {
    let mut feature = Feature::parse(&file.text, GherkinEnv::default()).map_err(|error| {
        let line = position(&error.to_string()).unwrap_or(1).min(file.text.lines().count().max(1));
        let found = file.text.lines().nth(line - 1).unwrap_or_default().trim().to_owned();
        let message = match found.as_str() {
            "" => "is not Gherkin: it ends where a feature, a scenario or a step was expected".to_owned(),
            found => format!("is not Gherkin: `{found}` is no keyword, step, table or tag that may stand here"),
        };
        DataError::Malformed { place: file.at(line), message }
    })?;
    feature.path = Some(file.path.clone());
    only_steps(file, &feature)?;
    // Tables of examples come back with the place of each row, so the line of the outline itself is kept aside.
    feature.expand_examples().map_err(|error| DataError::Malformed {
        place: file.at(error.pos.line),
        message: format!("no column of the examples is called <{}>", error.name),
    })
}

/// Gherkin takes free text before the first step as a description, so a misspelt keyword there would drop its step
/// without a word, and a scenario without steps would pass. Here descriptions belong to features and rules alone.
fn only_steps(file: &DataFile, feature: &Feature) -> Result<(), DataError> {
    let refuse = |line: usize, message: String| Err(DataError::Malformed { place: file.at(line), message });
    let described = |line: usize, description: &Option<String>| {
        let text = description.as_deref()?.lines().map(str::trim).find(|line| !line.is_empty())?.to_owned();
        let below = file.text.lines().skip(line).position(|line| line.trim() == text).unwrap_or_default();
        Some((
            line + below + 1,
            format!("is not Gherkin: `{text}` is no step; descriptions stand under Feature or Rule"),
        ))
    };
    let rules = feature.rules.iter().map(|rule| (rule.background.as_ref(), &rule.scenarios));
    for (background, scenarios) in std::iter::once((feature.background.as_ref(), &feature.scenarios)).chain(rules) {
        if let Some(background) = background
            && let Some((line, message)) = described(background.position.line, &background.description)
        {
            return refuse(line, message);
        }
        for scenario in scenarios {
            let examples = scenario.examples.iter().map(|examples| (examples.position.line, &examples.description));
            let own = (scenario.position.line, &scenario.description);
            for (line, description) in std::iter::once(own).chain(examples) {
                if let Some((line, message)) = described(line, description) {
                    return refuse(line, message);
                }
            }
            if scenario.steps.is_empty() {
                return refuse(scenario.position.line, format!("the scenario {:?} has no steps", scenario.name));
            }
        }
    }
    Ok(())
}

/// The line in gherkin's error text, `Error at LINE:COLUMN: …`; its fields are private.
fn position(text: &str) -> Option<usize> {
    text.strip_prefix("Error at ")?.split(':').next()?.parse().ok()
}

fn record<'a>(
    file: &DataFile,
    feature: &Feature,
    scenario: &gherkin::Scenario,
    tags: impl Iterator<Item = &'a String>,
    steps: &[gherkin::Step],
) -> Scenario {
    let mut unique: Vec<String> = Vec::new();
    for tag in tags {
        let tag = tag.trim_start_matches('@');
        if !unique.iter().any(|own| own == tag) {
            unique.push(tag.to_owned());
        }
    }
    let path = file.path.to_string_lossy().replace('\\', "/");
    // A row of an outline carries its one row of examples and the row's own line; its steps lie above it.
    let outline = (!scenario.examples.is_empty()).then(|| outline_line(file, scenario));
    let last_line = scenario.steps.iter().map(|step| step.position.line).max().unwrap_or(scenario.position.line);
    Scenario {
        name: scenario.name.clone(),
        feature: feature.name.clone(),
        subject: subject(&path),
        file: path,
        line: scenario.position.line,
        last_line: last_line.max(scenario.position.line),
        outline,
        requirements: Scenario::requirements_of(&unique),
        tags: unique,
        steps: steps
            .iter()
            .map(|step| Step {
                keyword: step.keyword.trim().to_owned(),
                text: step.value.clone(),
                line: step.position.line,
            })
            .collect(),
    }
}

/// The line of the outline: the last line with its keyword above its first step.
fn outline_line(file: &DataFile, scenario: &gherkin::Scenario) -> usize {
    let first = scenario.steps.first().map_or(scenario.position.line, |step| step.position.line);
    file.text
        .lines()
        .take(first.saturating_sub(1))
        .enumerate()
        .filter(|(_, line)| line.trim_start().starts_with(&format!("{}:", scenario.keyword)))
        .last()
        .map_or(scenario.position.line, |(index, _)| index + 1)
}

/// The folder below `features/`, or the file's name where there is none.
fn subject(path: &str) -> String {
    let inside = path.rsplit_once("features/").map_or(path, |(_, inside)| inside);
    inside.split('/').next().unwrap_or(inside).trim_end_matches(".feature").to_owned()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const FEATURE: &str = "@storage\nFeature: Storage\n\n  Background:\n    Given a registry\n\n  @STO-A @backend-s3\n  Scenario: Blobs lie in the bucket\n    When an image is pushed\n    Then the bucket holds it\n\n  Scenario Outline: <kind> survives\n    Given a <kind>\n\n    @STO-B\n    Examples:\n      | kind |\n      | tag  |\n      | blob |\n";

    fn read(text: &str) -> Result<Features, DataError> {
        Features::read([&DataFile::new("features/storage/s3.feature", text)])
    }

    #[test]
    fn scenarios_carry_tags_backgrounds_and_places() {
        let features = read(FEATURE).unwrap();
        let scenario = &features.get("features/storage/s3.feature:8").unwrap().scenario;
        assert_eq!(scenario.subject, "storage");
        assert_eq!(scenario.requirements, ["STO-A"]);
        assert_eq!(scenario.tags, ["storage", "STO-A", "backend-s3"]);
        let steps: Vec<&str> = scenario.steps.iter().map(|step| step.text.as_str()).collect();
        assert_eq!(steps, ["a registry", "an image is pushed", "the bucket holds it"]);
        assert_eq!((scenario.line, scenario.last_line), (8, 10));
    }

    #[test]
    fn each_row_of_an_outline_is_a_scenario_with_its_own_line() {
        let features = read(FEATURE).unwrap();
        let rows: Vec<(usize, &str, Option<usize>)> = features
            .suite()
            .showing("STO-B")
            .map(|scenario| (scenario.line, scenario.name.as_str(), scenario.outline))
            .collect();
        assert_eq!(rows, [(18, "tag survives", Some(12)), (19, "blob survives", Some(12))]);
    }

    #[rstest]
    #[case(
        "Feature: x\n\n  Scenario: y\n    Given a\n    Whenever b\n",
        "features/storage/s3.feature:5: is not Gherkin"
    )]
    #[case("", "features/storage/s3.feature:1: is not Gherkin: it ends where")]
    #[case(
        "Feature: x\n  About x.\n\n  Scenario: y\n    Gven a\n    When b\n",
        "features/storage/s3.feature:5: is not Gherkin: `Gven a` is no step"
    )]
    #[case(
        "Feature: x\n  Background:\n    Gven a\n\n  Scenario: y\n    When b\n",
        "features/storage/s3.feature:3: is not Gherkin: `Gven a` is no step"
    )]
    #[case("Feature: x\n\n  Scenario: y\n", "features/storage/s3.feature:3: the scenario \"y\" has no steps")]
    #[case(
        "Feature: x\n  Scenario Outline: y\n    Given a <thing>\n    Examples:\n      | kind |\n      | z |\n",
        "features/storage/s3.feature:3: no column of the examples is called <thing>"
    )]
    fn what_does_not_parse_is_an_error_with_its_line(#[case] text: &str, #[case] expected: &str) {
        let error = read(text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
