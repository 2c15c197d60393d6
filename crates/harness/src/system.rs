//! What is judged: a system file says how its components are started, what it claims, how long it may take and where
//! it is known to depart from the documents. Starting it is left to the target.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    component::Component,
    datafile::{DataError, DataFile, Place},
    limit,
    requirement::Catalogue,
};

/// One file of `systems/`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct System {
    /// How `--system` calls it.
    pub name: String,
    pub title: String,
    /// Image names and the commands that stand for them where pods are processes.
    #[serde(default)]
    pub images: Vec<Image>,
    /// Parts of it that come as programs in the folder given by `--bin-dir`.
    #[serde(default)]
    pub components: Vec<Component>,
    /// Manifests that install it, relative to the data folder, in order.
    #[serde(default)]
    pub manifests: Vec<PathBuf>,
    #[serde(default)]
    pub claims: Claims,
    #[serde(default)]
    pub limits: Limits,
    /// Platform parts it brings itself, so that the target does not add them, like `image-api` or `router`.
    #[serde(default)]
    pub brings: Vec<String>,
    /// The command that runs documented `oc` command lines; the target's own when absent.
    #[serde(default)]
    pub cli: Option<Vec<String>>,
    /// Requirements it is known not to meet.
    #[serde(default)]
    pub known_deviations: Vec<Deviation>,
    /// The file it came from.
    #[serde(skip)]
    pub place: Place,
}

/// An image name and the process that stands for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Image {
    pub image: String,
    /// The command line; `{self}` is this executable, `{tools}` the folder in which documented commands find `oc`.
    pub command: Vec<String>,
    /// Placeholders as in `command`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Whether the pod's own command is kept instead of being replaced.
    #[serde(default)]
    pub keep_command: bool,
    /// Paths inside the image, and where they really lie.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rewrite: BTreeMap<String, PathBuf>,
    /// Whether the container gets a root folder of its own, for programs that have paths compiled in.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_root: bool,
}

/// What the system says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Claims {
    /// Capabilities; a scenario tagged `@claims-X` runs only when X is among them.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Documentation versions it follows; all when empty.
    #[serde(default)]
    pub docs_versions: Vec<String>,
}

/// How long things may take. Every limit is named in the message when it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// From an empty control plane to a system that can be judged.
    #[serde(deserialize_with = "limit::deserialize")]
    pub start: Duration,
    /// A component's program from its start until it is ready for the first time.
    #[serde(deserialize_with = "limit::deserialize")]
    pub ready: Duration,
    /// One step, as a net behind the waits inside it.
    #[serde(deserialize_with = "limit::deserialize")]
    pub step: Duration,
    /// One scenario without its clean-up.
    #[serde(deserialize_with = "limit::deserialize")]
    pub scenario: Duration,
    /// The whole run.
    #[serde(deserialize_with = "limit::deserialize")]
    pub run: Duration,
    /// A change of an object until its documented effect is seen.
    #[serde(deserialize_with = "limit::deserialize")]
    pub settle: Duration,
    /// A change that replaces pods until the new ones serve.
    #[serde(deserialize_with = "limit::deserialize")]
    pub rollout: Duration,
    /// How long a promise of the form "it stays so" is watched.
    #[serde(deserialize_with = "limit::deserialize")]
    pub stays: Duration,
    /// One answer of the registry or of a command.
    #[serde(deserialize_with = "limit::deserialize")]
    pub answer: Duration,
    /// Clean-up after a scenario.
    #[serde(deserialize_with = "limit::deserialize")]
    pub cleanup: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            start: seconds(60),
            ready: seconds(15),
            step: seconds(90),
            scenario: seconds(300),
            run: seconds(3600),
            settle: seconds(30),
            rollout: seconds(60),
            stays: seconds(3),
            answer: seconds(20),
            cleanup: seconds(60),
        }
    }
}

/// A requirement that the system is known not to meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Deviation {
    pub requirement: String,
    pub reason: String,
    /// Where one can read about it.
    pub source: String,
}

impl System {
    /// Reads one file of `systems/`.
    ///
    /// # Errors
    /// [`DataError::Malformed`] with file and line for a wrong key or value, or a known deviation from a requirement
    /// that the catalogue does not have.
    pub fn read(file: &DataFile, catalogue: &Catalogue) -> Result<Self, DataError> {
        let mut system: Self = file.yaml()?;
        system.place = file.at(1);
        for component in &system.components {
            component.check(file)?;
        }
        for deviation in &system.known_deviations {
            if catalogue.get(&deviation.requirement).is_none() {
                let place = file.at(file.line_of("requirement", &deviation.requirement));
                let hint = crate::nearest::did_you_mean(&deviation.requirement, catalogue.ids());
                let message = format!("there is no requirement {}; {hint}", deviation.requirement);
                return Err(DataError::Malformed { place, message });
            }
        }
        Ok(system)
    }

    /// The system of that name.
    ///
    /// # Errors
    /// [`DataError::Unknown`] with the names there are.
    pub fn find<'a>(systems: &'a [Self], name: &str) -> Result<&'a Self, DataError> {
        systems.iter().find(|system| system.name == name).ok_or_else(|| DataError::Unknown {
            what: "system",
            name: name.to_owned(),
            known: crate::nearest::did_you_mean(name, systems.iter().map(|system| system.name.as_str())),
        })
    }

    /// The known deviation from a requirement, if it is listed.
    pub fn deviation(&self, requirement: &str) -> Option<&Deviation> {
        self.known_deviations.iter().find(|deviation| deviation.requirement == requirement)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("name: a\ntitle: A\nlimtis: {}\n", "systems/a.yaml:3: unknown field `limtis`")]
    #[case("name: a\ntitle: A\nlimits:\n  step: 45\n", "systems/a.yaml:4: limits")]
    #[case("name: a\ntitle: A\nlimits:\n  step: soon\n", "write it with its unit")]
    #[case(
        "name: a\ntitle: A\ncomponents:\n  - {name: cli, binaries: []}\n",
        "systems/a.yaml:4: component cli names no file"
    )]
    #[case(
        "name: a\ntitle: A\ncomponents:\n  - name: cli\n    binaries: [oc]\n    neededBy: not\n",
        "systems/a.yaml:6: cannot read the selection"
    )]
    #[case(
        "name: a\ntitle: A\nknownDeviations:\n  - requirement: STO-NONE\n    reason: r\n    source: s\n",
        "systems/a.yaml:4: there is no requirement STO-NONE"
    )]
    fn a_wrong_file_is_an_error_with_its_line(#[case] text: &str, #[case] expected: &str) {
        let error = System::read(&DataFile::new("systems/a.yaml", text), &Catalogue::default()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn limits_left_out_have_their_defaults() {
        let text =
            "name: a\ntitle: A\nlimits: {step: 45s}\nimages:\n  - {image: x/y, command: [\"{self}\", reference]}\n";
        let system = System::read(&DataFile::new("systems/a.yaml", text), &Catalogue::default()).unwrap();
        assert_eq!(system.limits.step, Duration::from_secs(45));
        assert_eq!(system.limits.scenario, Limits::default().scenario);
        assert!(!system.images[0].keep_command);
    }

    #[test]
    fn an_unknown_system_lists_what_exists() {
        let text = "name: reference\ntitle: A\n";
        let system = System::read(&DataFile::new("systems/a.yaml", text), &Catalogue::default()).unwrap();
        let error = System::find(&[system], "refrence").unwrap_err();
        assert_eq!(error.to_string(), "there is no system \"refrence\"; did you mean reference?");
    }
}
