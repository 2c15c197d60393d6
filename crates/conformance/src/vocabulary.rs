//! The vocabulary: every step there is, with its pattern and the source line that defines it. It finds the step for a
//! sentence, and says before a run what sentences have none or more than one.

use std::fmt;

use cucumber::{
    codegen::{StepConstructor, WorldInventory, inventory},
    step::{Collection, Location},
};
use gherkin::StepType;
use harness::{check::Finding, scenario::Scenario};

use crate::parser::{Features, Parsed};

/// All steps of a World.
pub struct Vocabulary<W> {
    collection: Collection<W>,
    definitions: Vec<Definition>,
}

/// One step as it is defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    pub kind: StepType,
    /// The regular expression that a sentence must match.
    pub pattern: String,
    /// Where it is defined, `file:line`.
    pub location: String,
}

impl Definition {
    /// The pattern as a sentence, with `…` for what varies.
    pub fn sentence(&self) -> String {
        sentence(&self.pattern)
    }
}

impl fmt::Display for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}  ({})", word(self.kind), self.sentence(), self.location)
    }
}

impl<W> Vocabulary<W>
where
    W: cucumber::World + WorldInventory + fmt::Debug,
{
    /// The steps that attribute macros have registered for this World.
    pub fn registered() -> Self {
        let mut definitions = Vec::new();
        for step in inventory::iter::<W::Given> {
            definitions.push(definition(StepType::Given, step));
        }
        for step in inventory::iter::<W::When> {
            definitions.push(definition(StepType::When, step));
        }
        for step in inventory::iter::<W::Then> {
            definitions.push(definition(StepType::Then, step));
        }
        definitions.sort_by(|a, b| a.location.cmp(&b.location));
        Self { collection: W::collection(), definitions }
    }
}

impl<W> Vocabulary<W> {
    /// The collection that finds a step's function.
    pub fn collection(&self) -> &Collection<W> {
        &self.collection
    }

    /// All definitions, by place.
    pub fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// What is wrong with the sentences of these scenarios: those that no step is defined for, and those that more
    /// than one fits. Each sentence is reported once per line.
    pub fn check<'a>(&self, features: &Features, scenarios: impl IntoIterator<Item = &'a Scenario>) -> Vec<Finding> {
        let mut findings: Vec<Finding> = scenarios
            .into_iter()
            .filter_map(|scenario| features.get(&scenario.id()))
            .flat_map(|parsed| parsed.steps.iter().filter_map(|step| self.check_step(parsed, step)))
            .collect();
        findings.sort_by(|a, b| (&a.place, &a.problem).cmp(&(&b.place, &b.problem)));
        findings.dedup();
        findings
    }

    fn check_step(&self, parsed: &Parsed, step: &gherkin::Step) -> Option<Finding> {
        let place = harness::datafile::Place::new(&parsed.scenario.file, step.position.line);
        let problem = match self.collection.find(step) {
            Ok(Some(_)) => return None,
            Ok(None) => {
                let nearest = self.nearest(step).map_or_else(String::new, |near| format!("; the nearest is: {near}"));
                format!("no step is defined for \"{} {}\"{nearest}", word(step.ty), step.value)
            }
            Err(ambiguous) => {
                let possible: Vec<String> = ambiguous
                    .possible_matches
                    .iter()
                    .map(|(pattern, location)| {
                        let location = location.map_or_else(String::new, |at| format!(" ({})", short(&at)));
                        format!("{}{location}", sentence(&pattern.to_string()))
                    })
                    .collect();
                format!("more than one step fits \"{} {}\": {}", word(step.ty), step.value, possible.join(" and "))
            }
        };
        Some(Finding { place, problem })
    }

    /// The definition of the same kind, or else of any, that shares most words with the sentence.
    fn nearest(&self, step: &gherkin::Step) -> Option<&Definition> {
        let wanted: Vec<String> = words(&step.value);
        let score = |definition: &Definition| {
            let own = words(&definition.sentence());
            let shared = own.iter().filter(|word| wanted.contains(word)).count() * 2;
            let all = (own.len() + wanted.len()).max(1);
            (shared * 1000 / all, definition.kind == step.ty)
        };
        let best = self.definitions.iter().max_by_key(|definition| score(definition))?;
        (score(best).0 >= 300).then_some(best)
    }
}

fn definition<W>(kind: StepType, step: &impl StepConstructor<W>) -> Definition {
    let (location, pattern, _) = step.inner();
    Definition { kind, pattern: pattern().to_string(), location: short(&location) }
}

fn short(location: &Location) -> String {
    format!("{}:{}", location.path, location.line)
}

fn word(kind: StepType) -> &'static str {
    match kind {
        StepType::Given => "Given",
        StepType::When => "When",
        StepType::Then => "Then",
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

/// A pattern without its anchors, groups replaced by `…` unless they are a list of plain words.
fn sentence(pattern: &str) -> String {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    let pattern = pattern.strip_suffix('$').unwrap_or(pattern);
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.find(['(', '\\']) {
        out.push_str(&rest[..at]);
        if rest[at..].starts_with('\\') {
            out.extend(rest[at + 1..].chars().take(1));
            rest = rest.get(at + 2..).unwrap_or_default();
            continue;
        }
        let end = at + group_length(&rest[at..]);
        let inside = rest[at..end].trim_start_matches("(?:").trim_start_matches('(').trim_end_matches(')');
        let plain = inside.chars().all(|c| c.is_alphanumeric() || matches!(c, ' ' | '|' | '-'));
        out.push_str(&if plain { inside.replace('|', "/") } else { "…".to_owned() });
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// The length of the group at the start, with those inside it.
fn group_length(text: &str) -> usize {
    let (mut depth, mut escaped, mut class) = (0_usize, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => class = true,
            ']' => class = false,
            '(' if !class => depth += 1,
            ')' if !class => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("^the registry is (Managed|Removed)$", "the registry is Managed/Removed")]
    #[case(r#"^the image "([^"]*)" is pulled$"#, r#"the image "…" is pulled"#)]
    #[case(r#"^project ("(?:[^"\\]*(?:\\.[^"\\]*)*)"|'x') exists$"#, "project … exists")]
    #[case(r"^costs 3\.5$", "costs 3.5")]
    fn patterns_read_as_sentences(#[case] pattern: &str, #[case] expected: &str) {
        assert_eq!(sentence(pattern), expected);
    }
}
