//! Go templates as far as documented commands use them: fields, `range`, `if`, `with`, `index` and a few functions.

use base64::Engine;
use serde_json::Value;

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    #[error("unclosed action")]
    Unclosed,
    #[error("unexpected {{{{{0}}}}}")]
    Unexpected(String),
    #[error("unexpected EOF")]
    Open,
    #[error("function {0:?} not defined")]
    UnknownFunction(String),
    #[error("{0}")]
    Call(String),
}

enum Node {
    Text(String),
    Print(Pipeline),
    If(Pipeline, Vec<Node>, Vec<Node>),
    Range(Pipeline, Vec<Node>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
}

/// Commands joined by `|`, each a list of terms.
type Pipeline = Vec<Vec<Term>>;

#[derive(Clone, Debug)]
enum Term {
    /// A path from the current value, or from the document when it starts with `$`.
    Path(bool, Vec<String>),
    Literal(Value),
    Function(String),
    /// A pipeline in parentheses, and the fields of its result that were asked for.
    Nested(Pipeline, Vec<String>),
}

/// The text the template gives for this document; an absent field prints `<no value>`.
///
/// # Errors
/// The template is malformed or uses what is not supported.
pub fn render(template: &str, document: &Value) -> Result<String, TemplateError> {
    let mut pieces = split(template)?.into_iter();
    let (nodes, end) = parse(&mut pieces, false)?;
    if let Some(word) = end {
        return Err(TemplateError::Unexpected(word));
    }
    let mut out = String::new();
    run(&nodes, document, document, &mut out)?;
    Ok(out)
}

enum Piece {
    Text(String),
    Action(String),
}

fn split(template: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = template;
    let mut trim = false;
    while let Some(open) = rest.find("{{") {
        let close = rest[open..].find("}}").ok_or(TemplateError::Unclosed)? + open;
        let action = &rest[open + 2..close];
        let mut text = &rest[..open];
        if trim {
            text = text.trim_start();
        }
        if action.starts_with("- ") {
            text = text.trim_end();
        }
        trim = action.ends_with(" -");
        pieces.push(Piece::Text(text.to_owned()));
        let action = action.strip_prefix("- ").unwrap_or(action);
        let action = action.strip_suffix(" -").unwrap_or(action).trim();
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            pieces.push(Piece::Action(action.to_owned()));
        }
        rest = &rest[close + 2..];
    }
    pieces.push(Piece::Text(if trim { rest.trim_start() } else { rest }.to_owned()));
    Ok(pieces)
}

/// Reads nodes up to `end` or `else`, which is handed back.
fn parse(pieces: &mut impl Iterator<Item = Piece>, nested: bool) -> Result<(Vec<Node>, Option<String>), TemplateError> {
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let action = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(action) => action,
        };
        let (word, rest) = action.split_once(' ').unwrap_or((&action, ""));
        match word {
            "end" | "else" => return Ok((nodes, Some(action))),
            "if" | "range" | "with" => {
                let make = match word {
                    "if" => Node::If,
                    "range" => Node::Range,
                    _ => Node::With,
                };
                nodes.push(branch(pieces, make, pipeline(rest)?)?);
            }
            _ => nodes.push(Node::Print(pipeline(&action)?)),
        }
    }
    if nested { Err(TemplateError::Open) } else { Ok((nodes, None)) }
}

fn branch(
    pieces: &mut impl Iterator<Item = Piece>,
    make: fn(Pipeline, Vec<Node>, Vec<Node>) -> Node,
    condition: Pipeline,
) -> Result<Node, TemplateError> {
    let (body, end) = parse(pieces, true)?;
    let end = end.unwrap_or_default();
    let otherwise = match end.strip_prefix("else") {
        None => Vec::new(),
        Some("") => {
            let (otherwise, end) = parse(pieces, true)?;
            match end.as_deref() {
                Some("end") => otherwise,
                other => return Err(TemplateError::Unexpected(other.unwrap_or_default().to_owned())),
            }
        }
        Some(more) => match more.trim().strip_prefix("if ") {
            Some(condition) => vec![branch(pieces, Node::If, pipeline(condition)?)?],
            None => return Err(TemplateError::Unexpected(end)),
        },
    };
    Ok(make(condition, body, otherwise))
}

fn pipeline(text: &str) -> Result<Pipeline, TemplateError> {
    let tokens = tokens(text)?;
    let mut place = 0;
    let found = commands(&tokens, &mut place)?;
    if place < tokens.len() || found.iter().any(Vec::is_empty) {
        return Err(TemplateError::Unexpected(text.to_owned()));
    }
    Ok(found)
}

fn commands(tokens: &[String], place: &mut usize) -> Result<Pipeline, TemplateError> {
    let mut commands = vec![Vec::new()];
    while let Some(token) = tokens.get(*place) {
        if token == ")" {
            break;
        }
        *place += 1;
        let term = match token.as_str() {
            "|" => {
                commands.push(Vec::new());
                continue;
            }
            "(" => {
                let nested = commands_in_parentheses(tokens, place)?;
                match tokens.get(*place).and_then(|token| token.strip_prefix(GLUE)) {
                    Some(path) => {
                        *place += 1;
                        Term::Nested(nested, keys(path))
                    }
                    None => Term::Nested(nested, Vec::new()),
                }
            }
            other => term(other)?,
        };
        if let Some(last) = commands.last_mut() {
            last.push(term);
        }
    }
    Ok(commands)
}

