//! `oc adm prune images`: removes images that nothing needs any more, from image streams, from the registry and from
//! the API. What is needed is decided in `graph`; this file asks, acts and reports.

mod graph;
mod reference;
mod registry;
mod survey;

use crate::command_line::{Arguments, Command, Flag, Takes, switch, value};
use crate::failure::Failure;
use crate::session::Session;
use crate::{get, print, workload};
use futures::future::FutureExt;
use graph::{Plan, Rules, StreamCut};
use http::Method;
use registry::Registry;
use std::time::Duration;
use survey::Survey;

const fn off_or_on(name: &'static str, about: &'static str) -> Flag {
    Flag { name, short: None, takes: Takes::Nothing, about }
}

pub const COMMAND: Command = Command {
    path: "adm prune images",
    usage: "[--confirm] [--keep-tag-revisions N] [--keep-younger-than DURATION]",
    about: "Remove images that nothing needs any more",
    flags: &[
        switch("confirm", None, "really remove; without it only tell"),
        value("keep-tag-revisions", None, "how many images of each tag's history to keep; 3 when absent"),
        value("keep-younger-than", None, "how young an image is kept in any case; 60m when absent"),
        off_or_on("all", "also images that were imported from other registries; the default"),
        off_or_on("prune-registry", "also remove layers and manifests from the registry; the default"),
        switch("prune-over-size-limit", None, "remove images larger than the limit ranges of their project allow"),
        switch("ignore-invalid-refs", None, "go on when a reference to an image cannot be read"),
        value("registry-url", None, "address of the registry"),
        value("certificate-authority", None, "file with the authorities of the registry"),
        switch("force-insecure", None, "do not check the registry's certificate"),
        value("num-workers", None, "how many removals at once; accepted, removals are made one by one"),
    ],
    flags_after_words: true,
    run: |session, args| run(session, args).boxed_local(),
};

const DEFAULT_REVISIONS: i64 = 3;
const DEFAULT_AGE: Duration = Duration::from_secs(60 * 60);

async fn run(session: &Session, args: &Arguments) -> Result<(), Failure> {
    if !args.words.is_empty() {
        return Err(Failure::usage("no arguments are allowed to this command"));
    }
    let rules = rules(args)?;
    let confirm = args.is_on("confirm");
    let survey = Survey::of(session, args.is_on("ignore-invalid-refs")).await?;
    let plan = graph::plan(&survey.images, &survey.streams, &survey.uses, &rules);
    if !confirm {
        eprintln!("Dry run enabled - no modifications will be made. Add --confirm to remove images");
    }
    let registry = match prunes_registry(args) && !plan.images.is_empty() {
        false => None,
        true => match args.text("registry-url").map(str::to_owned).or_else(|| survey.registry_host()) {
            Some(address) => Some(Registry::new(session, args, &address).await?),
            None => None,
        },
    };
    if let Some(registry) = registry.as_ref().filter(|_| confirm) {
        registry.ping().await?;
    }
    carry_out(session, &plan, registry.as_ref(), confirm).await
}

fn prunes_registry(args: &Arguments) -> bool {
    args.text("prune-registry").is_none() || args.is_on("prune-registry")
}

fn rules(args: &Arguments) -> Result<Rules, Failure> {
    let over_size = args.is_on("prune-over-size-limit");
    let (revisions, age) = (args.number("keep-tag-revisions")?, args.text("keep-younger-than"));
    if over_size && (revisions.is_some() || age.is_some()) {
        return Err(Failure::usage(
            "--prune-over-size-limit cannot be specified with --keep-tag-revisions nor --keep-younger-than.",
        ));
    }
    let revisions = revisions.unwrap_or(DEFAULT_REVISIONS);
    let revisions = usize::try_from(revisions)
        .map_err(|_| Failure::usage("--keep-tag-revisions must be greater than or equal to 0"))?;
    let age = age.map(workload::duration).transpose()?.unwrap_or(DEFAULT_AGE);
    let age = if over_size { Duration::ZERO } else { age };
    let since = jiff::Timestamp::now()
        .checked_sub(age)
        .map_err(|error| Failure::usage(format!("--keep-younger-than: {error}")))?;
    let all = args.text("all").is_none() || args.is_on("all");
    Ok(Rules { keep_revisions: revisions, keep_since: since, all, over_size })
}

