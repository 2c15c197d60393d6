//! Changes to a message on its way: headers, JSON, text and single bytes.
//! JSON changes reach the object itself, each item of a Kubernetes list and the object of each watch event alike.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use json_patch::PatchOperation;
use serde::Deserialize;
use serde_json::Value;

use crate::pattern::Pattern;

/// What happens to a request or an answer on its way.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Edit {
    /// Headers that are taken away, before others are set.
    #[serde(default)]
    pub remove_headers: Vec<String>,
    /// Headers that are set, replacing what was there.
    #[serde(default)]
    pub set_headers: BTreeMap<String, String>,
    /// Replacements in the path with its query; requests only.
    #[serde(default)]
    pub replace_address: Vec<Replace>,
    /// Only JSON objects for which all of these hold are patched or merged; all objects if empty.
    #[serde(default, rename = "where")]
    pub conditions: Vec<Where>,
    /// JSON Patch (RFC 6902). A failed `test` ends the patch; another operation that does not fit is passed over.
    #[serde(default)]
    pub patch: Vec<PatchOperation>,
    /// JSON Merge Patch (RFC 7386), after `patch`.
    #[serde(default)]
    pub merge: Option<Value>,
    /// Replacements in a body that is text, after `merge`.
    #[serde(default)]
    pub replace: Vec<Replace>,
    /// All bits of the byte at this offset are turned over.
    #[serde(default)]
    pub flip_byte_at: Option<u64>,
    /// The body ends after so many bytes and its length says so.
    #[serde(default)]
    pub keep_bytes: Option<u64>,
    /// The connection breaks after so many bytes of the body.
    #[serde(default)]
    pub break_after: Option<u64>,
}

/// A condition on a part of a JSON document. Without `equals`, `matches` and `absent` the part must be there.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Where {
    /// JSON Pointer (RFC 6901).
    pub path: String,
    /// The part is exactly this.
    #[serde(default)]
    pub equals: Option<Value>,
    /// The part is text that matches, or its JSON does.
    #[serde(default)]
    pub matches: Option<Pattern>,
    /// The part is not there.
    #[serde(default)]
    pub absent: bool,
}

/// A replacement in text.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Replace {
    /// What is looked for, everywhere.
    pub find: Pattern,
    /// What stands there afterwards; `$1` is the first group.
    pub with: String,
}

impl Where {
    /// Whether the condition holds for a document.
    pub fn holds(&self, document: &Value) -> bool {
        let Some(part) = document.pointer(&self.path) else { return self.absent };
        let text = || part.as_str().map_or_else(|| part.to_string(), str::to_owned);
        !self.absent
            && self.equals.as_ref().is_none_or(|equals| equals == part)
            && self.matches.as_ref().is_none_or(|pattern| pattern.matches(&text()))
    }
}

impl Edit {
    /// Whether the whole body must be there before it can be changed.
    pub(crate) fn needs_whole_body(&self) -> bool {
        self.changes_json() || !self.replace.is_empty() || self.keep_bytes.is_some()
    }

    /// Whether JSON is changed, for which the sender must not use another encoding.
    pub(crate) fn changes_json(&self) -> bool {
        !self.patch.is_empty() || self.merge.is_some()
    }

