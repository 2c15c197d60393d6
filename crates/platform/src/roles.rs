//! Cluster roles of OpenShift that concern images, and who has them from the start.
//! Rules are those of OpenShift's bootstrap policy (openshift-apiserver source, pkg/bootstrappolicy/policy.go).

use api::names;
use futures::future;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::Api;
use serde_json::{Value, json};

use crate::Error;
use crate::cluster::Cluster;

const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const VIEWED: [&str; 5] = ["imagestreamimages", "imagestreammappings", "imagestreams", "imagestreamtags", "imagetags"];
const EDITED: [&str; 6] = [
    "imagestreamimages",
    "imagestreammappings",
    "imagestreams",
    "imagestreams/secrets",
    "imagestreamtags",
    "imagetags",
];

/// Creates the roles and bindings that are not there yet; existing ones are left as they are.
pub(crate) async fn ensure(cluster: &Cluster) -> Result<(), Error> {
    let client = || cluster.client.clone();
    let (roles, bindings) = (Api::<ClusterRole>::all(client()), Api::<ClusterRoleBinding>::all(client()));
    let all_roles: Vec<ClusterRole> = cluster_roles().into_iter().map(object).collect();
    let all_bindings: Vec<ClusterRoleBinding> = cluster_role_bindings().into_iter().map(object).collect();
    tokio::try_join!(
        future::try_join_all(all_roles.iter().map(|role| cluster.create_if_absent(&roles, role))),
        future::try_join_all(all_bindings.iter().map(|binding| cluster.create_if_absent(&bindings, binding))),
    )?;
    Ok(())
}

/// Lets everybody who is logged in pull from the namespace `openshift`, which must exist.
pub(crate) async fn ensure_shared(cluster: &Cluster) -> Result<(), Error> {
    const NAME: &str = "shared-resource-viewer";
    let role: Role = object(json!({
        "metadata": { "name": NAME, "namespace": names::OPENSHIFT_NAMESPACE },
        "rules": [rule(READ, VIEWED), rule(["get"], ["imagestreams/layers"])],
    }));
    let binding: RoleBinding = object(json!({
        "metadata": { "name": "shared-resource-viewers", "namespace": names::OPENSHIFT_NAMESPACE },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME },
        "subjects": [group("system:authenticated")],
    }));
    let (roles, bindings) = (
        Api::namespaced(cluster.client.clone(), names::OPENSHIFT_NAMESPACE),
        Api::namespaced(cluster.client.clone(), names::OPENSHIFT_NAMESPACE),
    );
    tokio::try_join!(cluster.create_if_absent(&roles, &role), cluster.create_if_absent(&bindings, &binding))?;
    Ok(())
}

fn cluster_roles() -> Vec<Value> {
    let layers = ["imagestreams/layers"];
    let projects =
        json!({ "apiGroups": ["", "project.openshift.io"], "resources": ["namespaces", "projects"], "verbs": ["get"] });
    let edits = [
        json!({ "apiGroups": [""], "resources": ["secrets", "serviceaccounts"], "verbs": WRITE }),
        rule(WRITE, EDITED),
        rule(["create"], ["imagestreamimports"]),
        rule(["get", "update"], layers),
    ];
    let builds = [
        json!({ "apiGroups": ["", "build.openshift.io"], "resources": ["builds/details"], "verbs": ["update"] }),
        json!({ "apiGroups": ["", "build.openshift.io"], "resources": ["builds"], "verbs": ["get"] }),
    ];
    let administers = [
        json!({
            "apiGroups": ["authorization.openshift.io", "rbac.authorization.k8s.io"],
            "resources": ["rolebindings", "roles"],
            "verbs": WRITE,
        }),
        json!({
            "apiGroups": ["", "authorization.k8s.io", "authorization.openshift.io"],
            "resources": ["localresourceaccessreviews", "localsubjectaccessreviews", "subjectrulesreviews"],
            "verbs": ["create"],
        }),
        json!({ "apiGroups": ["", "project.openshift.io"], "resources": ["projects"], "verbs": ["delete", "get"] }),
        json!({ "apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"] }),
    ];
    let reviews_itself = json!({
        "apiGroups": ["authorization.k8s.io", "authentication.k8s.io"],
        "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"],
        "verbs": ["create"],
    });
    vec![
        role("registry-viewer", &["view"], [rule(READ, VIEWED), rule(["get"], layers), projects.clone()]),
        role("registry-editor", &["edit"], edits.clone().into_iter().chain([projects])),
        role("registry-admin", &["admin"], edits.into_iter().chain(administers)),
        role("system:image-puller", &[], [rule(["get"], layers)]),
        role("system:image-pusher", &[], [rule(["get", "update"], layers)]),
        role(
            "system:image-builder",
            &["admin", "edit"],
            [rule(["get", "update"], layers), rule(["create"], ["imagestreams"])].into_iter().chain(builds),
        ),
        role(
            "system:image-signer",
            &[],
            [rule(["get"], ["images", "imagestreams/layers"]), rule(["create", "delete"], ["imagesignatures"])],
        ),
        role("system:image-auditor", &[], [rule(["get", "list", "patch", "update", "watch"], ["images"])]),
        role(names::PRUNER_CLUSTER_ROLE, &[], pruner_rules()),
        role(
            "basic-user",
            &[],
            [
                json!({
                    "apiGroups": ["", "user.openshift.io"],
                    "resources": ["users"], "resourceNames": ["~"], "verbs": ["get"],
                }),
                json!({ "apiGroups": ["", "project.openshift.io"], "resources": ["projects"], "verbs": ["list", "watch"] }),
                json!({ "apiGroups": ["", "project.openshift.io"], "resources": ["projectrequests"], "verbs": ["list"] }),
                json!({ "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": READ }),
                json!({ "apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": ["get", "list"] }),
                reviews_itself.clone(),
            ],
        ),
        role("self-access-reviewer", &[], [reviews_itself]),
        role(
            "self-provisioner",
            &[],
            [
                json!({ "apiGroups": ["", "project.openshift.io"], "resources": ["projectrequests"], "verbs": ["create"] }),
            ],
        ),
    ]
}

