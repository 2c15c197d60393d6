//! `oc get`: shows objects as tables, documents, names or by a template.

use crate::command_line::{Arguments, Command, switch, value};
use crate::failure::Failure;
use crate::manifest;
use crate::resource::{Resource, Target, escape, targets};
use crate::session::Session;
use crate::table::{self, Layout};
use crate::{go_template, jsonpath, print, yaml};
use futures::future::FutureExt;
use http::Method;
use serde_json::{Value, json};

pub const COMMAND: Command = Command {
    path: "get",
    usage: "TYPE[,TYPE...] [NAME...] | TYPE/NAME... | -f FILE",
    about: "Show objects",
    flags: &[
        value("output", Some('o'), "wide, yaml, json, name, jsonpath=..., go-template=..., custom-columns=..."),
        value("template", None, "Go template, or path of one, to print objects with"),
        value("filename", Some('f'), "file that names the objects"),
        value("selector", Some('l'), "label query"),
        value("field-selector", None, "field query"),
        value("subresource", None, "part of the object to show, such as status or scale"),
        switch("all-namespaces", Some('A'), "objects of every project"),
        switch("no-headers", None, "leave out the headings"),
        switch("show-labels", None, "add the labels"),
        switch("show-managed-fields", None, "keep metadata.managedFields"),
        switch("ignore-not-found", None, "an absent object is no failure"),
    ],
    flags_after_words: true,
    run: |session, args| run(session, args).boxed_local(),
};

/// How objects are written when not as a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    Yaml,
    Json,
    Name,
    JsonPath(String),
    GoTemplate(String),
    CustomColumns(Vec<(String, String)>),
}

impl Format {
    /// Reads the value of `-o`, with the template of `--template` where that stands apart.
    ///
    /// # Errors
    /// There is no such format or the template is missing.
    pub fn parse(text: &str, template: Option<&str>) -> Result<Format, Failure> {
        let (format, inline) = match text.split_once('=') {
            Some((format, inline)) => (format, Some(inline)),
            None => (text, None),
        };
        let needed = |what: &str| {
            inline
                .or(template)
                .map(str::to_owned)
                .ok_or_else(|| Failure::usage(format!("template format specified but no template given ({what})")))
        };
        let from_file = |path: String| {
            std::fs::read_to_string(&path)
                .map_err(|error| Failure::usage(format!("error reading template {path}, {error}")))
        };
        match format {
            "yaml" => Ok(Format::Yaml),
            "json" => Ok(Format::Json),
            "name" => Ok(Format::Name),
            "jsonpath" => needed("jsonpath").map(Format::JsonPath),
            "jsonpath-file" => needed("jsonpath-file").and_then(from_file).map(Format::JsonPath),
            "go-template" | "template" => needed("go-template").map(Format::GoTemplate),
            "go-template-file" | "templatefile" => {
                needed("go-template-file").and_then(from_file).map(Format::GoTemplate)
            }
            "custom-columns" => {
                let columns = needed("custom-columns")?;
                let column = |text: &str| match text.split_once(':') {
                    Some((name, path)) => Ok((name.to_owned(), path.to_owned())),
                    None => Err(Failure::usage(format!(
                        "unexpected custom-columns spec: {text}, expected <header>:<json-path-expr>"
                    ))),
                };
                Ok(Format::CustomColumns(columns.split(',').map(column).collect::<Result<_, _>>()?))
            }
            other => Err(Failure::usage(format!(
                "unable to match a printer suitable for the output format {other:?}, allowed formats are: \
                 custom-columns,go-template,go-template-file,json,jsonpath,jsonpath-file,name,template,templatefile,wide,yaml"
            ))),
        }
    }

    /// One object in this format, with a newline at its end where the format has lines.
    ///
    /// # Errors
    /// The template cannot be used.
    pub fn one(&self, resource: &Resource, object: &Value) -> Result<String, Failure> {
        match self {
            Format::Name => {
                Ok(format!("{}/{}\n", resource.printed(), object["metadata"]["name"].as_str().unwrap_or_default()))
            }
            Format::CustomColumns(_) => self.many(&[(resource.clone(), object.clone())]),
            _ => self.document(object),
        }
    }

