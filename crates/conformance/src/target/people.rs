//! The people of a run in a cluster that was there before: the administrator of the kubeconfig, and users without any
//! role. Nobody's password is known there, so the users are service accounts of a namespace of the run's own.

use harness::{
    environment::User,
    evidence::Evidence,
    failure::{Failure, Tried as _},
    tenancy::ObjectName,
};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Namespace, ServiceAccount},
    rbac::v1::{ClusterRoleBinding, RoleRef, Subject},
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

/// A scenario has one at a time; whoever had a role gives it back before the next turn.
const USERS: usize = 8;
/// How long their tokens are good for: longer than any run (Kubernetes documentation, TokenRequest).
const GOOD_FOR_SECONDS: i64 = 12 * 60 * 60;

/// A new name for their namespace.
pub(super) fn namespace() -> String {
    format!("registry-conformance-{}", &uuid::Uuid::new_v4().simple().to_string()[..8])
}

/// What [`make`] makes for them; the rest goes with their namespace.
pub(super) fn objects(namespace: &str) -> [ObjectName; 2] {
    [ObjectName::of::<Namespace>(None, namespace), ObjectName::of::<ClusterRoleBinding>(None, namespace)]
}

/// Makes them, the administrator first. Without a token in the kubeconfig the administrator is a service account, too: a
/// registry takes no certificates.
///
/// # Errors
/// When the cluster refuses one.
pub(super) async fn make(
    client: &Client,
    namespace: &str,
    token: Option<&str>,
    evidence: &Evidence,
) -> Result<Vec<User>, Failure> {
    let named = |name: &str| ObjectMeta { name: Some(name.to_owned()), ..Default::default() };
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let own = Namespace { metadata: named(namespace), ..Default::default() };
    let tried = format!("making the namespace {namespace} for users");
    namespaces.create(&PostParams::default(), &own).await.tried(tried)?;
    let maker = Maker { accounts: Api::namespaced(client.clone(), namespace), namespace, evidence };
    let administrator = match token {
        Some(token) => User { name: "kubeadmin".to_owned(), token: token.to_owned() },
        None => {
            let user = maker.user("administrator").await?;
            let binding = ClusterRoleBinding {
                metadata: named(namespace),
                role_ref: RoleRef {
                    api_group: "rbac.authorization.k8s.io".to_owned(),
                    kind: "ClusterRole".to_owned(),
                    name: "cluster-admin".to_owned(),
                },
                subjects: Some(vec![Subject {
                    kind: "ServiceAccount".to_owned(),
                    name: "administrator".to_owned(),
                    namespace: Some(namespace.to_owned()),
                    ..Default::default()
                }]),
            };
            let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
            let tried = "making an administrator with a token";
            bindings.create(&PostParams::default(), &binding).await.tried(tried)?;
            user
        }
    };
    evidence.secret(&administrator.token);
    let mut people = vec![administrator];
    for number in 1..=USERS {
        people.push(maker.user(&format!("user-{number:02}")).await?);
    }
    Ok(people)
}

struct Maker<'a> {
    accounts: Api<ServiceAccount>,
    namespace: &'a str,
    evidence: &'a Evidence,
}

impl Maker<'_> {
    async fn user(&self, name: &str) -> Result<User, Failure> {
        let tried = format!("making the user {name} in {}", self.namespace);
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..Default::default() };
        let account = ServiceAccount { metadata, ..Default::default() };
        self.accounts.create(&PostParams::default(), &account).await.tried(&tried)?;
        let spec = TokenRequestSpec { expiration_seconds: Some(GOOD_FOR_SECONDS), ..Default::default() };
        let request = TokenRequest { spec, ..Default::default() };
        let answer = self.accounts.create_token_request(name, &PostParams::default(), &request).await.tried(&tried)?;
        let token = answer.status.map(|status| status.token).unwrap_or_default();
        self.evidence.secret(&token);
        Ok(User { name: format!("system:serviceaccount:{}:{name}", self.namespace), token })
    }
}
