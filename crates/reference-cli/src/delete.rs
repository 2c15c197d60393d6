//! `oc delete`: removes objects and, unless told otherwise, waits until they are gone.

use crate::command_line::{Arguments, Command, switch, value};
use crate::create::place;
use crate::failure::Failure;
use crate::resource::{Resource, escape, targets};
use crate::session::Session;
use crate::workload::{Watched, watch};
use crate::{get, manifest, print};
use futures::future::FutureExt;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

pub const COMMAND: Command = Command {
    path: "delete",
    usage: "TYPE NAME... | TYPE/NAME... | -f FILE",
    about: "Remove objects",
    flags: &[
        value("filename", Some('f'), "file that names the objects"),
        value("selector", Some('l'), "label query"),
        switch("all", None, "every object of the kind"),
        switch("ignore-not-found", None, "an absent object is no failure"),
        switch("wait", None, "wait until the objects are gone (the default)"),
        switch("now", None, "give one second to end"),
        switch("force", None, "do not wait for a graceful end"),
        value("grace-period", None, "seconds an object is given to end"),
        value("timeout", None, "how long to wait, such as 30s; 0 is no limit"),
        value("cascade", None, "background, orphan or foreground"),
    ],
    flags_after_words: true,
    run: |session, args| run(session, args).boxed_local(),
};

async fn run(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let mut doomed: Vec<(Resource, Option<String>, String)> = Vec::new();
    if !args.texts("filename").is_empty() {
        for manifest in manifest::read_all(args.texts("filename"))? {
            let (resource, namespace) = place(session, &manifest).await?;
            doomed.push((
                resource,
                namespace,
                manifest.object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            ));
        }
    } else if args.words.is_empty() {
        return Err(Failure::usage(
            "You must provide one or more resources by argument or filename.\nExample resource specifications include:\n   \
             '-f rsrc.yaml'\n   '--filename=rsrc.json'\n   '<resource> <name>'\n   '<resource>'",
        ));
    }
    for target in targets(session.catalogue().await?, &args.words)? {
        let namespace = session.scope(&target.resource).await?;
        match target.name {
            Some(name) => doomed.push((target.resource, namespace, name)),
            None if args.is_on("all") || args.text("selector").is_some() => {
                let query =
                    args.text("selector").map_or(String::new(), |text| format!("?labelSelector={}", escape(text)));
                let list = session.get(&format!("{}{query}", target.resource.collection(namespace.as_deref()))).await?;
                for item in list["items"].as_array().into_iter().flatten() {
                    let name = item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                    doomed.push((target.resource.clone(), namespace.clone(), name));
                }
                if list["items"].as_array().is_none_or(Vec::is_empty) {
                    print("No resources found\n");
                }
            }
            None => {
                return Err(Failure::usage("resource(s) were provided, but no name was specified"));
            }
        }
    }
    let mut failed = Vec::new();
    let mut gone = Vec::new();
    for (resource, namespace, name) in doomed {
        let path = resource.object(namespace.as_deref(), &name);
        match session.json(Method::DELETE, &path, Some(&options(args)?)).await {
            Ok(answer) => {
                let forced = if args.is_on("force") { "force deleted" } else { "deleted" };
                print(&format!("{} {name:?} {forced}\n", resource.printed()));
                let uid = answer["metadata"]["uid"].as_str().or(answer["details"]["uid"].as_str()).map(str::to_owned);
                gone.push((resource, namespace, name, uid));
            }
            Err(failure) if failure.is_not_found() && args.is_on("ignore-not-found") => {}
            Err(failure) => failed.push(failure),
        }
    }
    if args.text("wait").is_none() || args.is_on("wait") {
        let limit = args.text("timeout").map(crate::workload::duration).transpose()?.filter(|limit| !limit.is_zero());
        for (resource, namespace, name, uid) in gone {
            let wait = until_gone(session, &resource, namespace.as_deref(), &name, uid.as_deref());
            match tokio::time::timeout(limit.unwrap_or(Duration::from_secs(u32::MAX.into())), wait).await {
                Ok(end) => failed.extend(end.err()),
                Err(_) => failed
                    .push(Failure::usage(format!("timed out waiting for the condition on {}/{name}", resource.plural))),
            }
        }
    }
    get::report(failed)
}

fn options(args: &Arguments) -> Result<Value, Failure> {
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
    let grace = match args.number("grace-period")? {
        Some(seconds) if seconds >= 0 => Some(seconds),
        _ if args.is_on("force") => Some(0),
        _ if args.is_on("now") => Some(1),
        _ => None,
    };
    if let Some(seconds) = grace {
        options["gracePeriodSeconds"] = seconds.into();
    }
    options["propagationPolicy"] = match args.text("cascade").unwrap_or("background") {
        "background" | "true" => "Background".into(),
        "foreground" => "Foreground".into(),
        "orphan" | "false" => "Orphan".into(),
        other => {
            return Err(Failure::usage(format!(
                "invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\""
            )));
        }
    };
    Ok(options)
}

async fn until_gone(
    session: &Session,
    resource: &Resource,
    namespace: Option<&str>,
    name: &str,
    uid: Option<&str>,
) -> Result<(), Failure> {
    watch(session, resource, namespace, name, |seen| match seen {
        Watched::Absent => Ok(Some(())),
        Watched::Object(object) if uid.is_some() && object["metadata"]["uid"].as_str() != uid => Ok(Some(())),
        Watched::Object(_) => Ok(None),
    })
    .await
}
