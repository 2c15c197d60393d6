//! JSONPath templates as the Kubernetes client understands them: text with `{...}` expressions, ranges and filters.

use serde_json::Value;

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JsonPathError {
    #[error("unclosed action in {0:?}")]
    Unclosed(String),
    #[error("unrecognized expression {0:?}")]
    Unrecognized(String),
    #[error("{0} is not found")]
    NotFound(String),
    #[error("not in range, nothing to end")]
    StrayEnd,
    #[error("range without end")]
    OpenRange,
}

enum Node {
    Text(String),
    /// From the document when the flag is set, else from the current value.
    Path(bool, Vec<Step>),
    Range(bool, Vec<Step>, Vec<Node>),
}

#[derive(Debug)]
enum Step {
    Key(String),
    All,
    Deep,
    Slice(Option<i64>, Option<i64>, bool),
    Filter(Vec<Step>, Option<(String, Value)>),
}

/// The text the template gives for this document.
///
/// # Errors
/// The template is malformed or asks for a field that is not there.
pub fn render(template: &str, document: &Value) -> Result<String, JsonPathError> {
    let mut rest = if template.contains('{') { template.to_owned() } else { format!("{{{template}}}") };
    let nodes = parse(&mut rest, false)?;
    let mut out = String::new();
    run(&nodes, document, document, &mut out)?;
    Ok(out)
}

fn parse(rest: &mut String, in_range: bool) -> Result<Vec<Node>, JsonPathError> {
    let mut nodes = Vec::new();
    while !rest.is_empty() {
        let Some(open) = rest.find('{') else {
            nodes.push(Node::Text(std::mem::take(rest)));
            break;
        };
        if open > 0 {
            nodes.push(Node::Text(rest[..open].to_owned()));
        }
        let close = closing(&rest[open..]).ok_or_else(|| JsonPathError::Unclosed(rest.clone()))? + open;
        let action = rest[open + 1..close].trim().to_owned();
        *rest = rest[close + 1..].to_owned();
        if action == "end" {
            return if in_range { Ok(nodes) } else { Err(JsonPathError::StrayEnd) };
        } else if let Some(path) = action.strip_prefix("range") {
            let steps = steps(path.trim())?;
            nodes.push(Node::Range(path.trim().starts_with('$'), steps, parse(rest, true)?));
        } else if let Some(text) = literal(&action) {
            nodes.push(Node::Text(text));
        } else {
            nodes.push(Node::Path(action.starts_with('$'), steps(&action)?));
        }
    }
    if in_range { Err(JsonPathError::OpenRange) } else { Ok(nodes) }
}

/// The place of the brace that closes the one at the start, quotes passed over.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (place, c) in text.char_indices().skip(1) {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, '}') => return Some(place),
            _ => {}
        }
    }
    None
}

fn literal(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| *c == '"' || *c == '\'')?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(inner.replace("\\n", "\n").replace("\\t", "\t").replace("\\\"", "\"").replace("\\\\", "\\"))
}

fn steps(text: &str) -> Result<Vec<Step>, JsonPathError> {
    let bad = || JsonPathError::Unrecognized(text.to_owned());
    let mut rest = text.strip_prefix(['$', '@']).unwrap_or(text);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix("..") {
            steps.push(Step::Deep);
            rest = tail;
            if !rest.starts_with('[') {
                let (key, tail) = word(rest);
                steps.push(if key == "*" { Step::All } else { Step::Key(key) });
                rest = tail;
            }
        } else if let Some(tail) = rest.strip_prefix('.') {
            let (key, tail) = word(tail);
            match key.as_str() {
                "" if tail.is_empty() || tail.starts_with('[') => {}
                "" => return Err(bad()),
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Key(key)),
            }
            rest = tail;
        } else if rest.starts_with('[') {
            let close = bracket(rest).ok_or_else(bad)?;
            steps.push(index(&rest[1..close]).ok_or_else(bad)?);
            rest = &rest[close + 1..];
        } else {
            return Err(bad());
        }
    }
    Ok(steps)
}

/// A key up to the next dot or bracket; `\.` stands for a dot inside the key.
fn word(text: &str) -> (String, &str) {
    let mut key = String::new();
    let mut chars = text.char_indices();
    while let Some((place, c)) = chars.next() {
        match c {
            '\\' => key.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (key, &text[place..]),
            other => key.push(other),
        }
    }
    (key, "")
}

fn bracket(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut quote = None;
    for (place, c) in text.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some(place);
                }
            }
            _ => {}
        }
    }
    None
}

fn index(text: &str) -> Option<Step> {
    let text = text.trim();
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(key) = literal(text) {
        return Some(Step::Key(key));
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        for operator in ["==", "!=", "<=", ">=", "<", ">"] {
            if let Some((left, right)) = filter.split_once(operator) {
                let right = right.trim();
                let wanted = literal(right).map(Value::from).or_else(|| serde_json::from_str(right).ok())?;
                return Some(Step::Filter(steps(left.trim()).ok()?, Some((operator.to_owned(), wanted))));
            }
        }
        return Some(Step::Filter(steps(filter.trim()).ok()?, None));
    }
    if let Some((from, to)) = text.split_once(':') {
        let bound = |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) };
        return Some(Step::Slice(bound(from)?, bound(to)?, false));
    }
    text.parse().ok().map(|place| Step::Slice(Some(place), None, true))
}

