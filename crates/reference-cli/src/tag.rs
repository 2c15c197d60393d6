//! `oc tag`: lets a tag of an image stream follow another image, or removes a tag.

use crate::command_line::{Arguments, Command, switch, value};
use crate::failure::Failure;
use crate::print;
use crate::resource::{Resource, escape};
use crate::session::Session;
use futures::future::FutureExt;
use http::Method;
use serde_json::{Value, json};

pub const COMMAND: Command = Command {
    path: "tag",
    usage: "SOURCE DEST... | -d DEST...",
    about: "Let a tag follow another image, or remove it",
    flags: &[
        value("source", None, "what SOURCE is: istag, isimage or docker"),
        value("reference-policy", None, "source or local"),
        switch("delete", Some('d'), "remove the tags"),
        switch("scheduled", None, "import again from time to time"),
        switch("insecure", None, "the source's registry may lack a trusted certificate"),
    ],
    flags_after_words: true,
    run: |session, args| run(session, args).boxed_local(),
};

async fn run(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let catalogue = session.catalogue().await?;
    let streams = catalogue
        .served("imagestreams", "image.openshift.io")
        .ok_or_else(|| Failure::usage("the server doesn't have a resource type \"imagestreams\""))?;
    let namespace = session.namespace().await?;
    if args.is_on("delete") {
        if args.words.is_empty() {
            return Err(Failure::usage("you must specify at least one tag to delete"));
        }
        for word in &args.words {
            let (namespace, stream, tag) = destination(word, &namespace)?;
            let name = escape(&format!("{stream}:{tag}"));
            let path = format!("/apis/image.openshift.io/v1/namespaces/{}/imagestreamtags/{name}", escape(&namespace));
            session.json(Method::DELETE, &path, None).await?;
            print(&format!("Deleted tag {namespace}/{stream}:{tag}.\n"));
        }
        return Ok(());
    }
    let Some((source, destinations)) = args.words.split_first().filter(|(_, rest)| !rest.is_empty()) else {
        return Err(Failure::usage("you must specify at least one source and one destination, or one tag to delete"));
    };
    let from = from(source, &namespace, args.text("source"))?;
    for word in destinations {
        let (place, stream, tag) = destination(word, &namespace)?;
        let mut entry = json!({"name": tag, "from": from, "importPolicy": {}, "referencePolicy": {"type": "Source"}});
        for (flag, key) in [("scheduled", "scheduled"), ("insecure", "insecure")] {
            if args.is_on(flag) {
                entry["importPolicy"][key] = true.into();
            }
        }
        match args.text("reference-policy") {
            None => {}
            Some("source") => entry["referencePolicy"]["type"] = "Source".into(),
            Some("local") => entry["referencePolicy"]["type"] = "Local".into(),
            Some(other) => {
                return Err(Failure::usage(format!(
                    "reference policy must be either 'source' or 'local', not {other:?}"
                )));
            }
        }
        set(session, streams, &place, &stream, &entry).await?;
        let text = from["name"].as_str().unwrap_or_default();
        print(&format!("Tag {place}/{stream}:{tag} set to {text}.\n"));
    }
    Ok(())
}

/// Writes one entry of `spec.tags`, making the stream where there is none; a faster writer makes it start over.
pub async fn set(
    session: &Session,
    streams: &Resource,
    namespace: &str,
    stream: &str,
    entry: &Value,
) -> Result<(), Failure> {
    let path = streams.object(Some(namespace), stream);
    loop {
        let end = match session.get(&path).await {
            Ok(mut object) => {
                let mut tags = object["spec"]["tags"].as_array().cloned().unwrap_or_default();
                tags.retain(|tag| tag["name"] != entry["name"]);
                tags.push(entry.clone());
                object["spec"]["tags"] = tags.into();
                session.json(Method::PUT, &path, Some(&object)).await
            }
            Err(failure) if failure.is_not_found() => {
                let object = json!({
                    "apiVersion": "image.openshift.io/v1", "kind": "ImageStream",
                    "metadata": {"name": stream}, "spec": {"tags": [entry]},
                });
                session.json(Method::POST, &streams.collection(Some(namespace)), Some(&object)).await
            }
            Err(failure) => return Err(failure),
        };
        match end {
            Err(failure) if failure.is_conflict() || failure.is_already_exists() => {}
            other => return other.map(drop),
        }
    }
}

