//! `oc apply`: makes objects be as files say, leaving alone what the files do not speak of.

use crate::command_line::{Arguments, Command, switch, value};
use crate::create::place;
use crate::failure::Failure;
use crate::manifest::{self, Manifest};
use crate::session::Session;
use crate::{get, print};
use futures::future::FutureExt;
use http::Method;

pub const COMMAND: Command = Command {
    path: "apply",
    usage: "-f FILE...",
    about: "Make objects be as files say",
    flags: &[
        value("filename", Some('f'), "file, folder or - for standard input"),
        switch("server-side", None, "let the server merge; always done"),
        switch("force-conflicts", None, "take over fields of other writers"),
        value("field-manager", None, "name of the writer"),
    ],
    flags_after_words: true,
    run: |session, args| run(session, args).boxed_local(),
};

async fn run(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let files = args.texts("filename");
    if files.is_empty() {
        return Err(Failure::usage("must specify one of -f and -k"));
    }
    let mut failed = Vec::new();
    for manifest in manifest::read_all(files)? {
        failed.extend(one(session, args, &manifest).await.err());
    }
    get::report(failed)
}

/// Applied by the server: without `--server-side` this command owns all it writes, as a client-side apply would.
async fn one(session: &Session, args: &Arguments, manifest: &Manifest) -> Result<(), Failure> {
    let (resource, namespace) = place(session, manifest).await?;
    let name = manifest.object["metadata"]["name"].as_str().unwrap_or_default();
    let path = resource.object(namespace.as_deref(), name);
    let before = match session.get(&path).await {
        Ok(object) => Some(object),
        Err(failure) if failure.is_not_found() => None,
        Err(failure) => return Err(failure),
    };
    let server_side = args.is_on("server-side");
    let force = !server_side || args.is_on("force-conflicts");
    let manager =
        args.text("field-manager").unwrap_or(if server_side { "kubectl" } else { "kubectl-client-side-apply" });
    let url = format!("{path}?fieldManager={}&force={force}", crate::resource::escape(manager));
    let headers = [("Accept", "application/json"), ("Content-Type", "application/apply-patch+yaml")];
    let text = session
        .send(Method::PATCH, &url, &headers, manifest.object.to_string().into_bytes())
        .await
        .map_err(|failure| failure.when(|| format!("error when applying {:?}", manifest.origin)))?;
    let after: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let version = |object: &serde_json::Value| object["metadata"]["resourceVersion"].clone();
    let done = match before {
        _ if server_side => "serverside-applied",
        None => "created",
        Some(before) if version(&before) == version(&after) => "unchanged",
        Some(_) => "configured",
    };
    print(&format!("{}/{name} {done}\n", resource.printed()));
    Ok(())
}
