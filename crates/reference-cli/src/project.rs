//! `oc project` and `oc new-project`: the project commands work in.

use crate::command_line::{Arguments, Command, value};
use crate::failure::Failure;
use crate::kubeconfig::{Kubeconfig, server_nickname};
use crate::session::Session;
use crate::{print, whoami};
use futures::future::FutureExt;
use http::Method;
use serde_json::{Value, json};

pub const SWITCH: Command = Command {
    path: "project",
    usage: "[NAME]",
    about: "Show or change the current project",
    flags: &[],
    flags_after_words: true,
    run: |session, args| switch(session, args).boxed_local(),
};

pub const NEW: Command = Command {
    path: "new-project",
    usage: "NAME",
    about: "Create a project and work in it",
    flags: &[value("display-name", None, "name for people"), value("description", None, "what it is for")],
    flags_after_words: true,
    run: |session, args| create(session, args).boxed_local(),
};

async fn switch(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let server = session.connection().await?.config.cluster_url.to_string();
    let server = server.trim_end_matches('/');
    match args.words.as_slice() {
        [] => {
            print(&format!("Using project {:?} on server {server:?}.\n", session.namespace().await?));
            Ok(())
        }
        [name] => {
            check(session, name).await?;
            let already = session.namespace().await? == *name;
            remember(session, name)?;
            let word = if already { "Already on" } else { "Now using" };
            print(&format!("{word} project {name:?} on server {server:?}.\n"));
            Ok(())
        }
        _ => Err(Failure::usage("Only one argument is supported (project name or context name).")),
    }
}

async fn check(session: &Session, name: &str) -> Result<(), Failure> {
    let projects = session.catalogue().await?.served("projects", "project.openshift.io").cloned();
    let path = match &projects {
        Some(projects) => projects.object(None, name),
        None => format!("/api/v1/namespaces/{}", crate::resource::escape(name)),
    };
    match session.get(&path).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.is_not_found() => {
            Err(Failure::usage(format!("A project named {name:?} does not exist on the server.")))
        }
        // Who may work in a project need not be allowed to read the namespace where no project API is served.
        Err(failure) if failure.is_forbidden() && projects.is_none() => Ok(()),
        Err(failure) if failure.is_forbidden() => {
            Err(Failure::usage(format!("You are not a member of project {name:?}.")))
        }
        Err(failure) => Err(failure),
    }
}

/// Makes `namespace` the one of the current context.
///
/// # Errors
/// The client configuration has no current context or cannot be written.
pub fn remember(session: &Session, namespace: &str) -> Result<(), Failure> {
    let mut config = Kubeconfig::read(&session.kubeconfig_path())?;
    let name = config.current_context().ok_or_else(|| {
        Failure::usage("no context has been set; log in with 'oc login' or name the project by --namespace")
    })?;
    let mut context = config.entry("contexts", &name).cloned().unwrap_or_else(|| json!({}));
    context["namespace"] = namespace.into();
    config.set("contexts", &name, context);
    config.write()
}

async fn create(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let [name] = args.words.as_slice() else {
        return Err(Failure::usage("must have exactly one argument"));
    };
    let mut annotations = json!({});
    for (flag, key) in [("display-name", "openshift.io/display-name"), ("description", "openshift.io/description")] {
        if let Some(text) = args.text(flag) {
            annotations[key] = text.into();
        }
    }
    if session.catalogue().await?.served("projectrequests", "project.openshift.io").is_some() {
        let request = json!({
            "apiVersion": "project.openshift.io/v1", "kind": "ProjectRequest", "metadata": {"name": name},
            "displayName": args.text("display-name").unwrap_or_default(), "description": args.text("description").unwrap_or_default(),
        });
        session.json(Method::POST, "/apis/project.openshift.io/v1/projectrequests", Some(&request)).await?;
    } else {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations}});
        session.json(Method::POST, "/api/v1/namespaces", Some(&namespace)).await?;
        bind_defaults(session, name).await?;
    }
    if Kubeconfig::read(&session.kubeconfig_path())?.current_context().is_some() {
        remember(session, name)?;
    }
    let server = session.connection().await?.config.cluster_url.to_string();
    print(&format!("Now using project {name:?} on server {:?}.\n", server.trim_end_matches('/')));
    Ok(())
}

/// The bindings a new project has: its creator administers it, its accounts pull, builders push
/// (openshift-apiserver pkg/project/apiserver/registry/projectrequest/delegated/delegated.go:111).
async fn bind_defaults(session: &Session, project: &str) -> Result<(), Failure> {
    let user = whoami::name(session).await?;
    let account = |name: &str| json!({"kind": "ServiceAccount", "name": name, "namespace": project});
    let accounts = format!("system:serviceaccounts:{project}");
    let rbac = |kind: &str, name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
    let bindings: [(&str, &str, Value); 4] = [
        ("admin", "admin", rbac("User", &user)),
        ("system:image-pullers", "system:image-puller", rbac("Group", &accounts)),
        ("system:image-builders", "system:image-builder", account("builder")),
        ("system:deployers", "system:deployer", account("deployer")),
    ];
    for (name, role, subject) in bindings {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
            "roleRef": rbac("ClusterRole", role), "subjects": [subject],
        });
        let path =
            format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings", crate::resource::escape(project));
        match session.json(Method::POST, &path, Some(&binding)).await {
            Err(failure) if !failure.is_already_exists() => return Err(failure),
            _ => {}
        }
    }
    Ok(())
}

/// The name of a context, as logins make it: project, server, user.
pub fn context_name(namespace: &str, server: &http::Uri, user: &str) -> String {
    format!("{namespace}/{}/{user}", server_nickname(server))
}
