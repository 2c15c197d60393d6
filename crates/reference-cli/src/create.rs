//! `oc create`: makes objects from files, or secrets, config maps and the like from values.

use crate::command_line::{Arguments, Command, Flag, value};
use crate::failure::Failure;
use crate::get::{self, Format};
use crate::manifest::{self, Manifest};
use crate::print;
use crate::resource::Resource;
use crate::session::Session;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::FutureExt;
use http::Method;
use serde_json::{Map, Value, json};

const OUTPUT: Flag = value("output", Some('o'), "json, yaml, name, jsonpath or go-template");
const DRY_RUN: Flag = Flag {
    name: "dry-run",
    short: None,
    takes: crate::command_line::Takes::Optional("client"),
    about: "client: only print; server: let the server check",
};

pub const FILES: Command = Command {
    path: "create",
    usage: "-f FILE...",
    about: "Create objects from files or standard input",
    flags: &[value("filename", Some('f'), "file, folder or - for standard input"), OUTPUT, DRY_RUN],
    flags_after_words: true,
    run: |session, args| files(session, args).boxed_local(),
};

const FROM_LITERAL: Flag = value("from-literal", None, "key=value");
const FROM_FILE: Flag = value("from-file", None, "[key=]path of a file, or path of a folder");

pub const SECRET_GENERIC: Command = Command {
    path: "create secret generic",
    usage: "NAME [--from-literal KEY=VALUE]... [--from-file [KEY=]PATH]...",
    about: "Create a secret from values and files",
    flags: &[FROM_LITERAL, FROM_FILE, value("type", None, "type of the secret"), OUTPUT, DRY_RUN],
    flags_after_words: true,
    run: |session, args| secret_generic(session, args).boxed_local(),
};

pub const SECRET_TLS: Command = Command {
    path: "create secret tls",
    usage: "NAME --cert PATH --key PATH",
    about: "Create a secret with a certificate and its key",
    flags: &[
        value("cert", None, "file with the certificate"),
        value("key", None, "file with the key"),
        OUTPUT,
        DRY_RUN,
    ],
    flags_after_words: true,
    run: |session, args| secret_tls(session, args).boxed_local(),
};

pub const CONFIG_MAP: Command = Command {
    path: "create configmap",
    usage: "NAME [--from-literal KEY=VALUE]... [--from-file [KEY=]PATH]...",
    about: "Create a config map from values and files",
    flags: &[FROM_LITERAL, FROM_FILE, OUTPUT, DRY_RUN],
    flags_after_words: true,
    run: |session, args| config_map(session, args).boxed_local(),
};

pub const NAMESPACE: Command = Command {
    path: "create namespace",
    usage: "NAME",
    about: "Create a namespace",
    flags: &[OUTPUT, DRY_RUN],
    flags_after_words: true,
    run: |session, args| named(session, args, "namespace", "Namespace").boxed_local(),
};

pub const SERVICE_ACCOUNT: Command = Command {
    path: "create serviceaccount",
    usage: "NAME",
    about: "Create a service account",
    flags: &[OUTPUT, DRY_RUN],
    flags_after_words: true,
    run: |session, args| named(session, args, "serviceaccount", "ServiceAccount").boxed_local(),
};

/// The kind of a manifest and the namespace it belongs to.
///
/// # Errors
/// The server does not serve the kind, or the manifest names another namespace than the command line.
pub async fn place(session: &Session, manifest: &Manifest) -> Result<(Resource, Option<String>), Failure> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&manifest.object["apiVersion"]), text(&manifest.object["kind"]));
    let resource = session.catalogue().await?.kind(&version, &kind).cloned().ok_or_else(|| {
        Failure::usage(format!(
            "resource mapping not found for name: {:?} namespace: {:?} from {:?}: no matches for kind {kind:?} in version {version:?}\nensure CRDs are installed first",
            text(&manifest.object["metadata"]["name"]),
            text(&manifest.object["metadata"]["namespace"]),
            manifest.origin,
        ))
    })?;
    if !resource.namespaced {
        return Ok((resource, None));
    }
    let own = manifest.object["metadata"]["namespace"].as_str().filter(|own| !own.is_empty());
    match (own, session.asked_namespace()) {
        (Some(own), Some(asked)) if own != asked => Err(Failure::usage(format!(
            "the namespace from the provided object {own:?} does not match the namespace {asked:?}. You must pass '--namespace={own}' to perform this operation."
        ))),
        (Some(own), _) => Ok((resource, Some(own.to_owned()))),
        (None, _) => Ok((resource, Some(session.namespace().await?))),
    }
}

async fn files(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let files = args.texts("filename");
    if files.is_empty() {
        return match args.words.first() {
            Some(word) => Err(Failure::usage(format!(
                "unknown command \"create {word}\"; documented are -f, secret generic, secret tls, configmap, namespace, serviceaccount"
            ))),
            None => Err(Failure::usage("must specify one of -f and -k")),
        };
    }
    let mut failed = Vec::new();
    for manifest in manifest::read_all(files)? {
        let end = async {
            let (resource, namespace) = place(session, &manifest).await?;
            let doing = || format!("error when creating {:?}", manifest.origin);
            store(session, args, &resource, namespace.as_deref(), &manifest.object)
                .await
                .map_err(|failure| failure.when(doing))
        };
        failed.extend(end.await.err());
    }
    get::report(failed)
}

