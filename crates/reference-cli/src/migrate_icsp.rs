//! `oc adm migrate icsp`: turns files with content source policies into files with digest mirror sets. Works on
//! files alone; no cluster is asked.
//!
//! Source: oc pkg/cli/admin/migrate/icsp/icsp.go (release-4.16).

use crate::command_line::{Arguments, Command, value};
use crate::failure::Failure;
use crate::session::Session;
use crate::{get, print, yaml};
use futures::future::FutureExt;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub const COMMAND: Command = Command {
    path: "adm migrate icsp",
    usage: "FILE... [--dest-dir DIR]",
    about: "Turn ImageContentSourcePolicy files into ImageDigestMirrorSet files",
    flags: &[value("dest-dir", None, "folder for the new files; the current one when absent")],
    flags_after_words: true,
    run: |_session: &Session, args| std::future::ready(run(args)).boxed_local(),
};

fn run(args: &Arguments) -> Result<(), Failure> {
    if args.words.is_empty() {
        return Err(Failure::usage("convert expects at least one argument, path to an imagecontentsourcepolicy file"));
    }
    let folder = folder(args.text("dest-dir").filter(|folder| !folder.is_empty()))?;
    let failed = args.words.iter().filter_map(|file| match migrate(Path::new(file), &folder) {
        Ok(path) => {
            print(&format!("wrote ImageDigestMirrorSet to {}\n", path.display()));
            None
        }
        Err(failure) => Some(failure),
    });
    get::report(failed.collect())
}

fn folder(asked: Option<&str>) -> Result<PathBuf, Failure> {
    let Some(asked) = asked else {
        return std::env::current_dir()
            .map_err(|error| Failure::usage(format!("cannot find the current folder: {error}")));
    };
    let folder = PathBuf::from(asked);
    if folder.is_file() {
        return Err(Failure::usage(format!("{asked:?} exists and is a file")));
    }
    std::fs::create_dir_all(&folder)
        .map_err(|error| Failure::usage(format!("cannot make the folder {asked:?}: {error}")))?;
    Ok(folder)
}

fn migrate(file: &Path, folder: &Path) -> Result<PathBuf, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::usage(format!("unable to read ImageContentSourceFile {}: {error}", file.display()))
    })?;
    let (name, converted) = convert(&file.display().to_string(), &text)?;
    write_fresh(folder, &name, &converted)
        .map_err(|error| Failure::usage(format!("error writing ImageDigestMirrorSet: {error}")))
}

