//! A scenario as the harness knows it: its sentence, where it stands, its tags and the requirements it shows. Parsing
//! Gherkin and running steps is left to the runner.

use serde::{Deserialize, Serialize};

use crate::{datafile::Place, requirement};

/// What a scenario tagged `@disruptive` needs of the target.
pub const DISRUPTION: &str = "disruption";

/// One scenario, or one row of an outline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scenario {
    /// The sentence after `Scenario:`.
    pub name: String,
    /// The name of its feature.
    pub feature: String,
    /// The feature file, relative to the data folder, like `features/storage/s3.feature`.
    pub file: String,
    /// The line of the scenario, or of its row in an outline.
    pub line: usize,
    /// The line of its last step.
    pub last_line: usize,
    /// The line of the outline it was expanded from.
    pub outline: Option<usize>,
    /// The folder under `features/`, like `storage`; also a tag.
    pub subject: String,
    /// All tags of feature, rule, scenario and examples, without `@`.
    pub tags: Vec<String>,
    /// Those tags that are requirement ids.
    pub requirements: Vec<String>,
    pub steps: Vec<Step>,
}

/// A step as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// `Given`, `When`, `Then`, `And`, `But` or what the language has for it.
    pub keyword: String,
    pub text: String,
    pub line: usize,
}

impl Scenario {
    /// `file:line`, unique in a suite.
    pub fn id(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    /// Where it stands.
    pub fn place(&self) -> Place {
        Place::new(&self.file, self.line)
    }

    /// Whether it carries the tag (given without `@`); its subject counts as one.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.subject == tag || self.tags.iter().any(|own| own == tag)
    }

    /// What the target must be able to do, from `@needs-…` and `@backend-…` tags: `podman`, `backend-s3`; `disruption`
    /// from `@disruptive`.
    pub fn needs(&self) -> impl Iterator<Item = &str> {
        let own = self.tags.iter().filter_map(|tag| {
            tag.strip_prefix("needs-").or_else(|| tag.starts_with("backend-").then_some(tag.as_str()))
        });
        // Last, because it is the one need that a flag can meet.
        own.chain(self.is_disruptive().then_some(DISRUPTION))
    }

    /// Whether it changes what everybody in the cluster shares: the registry's configuration, the registry itself, nodes.
    pub fn is_disruptive(&self) -> bool {
        self.has_tag("disruptive")
    }

    /// What the system must claim, from `@claims-…` tags.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().filter_map(|tag| tag.strip_prefix("claims-"))
    }

    /// Whether the line lies in this scenario, or is that of the outline it comes from.
    pub fn covers(&self, line: usize) -> bool {
        match self.outline {
            Some(outline) => line == self.line || line == outline,
            None => (self.line..=self.last_line).contains(&line),
        }
    }

    /// A name for test drivers, without spaces: `storage::s3::blobs_lie_in_the_bucket`.
    pub fn test_name(&self) -> String {
        let stem = self.file.rsplit('/').next().unwrap_or(&self.file).trim_end_matches(".feature");
        format!("{}::{}::{}", word(&self.subject), word(stem), word(&self.name))
    }

    /// The requirement ids among tags, each once, in order.
    pub fn requirements_of(tags: &[String]) -> Vec<String> {
        let mut ids: Vec<String> = Vec::new();
        for tag in tags.iter().filter(|tag| requirement::is_id(tag)) {
            if !ids.contains(tag) {
                ids.push(tag.clone());
            }
        }
        ids
    }
}

fn word(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_alphanumeric() {
            out.extend(c.to_lowercase());
        } else if !out.ends_with('_') && !out.is_empty() {
            out.push('_');
        }
    }
    out.trim_end_matches('_').to_owned()
}
