//! What is asked for: an expression over tags, requirement ids, places and names. It only says yes or no to a
//! scenario; what cannot run although it is asked for is decided by the plan.

use std::{collections::BTreeSet, fmt};

use regex::Regex;

use crate::{
    nearest::did_you_mean,
    requirement::{self, Catalogue},
    scenario::Scenario,
    suite::Suite,
};

/// An expression such as `@storage and not (@STO-S3-SECRET or @slow)`, `features/storage/s3.feature:12` or
/// `name~"pull .* token"`.
#[derive(Debug, Clone)]
pub enum Selection {
    /// Every scenario.
    All,
    /// A tag, a requirement id or a subject, without `@`.
    Tag(String),
    /// A feature file by its path or the end of it, and a line in it.
    Place {
        file: String,
        line: Option<usize>,
    },
    /// The scenario's name matches.
    Name(Regex),
    /// The scenarios with these [`Scenario::id`]s.
    Scenarios(BTreeSet<String>),
    Not(Box<Selection>),
    And(Box<Selection>, Box<Selection>),
    Or(Box<Selection>, Box<Selection>),
}

/// A selection that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// The text is no expression.
    #[error("cannot read the selection {text:?}: {problem}; an example is '@storage and not @STO-S3-SECRET'")]
    Syntax { text: String, problem: String },
    /// A tag or requirement that nothing carries.
    #[error("nothing is tagged @{tag}: {hint}")]
    UnknownTag { tag: String, hint: String },
    /// A place at which no scenario stands.
    #[error("no scenario stands at {place}: {hint}")]
    UnknownPlace { place: String, hint: String },
    /// A documentation version that no requirement names.
    #[error("no requirement names documentation version {version}; {hint}")]
    UnknownVersion { version: String, hint: String },
    /// Everything was well formed, but nothing is left.
    #[error("nothing is selected by {selection}{why}; `plan` shows what there is")]
    Empty { selection: String, why: String },
}

impl Selection {
    /// Reads an expression. `and` binds tighter than `or`, `not` tighter than both.
    ///
    /// # Errors
    /// [`SelectionError::Syntax`] saying what was found where.
    pub fn parse(text: &str) -> Result<Self, SelectionError> {
        let syntax = |problem: String| SelectionError::Syntax { text: text.to_owned(), problem };
        let tokens = tokens(text).map_err(syntax)?;
        if tokens.is_empty() {
            return Err(syntax("it is empty".to_owned()));
        }
        let mut reader = Reader { tokens: &tokens, at: 0 };
        let selection = reader.either().map_err(syntax)?;
        match reader.tokens.get(reader.at) {
            None => Ok(selection),
            Some(token) => Err(syntax(format!("{token} follows where `and`, `or` or the end was expected"))),
        }
    }

    /// Joins several selections, each given on its own, by `or`; all scenarios when there is none.
    ///
    /// # Errors
    /// As [`Selection::parse`].
    pub fn parse_any<S: AsRef<str>>(texts: &[S]) -> Result<Self, SelectionError> {
        let mut joined: Option<Self> = None;
        for text in texts {
            let next = Self::parse(text.as_ref())?;
            joined = Some(match joined {
                None => next,
                Some(before) => Self::Or(Box::new(before), Box::new(next)),
            });
        }
        Ok(joined.unwrap_or(Self::All))
    }

    /// Whether the scenario is asked for.
    pub fn matches(&self, scenario: &Scenario) -> bool {
        match self {
            Self::All => true,
            Self::Tag(tag) => scenario.has_tag(tag),
            Self::Place { file, line } => {
                ends_with(&scenario.file, file) && line.is_none_or(|line| scenario.covers(line))
            }
            Self::Name(pattern) => pattern.is_match(&scenario.name),
            Self::Scenarios(ids) => ids.contains(&scenario.id()),
            Self::Not(inner) => !inner.matches(scenario),
            Self::And(left, right) => left.matches(scenario) && right.matches(scenario),
            Self::Or(left, right) => left.matches(scenario) || right.matches(scenario),
        }
    }

    /// Checks that everything named exists, also under `not`.
    ///
    /// # Errors
    /// The first name that does not, with the names nearest to it.
    pub fn check(&self, suite: &Suite, catalogue: &Catalogue) -> Result<(), SelectionError> {
        match self {
            Self::All | Self::Name(_) | Self::Scenarios(_) => Ok(()),
            Self::Tag(tag) => {
                let tags = suite.tags();
                if tags.contains(tag.as_str()) || catalogue.get(tag).is_some() {
                    return Ok(());
                }
                let hint = if requirement::is_id(tag) {
                    did_you_mean(tag, catalogue.ids())
                } else {
                    did_you_mean(tag, tags.into_iter().chain(catalogue.ids()))
                };
                Err(SelectionError::UnknownTag { tag: tag.clone(), hint })
            }
            Self::Place { file, line } => check_place(suite, file, *line),
            Self::Not(inner) => inner.check(suite, catalogue),
            Self::And(left, right) | Self::Or(left, right) => {
                left.check(suite, catalogue)?;
                right.check(suite, catalogue)
            }
        }
    }