fn commands_in_parentheses(tokens: &[String], place: &mut usize) -> Result<Pipeline, TemplateError> {
    let nested = commands(tokens, place)?;
    if tokens.get(*place).map(String::as_str) != Some(")") {
        return Err(TemplateError::Unclosed);
    }
    *place += 1;
    Ok(nested)
}

/// Marks a token that follows a closing parenthesis without space.
const GLUE: char = '\u{1}';

fn keys(path: &str) -> Vec<String> {
    path.split('.').filter(|key| !key.is_empty()).map(str::to_owned).collect()
}

fn term(token: &str) -> Result<Term, TemplateError> {
    if let Some(path) = token.strip_prefix('$') {
        if !path.is_empty() && !path.starts_with('.') {
            return Err(TemplateError::Call(format!("variables are not supported: {token}; use fields and range")));
        }
        return Ok(Term::Path(true, keys(path)));
    }
    if token.starts_with('.') {
        return Ok(Term::Path(false, keys(token)));
    }
    if let Some(text) = token.strip_prefix('`').and_then(|text| text.strip_suffix('`')) {
        return Ok(Term::Literal(Value::from(text)));
    }
    match serde_json::from_str(token) {
        Ok(literal) => Ok(Term::Literal(literal)),
        Err(_) if token == "nil" => Ok(Term::Literal(Value::Null)),
        Err(_) => Ok(Term::Function(token.to_owned())),
    }
}

