//! The Prometheus text format, version 0.0.4, as the judge reads it: families with type, help and samples, labels
//! unescaped. A line that is none of these is an error with its number.

use std::collections::BTreeMap;

use thiserror::Error;

/// One sample: name, labels and value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// A whole exposition.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exposition {
    /// Declared type by family name.
    pub types: BTreeMap<String, String>,
    pub help: BTreeMap<String, String>,
    pub samples: Vec<Sample>,
}

/// A line that is no exposition.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("line {line} of the metrics is not in the text format: {text}")]
pub struct ExpositionError {
    pub line: usize,
    pub text: String,
}

impl Exposition {
    /// Parses a whole body.
    pub fn parse(body: &str) -> Result<Self, ExpositionError> {
        let mut out = Self::default();
        for (index, line) in body.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            if let Some(comment) = line.strip_prefix('#') {
                let mut words = comment.trim_start().splitn(3, ' ');
                match (words.next(), words.next(), words.next()) {
                    (Some("TYPE"), Some(name), Some(kind)) => {
                        out.types.insert(name.to_owned(), kind.to_owned());
                    }
                    (Some("HELP"), Some(name), text) => {
                        out.help.insert(name.to_owned(), text.unwrap_or_default().to_owned());
                    }
                    _ => {}
                }
                continue;
            }
            let sample = sample(line).ok_or_else(|| ExpositionError { line: index + 1, text: line.to_owned() })?;
            out.samples.push(sample);
        }
        Ok(out)
    }

    /// The samples of exactly this name whose labels include `labels`.
    pub fn select(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        let fits = |sample: &&Sample| {
            sample.name == name && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        };
        self.samples.iter().filter(fits).collect()
    }
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let name = &line[..end];
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    if name.is_empty() || !name.chars().all(valid) {
        return None;
    }
    let mut rest = &line[end..];
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside.trim_start();
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once('=')?;
            let (value, after) = quoted(after.trim_start())?;
            labels.insert(key.trim().to_owned(), value);
            rest = after.trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        rest = &rest[1..];
    }
    let value = match rest.split_whitespace().next()? {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        number => number.parse().ok()?,
    };
    Some(Sample { name: name.to_owned(), labels, value })
}

/// A quoted label value and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut characters = text.strip_prefix('"')?.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((out, &text[1 + index + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => out.push('\n'),
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_types_labels_and_values() {
        let body = "# HELP x A help.\n# TYPE x summary\nx{method=\"get\",quantile=\"0.5\"} 0.25\nx_sum{method=\"get\"} 1e-3 1700000000\n\nx_count 3\n";
        let read = Exposition::parse(body).expect("text format");
        assert_eq!(read.types["x"], "summary");
        assert_eq!(read.select("x", &[("quantile", "0.5")])[0].value, 0.25);
        assert_eq!(read.select("x_sum", &[])[0].value, 0.001);
    }

    #[test]
    fn braces_commas_and_quotes_inside_values_are_kept() {
        let read = Exposition::parse(r#"x{a="}, \"q\" \\ \n",b=""} NaN"#).expect("text format");
        assert_eq!(read.samples[0].labels["a"], "}, \"q\" \\ \n");
        assert!(read.samples[0].value.is_nan());
    }

    #[test]
    fn says_which_line_is_wrong() {
        assert_eq!(Exposition::parse("x 1\nnot a metric").expect_err("refused").line, 2);
    }
}
