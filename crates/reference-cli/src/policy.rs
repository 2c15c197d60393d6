//! `oc policy` and `oc adm policy`: gives roles to users and groups, and takes them away.

use crate::command_line::{Arguments, Command, Flag, Run, value};
use crate::failure::Failure;
use crate::print;
use crate::resource::Resource;
use crate::session::Session;
use futures::future::FutureExt;
use http::Method;
use serde_json::{Value, json};

/// What a command does to whom.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Change {
    add: bool,
    group: bool,
    cluster: bool,
}

const FLAGS: &[Flag] = &[
    value("role-namespace", None, "project of the role, when it is no cluster role"),
    value("rolebinding-name", None, "name of the binding to change"),
    value("serviceaccount", Some('z'), "service account of the current project instead of a user"),
];

const fn command(path: &'static str, usage: &'static str, about: &'static str, run: Run) -> Command {
    Command { path, usage, about, flags: FLAGS, flags_after_words: true, run }
}

macro_rules! commands {
    ($($name:ident $path:literal $about:literal add=$add:literal group=$group:literal cluster=$cluster:literal;)*) => {
        $(pub const $name: Command = command($path, "ROLE NAME...", $about, |session, args| {
            run(session, args, Change { add: $add, group: $group, cluster: $cluster }).boxed_local()
        });)*
    };
}

commands! {
    ADD_ROLE_TO_USER "policy add-role-to-user" "Give users a role in the project" add=true group=false cluster=false;
    REMOVE_ROLE_FROM_USER "policy remove-role-from-user" "Take a role in the project from users" add=false group=false cluster=false;
    ADD_ROLE_TO_GROUP "policy add-role-to-group" "Give groups a role in the project" add=true group=true cluster=false;
    REMOVE_ROLE_FROM_GROUP "policy remove-role-from-group" "Take a role in the project from groups" add=false group=true cluster=false;
    ADM_ADD_ROLE_TO_USER "adm policy add-role-to-user" "Give users a role in the project" add=true group=false cluster=false;
    ADM_REMOVE_ROLE_FROM_USER "adm policy remove-role-from-user" "Take a role in the project from users" add=false group=false cluster=false;
    ADM_ADD_ROLE_TO_GROUP "adm policy add-role-to-group" "Give groups a role in the project" add=true group=true cluster=false;
    ADM_REMOVE_ROLE_FROM_GROUP "adm policy remove-role-from-group" "Take a role in the project from groups" add=false group=true cluster=false;
    ADD_CLUSTER_ROLE_TO_USER "adm policy add-cluster-role-to-user" "Give users a role in all projects" add=true group=false cluster=true;
    REMOVE_CLUSTER_ROLE_FROM_USER "adm policy remove-cluster-role-from-user" "Take a role in all projects from users" add=false group=false cluster=true;
    ADD_CLUSTER_ROLE_TO_GROUP "adm policy add-cluster-role-to-group" "Give groups a role in all projects" add=true group=true cluster=true;
    REMOVE_CLUSTER_ROLE_FROM_GROUP "adm policy remove-cluster-role-from-group" "Take a role in all projects from groups" add=false group=true cluster=true;
}

const GROUP: &str = "rbac.authorization.k8s.io";

async fn run(session: &Session, args: &Arguments, change: Change) -> Result<(), Failure> {
    let Some((role, names)) = args.words.split_first() else {
        return Err(Failure::usage("you must specify a role"));
    };
    let namespace = if change.cluster { None } else { Some(session.namespace().await?) };
    let mut subjects: Vec<Value> = names.iter().map(|name| subject(name, change.group)).collect();
    for account in args.texts("serviceaccount") {
        let namespace = session.namespace().await?;
        subjects.push(json!({"kind": "ServiceAccount", "name": account, "namespace": namespace}));
    }
    if subjects.is_empty() {
        return Err(Failure::usage(if change.group {
            "you must specify at least one group"
        } else {
            "you must specify at least one user"
        }));
    }
    let role_kind = if args.text("role-namespace").is_some() { "Role" } else { "ClusterRole" };
    let catalogue = session.catalogue().await?;
    let served = |plural: &str| {
        catalogue
            .served(plural, GROUP)
            .ok_or_else(|| Failure::usage(format!("the server doesn't have a resource type {plural:?}")))
    };
    let roles = served(if role_kind == "Role" { "roles" } else { "clusterroles" })?;
    let bindings = served(if change.cluster { "clusterrolebindings" } else { "rolebindings" })?;
    if change.add {
        match session.get(&roles.object(args.text("role-namespace"), role)).await {
            // Who may bind a role need not be allowed to read it.
            Ok(_) => {}
            Err(failure) if failure.is_forbidden() => {}
            Err(failure) => return Err(failure),
        }
    }
    let reference = json!({"apiGroup": GROUP, "kind": role_kind, "name": role});
    let target = Target { session, bindings, namespace, reference, binding: args.text("rolebinding-name") };
    if change.add {
        target.add(&subjects).await?
    } else {
        target.remove(&subjects).await?
    }
    let names: Vec<String> =
        subjects.iter().filter_map(|subject| subject["name"].as_str()).map(|name| format!("{name:?}")).collect();
    let names = if let [only] = names.as_slice() { only.clone() } else { format!("[{}]", names.join(" ")) };
    let done = if change.add { "added" } else { "removed" };
    print(&format!("{}/{role} {done}: {names}\n", roles.printed()));
    Ok(())
}

