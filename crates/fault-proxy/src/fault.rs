//! A fault file as types: what it is called, where it sits, which requirements must turn red, what it matches and what it does.
//! Reading checks everything that can be wrong with a file, and names file, line and key.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::edit::{Edit, Replace, Where};
use crate::pattern::{Glob, Pattern, Span};

/// A fault: a good system with it on is a bad system.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Unique name.
    pub id: String,
    /// What goes wrong, as a sentence.
    pub title: String,
    /// The connection it sits on.
    pub seam: Seam,
    /// Requirements that must turn red.
    pub requirements: Vec<String>,
    /// Scenarios that must turn red; those of the requirements if none are given.
    #[serde(default)]
    pub scenarios: Vec<String>,
    /// What it does; the rules are tried in order and all that match apply.
    pub rules: Vec<Rule>,
}

/// A named connection that a proxy can sit on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seam {
    /// From the operator to kube-apiserver.
    OperatorApi,
    /// From the registry to kube-apiserver.
    RegistryApi,
    /// From the node agents to kube-apiserver.
    NodeApi,
    /// From clients to the registry.
    ClientRegistry,
    /// From the registry to its object store.
    RegistryStorage,
    /// From documented commands to kube-apiserver.
    CliApi,
    /// Files of the nodes, as they are looked at.
    NodeFiles,
    /// Documented command lines as they are run (`command-line`), and files they wrote as they are looked at.
    Command,
}

impl Seam {
    /// Every seam.
    pub const ALL: [Seam; 8] = [
        Seam::OperatorApi,
        Seam::RegistryApi,
        Seam::NodeApi,
        Seam::ClientRegistry,
        Seam::RegistryStorage,
        Seam::CliApi,
        Seam::NodeFiles,
        Seam::Command,
    ];

    /// Whether texts pass here instead of exchanges, so that rules have `file` and `edit`.
    pub fn has_texts(self) -> bool {
        matches!(self, Seam::NodeFiles | Seam::Command)
    }

    /// Name in fault files.
    pub fn name(self) -> &'static str {
        match self {
            Seam::OperatorApi => "operator-api",
            Seam::RegistryApi => "registry-api",
            Seam::NodeApi => "node-api",
            Seam::ClientRegistry => "client-registry",
            Seam::RegistryStorage => "registry-storage",
            Seam::CliApi => "cli-api",
            Seam::NodeFiles => "node-files",
            Seam::Command => "command",
        }
    }
}

impl fmt::Display for Seam {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// One rule: for exchanges `match` and `act`, for node files `file` and `edit`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Which exchanges; all of them if absent.
    #[serde(default, rename = "match")]
    pub when: Match,
    /// What happens to them.
    #[serde(default)]
    pub act: Option<Act>,
    /// Which files of a node, or of a command, as a path pattern.
    #[serde(default)]
    pub file: Option<Glob>,
    /// What happens to them.
    #[serde(default)]
    pub edit: Option<FileEdit>,
}

/// Conditions on an exchange; all that are given must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Match {
    /// Methods, upper case; any if empty.
    #[serde(default)]
    pub methods: Vec<String>,
    /// The path without the query.
    #[serde(default)]
    pub path: Option<Pattern>,
    /// The query without the question mark; an absent query is empty text.
    #[serde(default)]
    pub query: Option<Pattern>,
    /// Headers of the request, each of which must be there and match.
    #[serde(default)]
    pub headers: BTreeMap<String, Pattern>,
    /// Parts of a JSON request body.
    #[serde(default)]
    pub body: Vec<Where>,
    /// Status of the answer. A rule with it can only act on the answer.
    #[serde(default)]
    pub status: Vec<u16>,
    /// How many matching exchanges pass unharmed before the rule begins to act.
    #[serde(default)]
    pub after: u64,
    /// How many exchanges it acts on; no limit if absent.
    #[serde(default)]
    pub times: Option<u64>,
}

/// What happens to an exchange. Of `close`, `hang`, `respond`, `swallow` and `stale` only one can be given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Act {
    /// The exchange is held back for this long, before everything else.
    #[serde(default)]
    pub delay: Option<Span>,
    /// The connection is closed without an answer.
    #[serde(default)]
    pub close: bool,
    /// No answer comes until the faults change; then the connection is closed.
    #[serde(default)]
    pub hang: bool,
    /// This answer is given, and nothing is forwarded (unless the rule waits for a status).
    #[serde(default)]
    pub respond: Option<Respond>,
    /// A write is answered as if it had been done, and not forwarded.
    #[serde(default)]
    pub swallow: bool,
    /// The first answer to each address is given for ever; watches on it stay silent.
    #[serde(default)]
    pub stale: bool,
    /// The answer gets this status.
    #[serde(default)]
    pub status: Option<u16>,
    /// What happens to the request on its way.
    #[serde(default)]
    pub request: Option<Edit>,
    /// What happens to the answer on its way.
    #[serde(default)]
    pub response: Option<Edit>,
}

/// An answer made up by the fault.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Respond {
    /// Status code.
    pub status: u16,
    /// Headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Body: text as it is, anything else as JSON.
    #[serde(default)]
    pub body: Value,
}

/// What happens to a file of a node as it is looked at.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileEdit {
    /// The file seems not to exist.
    #[serde(default)]
    pub absent: bool,
    /// Replacements in the text, in order.
    #[serde(default)]
    pub replace: Vec<Replace>,
    /// Tables of a TOML file that seem not to exist.
    #[serde(default)]
    pub remove_tables: Vec<TableRemoval>,
}

