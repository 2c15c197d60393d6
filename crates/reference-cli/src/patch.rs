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
            Some(part) => session.patch_text(&format!("{path}/{part}"), kind, body.clone()).await,
            None => session.patch_text(&path, kind, body.clone()).await,
        };
        let patched = patched.map_err(|failure| match failure {
            Failure::Server { status, .. } if status.code == 415 && kind == PatchType::Strategic => {
                let resource = &target.resource;
                Failure::usage(format!(
                    "application/strategic-merge-patch+json is not supported by {}, Kind={}: {}",
                    resource.api_version(),
                    resource.kind,
                    status.message
                ))
            }
            other => other,
        })?;
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

fn body(args: &Arguments) -> Result<String, Failure> {
    let text = match (args.text("patch"), args.text("patch-file")) {
        (Some(text), None) if !text.is_empty() => text.to_owned(),
        (None, Some(path)) => std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("unable to read patch file: {path}: {error}")))?,
        (Some(_), Some(_)) => return Err(Failure::usage("cannot specify --patch and --patch-file together")),
        _ => return Err(Failure::usage("must specify --patch or --patch-file containing the contents of the patch")),
    };
    parse(&text)
}

/// The JSON of a patch. What opens with a brace is taken for JSON and sent as it is, so that a brace too few, as in a
/// printed example of the documents, is for the server to refuse; everything else is read as YAML.
fn parse(text: &str) -> Result<String, Failure> {
    if text.trim_start().starts_with('{') {
        return Ok(text.to_owned());
    }
    let value: Value = serde_yaml::from_str(text).map_err(|error| {
        let line = error.location().map_or(1, |place| place.line().saturating_sub(1).max(1));
        let words = error.to_string();
        let cause = words.split(" at line").next().unwrap_or(&words);
        Failure::usage(format!("unable to parse {text:?}: yaml: line {line}: {cause}"))
    })?;
    Ok(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(r#"{"spec": {"managementState": "Managed"}}"#, r#"{"spec": {"managementState": "Managed"}}"#)]
    #[case(r#"{"spec": {"storage":{"emptyDir":{}}}"#, r#"{"spec": {"storage":{"emptyDir":{}}}"#)]
    #[case("spec:\n  replicas: 2\n", r#"{"spec":{"replicas":2}}"#)]
    #[case(r#"[{"op": "remove", "path": "/spec/storage"}]"#, r#"[{"op":"remove","path":"/spec/storage"}]"#)]
    fn patches(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(parse(text).expect("a patch"), expected);
    }

    #[test]
    fn what_is_neither_is_named() {
        let error = parse("[{]").expect_err("unbalanced").to_string();
        assert!(error.starts_with("error: unable to parse \"[{]\": yaml: line 1: "), "{error}");
    }
}
