//! Users, log-ins and what a role lets them do.

use api::names;
use cucumber::{given, then};
use harness::{
    environment::Tls,
    failure::{Failure, Step},
    oci::{Account, Credentials, LoginOutcome},
};

use crate::world::World;

/// A token of the usual form that no API server ever issued.
pub(crate) fn never_issued() -> String {
    format!("sha256~{:A<43}", uuid::Uuid::new_v4().simple().to_string())
}

#[given("a user without any role")]
async fn user(world: &mut World) -> Step {
    let user = world.env.users.take();
    world.env.evidence.note(format!("the scenario's user is {}", user.name));
    world.user = Some(user);
    world.project().await.map(drop)
}

async fn log_in(world: &World, user: &str, password: String) -> Result<LoginOutcome, Failure> {
    let credentials = Credentials::Account(Account { user: user.to_owned(), password });
    world.env.registry(names::REGISTRY_INTERNAL_HOST, credentials, Tls::Verified)?.login().await
}

/// The token that `oc whoami -t` prints.
async fn own_token(world: &mut World) -> Result<String, Failure> {
    let ran = world.shell.run("oc whoami -t", world.env.limits.answer).await?.succeeded()?;
    Ok(ran.stdout.trim().to_owned())
}

#[then(expr = "logging in as {string} with the token of {string} succeeds")]
async fn log_in_succeeds(world: &mut World, user: String, _command: String) -> Step {
    let token = own_token(world).await?;
    let outcome = log_in(world, &user, token).await?;
    match outcome.succeeded() {
        true => Ok(()),
        false => {
            Err(Failure::fail(format!("logging in as {user}"), "200 in the end", outcome.summary()).of("registry"))
        }
    }
}

#[then(expr = "logging in as {string} with the token of {string} fails")]
async fn log_in_fails(world: &mut World, user: String, _command: String) -> Step {
    let token = own_token(world).await?;
    refused(&user, log_in(world, &user, token).await?)
}

#[then(expr = "logging in as {string} with a token that was never issued fails")]
async fn log_in_with_foreign_token(world: &mut World, user: String) -> Step {
    refused(&user, log_in(world, &user, never_issued()).await?)
}

fn refused(user: &str, outcome: LoginOutcome) -> Step {
    let last = outcome.answers.last().map(|answer| answer.status.as_u16());
    match last {
        Some(401) => Ok(()),
        _ => Err(Failure::fail(format!("logging in as {user}"), "401 in the end", outcome.summary()).of("registry")),
    }
}
