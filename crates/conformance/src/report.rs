//! `report RUN`: the report of an earlier run, computed again from its events. The exit code is that of the run.

use harness::{
    evidence,
    report::{Report, json, junit, terminal, yaml},
    verdict::Exit,
};

use crate::{
    cli::{ReportForm, ReportOptions},
    output, results,
    run::colour,
};

/// The command.
pub(crate) fn command(options: &ReportOptions) -> anyhow::Result<Exit> {
    let folder = results::find(&options.out, &options.run);
    let report = Report::of(&evidence::read(&folder)?);
    anyhow::ensure!(!report.run.is_empty(), "{} holds no run: it never began", folder.display());
    let text = match options.format {
        ReportForm::Text => terminal::print(&report, colour()),
        ReportForm::Yaml => yaml::print(&report),
        ReportForm::Json => json::print(&report) + "\n",
        ReportForm::Junit => junit::print(&report) + "\n",
    };
    output::print(&text)?;
    Ok(report.exit(options.strict))
}
