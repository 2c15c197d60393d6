//! `oc import-image`: fetches what another registry's tags are now into an image stream.

use crate::command_line::{Arguments, Command, switch, value};
use crate::failure::Failure;
use crate::resource::escape;
use crate::session::Session;
use crate::{print, tag};
use futures::future::FutureExt;
use http::Method;
use serde_json::{Value, json};

pub const COMMAND: Command = Command {
    path: "import-image",
    usage: "STREAM[:TAG] [--from IMAGE] [--confirm] [--all]",
    about: "Fetch what another registry's tags are now",
    flags: &[
        value("from", None, "image or repository to fetch from; where the tag says when absent"),
        value("reference-policy", None, "source or local"),
        switch("confirm", None, "make the stream or tag where there is none"),
        switch("all", None, "every tag of the repository"),
        switch("insecure", None, "the registry may lack a trusted certificate"),
        switch("scheduled", None, "import again from time to time"),
    ],
    flags_after_words: true,
    run: |session, args| run(session, args).boxed_local(),
};

async fn run(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let [word] = args.words.as_slice() else {
        return Err(Failure::usage("you must specify the name of an image stream"));
    };
    let (namespace, stream, tag) = tag::destination(word, &session.namespace().await?)?;
    let streams = session
        .catalogue()
        .await?
        .served("imagestreams", "image.openshift.io")
        .ok_or_else(|| Failure::usage("the server doesn't have a resource type \"imagestreams\""))?;
    let path = streams.object(Some(&namespace), &stream);
    let present = match session.get(&path).await {
        Ok(object) => Some(object),
        Err(failure) if failure.is_not_found() && args.is_on("confirm") => None,
        Err(failure) if failure.is_not_found() => {
            return Err(Failure::usage(format!(
                "no image stream named {stream:?} exists, pass --confirm to create and import"
            )));
        }
        Err(failure) => return Err(failure),
    };
    let import = request(args, present.as_ref(), &namespace, &stream, &tag)?;
    let imports = format!("/apis/image.openshift.io/v1/namespaces/{}/imagestreamimports", escape(&namespace));
    let answer = session.json(Method::POST, &imports, Some(&import)).await?;
    let mut refused = Vec::new();
    let images = answer["status"]["images"].as_array().into_iter().flatten();
    let repository = answer["status"].get("repository").filter(|repository| !repository.is_null());
    for result in images.chain(repository) {
        if result["status"]["status"] == "Failure" {
            let name = result["tag"].as_str().unwrap_or(&tag);
            refused
                .push(format!("tag {name}: {}", result["status"]["message"].as_str().unwrap_or("no reason was given")));
        }
    }
    if !refused.is_empty() {
        return Err(Failure::usage(format!("{} failed to import: {}", streams.printed(), refused.join("; "))));
    }
    print(&format!("{}/{stream} imported\n\n", streams.printed()));
    describe(&answer["status"]["import"]);
    Ok(())
}

fn request(
    args: &Arguments,
    present: Option<&Value>,
    namespace: &str,
    stream: &str,
    tag: &str,
) -> Result<Value, Failure> {
    let mut policy = json!({});
    for flag in ["insecure", "scheduled"] {
        if args.is_on(flag) {
            policy[flag] = true.into();
        }
    }
    let reference = match args.text("reference-policy") {
        None | Some("source") => json!({"type": "Source"}),
        Some("local") => json!({"type": "Local"}),
        Some(other) => {
            return Err(Failure::usage(format!("reference policy must be either 'source' or 'local', not {other:?}")));
        }
    };
    let known = present
        .and_then(|object| object["spec"]["tags"].as_array())
        .and_then(|tags| tags.iter().find(|entry| entry["name"] == tag && entry["from"]["kind"] == "DockerImage"))
        .and_then(|entry| entry["from"]["name"].as_str());
    let repository = present.and_then(|object| object["spec"]["dockerImageRepository"].as_str());
    let from = args.text("from").or(known).or(repository).ok_or_else(|| {
        Failure::usage(format!("the tag {tag:?} does not exist on the image stream - choose an existing tag to import or name the image by --from"))
    })?;
    let from = json!({"kind": "DockerImage", "name": from});
    let mut metadata = json!({"name": stream, "namespace": namespace});
    if let Some(version) = present.and_then(|object| object["metadata"]["resourceVersion"].as_str()) {
        metadata["resourceVersion"] = version.into();
    }
    let mut spec = json!({"import": true});
    if args.is_on("all") {
        spec["repository"] = json!({"from": from, "importPolicy": policy, "referencePolicy": reference});
    } else {
        spec["images"] =
            json!([{"from": from, "to": {"name": tag}, "importPolicy": policy, "referencePolicy": reference}]);
    }
    Ok(json!({"apiVersion": "image.openshift.io/v1", "kind": "ImageStreamImport", "metadata": metadata, "spec": spec}))
}

fn describe(stream: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    print(&format!(
        "Name:\t\t{}\nNamespace:\t{}\n",
        text(&stream["metadata"]["name"]),
        text(&stream["metadata"]["namespace"])
    ));
    for tag in stream["status"]["tags"].as_array().into_iter().flatten() {
        let newest = &tag["items"][0];
        print(&format!("\n{}\n  * {}\n", text(&tag["tag"]), text(&newest["dockerImageReference"])));
    }
}