fn pruner_rules() -> Vec<Value> {
    let look = ["get", "list"];
    vec![
        json!({ "apiGroups": [""], "resources": ["pods", "replicationcontrollers"], "verbs": look }),
        json!({ "apiGroups": [""], "resources": ["limitranges"], "verbs": ["list"] }),
        json!({ "apiGroups": ["", "build.openshift.io"], "resources": ["buildconfigs", "builds"], "verbs": look }),
        json!({ "apiGroups": ["", "apps.openshift.io"], "resources": ["deploymentconfigs"], "verbs": look }),
        json!({ "apiGroups": ["batch"], "resources": ["cronjobs", "jobs"], "verbs": look }),
        json!({
            "apiGroups": ["apps"],
            "resources": ["daemonsets", "deployments", "replicasets", "statefulsets"],
            "verbs": look,
        }),
        rule(["delete"], ["images"]),
        rule(READ, ["images", "imagestreams"]),
        rule(["update"], ["imagestreams/status"]),
    ]
}

fn cluster_role_bindings() -> Vec<Value> {
    [
        ("basic-users", "basic-user", "system:authenticated"),
        ("self-access-reviewers", "self-access-reviewer", "system:authenticated"),
        ("self-provisioners", "self-provisioner", "system:authenticated:oauth"),
    ]
    .into_iter()
    .map(|(name, role, members)| {
        json!({
            "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [group(members)],
        })
    })
    .collect()
}

fn role(name: &str, aggregated_to: &[&str], rules: impl IntoIterator<Item = Value>) -> Value {
    let labels: serde_json::Map<String, Value> = aggregated_to
        .iter()
        .map(|role| (format!("rbac.authorization.k8s.io/aggregate-to-{role}"), "true".into()))
        .collect();
    json!({ "metadata": { "name": name, "labels": labels }, "rules": rules.into_iter().collect::<Vec<_>>() })
}

fn rule<const V: usize, const R: usize>(verbs: [&str; V], resources: [&str; R]) -> Value {
    json!({ "apiGroups": ["", "image.openshift.io"], "resources": resources.to_vec(), "verbs": verbs.to_vec() })
}

fn group(name: &str) -> Value {
    json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": name })
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("a literal of this file has the shape of its type")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::rbac::v1::PolicyRule;
    use rstest::rstest;

    use super::*;

    fn allows(role: &str, verb: &str, resource: &str) -> bool {
        let roles: Vec<ClusterRole> = cluster_roles().into_iter().map(object).collect();
        let role = roles.iter().find(|known| known.metadata.name.as_deref() == Some(role)).expect("known role");
        let holds = |list: &Option<Vec<String>>, wanted: &str| list.iter().flatten().any(|held| held == wanted);
        role.rules.iter().flatten().any(|rule: &PolicyRule| {
            holds(&rule.api_groups, "image.openshift.io")
                && rule.verbs.iter().any(|held| held == verb)
                && holds(&rule.resources, resource)
        })
    }

    #[rstest]
    #[case("registry-viewer", "get", "imagestreams/layers", true)]
    #[case("registry-viewer", "update", "imagestreams/layers", false)]
    #[case("registry-editor", "update", "imagestreams/layers", true)]
    #[case("registry-editor", "create", "imagestreams", true)]
    #[case("system:image-pusher", "update", "imagestreams/layers", true)]
    #[case("system:image-pusher", "create", "imagestreams", false)]
    #[case("system:image-builder", "create", "imagestreams", true)]
    #[case("system:image-pruner", "delete", "images", true)]
    #[case("system:image-puller", "get", "imagestreams", false)]
    fn a_role_allows_what_the_documents_say(
        #[case] role: &str,
        #[case] verb: &str,
        #[case] resource: &str,
        #[case] expected: bool,
    ) {
        assert_eq!(allows(role, verb, resource), expected);
    }

    #[test]
    fn bindings_have_the_shape_of_their_type() {
        let bindings: Vec<ClusterRoleBinding> = cluster_role_bindings().into_iter().map(object).collect();
        assert!(bindings.iter().all(|binding| binding.role_ref.kind == "ClusterRole"));
    }
}
