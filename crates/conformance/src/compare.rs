//! `compare RUN_A RUN_B`: how two runs differ, by requirement and by scenario. Both are read from their events, so
//! that runs of older versions can be compared too.

use harness::{
    evidence,
    report::{Report, comparison::Comparison},
    verdict::Exit,
};

use crate::{
    cli::{CompareForm, CompareOptions},
    output, results,
};

/// The command. Its exit code says whether the verdicts are the same.
pub(crate) fn command(options: &CompareOptions) -> anyhow::Result<Exit> {
    let comparison = Comparison::of(&read(options, &options.before)?, &read(options, &options.after)?);
    output::print(&match options.format {
        CompareForm::Text => comparison.table(options.all),
        CompareForm::Yaml => serde_yaml::to_string(&comparison)?,
        CompareForm::Json => serde_json::to_string_pretty(&comparison)? + "\n",
    })?;
    Ok(if comparison.same() { Exit::Passed } else { Exit::Failed })
}

fn read(options: &CompareOptions, run: &str) -> anyhow::Result<Report> {
    let folder = results::find(&options.out, run);
    let report = Report::of(&evidence::read(&folder)?);
    anyhow::ensure!(!report.run.is_empty(), "{} holds no run: it never began", folder.display());
    Ok(report)
}
