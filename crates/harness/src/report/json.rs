//! `report.json`: the same content as `report.yaml` for tools that read JSON.

use super::Report;

/// The file's name in the folder of a run.
pub const FILE: &str = "report.json";

/// Prints the report.
pub fn print(report: &Report) -> String {
    serde_json::to_string_pretty(report).expect("a report has only string keys")
}
