//! The registry's metrics, read as a user does: any user name, the token as password.

use cucumber::{then, when};
use harness::{
    exposition::Exposition,
    failure::{Failure, Step, Tried},
    oci::Answer,
};
use http::{HeaderMap, Method, StatusCode};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef, Subject};
use kube::{
    Api,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
};

use crate::world::World;

const PATH: &str = "/extensions/v2/metrics";
const ROLE: &str = "prometheus-scraper";

impl World {
    async fn read_metrics(&self) -> Result<Answer, Failure> {
        let user = self.user()?;
        let mut headers = HeaderMap::new();
        let bearer = http::HeaderValue::from_str(&format!("Bearer {}", user.token)).tried("writing a header")?;
        headers.insert(http::header::AUTHORIZATION, bearer);
        self.registry_as_user()?.send(Method::GET, PATH, headers, None).await
    }

    async fn exposition(&self) -> Result<Exposition, Failure> {
        let answer = self.read_metrics().await?.expect(StatusCode::OK)?;
        let text = String::from_utf8_lossy(&answer.body);
        Exposition::parse(&text)
            .map_err(|error| Failure::fail("reading the metrics", "the text format", error.to_string()).of("registry"))
    }

    fn metrics(&self) -> Result<&Exposition, Failure> {
        self.metrics.as_ref().ok_or_else(|| Failure::error("finding the metrics", "no step has read them"))
    }

    /// Bindings of the documented role to the scenario's user, whatever `oc` called them.
    async fn bindings(&self) -> Result<Vec<String>, Failure> {
        let user = self.user()?.name.clone();
        let api: Api<ClusterRoleBinding> = Api::all(self.env.client.clone());
        let all = api.list(&ListParams::default()).await.tried("listing cluster role bindings")?;
        let ours = all.into_iter().filter(|binding| {
            binding.role_ref.name == ROLE && binding.subjects.iter().flatten().any(|subject| name_of(subject) == user)
        });
        Ok(ours.filter_map(|binding| binding.metadata.name).collect())
    }
}

/// The name under which the API server knows a subject.
fn name_of(subject: &Subject) -> String {
    match (subject.kind.as_str(), &subject.namespace) {
        ("ServiceAccount", Some(namespace)) => format!("system:serviceaccount:{namespace}:{}", subject.name),
        _ => subject.name.clone(),
    }
}

#[then("the user cannot read the metrics")]
async fn cannot_read(world: &mut World) -> Step {
    // The role and its bindings are the scenario's, whichever command makes them.
    world.will_make::<ClusterRole>(None, ROLE);
    world.will_make::<ClusterRoleBinding>(None, ROLE);
    let answer = world.read_metrics().await?;
    match answer.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(()),
        _ => Err(Failure::fail(format!("GET {PATH} without the role"), "401 or 403", answer.summary()).of("registry")),
    }
}

#[then("the user can read the metrics")]
async fn can_read(world: &mut World) -> Step {
    for name in world.bindings().await? {
        world.will_make::<ClusterRoleBinding>(None, &name);
    }
    world.read_metrics().await?.expect(StatusCode::OK).map(drop)
}

#[when("the role is taken from the user again")]
async fn role_taken(world: &mut World) -> Step {
    let api: Api<ClusterRoleBinding> = Api::all(world.env.client.clone());
    for name in world.bindings().await? {
        api.delete(&name, &DeleteParams::default()).await.tried(format!("deleting the binding {name}"))?;
    }
    Ok(())
}