/// Removes in the order in which an interruption leaves nothing that points nowhere: history, registry, image.
async fn carry_out(session: &Session, plan: &Plan, registry: Option<&Registry>, confirm: bool) -> Result<(), Failure> {
    let mut removed = 0;
    let mut failed = Vec::new();
    let mut kept_by_failure = std::collections::BTreeSet::new();
    for cut in &plan.streams {
        for (tag, digest) in &cut.items {
            print(&format!("Deleting istags {}/{}: {tag}: {digest}\n", cut.namespace, cut.name));
        }
        match act(confirm, cut_history(session, cut)).await {
            Ok(()) => removed += cut.items.len(),
            Err(failure) => {
                kept_by_failure.extend(cut.items.iter().map(|(_, digest)| digest.clone()));
                failed.push(failure);
            }
        }
    }
    if let Some(registry) = registry {
        for link in &plan.layer_links {
            print(&format!("Deleting layer link {} in repository {}\n", link.digest, link.repository));
            tally(act(confirm, registry.delete_layer_link(link)).await, &mut removed, &mut failed);
        }
        for link in &plan.manifest_links {
            print(&format!("Deleting manifest link {} in repository {}\n", link.digest, link.repository));
            tally(act(confirm, registry.delete_manifest(link)).await, &mut removed, &mut failed);
        }
        for blob in &plan.blobs {
            print(&format!("Deleting blob {blob}\n"));
            tally(act(confirm, registry.delete_blob(blob)).await, &mut removed, &mut failed);
        }
    }
    for image in plan.images.iter().filter(|image| !kept_by_failure.contains(*image)) {
        print(&format!("Deleting image {image}\n"));
        tally(act(confirm, delete_image(session, image)).await, &mut removed, &mut failed);
    }
    let would = if confirm { "deleted" } else { "would delete" };
    print(&format!("Summary: {would} {removed} objects\n"));
    get::report(failed)
}

async fn act(confirm: bool, action: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    if confirm { action.await } else { Ok(()) }
}

fn tally(end: Result<(), Failure>, removed: &mut usize, failed: &mut Vec<Failure>) {
    match end {
        Ok(()) => *removed += 1,
        Err(failure) => failed.push(failure),
    }
}

/// Takes entries out of a stream's history; the newest state is read again when another writer was faster.
async fn cut_history(session: &Session, cut: &StreamCut) -> Result<(), Failure> {
    let streams = session.catalogue().await?.served("imagestreams", "image.openshift.io").cloned().unwrap_or_default();
    let path = streams.object(Some(&cut.namespace), &cut.name);
    loop {
        let mut stream = match session.get(&path).await {
            Ok(stream) => stream,
            Err(failure) if failure.is_not_found() => return Ok(()),
            Err(failure) => return Err(failure),
        };
        let mut tags = stream["status"]["tags"].as_array().cloned().unwrap_or_default();
        for tag in &mut tags {
            let name = tag["tag"].as_str().unwrap_or_default().to_owned();
            if let Some(items) = tag["items"].as_array_mut() {
                items.retain(|item| {
                    let digest = item["image"].as_str().unwrap_or_default();
                    !cut.items.iter().any(|(tag, doomed)| *tag == name && doomed == digest)
                });
            }
        }
        tags.retain(|tag| {
            tag["items"].as_array().is_some_and(|items| !items.is_empty()) || tag["conditions"].is_array()
        });
        stream["status"]["tags"] = tags.into();
        match session.json(Method::PUT, &format!("{path}/status"), Some(&stream)).await {
            Err(failure) if failure.is_conflict() => {}
            other => return other.map(drop),
        }
    }
}

async fn delete_image(session: &Session, digest: &str) -> Result<(), Failure> {
    let images = session.catalogue().await?.served("images", "image.openshift.io").cloned().unwrap_or_default();
    match session.json(Method::DELETE, &images.object(None, digest), None).await {
        Err(failure) if !failure.is_not_found() => Err(failure),
        _ => Ok(()),
    }
}
