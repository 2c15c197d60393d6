//! `oc patch`: changes fields of objects.

use crate::command_line::{Arguments, Command, value};
use crate::failure::Failure;
use crate::resource::targets;
use crate::session::{PatchType, Session};
use crate::{get, print};
use futures::future::FutureExt;
use serde_json::Value;

pub const COMMAND: Command = Command {
    path: "patch",
    usage: "TYPE NAME | TYPE/NAME -p PATCH [--type json|merge|strategic]",
    about: "Change fields of an object",
    flags: &[
        value("patch", Some('p'), "the patch, as JSON or YAML"),
        value("patch-file", None, "file with the patch"),
        value("type", None, "json, merge or strategic (the default)"),
        value("subresource", None, "part of the object to change, such as status or scale"),
        value("output", Some('o'), "json, yaml, name, jsonpath or go-template"),
    ],
    flags_after_words: true,
    run: |session, args| run(session, args).boxed_local(),
};

async fn run(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let kind = patch_type(args.text("type").unwrap_or("strategic"))?;
    let body = body(args)?;
    let format = args.text("output").map(|text| get::Format::parse(text, None)).transpose()?;
    let catalogue = session.catalogue().await?;
    let targets = targets(catalogue, &args.words)?;
    if targets.is_empty() || targets.iter().any(|target| target.name.is_none()) {
        return Err(Failure::usage("resource(s) were provided, but no name was specified"));
    }
    for target in &targets {
        let name = target.name.as_deref().unwrap_or_default();
        let namespace = session.scope(&target.resource).await?;
        let path = target.resource.object(namespace.as_deref(), name);
        let before = session.get(&path).await?;
        let patched = match args.text("subresource") {
            Some(part) => session.patch(&format!("{path}/{part}"), kind, &body).await?,
            None => session.patch(&path, kind, &body).await?,
        };
        match &format {
            Some(format) => print(&format.one(&target.resource, &patched)?),
            None => {
                let note = if before == patched { "patched (no change)" } else { "patched" };
                print(&format!("{}/{name} {note}\n", target.resource.printed()));
            }
        }
    }
    Ok(())
}

fn patch_type(text: &str) -> Result<PatchType, Failure> {
    match text {
        "json" => Ok(PatchType::Json),
        "merge" => Ok(PatchType::Merge),
        "strategic" => Ok(PatchType::Strategic),
        other => Err(Failure::usage(format!("--type must be one of [json merge strategic], not {other:?}"))),
    }
}

fn body(args: &Arguments) -> Result<Value, Failure> {
    let text = match (args.text("patch"), args.text("patch-file")) {
        (Some(text), None) if !text.is_empty() => text.to_owned(),
        (None, Some(path)) => std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("unable to read patch file: {path}: {error}")))?,
        (Some(_), Some(_)) => return Err(Failure::usage("cannot specify --patch and --patch-file together")),
        _ => return Err(Failure::usage("must specify --patch or --patch-file containing the contents of the patch")),
    };
    parse(&text)
}

/// Reads a patch as `oc` does: JSON or YAML. A brace too few, as in a printed example of the documents, is an error.
fn parse(text: &str) -> Result<Value, Failure> {
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(value);
    }
    serde_yaml::from_str(text).map_err(|error| {
        let line = error.location().map_or(1, |place| place.line().saturating_sub(1).max(1));
        let words = error.to_string();
        let cause = words.split(" at line").next().unwrap_or(&words);
        Failure::usage(format!("unable to parse {text:?}: yaml: line {line}: {cause}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case(r#"{"spec": {"managementState": "Managed"}}"#, json!({"spec": {"managementState": "Managed"}}))]
    #[case("spec:\n  replicas: 2\n", json!({"spec": {"replicas": 2}}))]
    #[case(r#"[{"op": "remove", "path": "/spec/storage"}]"#, json!([{"op": "remove", "path": "/spec/storage"}]))]
    fn patches(#[case] text: &str, #[case] expected: Value) {
        assert_eq!(parse(text).expect("a patch"), expected);
    }

    #[test]
    fn a_missing_brace_is_named() {
        let error = parse(r#"{"spec": {"storage":{"emptyDir":{}}}"#).expect_err("unbalanced").to_string();
        assert!(
            error.starts_with(r#"error: unable to parse "{\"spec\": {\"storage\":{\"emptyDir\":{}}}": yaml: line 1: "#),
            "{error}"
        );
    }
}