    pub(crate) fn apply_to_headers(&self, headers: &mut HeaderMap) {
        for name in &self.remove_headers {
            headers.remove(name.as_str());
        }
        for (name, value) in &self.set_headers {
            match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                (Ok(name), Ok(value)) => {
                    headers.insert(name, value);
                }
                _ => tracing::warn!(%name, "a fault sets a header that HTTP does not allow; it is left out"),
            }
        }
    }

    /// The address after `replaceAddress`; one that is no address any more is left as it was.
    pub(crate) fn apply_to_address(&self, uri: &mut Uri) {
        let Some(address) = uri.path_and_query().filter(|_| !self.replace_address.is_empty()) else { return };
        let replaced = self
            .replace_address
            .iter()
            .fold(address.to_string(), |text, replace| replace.find.replace_all(&text, &replace.with));
        let mut parts = uri.clone().into_parts();
        match replaced.parse() {
            Ok(address) => parts.path_and_query = Some(address),
            Err(error) => tracing::warn!(%replaced, %error, "a fault makes an address that HTTP does not allow"),
        }
        if let Ok(changed) = Uri::from_parts(parts) {
            *uri = changed;
        }
    }

    /// The body after `patch`, `merge`, `replace` and `keepBytes`.
    pub(crate) fn apply_to_body(&self, body: Bytes) -> Bytes {
        let mut body = body;
        if self.changes_json()
            && let Ok(mut document) = serde_json::from_slice::<Value>(&body)
            && self.apply_to_document(&mut document)
        {
            body = document.to_string().into();
        }
        if !self.replace.is_empty()
            && let Ok(text) = std::str::from_utf8(&body)
        {
            let replaced = self
                .replace
                .iter()
                .fold(text.to_owned(), |text, replace| replace.find.replace_all(&text, &replace.with));
            body = replaced.into();
        }
        if let Some(keep) = self.keep_bytes {
            body.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        }
        body
    }

    /// One line of a watch stream; bookmarks and errors are no objects and pass as they are.
    pub(crate) fn apply_to_event(&self, line: &[u8]) -> Option<Vec<u8>> {
        let mut event: Value = serde_json::from_slice(line).ok()?;
        let is_change = matches!(event["type"].as_str(), Some("ADDED" | "MODIFIED" | "DELETED"));
        let mut changed = is_change && self.apply_to_object(event.get_mut("object")?);
        let mut text = event.to_string();
        for replace in self.replace.iter().filter(|_| is_change) {
            let replaced = replace.find.replace_all(&text, &replace.with);
            changed |= replaced != text;
            text = replaced;
        }
        changed.then(|| text.into_bytes())
    }

    /// Changes a list's items, or the document itself when it is no list. Returns whether anything changed.
    fn apply_to_document(&self, document: &mut Value) -> bool {
        let is_list = document["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        match document.get_mut("items").and_then(Value::as_array_mut) {
            Some(items) if is_list => {
                items.iter_mut().fold(false, |changed, item| self.apply_to_object(item) | changed)
            }
            _ => self.apply_to_object(document),
        }
    }

    fn apply_to_object(&self, object: &mut Value) -> bool {
        if !self.conditions.iter().all(|condition| condition.holds(object)) {
            return false;
        }
        let before = object.clone();
        for operation in &self.patch {
            let outcome = json_patch::patch(object, std::slice::from_ref(operation));
            if outcome.is_err() && matches!(operation, PatchOperation::Test(_)) {
                break;
            }
        }
        if let Some(merge) = &self.merge {
            json_patch::merge(object, merge);
        }
        *object != before
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_loses_what_a_fault_takes_out_of_it() {
        let edit: Edit =
            serde_yaml::from_str("replaceAddress: [{find: 'fieldSelector=[^&]*&?', with: ''}]").expect("an edit");
        let mut uri: Uri =
            "/apis/x/v1/configs?fieldSelector=metadata.name%3Dcluster&watch=true".parse().expect("a uri");
        edit.apply_to_address(&mut uri);
        assert_eq!(uri.to_string(), "/apis/x/v1/configs?watch=true");
    }

    fn edit(value: Value) -> Edit {
        serde_json::from_value(value).unwrap()
    }

    fn apply(edit_value: Value, body: Value) -> Value {
        serde_json::from_slice(&edit(edit_value).apply_to_body(body.to_string().into())).unwrap()
    }

    #[rstest]
    #[case::object(json!({"spec": {"a": 1, "b": 2}}), json!({"spec": {"b": 2}}))]
    #[case::list(
        json!({"kind": "ConfigList", "items": [{"spec": {"a": 1}}, {"spec": {}}]}),
        json!({"kind": "ConfigList", "items": [{"spec": {}}, {"spec": {}}]})
    )]
    #[case::not_there(json!({"spec": {}}), json!({"spec": {}}))]
    fn a_removal_makes_blind_to_a_field(#[case] before: Value, #[case] after: Value) {
        assert_eq!(apply(json!({"patch": [{"op": "remove", "path": "/spec/a"}]}), before), after);
    }

    #[test]
    fn a_failed_test_ends_the_patch_and_conditions_choose_objects() {
        let patch =
            json!({"patch": [{"op": "test", "path": "/a", "value": 1}, {"op": "replace", "path": "/b", "value": 0}]});
        assert_eq!(apply(patch.clone(), json!({"a": 1, "b": 2})), json!({"a": 1, "b": 0}));
        assert_eq!(apply(patch, json!({"a": 9, "b": 2})), json!({"a": 9, "b": 2}));
        let merge = json!({"where": [{"path": "/metadata/name", "matches": "^x"}], "merge": {"spec": {"n": 7}}});
        let list = json!({"kind": "L", "items": [], "metadata": {"name": "xy"}});
        assert_eq!(apply(merge.clone(), list)["spec"]["n"], 7);
        assert_eq!(apply(merge, json!({"metadata": {"name": "y"}})), json!({"metadata": {"name": "y"}}));
    }

    #[test]
    fn watch_events_are_changed_and_bookmarks_are_not() {
        let edit = edit(json!({"patch": [{"op": "remove", "path": "/spec/a"}]}));
        let changed = edit.apply_to_event(br#"{"type":"ADDED","object":{"spec":{"a":1}}}"#).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&changed).unwrap(),
            json!({"type": "ADDED", "object": {"spec": {}}})
        );
        assert_eq!(edit.apply_to_event(br#"{"type":"BOOKMARK","object":{"spec":{"a":1}}}"#), None);
        assert_eq!(edit.apply_to_event(b"no json"), None);
    }

    #[rstest]
    #[case(json!({"path": "/a", "equals": 1}), true)]
    #[case(json!({"path": "/a", "equals": 2}), false)]
    #[case(json!({"path": "/b"}), false)]
    #[case(json!({"path": "/b", "absent": true}), true)]
    #[case(json!({"path": "/a", "absent": true}), false)]
    #[case(json!({"path": "/c", "matches": "^te"}), true)]
    fn conditions_look_at_one_part(#[case] condition: Value, #[case] expected: bool) {
        let condition: Where = serde_json::from_value(condition).unwrap();
        assert_eq!(condition.holds(&json!({"a": 1, "c": "text"})), expected);
    }

    #[test]
    fn text_is_replaced_with_groups_and_kept_short() {
        let edit = edit(json!({"replace": [{"find": "sha256:([0-9a-f])", "with": "sha256:0$1"}], "keepBytes": 10}));
        assert_eq!(edit.apply_to_body(Bytes::from_static(b"sha256:abc")), Bytes::from_static(b"sha256:0ab"));
    }
}