async fn store(
    session: &Session,
    args: &Arguments,
    resource: &Resource,
    namespace: Option<&str>,
    object: &Value,
) -> Result<(), Failure> {
    let (query, note) = match args.text("dry-run") {
        None | Some("none") => ("", ""),
        Some("client") => ("", " (dry run)"),
        Some("server") => ("?dryRun=All", " (server dry run)"),
        Some(other) => {
            return Err(Failure::usage(format!(
                "Invalid dry-run value ({other}). Must be \"none\", \"server\", or \"client\"."
            )));
        }
    };
    let made = if note == " (dry run)" {
        object.clone()
    } else {
        let path = format!("{}{query}", resource.collection(namespace));
        session.json(Method::POST, &path, Some(object)).await?
    };
    match args.text("output") {
        Some(format) => print(&Format::parse(format, None)?.one(resource, &made)?),
        None => {
            let name = made["metadata"]["name"].as_str().unwrap_or_default();
            print(&format!("{}/{name} created{note}\n", resource.printed()));
        }
    }
    Ok(())
}

fn only_name<'a>(args: &'a Arguments, command: &str) -> Result<&'a str, Failure> {
    match args.words.as_slice() {
        [name] => Ok(name),
        words => Err(Failure::usage(format!(
            "exactly one NAME is required, got {}\nSee 'oc {command} -h' for help and examples",
            words.len()
        ))),
    }
}

async fn core(session: &Session, args: &Arguments, plural: &str, object: Value) -> Result<(), Failure> {
    let resource = session.catalogue().await?.find(plural)?;
    let namespace = session.scope(resource).await?;
    let failed = |failure: Failure| match failure {
        Failure::Server { status, .. } if plural == "secrets" && status.reason == "AlreadyExists" => {
            Failure::usage(format!("failed to create secret {}", status.message))
        }
        Failure::Server { status, .. } if status.reason == "AlreadyExists" => {
            Failure::usage(format!("failed to create {}: {}", resource.printed(), status.message))
        }
        other => other,
    };
    store(session, args, resource, namespace.as_deref(), &object).await.map_err(failed)
}

async fn secret_generic(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let name = only_name(args, SECRET_GENERIC.path)?;
    let data: Map<String, Value> =
        values(args, "Secret")?.into_iter().map(|(key, value)| (key, STANDARD.encode(value).into())).collect();
    let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data});
    if let Some(kind) = args.text("type") {
        secret["type"] = kind.into();
    }
    core(session, args, "secrets", secret).await
}

async fn secret_tls(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let name = only_name(args, SECRET_TLS.path)?;
    let (Some(cert), Some(key)) = (args.text("cert"), args.text("key")) else {
        return Err(Failure::usage("key and cert must be specified"));
    };
    let (cert, key) = (file(cert)?, file(key)?);
    if crate::trust::parse(&cert).is_empty() {
        return Err(Failure::usage("tls: failed to find any PEM data in certificate input"));
    }
    let data = json!({"tls.crt": STANDARD.encode(cert), "tls.key": STANDARD.encode(key)});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/tls", "data": data});
    core(session, args, "secrets", secret).await
}

async fn config_map(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let name = only_name(args, CONFIG_MAP.path)?;
    let mut map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    for (key, value) in values(args, "ConfigMap")? {
        match String::from_utf8(value) {
            Ok(text) => map["data"][key] = text.into(),
            Err(bytes) => map["binaryData"][key] = STANDARD.encode(bytes.into_bytes()).into(),
        }
    }
    core(session, args, "configmaps", map).await
}

async fn named(session: &Session, args: &Arguments, command: &str, kind: &str) -> Result<(), Failure> {
    let name = only_name(args, &format!("create {command}"))?;
    core(session, args, command, json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}})).await
}

fn file(path: &str) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::usage(format!("error reading {path}: no such file or directory")),
        _ => Failure::usage(format!("error reading {path}: {error}")),
    })
}

/// The keys and values of `--from-literal` and `--from-file`, in the order given.
fn values(args: &Arguments, kind: &str) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let mut values: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |key: String, value: Vec<u8>| {
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            return Err(Failure::usage(format!(
                "{key:?} is not a valid key name for a {kind}: a valid config key must consist of alphanumeric characters, \
                 '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
            )));
        }
        if values.iter().any(|(present, _)| *present == key) {
            return Err(Failure::usage(format!("cannot add key {key}, another key by that name already exists")));
        }
        values.push((key, value));
        Ok(())
    };
    for source in args.texts("from-file") {
        let (key, path) = match source.split_once('=') {
            Some((key, path)) if !key.is_empty() && !path.is_empty() => (Some(key), path),
            Some(_) => return Err(Failure::usage(format!("key name or file path for {source:?} missing"))),
            None => (None, source.as_str()),
        };
        let name = |path: &std::path::Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if key.is_none() && std::path::Path::new(path).is_dir() {
            let listing =
                std::fs::read_dir(path).map_err(|error| Failure::usage(format!("error reading {path}: {error}")))?;
            let mut files: Vec<_> =
                listing.filter_map(Result::ok).map(|entry| entry.path()).filter(|file| file.is_file()).collect();
            files.sort();
            for entry in files {
                add(name(&entry), file(&entry.to_string_lossy())?)?;
            }
            continue;
        }
        add(key.map_or_else(|| name(std::path::Path::new(path)), str::to_owned), file(path)?)?;
    }
    for source in args.texts("from-literal") {
        let Some((key, value)) = source.split_once('=') else {
            return Err(Failure::usage(format!("invalid literal source {source}, expected key=value")));
        };
        add(key.to_owned(), value.as_bytes().to_vec())?;
    }
    Ok(values)
}