fn tokens(text: &str) -> Result<Vec<String>, TemplateError> {
    let mut tokens = Vec::new();
    let mut word = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' | '`' => {
                word.push(c);
                loop {
                    let next = chars.next().ok_or(TemplateError::Unclosed)?;
                    word.push(next);
                    if next == '\\' && c == '"' {
                        word.extend(chars.next());
                    } else if next == c {
                        break;
                    }
                }
            }
            '(' | ')' | '|' => {
                if !word.is_empty() {
                    tokens.push(std::mem::take(&mut word));
                }
                tokens.push(c.to_string());
                if c == ')' && chars.as_str().starts_with('.') {
                    word.push(GLUE);
                }
            }
            c if c.is_whitespace() => {
                if !word.is_empty() {
                    tokens.push(std::mem::take(&mut word));
                }
            }
            other => word.push(other),
        }
    }
    if !word.is_empty() {
        tokens.push(word);
    }
    Ok(tokens)
}

fn run(nodes: &[Node], root: &Value, dot: &Value, out: &mut String) -> Result<(), TemplateError> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(pipeline) => out.push_str(&match evaluate(pipeline, root, dot)? {
                Some(value) => show(&value),
                None => "<no value>".to_owned(),
            }),
            Node::If(condition, body, otherwise) => {
                let holds = evaluate(condition, root, dot)?.is_some_and(|value| is_true(&value));
                run(if holds { body } else { otherwise }, root, dot, out)?;
            }
            Node::With(condition, body, otherwise) => match evaluate(condition, root, dot)?.filter(is_true) {
                Some(value) => run(body, root, &value, out)?,
                None => run(otherwise, root, dot, out)?,
            },
            Node::Range(list, body, otherwise) => {
                let items: Vec<Value> = match evaluate(list, root, dot)? {
                    Some(Value::Array(items)) => items,
                    Some(Value::Object(map)) => map.into_iter().map(|(_, value)| value).collect(),
                    Some(Value::Null) | None => Vec::new(),
                    Some(other) => {
                        return Err(TemplateError::Call(format!("range can't iterate over {}", show(&other))));
                    }
                };
                if items.is_empty() {
                    run(otherwise, root, dot, out)?;
                }
                for item in &items {
                    run(body, root, item, out)?;
                }
            }
        }
    }
    Ok(())
}

fn evaluate(pipeline: &Pipeline, root: &Value, dot: &Value) -> Result<Option<Value>, TemplateError> {
    let mut piped: Option<Option<Value>> = None;
    for command in pipeline {
        let Some((first, rest)) = command.split_first() else { continue };
        let value = match first {
            Term::Function(name) => {
                let mut arguments =
                    rest.iter().map(|term| resolve(term, root, dot)).collect::<Result<Vec<_>, TemplateError>>()?;
                arguments.extend(piped.take());
                call(name, arguments)?
            }
            _ if !rest.is_empty() || piped.is_some() => {
                return Err(TemplateError::Call("can't give argument to non-function".into()));
            }
            term => resolve(term, root, dot)?,
        };
        piped = Some(value);
    }
    Ok(piped.flatten())
}

fn resolve(term: &Term, root: &Value, dot: &Value) -> Result<Option<Value>, TemplateError> {
    match term {
        Term::Literal(value) => Ok(Some(value.clone())),
        Term::Nested(pipeline, keys) => {
            let value = evaluate(pipeline, root, dot)?;
            Ok(value.as_ref().and_then(|value| keys.iter().try_fold(value, |value, key| value.get(key))).cloned())
        }
        Term::Function(name) => call(name, Vec::new()),
        Term::Path(from_root, keys) => {
            let start = if *from_root { root } else { dot };
            Ok(keys.iter().try_fold(start, |value, key| value.get(key)).cloned())
        }
    }
}

fn call(name: &str, arguments: Vec<Option<Value>>) -> Result<Option<Value>, TemplateError> {
    let text = |value: &Option<Value>| value.as_ref().map(show).unwrap_or_default();
    let truth = |value: &Option<Value>| value.as_ref().is_some_and(is_true);
    let one =
        || arguments.first().ok_or_else(|| TemplateError::Call(format!("wrong number of args for {name}: got 0")));
    let yes = |holds: bool| Ok(Some(Value::Bool(holds)));
    match name {
        "index" => {
            let mut value = one()?.clone();
            for key in &arguments[1..] {
                value = match (value, key) {
                    (Some(Value::Object(map)), Some(Value::String(key))) => map.get(key).cloned(),
                    (Some(Value::Array(items)), Some(key)) => {
                        let place = key.as_u64().and_then(|place| usize::try_from(place).ok());
                        let item = place.and_then(|place| items.get(place)).cloned();
                        Some(item.ok_or_else(|| {
                            TemplateError::Call(format!("error calling index: index out of range: {key}"))
                        })?)
                    }
                    (None | Some(Value::Null), _) => None,
                    (Some(other), _) => {
                        return Err(TemplateError::Call(format!(
                            "error calling index: can't index item of {}",
                            show(&other)
                        )));
                    }
                };
            }
            Ok(value)
        }
        "len" => match one()? {
            Some(Value::Array(items)) => Ok(Some(items.len().into())),
            Some(Value::Object(map)) => Ok(Some(map.len().into())),
            Some(Value::String(text)) => Ok(Some(text.len().into())),
            other => Err(TemplateError::Call(format!("error calling len: len of {}", text(other)))),
        },
        "eq" => yes(arguments.iter().skip(1).any(|other| arguments.first() == Some(other))),
        "ne" => yes(arguments.first() != arguments.get(1)),
        "not" => yes(!truth(one()?)),
        "and" => Ok(arguments.iter().find(|value| !truth(value)).or(arguments.last()).cloned().flatten()),
        "or" => Ok(arguments.iter().find(|value| truth(value)).or(arguments.last()).cloned().flatten()),
        "print" => Ok(Some(arguments.iter().map(text).collect::<String>().into())),
        "println" => Ok(Some(format!("{}\n", arguments.iter().map(text).collect::<Vec<_>>().join(" ")).into())),
        "base64decode" => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(text(one()?));
            let decoded =
                decoded.map_err(|error| TemplateError::Call(format!("error calling base64decode: {error}")))?;
            Ok(Some(String::from_utf8_lossy(&decoded).into_owned().into()))
        }
        other => Err(TemplateError::UnknownFunction(other.to_owned())),
    }
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(holds) => *holds,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".into(),
        Value::Array(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let entries: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", show(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case("{{ .spec.host }}", "r.example.com")]
    #[case("{{.nope}}", "<no value>")]
    #[case("{{range .items}}{{.n}},{{end}}", "1,2,")]
    #[case("{{range .none}}x{{else}}none{{end}}", "none")]
    #[case("{{if eq .spec.host \"r.example.com\"}}yes{{else}}no{{end}}", "yes")]
    #[case("{{if .none}}a{{else if .spec}}b{{else}}c{{end}}", "b")]
    #[case("{{index .data \"tls.crt\" | base64decode}}", "PEM")]
    #[case("{{(index .items 1).n}}", "2")]
    #[case("{{len .items}} {{- \" x\" }}", "2 x")]
    #[case("{{with .spec}}{{.host}}{{$.top}}{{end}}", "r.example.comt")]
    #[case("{{range .items}}{{println .n}}{{end}}", "1\n2\n")]
    #[case("{{.spec}}", "map[host:r.example.com]")]
    fn renders(#[case] template: &str, #[case] expected: &str) {
        let document = json!({"spec": {"host": "r.example.com"}, "items": [{"n": 1}, {"n": 2}], "data": {"tls.crt": "UEVN"}, "top": "t"});
        assert_eq!(render(template, &document).expect("a text"), expected);
    }

    #[rstest]
    #[case("{{.spec", TemplateError::Unclosed)]
    #[case("{{if .a}}x", TemplateError::Open)]
    #[case("{{end}}", TemplateError::Unexpected("end".into()))]
    #[case("{{frobnicate .a}}", TemplateError::UnknownFunction("frobnicate".into()))]
    fn refuses(#[case] template: &str, #[case] expected: TemplateError) {
        assert_eq!(render(template, &json!({})).expect_err("a refusal"), expected);
    }
}
