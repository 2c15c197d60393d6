//! The image pruner: how its CronJob starts it, and a run of it outside its schedule.

use api::{imageregistry::ImagePruner, names};
use cucumber::{given, then, when};
use harness::{
    failure::{Failure, Step, Tried},
    wait::{Check, wait},
};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{made::Made, world::World};

fn arguments(job: &CronJob) -> Vec<String> {
    let pod = job.spec.as_ref().and_then(|spec| spec.job_template.spec.as_ref()?.template.spec.as_ref());
    let containers = pod.iter().flat_map(|pod| &pod.containers);
    containers.flat_map(|c| c.command.iter().flatten().chain(c.args.iter().flatten())).cloned().collect()
}

impl World {
    async fn pruner_started_with(&self, flags: &[&str]) -> Result<CronJob, Failure> {
        let jobs: Api<CronJob> = self.in_registry_namespace();
        wait(format!("the CronJob {} to have {flags:?}", names::PRUNER_CRON_JOB), self.env.limits.settle)
            .of("operator")
            .object(&jobs, names::PRUNER_CRON_JOB, |job: Option<&CronJob>| {
                let Some(job) = job else { return Check::NotYet("no such CronJob".to_owned()) };
                let seen = arguments(job);
                // The real pruner is started through a shell, so a flag may stand inside one argument.
                let all = flags.iter().all(|flag| seen.iter().any(|argument| argument.contains(flag)));
                if all { Check::Met(job.clone()) } else { Check::NotYet(format!("arguments {seen:?}")) }
            })
            .await
    }
}

#[given("the pruner keeps no image for its age")]
async fn keeps_nothing(world: &mut World) -> Step {
    world.disturbs("changing what the pruner keeps")?;
    let pruners: Api<ImagePruner> = Api::all(world.env.client.clone());
    world.made.push(Made::Restore {
        resource: kube::core::ApiResource::erase::<ImagePruner>(&()),
        name: names::CLUSTER.to_owned(),
        patch: json!({"spec": {"keepYoungerThanDuration": null}}),
    });
    let patch = Patch::Merge(json!({"spec": {"keepYoungerThanDuration": "0s"}}));
    pruners.patch(names::CLUSTER, &PatchParams::default(), &patch).await.tried("patching the ImagePruner")?;
    world.pruner_started_with(&["--keep-younger-than=0s"]).await.map(drop)
}

#[then(expr = "the image pruner is started with {string}")]
async fn started_with(world: &mut World, flag: String) -> Step {
    world.pruner_started_with(&[&flag]).await.map(drop)
}

#[when("the image pruner runs")]
async fn runs(world: &mut World) -> Step {
    let cron = world.pruner_started_with(&[]).await?;
    let template = cron.spec.map(|spec| spec.job_template).unwrap_or_default();
    let name = format!("{}-{}", names::PRUNER_CRON_JOB, world.id);
    world.will_make::<Job>(Some(names::REGISTRY_NAMESPACE), &name);
    let metadata = ObjectMeta { name: Some(name.clone()), ..template.metadata.unwrap_or_default() };
    let job = Job { metadata, spec: template.spec, status: None };
    let jobs: Api<Job> = world.in_registry_namespace();
    jobs.create(&PostParams::default(), &job).await.tried("starting the pruner outside its schedule")?;
    wait(format!("the job {name} to complete"), world.env.limits.rollout)
        .of("pruner")
        .object(&jobs, &name, |job: Option<&Job>| {
            let conditions = job.and_then(|job| job.status.as_ref()?.conditions.clone()).unwrap_or_default();
            let is = |type_| conditions.iter().any(|found| found.type_ == type_ && found.status == "True");
            match (is("Complete"), is("Failed")) {
                (true, _) => Check::Met(Ok(())),
                (_, true) => Check::Met(Err(format!("{conditions:?}"))),
                _ => Check::NotYet(format!("{:?}", job.and_then(|job| job.status.as_ref()))),
            }
        })
        .await?
        .map_err(|seen| Failure::fail(format!("running the job {name}"), "condition Complete", seen).of("pruner"))
}
