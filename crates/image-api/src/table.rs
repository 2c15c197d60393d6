//! The form an answer is wanted in: the object itself, only its metadata, or a table for people.
//! Columns are those of openshift-apiserver pkg/image/printers/internalversion/printer.go (main).

use serde_json::{Map, Value, json};

use crate::history::{items, status_tags};
use crate::request::Query;
use crate::store::name_of;

/// What the `Accept` header asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Object,
    Table,
    Metadata,
}

impl Form {
    /// The first form in an `Accept` header that can be served; objects if there is none.
    pub fn of(accept: &str) -> Self {
        for offer in accept.split(',') {
            let mut parts = offer.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            if !matches!(media_type, "application/json" | "application/*" | "*/*") {
                continue;
            }
            match parts.find_map(|parameter| parameter.strip_prefix("as=")) {
                None => return Self::Object,
                Some("Table") => return Self::Table,
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => return Self::Metadata,
                Some(_) => {}
            }
        }
        Self::Object
    }

    /// Brings an object or a list into this form; a Status stays what it is.
    pub fn apply(self, value: Value, query: &Query) -> Value {
        let kind = value["kind"].as_str().unwrap_or_default();
        if kind == "Status" {
            return value;
        }
        match self {
            Self::Object => value,
            Self::Metadata if value.get("items").is_some_and(Value::is_array) => {
                let items: Vec<Value> = objects(&value).into_iter().map(partial).collect();
                json!({
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": value["metadata"],
                    "items": items,
                })
            }
            Self::Metadata => partial(&value),
            Self::Table => table(&value, query.get("includeObject").unwrap_or("Metadata")),
        }
    }

    /// Brings the object of a watch event into this form.
    pub fn apply_event(self, mut event: Value, query: &Query) -> Value {
        if let Some(object) = event.get_mut("object").map(Value::take) {
            event["object"] = match (self, event["type"].as_str()) {
                (Self::Table, Some("BOOKMARK")) => {
                    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"], "columnDefinitions": [], "rows": []})
                }
                _ => self.apply(object, query),
            };
        }
        event
    }
}

fn objects(value: &Value) -> Vec<&Value> {
    match value.get("items").and_then(Value::as_array) {
        Some(items) => items.iter().collect(),
        None => vec![value],
    }
}

fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

struct Column {
    name: &'static str,
    /// Shown only in wide output.
    wide: bool,
}

const fn column(name: &'static str) -> Column {
    Column { name, wide: false }
}

const fn wide(name: &'static str) -> Column {
    Column { name, wide: true }
}

fn columns(kind: &str) -> &'static [Column] {
    match kind {
        "Image" => const { &[column("Name"), column("Image Reference")] },
        "ImageStream" => const { &[column("Name"), column("Image Repository"), column("Tags"), column("Updated")] },
        "ImageStreamTag" => {
            const { &[column("Name"), column("Image Reference"), column("Updated"), wide("Image Name")] }
        }
        "ImageTag" => {
            const { &[column("Name"), column("Spec"), column("Status"), column("History"), column("Updated")] }
        }
        "ImageStreamImage" => {
            const { &[column("Name"), column("Updated"), wide("Image Reference"), wide("Image Name")] }
        }
        _ => const { &[column("Name"), column("Created At")] },
    }
}

fn cells(kind: &str, object: &Value) -> Vec<Value> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let name = Value::from(name_of(object));
    let created = ago(text("/metadata/creationTimestamp"));
    match kind {
        "Image" => vec![name, text("/dockerImageReference").into()],
        "ImageStream" => {
            let repository =
                ["/status/publicDockerImageRepository", "/spec/dockerImageRepository", "/status/dockerImageRepository"]
                    .into_iter()
                    .map(text)
                    .find(|repository| !repository.is_empty())
                    .unwrap_or_default();
            let (tags, updated) = stream_tags(object);
            vec![name, repository.into(), tags.into(), ago(&updated).into()]
        }
        "ImageStreamTag" => {
            vec![name, text("/image/dockerImageReference").into(), created.into(), text("/image/metadata/name").into()]
        }
        "ImageTag" => image_tag_cells(name, object),
        "ImageStreamImage" => {
            vec![name, created.into(), text("/image/dockerImageReference").into(), text("/image/metadata/name").into()]
        }
        _ => vec![name, text("/metadata/creationTimestamp").into()],
    }
}