    /// The requirement ids that are named, wherever they stand.
    pub fn requirements(&self) -> Vec<&str> {
        match self {
            Self::Tag(tag) if requirement::is_id(tag) => vec![tag],
            Self::Not(inner) => inner.requirements(),
            Self::And(left, right) | Self::Or(left, right) => {
                let mut ids = left.requirements();
                ids.extend(right.requirements());
                ids
            }
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("everything"),
            Self::Tag(tag) => write!(f, "@{tag}"),
            Self::Place { file, line: None } => f.write_str(file),
            Self::Place { file, line: Some(line) } => write!(f, "{file}:{line}"),
            Self::Name(pattern) => write!(f, "name~\"{pattern}\""),
            Self::Scenarios(ids) => write!(f, "{}", ids.iter().map(String::as_str).collect::<Vec<_>>().join(" or ")),
            Self::Not(inner) => write!(f, "not {inner}"),
            Self::And(left, right) => write!(f, "({left} and {right})"),
            Self::Or(left, right) => write!(f, "({left} or {right})"),
        }
    }
}

fn check_place(suite: &Suite, file: &str, line: Option<usize>) -> Result<(), SelectionError> {
    let there: Vec<&Scenario> = suite.scenarios().iter().filter(|scenario| ends_with(&scenario.file, file)).collect();
    if there.is_empty() {
        let mut files: Vec<&str> = suite.scenarios().iter().map(|scenario| scenario.file.as_str()).collect();
        files.dedup();
        return Err(SelectionError::UnknownPlace { place: file.to_owned(), hint: did_you_mean(file, files) });
    }
    match line {
        Some(line) if !there.iter().any(|scenario| scenario.covers(line)) => {
            let lines: Vec<String> = there.iter().map(|scenario| scenario.line.to_string()).collect();
            let hint = format!("scenarios of that file begin at line {}", lines.join(", "));
            Err(SelectionError::UnknownPlace { place: format!("{file}:{line}"), hint })
        }
        _ => Ok(()),
    }
}

/// Whether `path` is `end` or ends with it at a folder boundary.
fn ends_with(path: &str, end: &str) -> bool {
    let end = end.trim_start_matches("./");
    path == end || path.strip_suffix(end).is_some_and(|rest| rest.ends_with('/')) || {
        // An absolute path given by an editor.
        end.strip_suffix(path).is_some_and(|rest| rest.ends_with('/'))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    And,
    Or,
    Not,
    Word(String),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("`(`"),
            Self::Close => f.write_str("`)`"),
            Self::And => f.write_str("`and`"),
            Self::Or => f.write_str("`or`"),
            Self::Not => f.write_str("`not`"),
            Self::Word(word) => write!(f, "`{word}`"),
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '(' => {
                tokens.push(Token::Open);
                1
            }
            ')' => {
                tokens.push(Token::Close);
                1
            }
            _ => {
                let length = word_length(rest)?;
                tokens.push(match &rest[..length] {
                    "and" => Token::And,
                    "or" => Token::Or,
                    "not" => Token::Not,
                    word => Token::Word(word.to_owned()),
                });
                length
            }
        };
        rest = rest[taken..].trim_start();
    }
    Ok(tokens)
}

/// The length of the word at the start; a part in double quotes may hold spaces and parentheses.
fn word_length(text: &str) -> Result<usize, String> {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '(' | ')' if !quoted => return Ok(at),
            c if c.is_whitespace() && !quoted => return Ok(at),
            _ => {}
        }
    }
    if quoted { Err(format!("the quote in `{text}` is not closed")) } else { Ok(text.len()) }
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, token: &Token) -> bool {
        let found = self.tokens.get(self.at) == Some(token);
        self.at += usize::from(found);
        found
    }

    fn either(&mut self) -> Result<Selection, String> {
        let mut left = self.both()?;
        while self.take(&Token::Or) {
            left = Selection::Or(Box::new(left), Box::new(self.both()?));
        }
        Ok(left)
    }

    fn both(&mut self) -> Result<Selection, String> {
        let mut left = self.single()?;
        while self.take(&Token::And) {
            left = Selection::And(Box::new(left), Box::new(self.single()?));
        }
        Ok(left)
    }

    fn single(&mut self) -> Result<Selection, String> {
        if self.take(&Token::Not) {
            return Ok(Selection::Not(Box::new(self.single()?)));
        }
        if self.take(&Token::Open) {
            let inner = self.either()?;
            return if self.take(&Token::Close) { Ok(inner) } else { Err("a `)` is missing".to_owned()) };
        }
        match self.tokens.get(self.at) {
            Some(Token::Word(word)) => {
                self.at += 1;
                atom(word)
            }
            Some(token) => Err(format!("{token} stands where a tag, a place or a name was expected")),
            None => Err("it ends where a tag, a place or a name was expected".to_owned()),
        }
    }
}