/// `[NAMESPACE/]STREAM[:TAG]` as its parts; the tag is `latest` when absent.
pub fn destination(word: &str, namespace: &str) -> Result<(String, String, String), Failure> {
    let (place, rest) = word.split_once('/').unwrap_or((namespace, word));
    let (stream, tag) = rest.split_once(':').unwrap_or((rest, "latest"));
    if [place, stream, tag].iter().any(|part| part.is_empty())
        || stream.contains(['/', '@'])
        || tag.contains(['/', '@', ':'])
    {
        return Err(Failure::usage(format!("{word:?} must be of the form <stream_name>:<tag>")));
    }
    Ok((place.to_owned(), stream.to_owned(), tag.to_owned()))
}

fn from(source: &str, namespace: &str, kind: Option<&str>) -> Result<Value, Failure> {
    let in_cluster = |kind: &str| {
        let (place, name) = source.split_once('/').unwrap_or((namespace, source));
        json!({"kind": kind, "namespace": place, "name": name})
    };
    let looks_remote = source.split('/').next().is_some_and(|host| source.contains('/') && host.contains(['.', ':']))
        || source.matches('/').count() > 1;
    match kind.map(str::to_lowercase).as_deref() {
        Some("docker" | "dockerimage") => Ok(json!({"kind": "DockerImage", "name": source})),
        Some("isimage" | "imagestreamimage") => Ok(in_cluster("ImageStreamImage")),
        Some("istag" | "imagestreamtag") => Ok(in_cluster("ImageStreamTag")),
        Some(other) => Err(Failure::usage(format!(
            "invalid source {other:?}; valid values are imagestreamtag, istag, imagestreamimage, isimage, and docker"
        ))),
        None if looks_remote => Ok(json!({"kind": "DockerImage", "name": source})),
        None if source.contains('@') => Ok(in_cluster("ImageStreamImage")),
        None => Ok(in_cluster("ImageStreamTag")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("is", ("ns", "is", "latest"))]
    #[case("is:v1", ("ns", "is", "v1"))]
    #[case("other/is:v1", ("other", "is", "v1"))]
    fn destinations(#[case] word: &str, #[case] expected: (&str, &str, &str)) {
        let (place, stream, tag) = destination(word, "ns").expect("a tag");
        assert_eq!((place.as_str(), stream.as_str(), tag.as_str()), expected);
    }

    #[rstest]
    #[case("is:v1", None, "ImageStreamTag", "is:v1")]
    #[case("is@sha256:00", None, "ImageStreamImage", "is@sha256:00")]
    #[case("other/is:v1", None, "ImageStreamTag", "is:v1")]
    #[case("quay.io/a/b:1", None, "DockerImage", "quay.io/a/b:1")]
    #[case("host:5000/b", None, "DockerImage", "host:5000/b")]
    #[case("b", Some("docker"), "DockerImage", "b")]
    fn sources(#[case] source: &str, #[case] kind: Option<&str>, #[case] expected: &str, #[case] name: &str) {
        let from = from(source, "ns", kind).expect("a source");
        assert_eq!((from["kind"].as_str(), from["name"].as_str()), (Some(expected), Some(name)));
    }

    #[rstest]
    #[case("a/b/c:d")]
    #[case(":v1")]
    #[case("is:")]
    fn no_destinations(#[case] word: &str) {
        assert!(destination(word, "ns").is_err());
    }
}
