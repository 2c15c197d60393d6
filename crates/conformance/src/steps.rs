//! `steps`: every step that scenarios can use, by kind, with the source line that defines it.

use cucumber::codegen::WorldInventory;
use gherkin::StepType;
use harness::verdict::Exit;

use crate::{cli::Form, output, vocabulary::Vocabulary};

/// The command.
pub(crate) fn command<W>(format: Form) -> anyhow::Result<Exit>
where
    W: cucumber::World + WorldInventory + std::fmt::Debug,
{
    let vocabulary = Vocabulary::<W>::registered();
    if format == Form::Json {
        let steps: Vec<serde_json::Value> = vocabulary
            .definitions()
            .iter()
            .map(|step| {
                serde_json::json!({
                    "kind": format!("{:?}", step.kind),
                    "sentence": step.sentence(),
                    "pattern": step.pattern,
                    "location": step.location,
                })
            })
            .collect();
        output::print(&(serde_json::to_string_pretty(&steps)? + "\n"))?;
        return Ok(Exit::Passed);
    }
    for kind in [StepType::Given, StepType::When, StepType::Then] {
        for definition in vocabulary.definitions().iter().filter(|definition| definition.kind == kind) {
            output::print(&format!("{definition}\n"))?;
        }
    }
    Ok(Exit::Passed)
}
