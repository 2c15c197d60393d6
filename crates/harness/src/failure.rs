//! Why a step did not hold: a promise broken by the system under test (`Fail`) or something that kept us from judging
//! (`Error`). Every failure says what was tried, what was expected, what was seen last and what to do next.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whose fault it is. The two are never added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The system under test broke the promise.
    Fail,
    /// The harness, the target or the machine could not do its part.
    Error,
}

/// A step that did not hold. Its `Display` is one line of JSON, because step macros carry errors only as text; the
/// runner reads it back with [`Failure::from_panic`]. People read [`Failure::text`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failure {
    pub kind: Kind,
    /// What was being done, as a phrase: "waiting 20s for ClusterOperator image-registry to be Available".
    pub tried: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// The last observation, whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
    /// The next thing a person should do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The component whose log belongs to this failure, e.g. `operator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
}

/// What every step returns.
pub type Step = Result<(), Failure>;

impl Failure {
    /// The system under test did not do what was expected of it.
    pub fn fail(tried: impl Into<String>, expected: impl Into<String>, seen: impl Into<String>) -> Self {
        Self {
            kind: Kind::Fail,
            tried: tried.into(),
            expected: Some(expected.into()),
            seen: Some(seen.into()),
            next: None,
            component: None,
        }
    }

    /// The harness could not do its part.
    pub fn error(tried: impl Into<String>, seen: impl fmt::Display) -> Self {
        Self {
            kind: Kind::Error,
            tried: tried.into(),
            expected: None,
            seen: Some(seen.to_string()),
            next: None,
            component: None,
        }
    }

    /// Names the component whose log helps.
    pub fn of(mut self, component: impl Into<String>) -> Self {
        self.component = Some(component.into());
        self
    }

    /// Says what to do next.
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Reads a failure back from the text of a step's panic; `None` when the panic was not one of ours.
    pub fn from_panic(text: &str) -> Option<Self> {
        serde_json::from_str(text.trim()).ok()
    }

    /// The failure for a reader, a line per part.
    pub fn text(&self) -> String {
        let mut out = self.tried.clone();
        for (label, part) in [("expected", &self.expected), ("last seen", &self.seen), ("next", &self.next)] {
            if let Some(part) = part {
                out.push_str(&format!("\n  {label}: {part}"));
            }
        }
        out
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl std::error::Error for Failure {}

/// Turns an error of a call that only the harness needed into an `Error`, with what was tried.
pub trait Tried<T> {
    /// Wraps the error as the harness' own.
    fn tried(self, what: impl Into<String>) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> Tried<T> for Result<T, E> {
    fn tried(self, what: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|error| Failure::error(what, error))
    }
}

/// The chain of an error's causes in one line, each said once; HTTP clients hide the useful part in the sources.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_way_through_a_panic_text() {
        let failure = Failure::fail("GET /v2/", "401", "200 \"{}\"\nsecond line").of("registry").next("look");
        assert_eq!(Failure::from_panic(&failure.to_string()), Some(failure));
    }

    #[test]
    fn a_foreign_panic_is_not_a_failure() {
        assert_eq!(Failure::from_panic("index out of bounds: the len is 0"), None);
    }

    #[test]
    fn reads_as_tried_expected_seen_next() {
        let text = Failure::fail("GET /v2/", "401", "200").next("see registry.log").text();
        assert_eq!(text, "GET /v2/\n  expected: 401\n  last seen: 200\n  next: see registry.log");
    }
}
