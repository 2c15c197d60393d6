//! Routes: how the registry is exposed to clients outside the cluster.

use std::time::Duration;

use api::{config::ImageConfig, names, route::Route};
use cucumber::{given, then};
use harness::{
    environment::Tls,
    failure::{Failure, Step, Tried},
    oci::{Account, Credentials},
    wait::{Check, wait},
};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::world::World;

impl World {
    fn routes(&self) -> Api<Route> {
        self.in_registry_namespace()
    }

    pub(crate) async fn no_routes(&self, limit: Duration) -> Step {
        wait("there to be no route to the registry", limit)
            .of("operator")
            .objects(&self.routes(), "", |routes: &[&Route]| {
                let names: Vec<_> = routes.iter().map(|route| route.name_any()).collect();
                Check::when(names.is_empty(), || format!("routes {names:?}"))
            })
            .await
    }

    /// Waits until a route is admitted and returns its host.
    pub(crate) async fn admitted(&self, name: &str) -> Result<String, Failure> {
        wait(format!("the route {name} to be admitted"), self.env.limits.settle)
            .of("operator")
            .object(&self.routes(), name, |route: Option<&Route>| {
                let Some(route) = route else { return Check::NotYet("no such route".to_owned()) };
                let status = serde_json::to_value(&route.status).unwrap_or_default();
                let ingress = status["ingress"].as_array().cloned().unwrap_or_default();
                let admitted = ingress.iter().find(|ingress| {
                    let conditions = ingress["conditions"].as_array().cloned().unwrap_or_default();
                    conditions.iter().any(|found| found["type"] == "Admitted" && found["status"] == "True")
                });
                match admitted.and_then(|ingress| ingress["host"].as_str()) {
                    Some(host) => Check::Met(host.to_owned()),
                    None => Check::NotYet(status.to_string()),
                }
            })
            .await
    }
}

#[given("the default route is exposed")]
async fn exposed(world: &mut World) -> Step {
    let generation = world.configure(json!({"defaultRoute": true})).await?;
    world.admitted(names::DEFAULT_ROUTE).await?;
    world.rolled_out(generation).await
}

#[then(expr = "the route {string} is admitted")]
async fn is_admitted(world: &mut World, name: String) -> Step {
    world.admitted(&name).await.map(drop)
}

#[then("there is no route to the registry")]
async fn no_route(world: &mut World) -> Step {
    world.no_routes(world.env.limits.settle).await
}

#[then("the cluster's image configuration names no external registry")]
async fn no_external_name(world: &mut World) -> Step {
    let api: Api<ImageConfig> = Api::all(world.env.client.clone());
    wait("image.config to name no external registry", world.env.limits.settle)
        .of("operator")
        .object(&api, names::CLUSTER, |config: Option<&ImageConfig>| {
            let status = serde_json::to_value(config.map(|config| &config.status)).unwrap_or_default();
            let external = status["externalRegistryHostnames"].as_array().cloned().unwrap_or_default();
            let internal = status["internalRegistryHostname"].as_str().unwrap_or_default();
            Check::when(external.is_empty() && internal == names::REGISTRY_INTERNAL_HOST, || status.to_string())
        })
        .await
}

#[then("a client outside the cluster gets no answer from the default route's host")]
async fn no_answer(world: &mut World) -> Step {
    let ingresses: Api<api::config::Ingress> = Api::all(world.env.client.clone());
    let ingress = ingresses.get(names::CLUSTER).await.tried("reading the cluster's Ingress")?;
    let spec = serde_json::to_value(&ingress).tried("reading the cluster's Ingress")?;
    let domain = spec["spec"]["domain"].as_str().unwrap_or_default().to_owned();
    let host = format!("{}-{}.{domain}:443", names::DEFAULT_ROUTE, names::REGISTRY_NAMESPACE);
    match world.env.doorway.connect(&host).await {
        Err(_) => Ok(()),
        Ok(_) => Err(Failure::fail(format!("connecting to {host}"), "nothing there", "a connection").of("operator")),
    }
}

#[then(expr = "the command prints the host of the route {string}")]
async fn prints_host(world: &mut World, name: String) -> Step {
    let host = world.admitted(&name).await?;
    let ran = world.ran()?;
    match ran.code == 0 && ran.stdout.trim() == host {
        true => Ok(()),
        false => Err(Failure::fail(format!("running `{}`", ran.command), host, ran.summary()).of("cli")),
    }
}

async fn log_in_there(world: &World, user: &str, password: String) -> Result<harness::oci::LoginOutcome, Failure> {
    let host = world.admitted(names::DEFAULT_ROUTE).await?;
    let credentials = Credentials::Account(Account { user: user.to_owned(), password });
    world.env.registry(&host, credentials, Tls::NotVerified)?.login().await
}

#[then(expr = "logging in there as {string} without verifying the certificate succeeds")]
async fn log_in_succeeds(world: &mut World, user: String) -> Step {
    let token = world.env.users.administrator().token.clone();
    let outcome = log_in_there(world, &user, token).await?;
    match outcome.succeeded() {
        true => Ok(()),
        false => Err(Failure::fail("logging in over the route", "200 in the end", outcome.summary()).of("registry")),
    }
}

#[then("logging in there with a token that was never issued fails")]
async fn log_in_fails(world: &mut World) -> Step {
    let outcome = log_in_there(world, "kubeadmin", crate::access::never_issued()).await?;
    match outcome.succeeded() {
        false => Ok(()),
        true => Err(Failure::fail("logging in with a foreign token", "a refusal", outcome.summary()).of("registry")),
    }
}