fn atom(word: &str) -> Result<Selection, String> {
    if let Some(tag) = word.strip_prefix('@') {
        return if tag.is_empty() { Err("`@` names no tag".to_owned()) } else { Ok(Selection::Tag(tag.to_owned())) };
    }
    if let Some(pattern) = word.strip_prefix("name~") {
        let pattern = pattern.trim_matches('"');
        return Regex::new(pattern)
            .map(Selection::Name)
            .map_err(|error| format!("`{pattern}` is not a regular expression ({error})"));
    }
    if let Some(at) = word.find(".feature") {
        let (file, end) = word.split_at(at + ".feature".len());
        let file = file.trim_matches('"').to_owned();
        let end = end.trim_end_matches('"');
        return match end.strip_prefix(':').map(str::parse) {
            None if end.is_empty() => Ok(Selection::Place { file, line: None }),
            Some(Ok(line)) => Ok(Selection::Place { file, line: Some(line) }),
            _ => Err(format!("`{word}` is not FILE.feature:LINE")),
        };
    }
    if requirement::is_id(word) {
        return Ok(Selection::Tag(word.to_owned()));
    }
    Err(format!("`{word}` is no tag (@tag), place (FILE.feature:LINE) or name (name~\"pattern\")"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::suite::tests::scenario;

    fn suite() -> Suite {
        Suite::new(vec![
            scenario("features/storage/s3.feature", 5, "Blobs lie in the bucket", &["STO-S3-SECRET", "backend-s3"]),
            scenario("features/storage/emptydir.feature", 4, "Blobs are lost", &["STO-EMP-DATALOSS"]),
            scenario("features/mirroring/icsp.feature", 9, "A token pulls", &["ICS-CONVERT-CHANGES", "slow"]),
        ])
    }

    #[rstest]
    #[case("@storage", &["s3", "emptydir"])]
    #[case("@STO-S3-SECRET or @mirroring", &["s3", "icsp"])]
    #[case("STO-S3-SECRET", &["s3"])]
    #[case("@storage and not @backend-s3", &["emptydir"])]
    #[case("not (@backend-s3 or @slow)", &["emptydir"])]
    #[case("@slow or @storage and @backend-s3", &["s3", "icsp"])]
    #[case("features/storage/s3.feature:7", &["s3"])]
    #[case("s3.feature", &["s3"])]
    #[case("/home/me/clone/features/storage/s3.feature:5", &["s3"])]
    #[case("name~\"^Blobs (lie|sit)\"", &["s3"])]
    #[case("name~token", &["icsp"])]
    fn selects(#[case] text: &str, #[case] expected: &[&str]) {
        let selection = Selection::parse(text).unwrap();
        let suite = suite();
        selection.check(&suite, &Catalogue::default()).unwrap();
        let mut selected: Vec<&str> = suite
            .scenarios()
            .iter()
            .filter(|scenario| selection.matches(scenario))
            .map(|scenario| scenario.file.rsplit('/').next().unwrap().trim_end_matches(".feature"))
            .collect();
        let mut expected = expected.to_vec();
        selected.sort_unstable();
        expected.sort_unstable();
        assert_eq!(selected, expected);
    }

    #[rstest]
    #[case("", "it is empty")]
    #[case("@a and", "it ends where a tag, a place or a name was expected")]
    #[case("(@a", "a `)` is missing")]
    #[case("@a @b", "`@b` follows where `and`, `or` or the end was expected")]
    #[case("storage", "`storage` is no tag (@tag), place (FILE.feature:LINE) or name (name~\"pattern\")")]
    #[case("a.feature:x", "`a.feature:x` is not FILE.feature:LINE")]
    #[case("name~\"(\"", "is not a regular expression")]
    #[case("name~\"a", "is not closed")]
    fn refuses(#[case] text: &str, #[case] expected: &str) {
        let error = Selection::parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[rstest]
    #[case("@STO-S3-SECERT", "nothing is tagged @STO-S3-SECERT: ")]
    #[case("not @mirorring", "nothing is tagged @mirorring: did you mean mirroring?")]
    #[case(
        "storage/s3.feature:1",
        "no scenario stands at storage/s3.feature:1: scenarios of that file begin at line 5"
    )]
    #[case("gcs.feature", "no scenario stands at gcs.feature: known are: ")]
    fn names_what_is_near(#[case] text: &str, #[case] expected: &str) {
        let selection = Selection::parse(text).unwrap();
        let error = selection.check(&suite(), &Catalogue::default()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn prints_what_it_reads() {
        let selection = Selection::parse("@a and not (@b or s.feature:3) or name~\"x y\"").unwrap();
        assert_eq!(selection.to_string(), "((@a and not (@b or s.feature:3)) or name~\"x y\")");
        assert_eq!(Selection::parse(&selection.to_string()).unwrap().to_string(), selection.to_string());
    }
}