    fn document(&self, document: &Value) -> Result<String, Failure> {
        match self {
            Format::Yaml => Ok(yaml::to_string(document, yaml::API)),
            Format::Json => {
                let mut out = Vec::new();
                let mut writer = serde_json::Serializer::with_formatter(
                    &mut out,
                    serde_json::ser::PrettyFormatter::with_indent(b"    "),
                );
                serde::Serialize::serialize(document, &mut writer)
                    .map_err(|error| Failure::usage(error.to_string()))?;
                out.push(b'\n');
                String::from_utf8(out).map_err(|error| Failure::usage(error.to_string()))
            }
            Format::JsonPath(template) => jsonpath::render(template, document)
                .map_err(|error| Failure::usage(format!("error executing jsonpath {template:?}: {error}"))),
            Format::GoTemplate(template) => go_template::render(template, document)
                .map_err(|error| Failure::usage(format!("error executing template {template:?}: {error}"))),
            Format::Name | Format::CustomColumns(_) => Ok(String::new()),
        }
    }

    fn many(&self, objects: &[(Resource, Value)]) -> Result<String, Failure> {
        match self {
            Format::Name => objects.iter().map(|(resource, object)| self.one(resource, object)).collect(),
            Format::CustomColumns(columns) => {
                let mut lines = vec![columns.iter().map(|(name, _)| name.clone()).collect()];
                for (_, object) in objects {
                    let cell = |(_, path): &(String, String)| {
                        let path = path.trim_start_matches('{').trim_end_matches('}');
                        let path = if path.starts_with('.') { format!("{{{path}}}") } else { format!("{{.{path}}}") };
                        match jsonpath::render(&path, object) {
                            Ok(text) if text.is_empty() => "<none>".to_owned(),
                            Ok(text) => text,
                            Err(_) => "<none>".to_owned(),
                        }
                    };
                    lines.push(columns.iter().map(cell).collect());
                }
                Ok(table::align(&lines))
            }
            _ => {
                let items: Vec<&Value> = objects.iter().map(|(_, object)| object).collect();
                self.document(
                    &json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items}),
                )
            }
        }
    }
}

async fn run(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let (output, template) = (args.text("output"), args.text("template"));
    let format = match (output, template) {
        (None | Some("wide"), None) => None,
        (None | Some("wide"), Some(template)) => Some(Format::GoTemplate(template.to_owned())),
        (Some(output), template) => Some(Format::parse(output, template)?),
    };
    let asked = asked(session, args).await?;
    match format {
        Some(format) => documents(session, args, &asked, &format).await,
        None => tables(session, args, &asked, output == Some("wide")).await,
    }
}

/// One thing to show: a target in a namespace.
struct Asked {
    target: Target,
    namespace: Option<String>,
}

async fn asked(session: &Session, args: &Arguments) -> Result<Vec<Asked>, Failure> {
    let files = args.texts("filename");
    if !files.is_empty() {
        let mut asked = Vec::new();
        for manifest in manifest::read_all(files)? {
            let (resource, namespace) = crate::create::place(session, &manifest).await?;
            let name = manifest.object["metadata"]["name"].as_str().map(str::to_owned);
            asked.push(Asked { target: Target { resource, name }, namespace });
        }
        return Ok(asked);
    }
    if args.words.is_empty() {
        eprintln!(
            "You must specify the type of resource to get. Use \"oc api-resources\" for a complete list of supported resources.\n"
        );
        return Err(Failure::usage("Required resource not specified."));
    }
    let mut asked = Vec::new();
    for target in targets(session.catalogue().await?, &args.words)? {
        let namespace = if args.is_on("all-namespaces") { None } else { session.scope(&target.resource).await? };
        if args.is_on("all-namespaces") && target.name.is_some() && target.resource.namespaced {
            return Err(Failure::usage("a resource cannot be retrieved by name across all namespaces"));
        }
        asked.push(Asked { target, namespace });
    }
    Ok(asked)
}

fn path(args: &Arguments, asked: &Asked) -> String {
    let resource = &asked.target.resource;
    let Some(name) = &asked.target.name else {
        let query: Vec<String> = [("labelSelector", "selector"), ("fieldSelector", "field-selector")]
            .into_iter()
            .filter_map(|(key, flag)| args.text(flag).map(|value| format!("{key}={}", escape(value))))
            .collect();
        let question = if query.is_empty() { "" } else { "?" };
        return format!("{}{question}{}", resource.collection(asked.namespace.as_deref()), query.join("&"));
    };
    let object = resource.object(asked.namespace.as_deref(), name);
    match args.text("subresource") {
        Some(part) => format!("{object}/{}", escape(part)),
        None => object,
    }
}

