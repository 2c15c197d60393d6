//! Values of a fault file that are more than text: regular expressions, path globs and spans of time.
//! Each is checked while the file is read, so that a mistake is reported with its line.

use std::fmt;
use std::time::Duration;

use regex::Regex;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// A regular expression that matches anywhere unless anchored.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Pattern, regex::Error> {
        Regex::new(text).map(Pattern)
    }

    /// Whether it matches somewhere in `text`.
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// `text` with every match replaced; `$1` stands for the first group.
    pub fn replace_all(&self, text: &str, with: &str) -> String {
        self.0.replace_all(text, with).into_owned()
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pattern, D::Error> {
        let text = String::deserialize(deserializer)?;
        Pattern::new(&text).map_err(|error| {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            D::Error::custom(format!("{text:?} is not a regular expression: {reason}"))
        })
    }
}

/// A path pattern: `*` and `?` stay within one folder, `**` crosses folders.
#[derive(Clone, Debug)]
pub struct Glob {
    text: String,
    regex: Regex,
}

impl Glob {
    /// Compiles a pattern; every text is one.
    pub fn new(text: &str) -> Glob {
        let mut regex = String::from("^");
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (taken, part) = match first {
                '*' if rest.starts_with("**/") => (3, "(?:.*/)?".to_owned()),
                '*' if rest.starts_with("**") => (2, ".*".to_owned()),
                '*' => (1, "[^/]*".to_owned()),
                '?' => (1, "[^/]".to_owned()),
                other => (other.len_utf8(), regex::escape(other.encode_utf8(&mut [0; 4]))),
            };
            regex.push_str(&part);
            rest = &rest[taken..];
        }
        regex.push('$');
        Glob { text: text.to_owned(), regex: Regex::new(&regex).expect("an escaped text is an expression") }
    }

    /// Whether it matches the whole of `path`.
    pub fn matches(&self, path: &str) -> bool {
        self.regex.is_match(path)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Glob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Glob, D::Error> {
        String::deserialize(deserializer).map(|text| Glob::new(&text))
    }
}

/// A span of time such as `250ms`, `3s` or `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
        let unit = match &text[digits.len()..] {
            "ms" => Some(1),
            "s" => Some(1000),
            "m" => Some(60_000),
            _ => None,
        };
        digits
            .parse::<u64>()
            .ok()
            .zip(unit)
            .and_then(|(count, unit)| count.checked_mul(unit))
            .map(|milliseconds| Span(Duration::from_millis(milliseconds)))
            .ok_or_else(|| D::Error::custom(format!("{text:?} is not a span of time such as 250ms, 3s or 2m")))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/etc/containers/registries.conf", "/etc/containers/registries.conf", true)]
    #[case("**/registries.conf", "/etc/containers/registries.conf", true)]
    #[case("/etc/*.conf", "/etc/containers/registries.conf", false)]
    #[case("/etc/**", "/etc/containers/registries.conf", true)]
    #[case("/etc/docker/certs.d/*/ca.crt", "/etc/docker/certs.d/host:5000/ca.crt", true)]
    #[case("/etc/docker/certs.d/*/ca.crt", "/etc/docker/certsXd/host:5000/ca.crt", false)]
    fn globs_match_whole_paths(#[case] glob: &str, #[case] path: &str, #[case] expected: bool) {
        assert_eq!(Glob::new(glob).matches(path), expected);
    }

    #[rstest]
    #[case("250ms", Some(250))]
    #[case("3s", Some(3000))]
    #[case("2m", Some(120_000))]
    #[case("3", None)]
    #[case("fast", None)]
    fn spans_have_a_unit(#[case] text: &str, #[case] expected: Option<u64>) {
        let span: Option<Span> = serde_json::from_value(text.into()).ok();
        assert_eq!(span, expected.map(|milliseconds| Span(Duration::from_millis(milliseconds))));
    }
}
