//! YAML as Go programs write it: keys in alphabetical order, and nothing left bare that YAML 1.1 would read as
//! something else than text.

use serde_json::Value;

/// How blocks are laid out.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Spaces per level.
    pub indent: usize,
    /// True when the items of a list stand deeper than its key.
    pub indent_lists: bool,
}

impl Style {
    /// The next column inside `column`: the next multiple of the indent, as Go's writer has it.
    fn deeper(self, column: usize) -> usize {
        self.indent * ((column + self.indent) / self.indent)
    }
}

/// The layout of `oc get -o yaml`.
pub const API: Style = Style { indent: 2, indent_lists: false };
/// The layout of `oc adm migrate`, which indents by four spaces.
pub const MIGRATED: Style = Style { indent: 4, indent_lists: true };

/// Writes a value as one document, with a newline at its end.
pub fn to_string(value: &Value, style: Style) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(&mut out, value, 0, style),
        Value::Array(list) if !list.is_empty() => block(&mut out, value, 0, style),
        other => {
            scalar(&mut out, other, 0, style);
            out.push('\n');
        }
    }
    out
}

fn is_block(value: &Value) -> bool {
    value.as_object().is_some_and(|map| !map.is_empty()) || value.as_array().is_some_and(|list| !list.is_empty())
}

fn block(out: &mut String, value: &Value, column: usize, style: Style) {
    match value {
        Value::Object(map) => {
            for (place, (key, item)) in map.iter().enumerate() {
                if place > 0 {
                    out.push_str(&" ".repeat(column));
                }
                scalar(out, &Value::from(key.as_str()), column, style);
                out.push(':');
                entry(out, item, column, style);
            }
        }
        Value::Array(list) => {
            for (place, item) in list.iter().enumerate() {
                if place > 0 {
                    out.push_str(&" ".repeat(column));
                }
                out.push('-');
                if is_block(item) {
                    out.push(' ');
                    block(out, item, column + 2, style);
                } else {
                    out.push(' ');
                    scalar(out, item, column + 2, style);
                    out.push('\n');
                }
            }
        }
        _ => {}
    }
}

fn entry(out: &mut String, item: &Value, column: usize, style: Style) {
    if is_block(item) {
        let deeper = match item {
            Value::Array(_) if !style.indent_lists => column,
            _ => style.deeper(column),
        };
        out.push('\n');
        out.push_str(&" ".repeat(deeper));
        block(out, item, deeper, style);
    } else {
        out.push(' ');
        scalar(out, item, style.deeper(column), style);
        out.push('\n');
    }
}

fn scalar(out: &mut String, value: &Value, column: usize, style: Style) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        Value::String(text) if is_literal(text) => literal(out, text, column, style),
        Value::String(text) if is_plain(text) => out.push_str(text),
        Value::String(text) => out.push_str(&Value::from(text.as_str()).to_string()),
    }
}

/// True for text of several lines that can stand as a block.
fn is_literal(text: &str) -> bool {
    text.contains('\n')
        && !text.starts_with([' ', '\n', '\t'])
        && text.trim_end_matches('\n').lines().all(|line| !line.ends_with([' ', '\t']))
        && !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t')
}

fn literal(out: &mut String, text: &str, column: usize, style: Style) {
    let column = if column == 0 { style.indent } else { column };
    let body = text.trim_end_matches('\n');
    out.push('|');
    match text.len() - body.len() {
        0 => out.push('-'),
        1 => {}
        _ => out.push('+'),
    }
    for line in body.split('\n').chain(std::iter::repeat_n("", (text.len() - body.len()).saturating_sub(1))) {
        out.push('\n');
        if !line.is_empty() {
            out.push_str(&" ".repeat(column));
            out.push_str(line);
        }
    }
}

/// True when the text reads back as the same text without quotes.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 11] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "~", "<<"];
    let first_is_safe = |c: char| c.is_ascii_alphabetic() || c == '/' || c == '_' || c == '.' || c == '<' || c == '(';
    let Some(first) = text.chars().next() else { return false };
    if !(first_is_safe(first) || first.is_ascii_digit() && !looks_like_a_number(text)) {
        return false;
    }
    if WORDS.contains(&text.to_lowercase().as_str()) || looks_like_a_number(text) || text.ends_with([' ', ':']) {
        return false;
    }
    !text.contains(": ") && !text.contains(" #") && text.chars().all(|c| !c.is_control() && c.is_ascii())
}

/// True for what YAML 1.1 reads as a number, a time or a date.
fn looks_like_a_number(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text).replace('_', "");
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return false;
    }
    let radix = |prefix: &str, radix: u32| {
        digits.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix)))
    };
    let sexagesimal = digits.contains(':') && digits.chars().all(|c| c.is_ascii_digit() || c == ':' || c == '.');
    let date = digits.len() >= 8
        && digits[..4].chars().all(|c| c.is_ascii_digit())
        && digits[4..].chars().all(|c| c.is_ascii_digit() || "-:.tTzZ+ ".contains(c))
        && digits[4..].starts_with('-');
    digits.parse::<f64>().is_ok()
        || radix("0x", 16)
        || radix("0o", 8)
        || radix("0b", 2)
        || sexagesimal
        || date
        || [".inf", ".nan"].contains(&digits.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case(json!({"b": [1, {"x": "y", "z": []}], "a": {"k": "v"}}), API, "a:\n  k: v\nb:\n- 1\n- x: \"y\"\n  z: []\n")]
    #[case(json!({"b": [{"m": ["n1"], "s": "n2"}]}), MIGRATED, "b:\n    - m:\n        - n1\n      s: n2\n")]
    #[case(json!({"k": "two\nlines\n"}), API, "k: |\n  two\n  lines\n")]
    #[case(json!({"k": ""}), API, "k: \"\"\n")]
    #[case(json!("text"), API, "text\n")]
    #[case(json!("05a12efb-254b-4674-96fd-54f5d54becb0"), API, "05a12efb-254b-4674-96fd-54f5d54becb0\n")]
    fn layout(#[case] value: Value, #[case] style: Style, #[case] expected: &str) {
        assert_eq!(to_string(&value, style), expected);
    }

    #[rstest]
    #[case(json!({"yes": "no", "n": "1.5", "date": "2024-01-02T03:04:05Z", "hex": "0x1f", "null": "null"}))]
    #[case(json!({"a": {"b": [[1, 2], [], {}], "c": null, "d": true, "e": -1.5}}))]
    #[case(json!({"text": ["one\n\ntwo", "trail\n\n", " lead", "tab\t", "a: b", "a #b", "#", "-", "*", "é", "quote\"", "-----BEGIN X-----\nabc\n"]}))]
    #[case(json!([[{"a": [{"b": "c"}]}]]))]
    #[case(json!({"k:": "v:", "*": "&", "sha256:00": "12ab", "uid": "05a12efb-254b", "t": "12:30", "0b1": "1_0", "0o7": ".inf", "1e3": "e", "%": "@"}))]
    fn reads_back(#[case] value: Value, #[values(API, MIGRATED)] style: Style) {
        let text = to_string(&value, style);
        let back: Value = serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(back, value, "{text}");
    }
}