async fn documents(session: &Session, args: &Arguments, asked: &[Asked], format: &Format) -> Result<(), Failure> {
    let mut found = Vec::new();
    let mut failed = Vec::new();
    let mut single = asked.len() == 1;
    for one in asked {
        match session.get(&path(args, one)).await {
            Ok(mut answer) if one.target.name.is_none() => {
                single = false;
                let kind = one.target.resource.kind.clone();
                let version = one.target.resource.api_version();
                for mut object in answer["items"].as_array_mut().map(std::mem::take).unwrap_or_default() {
                    object["kind"] = json!(kind);
                    object["apiVersion"] = json!(version);
                    found.push((one.target.resource.clone(), object));
                }
            }
            Ok(object) => found.push((one.target.resource.clone(), object)),
            Err(failure) if failure.is_not_found() && args.is_on("ignore-not-found") => {}
            Err(failure) => failed.push(failure),
        }
    }
    if !args.is_on("show-managed-fields") {
        for (_, object) in &mut found {
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("managedFields");
            }
        }
    }
    match found.as_slice() {
        [(resource, object)] if single => print(&format.one(resource, object)?),
        [] if single => {}
        many => print(&format.many(many)?),
    }
    report(failed)
}

async fn tables(session: &Session, args: &Arguments, asked: &[Asked], wide: bool) -> Result<(), Failure> {
    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut parts: Vec<(Resource, Value)> = Vec::new();
    let mut failed = Vec::new();
    for one in asked {
        match session.send(Method::GET, &path(args, one), &[("Accept", TABLE)], Vec::new()).await {
            Ok(text) => {
                let table: Value = serde_json::from_str(&text)
                    .map_err(|error| Failure::usage(format!("the server's table is not JSON: {error}")))?;
                let table = if table["kind"] == "Table" { table } else { by_name(&table) };
                match parts.last_mut() {
                    Some((resource, last)) if *resource == one.target.resource => {
                        let rows = table["rows"].as_array().cloned().unwrap_or_default();
                        if let Some(all) = last["rows"].as_array_mut() {
                            all.extend(rows);
                        }
                    }
                    _ => parts.push((one.target.resource.clone(), table)),
                }
            }
            Err(failure) if failure.is_not_found() && args.is_on("ignore-not-found") => {}
            Err(failure) => failed.push(failure),
        }
    }
    parts.retain(|(_, table)| table["rows"].as_array().is_some_and(|rows| !rows.is_empty()));
    if parts.is_empty() && failed.is_empty() && !args.is_on("ignore-not-found") {
        match asked.iter().find_map(|one| one.namespace.as_deref()) {
            Some(namespace) => eprintln!("No resources found in {namespace} namespace."),
            None => eprintln!("No resources found"),
        }
    }
    let several = asked.iter().any(|one| one.target.resource != asked[0].target.resource);
    for (place, (resource, table)) in parts.iter().enumerate() {
        if place > 0 {
            print("\n");
        }
        let layout = Layout {
            wide,
            namespaces: args.is_on("all-namespaces") && resource.namespaced,
            headers: !args.is_on("no-headers"),
            labels: args.is_on("show-labels"),
        };
        print(&table::text(table, layout, several.then(|| resource.printed()).as_deref()));
    }
    report(failed)
}

/// A table of names, for servers that answer with objects instead of tables.
fn by_name(answer: &Value) -> Value {
    let objects = match answer["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![answer.clone()],
    };
    let now = jiff::Timestamp::now();
    let row = |object: &Value| {
        let age = object["metadata"]["creationTimestamp"].as_str().and_then(|time| time.parse().ok());
        let age = age.map_or("<unknown>".to_owned(), |time: jiff::Timestamp| {
            let seconds = now.duration_since(time).as_secs().max(0);
            match seconds {
                0..120 => format!("{seconds}s"),
                120..7200 => format!("{}m", seconds / 60),
                7200..172_800 => format!("{}h", seconds / 3600),
                _ => format!("{}d", seconds / 86_400),
            }
        });
        json!({"cells": [object["metadata"]["name"], age], "object": {"metadata": object["metadata"]}})
    };
    json!({
        "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Age", "priority": 0}],
        "rows": objects.iter().map(row).collect::<Vec<_>>(),
    })
}

/// Prints all failures but hands a single one on, so that it is printed once.
pub fn report(mut failed: Vec<Failure>) -> Result<(), Failure> {
    if failed.len() < 2 {
        return failed.pop().map_or(Ok(()), Err);
    }
    failed.iter().for_each(|failure| eprintln!("{failure}"));
    Err(Failure::Reported)
}
