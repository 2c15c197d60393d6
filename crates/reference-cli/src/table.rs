//! Tables as the server lays them out, printed in aligned columns.

use serde_json::Value;

/// Which columns of a server's table are shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    pub wide: bool,
    pub namespaces: bool,
    pub headers: bool,
    pub labels: bool,
}

/// The text of a `meta.k8s.io/v1` Table; `prefix` goes before each name when several kinds are listed.
pub fn text(table: &Value, layout: Layout, prefix: Option<&str>) -> String {
    let columns: Vec<(usize, String)> = table["columnDefinitions"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
        .filter(|(_, column)| layout.wide || column["priority"].as_i64().unwrap_or(0) == 0)
        .map(|(place, column)| (place, column["name"].as_str().unwrap_or_default().to_uppercase()))
        .collect();
    let mut lines = Vec::new();
    if layout.headers {
        let mut line: Vec<String> = columns.iter().map(|(_, name)| name.clone()).collect();
        if layout.namespaces {
            line.insert(0, "NAMESPACE".into());
        }
        if layout.labels {
            line.push("LABELS".into());
        }
        lines.push(line);
    }
    for row in table["rows"].as_array().into_iter().flatten() {
        let mut line: Vec<String> = columns.iter().map(|(place, _)| cell(&row["cells"][*place])).collect();
        if let (Some(prefix), Some(name)) = (prefix, line.first_mut()) {
            *name = format!("{prefix}/{name}");
        }
        let metadata = &row["object"]["metadata"];
        if layout.namespaces {
            line.insert(0, metadata["namespace"].as_str().unwrap_or_default().to_owned());
        }
        if layout.labels {
            let labels = metadata["labels"].as_object().into_iter().flatten();
            let labels: Vec<String> = labels.map(|(key, value)| format!("{key}={}", cell(value))).collect();
            line.push(if labels.is_empty() { "<none>".into() } else { labels.join(",") });
        }
        lines.push(line);
    }
    align(&lines)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.lines().next().unwrap_or_default().to_owned(),
        other => other.to_string(),
    }
}

/// Columns with three spaces between them, the last one unpadded.
pub fn align(lines: &[Vec<String>]) -> String {
    let count = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |place: usize| lines.iter().filter_map(|line| line.get(place)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|place| (width(place).unwrap_or(0) + 3).max(6)).collect();
    let mut text = String::new();
    for line in lines {
        for (place, cell) in line.iter().enumerate() {
            if place + 1 == line.len() {
                text.push_str(cell);
            } else {
                text.push_str(&format!("{cell:<width$}", width = widths[place]));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_aligned() {
        let table = json!({
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Ready", "priority": 0}, {"name": "Node", "priority": 1}],
            "rows": [
                {"cells": ["image-registry", "1/1", "node-0"], "object": {"metadata": {"namespace": "a"}}},
                {"cells": ["x", null, "node-1"], "object": {"metadata": {"namespace": "bb"}}},
            ],
        });
        let layout = Layout { headers: true, ..Layout::default() };
        assert_eq!(text(&table, layout, None), "NAME             READY\nimage-registry   1/1\nx                \n");
        let wide = Layout { wide: true, namespaces: true, ..layout };
        assert_eq!(
            text(&table, wide, Some("pod")),
            "NAMESPACE   NAME                 READY   NODE\na           pod/image-registry   1/1     node-0\nbb          pod/x                        node-1\n"
        );
    }
}