#[when("a user with the prometheus-scraper role reads the metrics")]
async fn scraper_reads(world: &mut World) -> Step {
    let user = world.user()?.name.clone();
    let name = format!("{ROLE}-{}", world.id);
    world.will_make::<ClusterRole>(None, &name);
    world.will_make::<ClusterRoleBinding>(None, &name);
    let metadata = ObjectMeta { name: Some(name.clone()), ..Default::default() };
    let role = ClusterRole {
        metadata: metadata.clone(),
        rules: Some(vec![PolicyRule {
            api_groups: Some(vec!["image.openshift.io".to_owned()]),
            resources: Some(vec!["registry/metrics".to_owned()]),
            verbs: vec!["get".to_owned()],
            ..Default::default()
        }]),
        ..Default::default()
    };
    let group = "rbac.authorization.k8s.io".to_owned();
    let binding = ClusterRoleBinding {
        metadata,
        role_ref: RoleRef { api_group: group.clone(), kind: "ClusterRole".to_owned(), name },
        subjects: Some(vec![Subject {
            api_group: Some(group),
            kind: "User".to_owned(),
            name: user,
            ..Default::default()
        }]),
    };
    let client = &world.env.client;
    let parameters = PostParams::default();
    Api::all(client.clone()).create(&parameters, &role).await.tried("making the role")?;
    Api::all(client.clone()).create(&parameters, &binding).await.tried("binding the role")?;
    // The summaries know a method only once such a request was served.
    world.registry_as_user()?.send(Method::GET, "/v2/", HeaderMap::new(), None).await?;
    world.metrics = Some(world.exposition().await?);
    Ok(())
}

#[then(expr = "{string} is a gauge with one series of value 1")]
fn constant_gauge(world: &mut World, name: String) -> Step {
    let metrics = world.metrics()?;
    let series = metrics.select(&name, &[]);
    let kind = metrics.types.get(&name);
    match (kind.map(String::as_str), series.as_slice()) {
        (Some("gauge"), [only]) if only.value == 1.0 => Ok(()),
        _ => {
            let seen = format!("type {kind:?}, series {series:?}");
            Err(Failure::fail(format!("reading {name}"), "a gauge with one series of value 1", seen).of("registry"))
        }
    }
}

#[then(expr = "its labels are {string}")]
fn labels_are(world: &mut World, labels: String) -> Step {
    let series = world.metrics()?.select("imageregistry_build_info", &[]);
    let seen: Vec<_> = series.iter().flat_map(|series| series.labels.keys().map(String::as_str)).collect();
    let mut wanted: Vec<_> = labels.split(',').map(str::trim).collect();
    wanted.sort_unstable();
    match seen == wanted {
        true => Ok(()),
        false => {
            Err(Failure::fail("reading the labels of the build", format!("{wanted:?}"), format!("{seen:?}"))
                .of("registry"))
        }
    }
}

#[then(expr = "{string} is a summary with quantiles {string} for method {string}")]
fn summary_with(world: &mut World, name: String, quantiles: String, method: String) -> Step {
    let metrics = world.metrics()?;
    let kind = metrics.types.get(&name).map(String::as_str);
    let series = metrics.select(&name, &[("method", &method)]);
    let mut seen: Vec<_> = series.iter().filter_map(|series| series.labels.get("quantile")).collect();
    seen.sort_unstable();
    let wanted: Vec<_> = quantiles.split(',').map(str::trim).collect();
    if kind == Some("summary") && seen == wanted {
        return Ok(());
    }
    let expected = format!("a summary with quantiles {wanted:?} for {method}");
    Err(Failure::fail(format!("reading {name}"), expected, format!("type {kind:?}, quantiles {seen:?}")).of("registry"))
}

#[then("its sum grows with another request")]
async fn sum_grows(world: &mut World) -> Step {
    let read = |metrics: &Exposition, part: &str| {
        let name = format!("imageregistry_http_request_duration_seconds_{part}");
        metrics.select(&name, &[("method", "get")]).first().map(|sample| sample.value)
    };
    let before = world.metrics()?.clone();
    world.registry_as_user()?.send(Method::GET, "/v2/", HeaderMap::new(), None).await?;
    let after = world.exposition().await?;
    let (sums, counts) = ((read(&before, "sum"), read(&after, "sum")), (read(&before, "count"), read(&after, "count")));
    match (sums, counts) {
        ((Some(a), Some(b)), (Some(c), Some(d))) if b > a && d > c => Ok(()),
        _ => {
            let seen = format!("_sum {sums:?}, _count {counts:?}");
            Err(Failure::fail("reading the sum twice", "_sum and _count that grow", seen).of("registry"))
        }
    }
}
