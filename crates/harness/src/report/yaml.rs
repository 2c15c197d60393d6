//! `report.yaml`: the report for scripts and for submission.

use super::Report;

/// The file's name in the folder of a run.
pub const FILE: &str = "report.yaml";

/// Prints the report.
pub fn print(report: &Report) -> String {
    serde_yaml::to_string(report).expect("a report has only string keys")
}

/// Reads a printed report back.
///
/// # Errors
/// A sentence with the line that does not fit.
pub fn read(text: &str) -> Result<Report, String> {
    serde_yaml::from_str(text).map_err(|error| format!("not a report of this version: {error}"))
}
