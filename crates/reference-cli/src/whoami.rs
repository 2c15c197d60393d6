//! `oc whoami`: who asks, with which token, of which server.

use crate::command_line::{Arguments, Command, switch};
use crate::failure::Failure;
use crate::print;
use crate::session::Session;
use futures::future::FutureExt;
use http::Method;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

pub const COMMAND: Command = Command {
    path: "whoami",
    usage: "[-t]",
    about: "Say who is logged in",
    flags: &[
        switch("show-token", Some('t'), "print the token of this session"),
        switch("show-server", None, "print the address of the server"),
        switch("show-context", Some('c'), "print the name of the current context"),
    ],
    flags_after_words: true,
    run: |session, args| run(session, args).boxed_local(),
};

async fn run(session: &Session, args: &Arguments) -> Result<(), Failure> {
    if args.is_on("show-context") {
        let context = crate::kubeconfig::Kubeconfig::read(&session.kubeconfig_path())?.current_context();
        let context = context.ok_or_else(|| Failure::usage("no context has been set"))?;
        print(&format!("{context}\n"));
        return Ok(());
    }
    let config = &session.connection().await?.config;
    if args.is_on("show-server") {
        print(&format!("{}\n", config.cluster_url.to_string().trim_end_matches('/')));
        return Ok(());
    }
    if args.is_on("show-token") {
        let token = match (&config.auth_info.token, &config.auth_info.token_file) {
            (Some(token), _) => token.expose_secret().to_owned(),
            (None, Some(path)) => std::fs::read_to_string(path)
                .map_err(|error| Failure::usage(format!("unable to read the token in {path}: {error}")))?,
            (None, None) => return Err(Failure::usage("no token is currently in use for this session")),
        };
        print(&format!("{}\n", token.trim()));
        return Ok(());
    }
    let name = name(session).await?;
    print(&format!("{name}\n"));
    Ok(())
}

/// The name under which the server knows this session.
///
/// Asked of the user API where there is one, else by a review of the session itself (Kubernetes 1.28 and later).
///
/// # Errors
/// The server cannot be reached or knows nobody by this token.
pub async fn name(session: &Session) -> Result<String, Failure> {
    if session.catalogue().await?.served("users", "user.openshift.io").is_some() {
        match session.get("/apis/user.openshift.io/v1/users/~").await {
            Ok(user) => return Ok(user["metadata"]["name"].as_str().unwrap_or_default().to_owned()),
            Err(failure) if failure.is_not_found() || failure.is_forbidden() => {}
            Err(failure) => return Err(failure),
        }
    }
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let review: Value =
        session.json(Method::POST, "/apis/authentication.k8s.io/v1/selfsubjectreviews", Some(&review)).await?;
    Ok(review["status"]["userInfo"]["username"].as_str().unwrap_or_default().to_owned())
}
