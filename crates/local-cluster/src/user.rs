//! The people of a control plane: `kubeadmin` and a pool of plain users, each with a token made at run time.
//! They are the rows of kube-apiserver's token file; groups decide what they may do.

use std::fmt;

use serde::Serialize;

use crate::{Error, secret_file};

/// A user that kube-apiserver knows by a bearer token.
#[derive(Clone, Serialize)]
pub struct User {
    /// Name as the API server reports it.
    pub name: String,
    /// Groups; `system:masters` may do everything.
    pub groups: Vec<String>,
    /// The bearer token, in the form of OpenShift's OAuth access tokens: `sha256~` and 43 characters.
    #[serde(skip)]
    pub token: String,
}

impl fmt::Debug for User {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("User").field("name", &self.name).field("groups", &self.groups).finish_non_exhaustive()
    }
}

impl User {
    fn new(name: String, groups: &[&str]) -> Result<User, Error> {
        let token = format!("sha256~{}", secret_file::random_text(32)?);
        Ok(User { name, groups: groups.iter().map(|group| (*group).to_owned()).collect(), token })
    }
}

/// `kubeadmin` followed by `user-01` to `user-NN`, each with a fresh token.
///
/// # Errors
/// [`Error::File`] when the system gives no random bytes.
pub fn pool(plain_users: usize) -> Result<Vec<User>, Error> {
    let admin = User::new("kubeadmin".to_owned(), &["system:masters", "system:authenticated"]);
    let plain = (1..=plain_users).map(|number| User::new(format!("user-{number:02}"), &["system:authenticated:oauth"]));
    std::iter::once(admin).chain(plain).collect()
}

/// The rows `token,name,uid,"group,group"` of the token file (Kubernetes documentation, "Static token file").
///
/// It holds tokens; whoever writes it keeps it from others.
pub fn token_file(users: &[User]) -> String {
    users
        .iter()
        .map(|user| format!("{},{},{},\"{}\"\n", user.token, user.name, user.name, user.groups.join(",")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_the_documented_form_and_never_show() {
        let users = pool(2).unwrap();
        assert_eq!(
            users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(),
            ["kubeadmin", "user-01", "user-02"]
        );
        for user in &users {
            let secret = user.token.strip_prefix("sha256~").unwrap();
            assert_eq!(secret.len(), 43);
            assert!(!format!("{user:?}").contains(secret));
            assert!(!serde_json::to_string(user).unwrap().contains(secret));
        }
        assert!(
            token_file(&users).lines().nth(1).unwrap().ends_with(",user-01,user-01,\"system:authenticated:oauth\"")
        );
    }
}