/// Tables or keys of a TOML file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TableRemoval {
    /// Dotted name such as `registry.mirror`; arrays of tables are gone through.
    pub name: String,
    /// Only tables in which all these keys match; all if empty.
    #[serde(default, rename = "where")]
    pub conditions: BTreeMap<String, Pattern>,
}

/// A fault file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}", file = .file.display())]
pub struct FaultError {
    /// The file as it was named to `read`.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Key and reason.
    pub message: String,
}

impl Fault {
    /// Reads a fault file. `file` is only used in messages.
    ///
    /// # Errors
    /// [`FaultError`] with the line of the first key that is unknown, missing or has a wrong value.
    pub fn read(file: impl AsRef<Path>, text: &str) -> Result<Fault, FaultError> {
        let fail = |line, message: String| FaultError { file: file.as_ref().to_owned(), line, message };
        let fault: Fault = serde_yaml::from_str(text).map_err(|error| {
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
            fail(error.location().map_or(1, |at| at.line()), message)
        })?;
        if fault.rules.is_empty() {
            return Err(fail(line_of(text, "rules", 0), "rules: a fault without a rule does nothing".to_owned()));
        }
        for (index, rule) in fault.rules.iter().enumerate() {
            if let Some(message) = rule.contradiction(fault.seam) {
                return Err(fail(line_of(text, "rules", index + 1), format!("rules[{index}]{message}")));
            }
        }
        Ok(fault)
    }
}

impl Rule {
    /// What cannot be meant, as `.key: reason`.
    fn contradiction(&self, seam: Seam) -> Option<&'static str> {
        if seam.has_texts() {
            return match (&self.file, &self.edit, &self.act) {
                (None, _, _) => Some(".file: rules for node-files and command need the path of the file"),
                (_, None, _) => Some(".edit: rules for node-files and command need what happens to the file"),
                (_, _, Some(_)) => Some(".act: node-files and command have no exchanges to act on; use `edit`"),
                _ => None,
            };
        }
        if self.file.is_some() || self.edit.is_some() {
            return Some(".file: only the seams node-files and command have files; use `match` and `act`");
        }
        let Some(act) = &self.act else { return Some(".act: the rule says nothing of what happens") };
        let ends = [act.close, act.hang, act.respond.is_some(), act.swallow, act.stale];
        let edits = act.status.is_some() || act.request.is_some() || act.response.is_some();
        match ends.into_iter().filter(|given| *given).count() {
            0 if !edits && act.delay.is_none() => Some(".act: the rule says nothing of what happens"),
            0 => (!self.when.status.is_empty() && act.request.is_some())
                .then_some(".act.request: when the answer's status is known, the request has been sent"),
            1 if !self.when.status.is_empty() && (act.swallow || act.stale || act.hang) => {
                Some(".match.status: swallow, stale and hang come before any answer")
            }
            1 => None,
            _ => Some(".act: only one of close, hang, respond, swallow and stale can happen"),
        }
    }
}

/// Line of the `count`-th list item below a top-level key, or of the key itself for 0.
fn line_of(text: &str, key: &str, count: usize) -> usize {
    let mut lines = text.lines().enumerate().skip_while(|(_, line)| !line.starts_with(&format!("{key}:")));
    let Some((first, _)) = lines.next() else { return 1 };
    let mut indent = None;
    let mut seen = 0;
    for (index, line) in lines {
        let depth = line.len() - line.trim_start().len();
        if line.trim_start().starts_with("- ") && *indent.get_or_insert(depth) == depth {
            seen += 1;
            if seen == count {
                return index + 1;
            }
        }
    }
    first + 1
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const HEAD: &str = "id: a\ntitle: A\nseam: operator-api\nrequirements: [X]\n";

    #[rstest]
    #[case::unknown_key("rules:\n  - match: {pth: x}\n    act: {close: true}\n", 6, "unknown field `pth`")]
    #[case::bad_pattern(
        "rules:\n  - match: {path: '('}\n    act: {close: true}\n",
        6,
        "is not a regular expression: unclosed group"
    )]
    #[case::bad_span("rules:\n  - act: {delay: soon}\n", 6, "is not a span of time")]
    #[case::no_rules("rules: []\n", 5, "rules: a fault without a rule does nothing")]
    #[case::nothing_happens(
        "rules:\n  - act: {close: true}\n  - match: {path: x}\n",
        7,
        "rules[1].act: the rule says nothing"
    )]
    #[case::two_ends("rules:\n  - act: {close: true, hang: true}\n", 6, "rules[0].act: only one of")]
    #[case::too_late(
        "rules:\n  - match: {status: [200]}\n    act: {request: {removeHeaders: [A]}}\n",
        6,
        "rules[0].act.request"
    )]
    #[case::no_files_here(
        "rules:\n  - file: /etc/x\n    edit: {absent: true}\n",
        6,
        "rules[0].file: only the seams node-files and command"
    )]
    fn mistakes_are_named_with_file_line_and_key(#[case] rules: &str, #[case] line: usize, #[case] message: &str) {
        let error = Fault::read("faults/a.yaml", &format!("{HEAD}{rules}")).unwrap_err();
        assert_eq!((error.file.as_path(), error.line), (Path::new("faults/a.yaml"), line), "{error}");
        assert!(error.message.contains(message), "{error}");
    }

    #[test]
    fn an_unknown_seam_lists_the_known_ones() {
        let error = Fault::read("a.yaml", "id: a\ntitle: A\nseam: moon\nrequirements: []\nrules: []\n").unwrap_err();
        assert_eq!(error.line, 3);
        for seam in Seam::ALL {
            assert!(error.message.contains(seam.name()), "{error}");
        }
    }
}
