//! Waiting for the cluster: a watch, a condition, a deadline, and the last observation in the message. There is no
//! polling and no fixed sleep here; what cannot be watched is asked again with a growing pause by [`answers`].

use std::{collections::BTreeMap, fmt::Debug, future::Future, time::Duration};

use futures::{StreamExt, pin_mut};
use kube::{
    Api, Resource, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use crate::failure::Failure;

/// What a condition makes of what it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check<T = ()> {
    /// It holds; the value is handed to the step.
    Met(T),
    /// Not yet; the text is the observation that a deadline message ends with.
    NotYet(String),
}

impl Check<()> {
    /// `Met` when `holds`, else the observation.
    pub fn when(holds: bool, seen: impl FnOnce() -> String) -> Self {
        if holds { Self::Met(()) } else { Self::NotYet(seen()) }
    }
}

/// A wait, ready to be given a condition: what is waited for, for how long, and on which objects.
#[derive(Debug, Clone)]
pub struct Wait {
    what: String,
    deadline: Duration,
    component: Option<String>,
}

/// Starts a wait. `what` completes the sentence "waited 20s for …".
pub fn wait(what: impl Into<String>, deadline: Duration) -> Wait {
    Wait { what: what.into(), deadline, component: None }
}

impl Wait {
    /// Names the component whose log belongs to a failure of this wait.
    pub fn of(mut self, component: impl Into<String>) -> Self {
        self.component = Some(component.into());
        self
    }

    /// Watches one object by name until the condition holds. The condition sees `None` while the object is absent.
    pub async fn object<K, T>(
        self,
        api: &Api<K>,
        name: &str,
        mut condition: impl FnMut(Option<&K>) -> Check<T>,
    ) -> Result<T, Failure>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        self.watch(api, config, |objects: &BTreeMap<_, K>| condition(objects.values().next())).await
    }

    /// Watches all objects of `api` that carry `labels` (all when empty) until the condition over them holds.
    pub async fn objects<K, T>(
        self,
        api: &Api<K>,
        labels: &str,
        mut condition: impl FnMut(&[&K]) -> Check<T>,
    ) -> Result<T, Failure>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let mut config = watcher::Config::default();
        if !labels.is_empty() {
            config = config.labels(labels);
        }
        self.watch(api, config, |objects: &BTreeMap<_, K>| condition(&objects.values().collect::<Vec<_>>())).await
    }

    /// Watches for the whole window and fails at the first moment at which the condition stops holding: for promises
    /// of the form "it stays so". The condition must hold from the start.
    pub async fn stays<K>(
        self,
        api: &Api<K>,
        name: &str,
        mut condition: impl FnMut(Option<&K>) -> Check<()>,
    ) -> Result<(), Failure>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let window = self.deadline;
        let (what, component) = (self.what.clone(), self.component.clone());
        let mut observed = false;
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let broken = self
            .watch(api, config, |objects: &BTreeMap<_, K>| {
                observed = true;
                match condition(objects.values().next()) {
                    Check::Met(()) => Check::NotYet(String::new()),
                    Check::NotYet(seen) => Check::Met(seen),
                }
            })
            .await;
        match broken {
            Ok(seen) => {
                let failure = Failure::fail(
                    format!("watching for {window:?} that {what}"),
                    "it stays so for the whole window",
                    seen,
                );
                Err(Failure { component, ..failure })
            }
            Err(_) if observed => Ok(()),
            Err(failure) => Err(Failure { kind: crate::failure::Kind::Error, ..failure }),
        }
    }

    async fn watch<K, T>(
        self,
        api: &Api<K>,
        config: watcher::Config,
        mut condition: impl FnMut(&BTreeMap<(String, String), K>) -> Check<T>,
    ) -> Result<T, Failure>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let until = Instant::now() + self.deadline;
        let stream = watcher(api.clone(), config).default_backoff();
        pin_mut!(stream);
        let mut objects = BTreeMap::new();
        let mut fresh = BTreeMap::new();
        let mut last = String::from("nothing: the first list had not been answered");
        loop {
            let event = match timeout_at(until, stream.next()).await {
                Err(_) => return Err(self.ran_out(last)),
                Ok(None) => return Err(self.ran_out(format!("{last} (the watch ended)"))),
                Ok(Some(event)) => event,
            };
            match event {
                Ok(watcher::Event::Init) => {
                    fresh = BTreeMap::new();
                    continue;
                }
                Ok(watcher::Event::InitApply(object)) => {
                    fresh.insert(key(&object), object);
                    continue;
                }
                Ok(watcher::Event::InitDone) => objects = std::mem::take(&mut fresh),
                Ok(watcher::Event::Apply(object)) => {
                    objects.insert(key(&object), object);
                }
                Ok(watcher::Event::Delete(object)) => {
                    objects.remove(&key(&object));
                }
                Err(error) => {
                    last = format!("the watch was refused: {error}");
                    continue;
                }
            }
            match condition(&objects) {
                Check::Met(value) => return Ok(value),
                Check::NotYet(seen) => last = seen,
            }
        }
    }

    fn ran_out(self, seen: String) -> Failure {
        let failure = Failure::fail(format!("waited {:?} for {}", self.deadline, self.what), self.what, seen);
        Failure { component: self.component, ..failure }
    }
}

fn key<K: Resource>(object: &K) -> (String, String) {
    (object.meta().namespace.clone().unwrap_or_default(), object.name_any())
}

/// Asks again until the answer is right, for things that offer no watch (an address that must begin to answer).
/// Pauses grow from 20 ms to 250 ms; the last answer is in the message.
pub async fn answers<T, F, Fut>(wait: Wait, mut ask: F) -> Result<T, Failure>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Check<T>>,
{
    let until = Instant::now() + wait.deadline;
    let mut pause = Duration::from_millis(20);
    let mut last = String::from("no answer at all");
    loop {
        match timeout_at(until, ask()).await {
            Ok(Check::Met(value)) => return Ok(value),
            Ok(Check::NotYet(seen)) => last = seen,
            Err(_) => return Err(wait.ran_out(last)),
        }
        if Instant::now() + pause >= until {
            return Err(wait.ran_out(last));
        }
        // Nothing announces that an address begins to answer, so this is the one place that asks again by the clock.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}
