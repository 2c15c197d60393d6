//! `catalog`: how much of the documents is covered. `catalog check`: whether requirements, scenarios, steps, faults
//! and systems fit together.

use cucumber::codegen::WorldInventory;
use harness::{check, coverage::Coverage, fault::FaultEntry, verdict::Exit};

use crate::{
    cli::{CatalogAction, CatalogOptions, Form},
    data::Data,
    output,
    vocabulary::Vocabulary,
};

/// The command.
pub(crate) fn command<W>(data: &Data, options: &CatalogOptions) -> anyhow::Result<Exit>
where
    W: cucumber::World + WorldInventory + std::fmt::Debug,
{
    let catalogue = data.catalogue()?;
    let features = data.features()?;
    let faults: Vec<FaultEntry> = data.faults()?.into_iter().map(|fault| fault.entry).collect();
    if options.action == Some(CatalogAction::Check) {
        let systems = data.systems(&catalogue)?;
        data.backends()?;
        let mut findings = check::check(&catalogue, features.suite(), &faults);
        findings.extend(Vocabulary::<W>::registered().check(&features, features.suite().scenarios()));
        for finding in &findings {
            output::print(&format!("{finding}\n"))?;
        }
        let coverage = Coverage::of(&catalogue, features.suite(), &faults, &[]);
        output::print(&format!(
            "{} requirements, {} scenarios, {} faults, {} systems: {}\n",
            coverage.requirements,
            features.suite().scenarios().len(),
            faults.len(),
            systems.len(),
            match findings.len() {
                0 => format!("everything fits ({} requirements are planned without scenario)", coverage.planned),
                one_or_more => format!("{one_or_more} findings"),
            }
        ))?;
        return Ok(if findings.is_empty() { Exit::Passed } else { Exit::Failed });
    }
    let versions = catalogue.versions();
    if let Some(unknown) = options.docs_versions.iter().find(|version| !versions.contains(version)) {
        anyhow::bail!("no requirement names documentation version {unknown}; known are: {}", versions.join(", "));
    }
    let coverage = Coverage::of(&catalogue, features.suite(), &faults, &options.docs_versions);
    output::print(&match options.format {
        Form::Json => serde_json::to_string_pretty(&coverage)? + "\n",
        Form::Text => coverage.table(),
    })?;
    Ok(Exit::Passed)
}