fn subject(name: &str, group: bool) -> Value {
    if group {
        return json!({"apiGroup": GROUP, "kind": "Group", "name": name});
    }
    match name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some((namespace, account)) => json!({"kind": "ServiceAccount", "name": account, "namespace": namespace}),
        None => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
    }
}

struct Target<'a> {
    session: &'a Session,
    bindings: &'a Resource,
    namespace: Option<String>,
    reference: Value,
    binding: Option<&'a str>,
}

impl Target<'_> {
    /// The bindings of the role, or the one that was named.
    async fn existing(&self) -> Result<Vec<Value>, Failure> {
        let list = self.session.get(&self.bindings.collection(self.namespace.as_deref())).await?;
        let mine = |binding: &&Value| {
            binding["roleRef"]["kind"] == self.reference["kind"]
                && binding["roleRef"]["name"] == self.reference["name"]
                && self.binding.is_none_or(|name| binding["metadata"]["name"] == name)
        };
        Ok(list["items"].as_array().into_iter().flatten().filter(mine).cloned().collect())
    }

    async fn add(&self, subjects: &[Value]) -> Result<(), Failure> {
        loop {
            let existing = self.existing().await?;
            let missing: Vec<&Value> =
                subjects.iter().filter(|subject| !existing.iter().any(|binding| holds(binding, subject))).collect();
            if missing.is_empty() {
                return Ok(());
            }
            let end = match existing.first() {
                Some(binding) => {
                    let mut changed = binding.clone();
                    let mut list = changed["subjects"].as_array().cloned().unwrap_or_default();
                    list.extend(missing.into_iter().cloned());
                    changed["subjects"] = list.into();
                    self.replace(&changed).await
                }
                None => self.create(&missing).await,
            };
            match end {
                Err(failure) if failure.is_conflict() => {}
                other => return other,
            }
        }
    }

    /// Makes a binding named like the role; a number is added while the name is taken.
    async fn create(&self, subjects: &[&Value]) -> Result<(), Failure> {
        let role = self.reference["name"].as_str().unwrap_or_default();
        let base = self.binding.unwrap_or(role);
        for attempt in 0.. {
            let name = if attempt == 0 { base.to_owned() } else { format!("{base}-{}", attempt - 1) };
            let binding = json!({
                "apiVersion": self.bindings.api_version(), "kind": self.bindings.kind,
                "metadata": {"name": name}, "roleRef": self.reference, "subjects": subjects,
            });
            match self
                .session
                .json(Method::POST, &self.bindings.collection(self.namespace.as_deref()), Some(&binding))
                .await
            {
                Err(failure) if failure.is_already_exists() && self.binding.is_none() && attempt < 1000 => {}
                other => return other.map(drop),
            }
        }
        Ok(())
    }

    async fn remove(&self, subjects: &[Value]) -> Result<(), Failure> {
        loop {
            let mut end = Ok(());
            let mut found = false;
            for binding in self.existing().await? {
                let (gone, left): (Vec<Value>, Vec<Value>) = binding["subjects"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default()
                    .into_iter()
                    .partition(|present| subjects.iter().any(|subject| same(present, subject)));
                if gone.is_empty() {
                    continue;
                }
                found = true;
                let name = binding["metadata"]["name"].as_str().unwrap_or_default();
                let path = self.bindings.object(self.namespace.as_deref(), name);
                end = if left.is_empty() {
                    self.session.json(Method::DELETE, &path, None).await.map(drop)
                } else {
                    let mut changed = binding.clone();
                    changed["subjects"] = left.into();
                    self.replace(&changed).await
                };
                if end.is_err() {
                    break;
                }
            }
            match end {
                Err(failure) if failure.is_conflict() => continue,
                Err(failure) => return Err(failure),
                Ok(()) if found => return Ok(()),
                Ok(()) => {
                    let kind = if self.reference["kind"] == "Role" { "Role" } else { "ClusterRole" };
                    return Err(Failure::usage(format!(
                        "unable to find target {kind} {} bound to {}",
                        self.reference["name"],
                        subjects.iter().filter_map(|s| s["name"].as_str()).collect::<Vec<_>>().join(", ")
                    )));
                }
            }
        }
    }

    async fn replace(&self, binding: &Value) -> Result<(), Failure> {
        let name = binding["metadata"]["name"].as_str().unwrap_or_default();
        let path = self.bindings.object(self.namespace.as_deref(), name);
        self.session.json(Method::PUT, &path, Some(binding)).await.map(drop)
    }
}

fn holds(binding: &Value, subject: &Value) -> bool {
    binding["subjects"].as_array().into_iter().flatten().any(|present| same(present, subject))
}

fn same(one: &Value, other: &Value) -> bool {
    ["kind", "name", "namespace"].iter().all(|key| one[*key] == other[*key])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("alice", false, "User", None)]
    #[case("system:authenticated", true, "Group", None)]
    #[case(
        "system:serviceaccount:openshift-monitoring:prometheus-k8s",
        false,
        "ServiceAccount",
        Some("openshift-monitoring")
    )]
    #[case("system:admin", false, "User", None)]
    fn subjects(#[case] name: &str, #[case] group: bool, #[case] kind: &str, #[case] namespace: Option<&str>) {
        let subject = subject(name, group);
        assert_eq!(subject["kind"], kind);
        assert_eq!(subject["namespace"].as_str(), namespace);
    }
}
