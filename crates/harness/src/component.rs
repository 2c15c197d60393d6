//! Parts of a system that come as files in a folder: what they are called there, what they are started with, and which
//! scenarios cannot do without them. Looking into the folder is left to the command line.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    datafile::{DataError, DataFile},
    requirement::Catalogue,
    scenario::Scenario,
    selection::{Selection, SelectionError},
    suite::Suite,
};

/// A part of the system that is a program in the folder given by `--bin-dir`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Component {
    /// As logs and reports call it: `operator`, `registry`, `node-renderer`, `cli`.
    pub name: String,
    /// File names it may have; the first that the folder holds counts.
    pub binaries: Vec<String>,
    /// The image that its pods ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The command line: `{bin}` is the program, `{dir}` the folder, `{self}` this executable, `{tools}` the folder in
    /// which documented commands find `oc`.
    #[serde(default = "bare")]
    pub command: Vec<String>,
    /// Environment that its image brings; what a pod says wins over it. Placeholders as in `command`; a path that stands
    /// in `files` is replaced by where that file really lies.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files that its image brings: the path inside the image, and the data file that holds the text.
    #[serde(default)]
    pub files: BTreeMap<String, PathBuf>,
    /// What else the folder must hold for it, by name, like the templates that a program reads.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Whether the pod's own command is kept instead of being replaced.
    #[serde(default)]
    pub keep_command: bool,
    /// Whether its containers get a root folder of their own, for programs that have paths compiled in.
    #[serde(default)]
    pub own_root: bool,
    /// Manifests that are installed only when the program is there, after those of the system.
    #[serde(default)]
    pub manifests: Vec<PathBuf>,
    /// Whether a folder without it is accepted. Then the scenarios of `neededBy` do not run.
    #[serde(default)]
    pub optional: bool,
    /// The scenarios that cannot be judged without it, as `--select` names them; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed_by: Option<String>,
    /// The object on which it reports once it works; a lane is ready when it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reports_on: Option<Reported>,
    /// The command that takes its place when the folder lacks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<Vec<String>>,
}

/// A cluster-wide object whose status somebody writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reported {
    pub api_version: String,
    pub kind: String,
    pub name: String,
}

fn bare() -> Vec<String> {
    vec!["{bin}".to_owned()]
}

impl Component {
    /// Checks what can be checked without the folder.
    ///
    /// # Errors
    /// [`DataError::Malformed`] with the line of the component or of its `neededBy`.
    pub(crate) fn check(&self, file: &DataFile) -> Result<(), DataError> {
        let malformed = |key: &str, value: &str, message: String| {
            Err(DataError::Malformed { place: file.at(file.line_of(key, value)), message })
        };
        if self.binaries.is_empty() {
            let message = format!("component {} names no file in `binaries`; name at least one", self.name);
            return malformed("name", &self.name, message);
        }
        if let Some(text) = &self.needed_by
            && let Err(error) = Selection::parse(text)
        {
            return malformed("neededBy", text, error.to_string());
        }
        Ok(())
    }

    /// What of the suite needs it.
    ///
    /// # Errors
    /// [`SelectionError`] when `neededBy` names what nothing carries.
    pub fn needed_by(&self, suite: &Suite, catalogue: &Catalogue) -> Result<Selection, SelectionError> {
        match &self.needed_by {
            None => Ok(Selection::All),
            Some(text) => {
                let selection = Selection::parse(text)?;
                selection.check(suite, catalogue)?;
                Ok(selection)
            }
        }
    }

    /// Its possible file names as people list them: `dockerregistry or image-registry`.
    pub fn file_names(&self) -> String {
        self.binaries.join(" or ")
    }
}

/// A component that the folder lacks, and what that means for the plan.
#[derive(Debug, Clone)]
pub struct Lacking {
    pub needed_by: Selection,
    /// Why a scenario does not run: what is missing, where it was looked for.
    pub reason: String,
}

impl Lacking {
    /// Whether the scenario cannot run without the component.
    pub fn stops(&self, scenario: &Scenario) -> bool {
        self.needed_by.matches(scenario)
    }
}