fn image_tag_cells(name: Value, object: &Value) -> Vec<Value> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let history = object.get("status").map_or(&[][..], |status| items(status));
    let spec = match (text("/spec/from/kind"), object.pointer("/spec/reference") == Some(&true.into())) {
        ("", _) if history.is_empty() => "",
        ("", _) => "Push",
        (_, true) => "Ref",
        ("ImageStreamTag", _) if !text("/spec/from/name").contains(':') => "Track",
        _ if object.pointer("/spec/importPolicy/scheduled") == Some(&true.into()) => "Scheduled",
        _ => "Tag",
    };
    let failed = object
        .pointer("/status/conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|c| c["type"] == "ImportSuccess" && c["status"] == "False");
    let status = match (failed, history.first()) {
        (Some(condition), _) => format!("ImportFailed ({})", condition["reason"].as_str().unwrap_or_default()),
        (None, Some(event)) => match event["image"].as_str().filter(|image| !image.is_empty()) {
            Some(image) => format!("image/{image}"),
            None => event["dockerImageReference"].as_str().unwrap_or_default().to_owned(),
        },
        (None, None) => text("/spec/from/name").to_owned(),
    };
    let updated = history.first().and_then(|event| event["created"].as_str()).unwrap_or_default();
    let count = if history.is_empty() { Value::Null } else { history.len().into() };
    vec![name, spec.into(), status.into(), count, ago(updated).into()]
}

/// The stream's tags, newest first, as many as fit into a column; and when the newest was set.
fn stream_tags(stream: &Value) -> (String, String) {
    const WIDTH: usize = 40;
    let mut tags: Vec<(&str, &str)> = status_tags(stream)
        .iter()
        .map(|entry| {
            let created = items(entry).first().and_then(|event| event["created"].as_str()).unwrap_or_default();
            (created, entry["tag"].as_str().unwrap_or_default())
        })
        .collect();
    tags.sort_by(|a, b| b.0.cmp(a.0).then(a.1.cmp(b.1)));
    let updated = tags.first().map_or("", |(created, _)| created).to_owned();
    let mut shown = String::new();
    for (at, (_, tag)) in tags.iter().enumerate() {
        if at > 0 && shown.len() + tag.len() + 1 > WIDTH {
            shown.push_str(&format!(" + {} more...", tags.len() - at));
            break;
        }
        if at > 0 {
            shown.push(',');
        }
        shown.push_str(tag);
    }
    (shown, updated)
}

fn table(value: &Value, include: &str) -> Value {
    let kind = value["kind"].as_str().unwrap_or_default();
    let kind = kind.strip_suffix("List").unwrap_or(kind);
    let definitions: Vec<Value> = columns(kind)
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": if column.name == "History" { "number" } else { "string" },
                "format": if column.name == "Name" { "name" } else { "" },
                "description": "",
                "priority": i32::from(column.wide),
            })
        })
        .collect();
    let rows: Vec<Value> = objects(value)
        .into_iter()
        .map(|object| {
            let shown = match include {
                "None" => Value::Null,
                "Object" => object.clone(),
                _ => partial(object),
            };
            json!({"cells": cells(kind, object), "object": shown})
        })
        .collect();
    let mut metadata = Map::new();
    for key in ["resourceVersion", "continue", "remainingItemCount"] {
        if let Some(given) = value.pointer(&format!("/metadata/{key}")) {
            metadata.insert(key.into(), given.clone());
        }
    }
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

/// A time as the distance from now, in words; empty for no time.
fn ago(time: &str) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else { return String::new() };
    let seconds = jiff::Timestamp::now().duration_since(then).as_secs().max(0);
    format!("{} ago", in_words(seconds))
}

fn in_words(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".into(),
        (1, ..) => "1 second".into(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".into(),
        (_, 2..46, _) => format!("{minutes} minutes"),
        (_, _, 0 | 1) => "About an hour".into(),
        (_, _, 2..48) => format!("{hours} hours"),
        (_, _, 48..336) => format!("{} days", hours / 24),
        (_, _, 336..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, 1440..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("", Form::Object)]
    #[case("application/json", Form::Object)]
    #[case("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Form::Table)]
    #[case(
        "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
        Form::Metadata
    )]
    #[case("application/json;as=Other;v=v9,application/json", Form::Object)]
    fn the_first_form_that_can_be_served_is_served(#[case] accept: &str, #[case] form: Form) {
        assert_eq!(Form::of(accept), form);
    }

    #[test]
    fn a_stream_becomes_a_row() {
        let stream = json!({
            "kind": "ImageStream",
            "metadata": {"name": "app"},
            "status": {
                "dockerImageRepository": "r:5000/p/app",
                "tags": [{"tag": "v1", "items": [{"created": "2020-01-01T00:00:00Z"}]}, {"tag": "v2", "items": [{"created": "2020-01-02T00:00:00Z"}]}],
            },
        });
        let table = Form::Table.apply(stream, &Query::default());
        let cells = table["rows"][0]["cells"].as_array().expect("cells");
        assert_eq!(cells[..3], [json!("app"), json!("r:5000/p/app"), json!("v2,v1")]);
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    }

    #[rstest]
    #[case(0, "Less than a second")]
    #[case(42, "42 seconds")]
    #[case(90, "About a minute")]
    #[case(3000, "About an hour")]
    #[case(3 * 86400, "3 days")]
    fn distances_are_put_into_words(#[case] seconds: i64, #[case] words: &str) {
        assert_eq!(in_words(seconds), words);
    }
}
