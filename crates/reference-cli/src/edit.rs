//! `oc edit`: opens an object in the editor of `OC_EDITOR`, `KUBE_EDITOR` or `EDITOR` and sends back what changed.

use crate::command_line::{Arguments, Command, value};
use crate::failure::Failure;
use crate::resource::{Target, targets};
use crate::session::{PatchType, Session};
use crate::{print, yaml};
use futures::future::FutureExt;
use serde_json::Value;
use std::io::Write;

pub const COMMAND: Command = Command {
    path: "edit",
    usage: "TYPE [NAME] | TYPE/NAME",
    about: "Change an object in an editor",
    flags: &[value("output", Some('o'), "yaml or json")],
    flags_after_words: true,
    run: |session, args| run(session, args).boxed_local(),
};

async fn run(session: &Session, args: &Arguments) -> Result<(), Failure> {
    if let Some(other) = args.text("output").filter(|output| !["yaml", "json"].contains(output)) {
        return Err(Failure::usage(format!("The flag 'output' must be one of yaml|json, not {other:?}")));
    }
    let targets = targets(session.catalogue().await?, &args.words)?;
    if targets.is_empty() {
        return Err(Failure::usage("must specify the type of resource to edit"));
    }
    for target in named(session, targets).await? {
        let name = target.name.as_deref().unwrap_or_default();
        let namespace = session.scope(&target.resource).await?;
        let path = target.resource.object(namespace.as_deref(), name);
        let mut before = session.get(&path).await?;
        if let Some(metadata) = before["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        let after = in_editor(&before, args.text("output") == Some("json"))?;
        if after == before {
            eprintln!("Edit cancelled, no changes made.");
            continue;
        }
        let mut merge = serde_json::json!({});
        difference(&before, &after, &mut merge);
        session.patch(&path, PatchType::Merge, &merge).await?;
        print(&format!("{}/{name} edited\n", target.resource.printed()));
    }
    Ok(())
}

/// A kind without a name means all its objects, as in `oc edit configs.imageregistry.operator.openshift.io`.
async fn named(session: &Session, targets: Vec<Target>) -> Result<Vec<Target>, Failure> {
    let mut all = Vec::new();
    for target in targets {
        if target.name.is_some() {
            all.push(target);
            continue;
        }
        let namespace = session.scope(&target.resource).await?;
        let list = session.get(&target.resource.collection(namespace.as_deref())).await?;
        for item in list["items"].as_array().into_iter().flatten() {
            let name = item["metadata"]["name"].as_str().map(str::to_owned);
            all.push(Target { resource: target.resource.clone(), name });
        }
    }
    if all.is_empty() {
        return Err(Failure::usage("edit cancelled, no objects found"));
    }
    Ok(all)
}

fn in_editor(object: &Value, json: bool) -> Result<Value, Failure> {
    let editor = ["OC_EDITOR", "KUBE_EDITOR", "EDITOR"]
        .iter()
        .find_map(|name| std::env::var(name).ok())
        .filter(|e| !e.is_empty());
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    let failed = |what: &str, error: &dyn std::fmt::Display| Failure::usage(format!("could not {what}: {error}"));
    let mut file = tempfile::Builder::new()
        .prefix("oc-edit-")
        .suffix(if json { ".json" } else { ".yaml" })
        .tempfile()
        .map_err(|error| failed("make a file to edit", &error))?;
    let text = if json { format!("{object:#}\n") } else { yaml::to_string(object, yaml::API) };
    file.write_all(text.as_bytes()).map_err(|error| failed("write the file to edit", &error))?;
    let status = std::process::Command::new("/bin/sh")
        .args(["-c", &format!("{editor} \"$0\"")])
        .arg(file.path())
        .status()
        .map_err(|error| failed(&format!("start the editor {editor:?}"), &error))?;
    if !status.success() {
        return Err(Failure::usage(format!("there was a problem with the editor {editor:?}")));
    }
    let text = std::fs::read_to_string(file.path()).map_err(|error| failed("read the edited file", &error))?;
    serde_yaml::from_str(&text).map_err(|error| Failure::usage(format!("the edited file is invalid: {error}")))
}

/// The merge patch that leads from one object to another.
fn difference(before: &Value, after: &Value, patch: &mut Value) {
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else { return };
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch[key] = Value::Null;
    }
    for (key, value) in new {
        match old.get(key) {
            Some(same) if same == value => {}
            Some(was) if was.is_object() && value.is_object() => {
                let mut deeper = serde_json::json!({});
                difference(was, value, &mut deeper);
                patch[key] = deeper;
            }
            _ => patch[key] = value.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_changed_is_sent() {
        let before = json!({"spec": {"a": 1, "b": {"c": 1, "d": [1]}, "gone": true}});
        let after = json!({"spec": {"a": 1, "b": {"c": 2, "d": [1, 2]}, "new": {}}});
        let mut patch = json!({});
        difference(&before, &after, &mut patch);
        assert_eq!(patch, json!({"spec": {"b": {"c": 2, "d": [1, 2]}, "gone": null, "new": {}}}));
    }
}