/// Writes to a name that no file has yet; the number in it is made up anew for every file.
fn write_fresh(folder: &Path, name: &str, text: &str) -> std::io::Result<PathBuf> {
    loop {
        let number = uuid::Uuid::new_v4().as_u64_pair().0 >> 1;
        let path = folder.join(format!("imagedigestmirrorset_{name}.{number:06}.yaml"));
        match OpenOptions::new().write(true).create_new(true).mode(0o777).open(&path) {
            Ok(mut file) => {
                file.write_all(text.as_bytes())?;
                return Ok(path);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// The name of the first object and the text with every object converted.
fn convert(origin: &str, text: &str) -> Result<(String, String), Failure> {
    if text.trim().is_empty() {
        return Err(Failure::usage(format!("no data found in ImageContentSourceFile {origin}")));
    }
    let undecodable =
        |cause: &str| Failure::usage(format!("error decoding ImageContentSourcePolicy from {origin}: {cause}"));
    let mut name = None;
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let policy = Value::deserialize(document).map_err(|error| undecodable(&error.to_string()))?;
        let set = digest_mirror_set(&policy).map_err(|cause| match cause {
            NotAPolicy::OtherKind(cause) => undecodable(&cause),
            NotAPolicy::OtherOperatorKind => {
                Failure::usage(format!("could not decode ImageContentSourcePolicy from {origin}"))
            }
        })?;
        name.get_or_insert_with(|| set["metadata"]["name"].as_str().unwrap_or_default().to_owned());
        documents.push(yaml::to_string(&set, yaml::MIGRATED));
    }
    Ok((name.unwrap_or_default(), documents.join("---\n")))
}

enum NotAPolicy {
    OtherKind(String),
    OtherOperatorKind,
}

fn digest_mirror_set(policy: &Value) -> Result<Value, NotAPolicy> {
    let text = |key: &str| policy[key].as_str().unwrap_or_default();
    match (text("apiVersion"), text("kind")) {
        ("operator.openshift.io/v1alpha1", "ImageContentSourcePolicy") => {}
        ("", _) | (_, "") => return Err(NotAPolicy::OtherKind("Object 'Kind' is missing".into())),
        ("operator.openshift.io/v1alpha1", "OLM" | "EtcdBackup" | "ClusterVersionOperator") => {
            return Err(NotAPolicy::OtherOperatorKind);
        }
        (version, kind) => {
            return Err(NotAPolicy::OtherKind(format!(
                "no kind {kind:?} is registered for version {version:?} in scheme"
            )));
        }
    }
    let entry = |entry: &Value| {
        let mut kept = Map::from_iter([("source".to_owned(), json!(entry["source"].as_str().unwrap_or_default()))]);
        if let Some(mirrors) = entry["mirrors"].as_array().filter(|mirrors| !mirrors.is_empty()) {
            kept.insert("mirrors".into(), mirrors.clone().into());
        }
        Value::Object(kept)
    };
    let entries: Vec<Value> =
        policy["spec"]["repositoryDigestMirrors"].as_array().into_iter().flatten().map(entry).collect();
    let mut metadata = policy["metadata"].clone();
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.remove("creationTimestamp");
    }
    Ok(json!({
        "apiVersion": "config.openshift.io/v1",
        "kind": "ImageDigestMirrorSet",
        "metadata": metadata,
        "spec": {"imageDigestMirrors": entries},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const POLICY: &str = "# a comment that is lost
apiVersion: operator.openshift.io/v1alpha1
kind: ImageContentSourcePolicy
metadata:
  name: ubi8repo
  labels: {team: a}
  creationTimestamp: null
spec:
  repositoryDigestMirrors:
  - source: registry.access.redhat.com/ubi8/ubi-minimal
    mirrors:
    - example.io/example/ubi-minimal
    - example.com/example/ubi-minimal
  - source: registry.example.com
    mirrors: []
";

    const SET: &str = "apiVersion: config.openshift.io/v1
kind: ImageDigestMirrorSet
metadata:
    labels:
        team: a
    name: ubi8repo
spec:
    imageDigestMirrors:
        - mirrors:
            - example.io/example/ubi-minimal
            - example.com/example/ubi-minimal
          source: registry.access.redhat.com/ubi8/ubi-minimal
        - source: registry.example.com
";

    #[test]
    fn a_policy_becomes_a_set() {
        let (name, text) = convert("f", POLICY).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!((name.as_str(), text.as_str()), ("ubi8repo", SET));
    }

    #[test]
    fn documents_stay_together() {
        let second = POLICY.replace("ubi8repo", "ubi9repo");
        let (name, text) =
            convert("f", &format!("---\n{POLICY}---\n{second}")).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(name, "ubi8repo");
        assert_eq!(text, format!("{SET}---\n{}", SET.replace("ubi8repo", "ubi9repo")));
    }

    #[test]
    fn an_empty_policy_is_kept() {
        let text = "apiVersion: operator.openshift.io/v1alpha1\nkind: ImageContentSourcePolicy\nmetadata: {name: e}\n";
        let (_, text) = convert("f", text).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(text.ends_with("spec:\n    imageDigestMirrors: []\n"), "{text}");
    }

    #[rstest]
    #[case("", "error: no data found in ImageContentSourceFile f")]
    #[case(
        "apiVersion: config.openshift.io/v1\nkind: ImageDigestMirrorSet\n",
        "error: error decoding ImageContentSourcePolicy from f: no kind \"ImageDigestMirrorSet\" is registered for version \"config.openshift.io/v1\" in scheme"
    )]
    #[case("a: [", "error: error decoding ImageContentSourcePolicy from f: ")]
    fn refusals(#[case] text: &str, #[case] message: &str) {
        let failure = convert("f", text).map(drop).expect_err("a refusal").to_string();
        assert!(failure.starts_with(message), "{failure}");
    }

    #[test]
    fn files_are_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = write_fresh(folder.path(), "x", "1").expect("writable");
        let second = write_fresh(folder.path(), "x", "2").expect("writable");
        assert_ne!(first, second);
        assert_eq!(std::fs::read_to_string(first).expect("a file"), "1");
    }
}
