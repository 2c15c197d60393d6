//! Files that people edit (requirements, systems, faults, features): their name, their text, and errors that point at
//! a line. Where the files lie and how they are found is left to the command line.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// One data file, already read. `path` is what messages show, usually relative to the data folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    pub path: PathBuf,
    pub text: String,
}

impl DataFile {
    /// A file from its name and text.
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    /// Reads the YAML of this file.
    ///
    /// # Errors
    /// [`DataError::Malformed`] with the line of the first key or value that does not fit.
    pub fn yaml<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        serde_yaml::from_str(&self.text).map_err(|error| {
            let line = error.location().map_or(1, |at| at.line());
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
            DataError::Malformed { place: self.at(line), message }
        })
    }

    /// The place of a line of this file; lines count from 1.
    pub fn at(&self, line: usize) -> Place {
        Place { file: self.path.clone(), line }
    }

    /// The line on which `key: value` stands first, as a whole word; 1 when it does not.
    pub fn line_of(&self, key: &str, value: &str) -> usize {
        self.lines_of(key, value).next().unwrap_or(1)
    }

    /// Every line on which `key: value` stands.
    pub fn lines_of<'a>(&'a self, key: &'a str, value: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.text.lines().enumerate().filter(move |(_, line)| states(line, key, value)).map(|(index, _)| index + 1)
    }
}

fn states(line: &str, key: &str, value: &str) -> bool {
    let Some((before, after)) = line.split_once(&format!("{key}:")) else { return false };
    if !before.chars().all(|c| matches!(c, ' ' | '-' | '{' | '[')) {
        return false;
    }
    let rest = after.trim_start().trim_start_matches(['"', '\'']);
    rest.strip_prefix(value).is_some_and(|end| end.is_empty() || end.starts_with([',', '}', '"', '\'', ' ', '#']))
}

/// A line of a data file. Prints as `file:line`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Place {
    pub file: PathBuf,
    pub line: usize,
}

impl Place {
    /// A place by its parts.
    pub fn new(file: impl AsRef<Path>, line: usize) -> Self {
        Self { file: file.as_ref().to_owned(), line }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// A data file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file or folder could not be read.
    #[error("cannot read {}: {source}; check the folder given by --data", file.display())]
    Unreadable { file: PathBuf, source: std::io::Error },
    /// The text does not have the form it should.
    #[error("{place}: {message}")]
    Malformed { place: Place, message: String },
    /// Something was named that does not exist.
    #[error("there is no {what} {name:?}; {known}")]
    Unknown { what: &'static str, name: String, known: String },
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the errors are looked at")]
    struct Shape {
        name: String,
        count: u32,
    }

    #[rstest]
    #[case("name: a\ncuont: 3\n", "systems/a.yaml:2: unknown field `cuont`, expected `name` or `count`")]
    #[case("name: a\ncount: many\n", "systems/a.yaml:2: count: invalid type: string \"many\", expected u32")]
    fn errors_point_at_the_line(#[case] text: &str, #[case] expected: &str) {
        let error = DataFile::new("systems/a.yaml", text).yaml::<Shape>().unwrap_err();
        assert_eq!(error.to_string(), expected);
    }

    #[rstest]
    #[case("  - id: OPR-A", true)]
    #[case("  - {id: OPR-A, title: x}", true)]
    #[case("    id: \"OPR-A\"", true)]
    #[case("  - id: OPR-AB", false)]
    #[case("    statement: the id: OPR-A is", false)]
    fn finds_the_line_of_an_entry(#[case] line: &str, #[case] found: bool) {
        assert_eq!(states(line, "id", "OPR-A"), found);
    }
}
