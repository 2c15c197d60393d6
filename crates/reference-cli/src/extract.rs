//! `oc extract`: the values of a secret or config map as files or on standard output.

use crate::command_line::{Arguments, Command, switch, value};
use crate::failure::Failure;
use crate::print;
use crate::resource::targets;
use crate::session::Session;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::FutureExt;
use std::collections::BTreeMap;
use std::path::Path;

pub const SECRET_OR_CONFIG_MAP: Command = Command {
    path: "extract",
    usage: "secret/NAME | configmap/NAME [--to DIR | --to=-] [--keys KEY,...] [--confirm]",
    about: "Write the values of a secret or config map to files",
    flags: &[
        value("to", None, "folder to write to, or - for standard output"),
        value("keys", None, "keys to take, by commas; all when absent"),
        switch("confirm", None, "overwrite files"),
    ],
    flags_after_words: true,
    run: |session, args| run(session, args).boxed_local(),
};

async fn run(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let keys: Vec<&str> =
        args.texts("keys").iter().flat_map(|keys| keys.split(',')).filter(|key| !key.is_empty()).collect();
    let targets = targets(session.catalogue().await?, &args.words)?;
    if targets.is_empty() || targets.iter().any(|target| target.name.is_none()) {
        return Err(Failure::usage("resource(s) were provided, but no name was specified"));
    }
    for target in targets {
        let namespace = session.scope(&target.resource).await?;
        let object = session
            .get(&target.resource.object(namespace.as_deref(), target.name.as_deref().unwrap_or_default()))
            .await?;
        let values = values(&target.resource.kind, &object)?;
        for missing in keys.iter().filter(|key| !values.contains_key(**key)) {
            eprintln!(
                "warning: key {missing:?} is not in {}/{}",
                target.resource.printed(),
                target.name.as_deref().unwrap_or_default()
            );
        }
        let wanted: BTreeMap<&str, &[u8]> = values
            .iter()
            .filter(|(key, _)| keys.is_empty() || keys.contains(&key.as_str()))
            .map(|(key, value)| (key.as_str(), value.as_slice()))
            .collect();
        match args.text("to").unwrap_or(".") {
            "-" => {
                for (key, value) in wanted {
                    eprintln!("# {key}");
                    print(&format!("{}\n", String::from_utf8_lossy(value)));
                }
            }
            folder => write(Path::new(folder), &wanted, args.is_on("confirm"))?,
        }
    }
    Ok(())
}

fn values(kind: &str, object: &serde_json::Value) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    let encoded = match kind {
        "Secret" => "data",
        "ConfigMap" => "binaryData",
        other => return Err(Failure::usage(format!("{other} cannot be extracted; only secrets and config maps can"))),
    };
    let mut values = BTreeMap::new();
    for (key, value) in object[encoded].as_object().into_iter().flatten() {
        let bytes = STANDARD.decode(value.as_str().unwrap_or_default());
        values.insert(
            key.clone(),
            bytes.map_err(|error| Failure::usage(format!("the value of {key} is not base64: {error}")))?,
        );
    }
    if kind == "ConfigMap" {
        for (key, value) in object["data"].as_object().into_iter().flatten() {
            values.insert(key.clone(), value.as_str().unwrap_or_default().as_bytes().to_vec());
        }
    }
    Ok(values)
}

fn write(folder: &Path, values: &BTreeMap<&str, &[u8]>, overwrite: bool) -> Result<(), Failure> {
    if !folder.is_dir() {
        return Err(Failure::usage(format!(
            "the destination {} is not an existing folder; make it first",
            folder.display()
        )));
    }
    let taken: Vec<String> = values
        .keys()
        .map(|key| folder.join(key))
        .filter(|path| path.exists())
        .map(|path| path.display().to_string())
        .collect();
    if !overwrite && !taken.is_empty() {
        return Err(Failure::usage(format!(
            "some files already exist, use --confirm to overwrite: {}",
            taken.join(", ")
        )));
    }
    for (key, value) in values {
        let path = folder.join(key);
        std::fs::write(&path, value)
            .map_err(|error| Failure::usage(format!("could not write {}: {error}", path.display())))?;
        print(&format!("{}\n", path.display()));
    }
    Ok(())
}