fn run(nodes: &[Node], root: &Value, current: &Value, out: &mut String) -> Result<(), JsonPathError> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(from_root, steps) => {
                let found = walk(steps, vec![if *from_root { root } else { current }])?;
                let texts: Vec<String> = found.into_iter().map(show).collect();
                out.push_str(&texts.join(" "));
            }
            Node::Range(from_root, steps, body) => {
                for item in walk(steps, vec![if *from_root { root } else { current }])? {
                    run(body, root, item, out)?;
                }
            }
        }
    }
    Ok(())
}

fn walk<'a>(steps: &[Step], mut found: Vec<&'a Value>) -> Result<Vec<&'a Value>, JsonPathError> {
    let mut deep = false;
    for step in steps {
        let mut next = Vec::new();
        if deep {
            found = found.into_iter().flat_map(descend).collect();
        }
        for value in &found {
            match step {
                Step::Key(key) => match value.get(key) {
                    Some(item) => next.push(item),
                    None if deep || found.len() > 1 => {}
                    None => return Err(JsonPathError::NotFound(key.clone())),
                },
                Step::All => match value {
                    Value::Array(items) => next.extend(items),
                    Value::Object(map) => next.extend(map.values()),
                    _ => {}
                },
                Step::Deep => next.push(value),
                Step::Slice(from, to, single) => {
                    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                    let count = items.len() as i64;
                    let place = |bound: i64| if bound < 0 { bound + count } else { bound };
                    let first = place(from.unwrap_or(0));
                    let last = if *single { first + 1 } else { place(to.unwrap_or(count)) };
                    if *single && !(0..count).contains(&first) {
                        return Err(JsonPathError::NotFound(format!(
                            "array index out of bounds: index {first}, length {count}; the element"
                        )));
                    }
                    let range = first.clamp(0, count) as usize..last.clamp(0, count) as usize;
                    next.extend(items.get(range).unwrap_or_default());
                }
                Step::Filter(path, comparison) => {
                    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                    next.extend(items.iter().filter(|item| holds(item, path, comparison.as_ref())));
                }
            }
        }
        deep = matches!(step, Step::Deep);
        found = next;
    }
    Ok(found)
}

fn holds(item: &Value, path: &[Step], comparison: Option<&(String, Value)>) -> bool {
    let found = walk(path, vec![item]).unwrap_or_default();
    let Some((operator, wanted)) = comparison else { return !found.is_empty() };
    found.first().is_some_and(|value| {
        let order = match (value.as_f64(), wanted.as_f64()) {
            (Some(left), Some(right)) => left.partial_cmp(&right),
            _ => Some(show(value).cmp(&show(wanted))),
        };
        order.is_some_and(|order| match operator.as_str() {
            "==" => order.is_eq(),
            "!=" => order.is_ne(),
            "<" => order.is_lt(),
            "<=" => order.is_le(),
            ">" => order.is_gt(),
            _ => order.is_ge(),
        })
    })
}

fn descend(value: &Value) -> Vec<&Value> {
    let mut all = vec![value];
    match value {
        Value::Array(items) => all.extend(items.iter().flat_map(descend)),
        Value::Object(map) => all.extend(map.values().flat_map(descend)),
        _ => {}
    }
    all
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case("{.spec.host}", "r.example.com")]
    #[case(".spec.host", "r.example.com")]
    #[case("{.items[*].n}", "1 2 3")]
    #[case("{.items[0].n}", "1")]
    #[case("{.items[-1].n}", "3")]
    #[case("{.items[0:2].n}", "1 2")]
    #[case("{range .items[*]}{.n}{\"\\n\"}{end}", "1\n2\n3\n")]
    #[case("{.items[?(@.t==\"b\")].n}", "2")]
    #[case("{.items[?(@.n>1)].t}", "b c")]
    #[case("{.data.tls\\.crt}", "PEM")]
    #[case("{.data['tls.crt']}", "PEM")]
    #[case("{..host}", "r.example.com")]
    #[case("host={.spec.host}!", "host=r.example.com!")]
    #[case("{range .items[*]}{.n}{$.spec.host}{end}", "1r.example.com2r.example.com3r.example.com")]
    #[case("{.spec}", "{\"host\":\"r.example.com\"}")]
    fn renders(#[case] template: &str, #[case] expected: &str) {
        let document = json!({
            "spec": {"host": "r.example.com"}, "data": {"tls.crt": "PEM"},
            "items": [{"n": 1, "t": "a"}, {"n": 2, "t": "b"}, {"n": 3, "t": "c"}],
        });
        assert_eq!(render(template, &document).expect("a text"), expected);
    }

    #[rstest]
    #[case("{.nope}", "nope is not found")]
    #[case("{.spec", "unclosed action in \"{.spec\"")]
    #[case("{range .items}x", "range without end")]
    #[case("{end}", "not in range, nothing to end")]
    fn refuses(#[case] template: &str, #[case] message: &str) {
        assert_eq!(render(template, &json!({"spec": 1, "items": []})).expect_err("a refusal").to_string(), message);
    }
}
