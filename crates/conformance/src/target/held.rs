//! What a cluster of others holds, kept on disk from before the first scenario until it is there again. A run that was
//! killed leaves it behind; the next run against the cluster, or `cluster gc`, takes away what scenarios made and puts
//! back what they changed.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use api::{condition::OperatorCondition, imageregistry::Config, names};
use harness::{
    failure::{Failure, Kind, Tried as _, chain},
    limit,
    tenancy::{Journal, ObjectName},
    wait::{Check, answers, wait},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use local_cluster::{ledger::ProcessIdentity, secret_file};
use serde_json::{Value, json};

use super::{
    holding::{self, Entry, Holding, Saved, line, path, read},
    kubeconfig, records, survey,
};

/// How long the operator may take to act on the configuration that was put back, also where no system says so.
const SETTLED: Duration = Duration::from_secs(180);
/// The least time an object is given to be put back, also when others have used it up.
const LEAST: Duration = Duration::from_secs(5);

/// What the cluster holds that scenarios may change, and what they made in it.
pub(super) struct Held {
    client: Client,
    holding: Holding,
    made: Mutex<Vec<ObjectName>>,
    path: PathBuf,
    file: Mutex<File>,
}

impl Held {
    /// Writes down what the cluster holds now.
    ///
    /// # Errors
    /// When it cannot be read or written down; nothing may then be changed.
    pub(super) async fn take(client: &Client, kubeconfig: &Path, server: &str, cluster: &str) -> Result<Self, Failure> {
        let tried = "writing down what the cluster holds";
        refuse_two(cluster)?;
        let owner = ProcessIdentity::of(std::process::id())
            .ok_or_else(|| Failure::error(tried, "this process is not in /proc"))?;
        let holding = Holding {
            owner,
            kubeconfig: kubeconfig.to_owned(),
            server: server.to_owned(),
            available: holding::available(client).await?,
            saved: holding::saved(client).await?,
        };
        let path = path(cluster);
        secret_file::make_private_folder(&holding::folder()).tried(tried)?;
        // Written whole and then renamed: half of what the cluster held would be worse than nothing.
        secret_file::write(&path, line(&Entry::Held(holding.clone())).as_bytes()).tried(tried)?;
        Self::open(client.clone(), holding, vec![], path)
    }

    fn open(client: Client, holding: Holding, made: Vec<ObjectName>, path: PathBuf) -> Result<Self, Failure> {
        let file = OpenOptions::new().append(true).open(&path).tried(format!("opening {}", path.display()))?;
        Ok(Self { client, holding, made: Mutex::new(made), path, file: Mutex::new(file) })
    }

    /// Puts back what a killed run has changed in this cluster, and says whose it was; nothing when there is nothing.
    ///
    /// # Errors
    /// When another run that lives judges the cluster, or something cannot be put back; what was saved stays then.
    pub(super) async fn recover(client: &Client, cluster: &str) -> Result<Option<String>, Failure> {
        refuse_two(cluster)?;
        let path = path(cluster);
        let Some((holding, made)) = read(&path)? else { return Ok(None) };
        let server = holding.server.clone();
        Self::open(client.clone(), holding, made, path)?.release(SETTLED).await?;
        Ok(Some(server))
    }

    /// How many objects scenarios have made so far.
    pub(super) fn mark(&self) -> usize {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Forgets the objects made after a mark, which are gone.
    pub(super) fn forget(&self, after: usize) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).truncate(after);
        self.append(&Entry::Gone { after });
    }

    /// Keeps the operator from removing a storage that it manages together with the configuration (operator source
    /// pkg/operator/finalizer.go:26-136, main). What it is told here is among what is put back.
    ///
    /// # Errors
    /// When the configuration cannot be read or changed.
    pub(super) async fn protect_storage(&self) -> Result<(), Failure> {
        let tried = "protecting the storage of the registry";
        let configs: Api<Config> = Api::all(self.client.clone());
        let Some(config) = configs.get_opt(names::CLUSTER).await.tried(tried)? else { return Ok(()) };
        let storage = serde_json::to_value(&config.spec.storage).tried(tried)?;
        let lasting = storage.as_object().is_some_and(|storage| !storage.is_empty()) && storage["emptyDir"].is_null();
        if !lasting || storage["managementState"] == "Unmanaged" {
            return Ok(());
        }
        let patch = json!({"spec": {"storage": {"managementState": "Unmanaged"}}});
        configs.patch(names::CLUSTER, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop).tried(tried)
    }

    /// Puts back what differs from what the cluster held, and waits until the operator has acted on it. Returns what it
    /// was.
    ///
    /// # Errors
    /// When something cannot be put back within the limit.
    pub(super) async fn put_back(&self, within: Duration) -> Result<Vec<String>, Failure> {
        let until = Instant::now() + within;
        let (mut changed, mut first) = (vec![], None);
        for saved in &self.holding.saved {
            // Whatever one object is up to, the others are tried.
            let left = Duration::from_secs(until.saturating_duration_since(Instant::now()).as_secs()).max(LEAST);
            match self.put_one_back(saved, left).await {
                Ok(false) => continue,
                Ok(true) => changed.push(saved.name.to_string()),
                Err(failure) => drop(first.get_or_insert(failure)),
            }
            if saved.name.resource.kind == "Config" && first.is_none() {
                first = self.settled(left).await.err();
            }
        }
        match first {
            None => Ok(changed),
            Some(failure) => Err(self.unfinished(failure)),
        }
    }

    async fn put_one_back(&self, saved: &Saved, within: Duration) -> Result<bool, Failure> {
        let name = &saved.name;
        let api = name.api(&self.client);
        let put_back = answers(wait(format!("{name} to be as it was before"), within), || async {
            let outcome = match api.get_opt(&name.name).await {
                Ok(None) => api.create(&PostParams::default(), &saved.object()).await,
                Ok(Some(now)) if now.metadata.deletion_timestamp.is_some() => {
                    return Check::NotYet("it is being deleted".to_owned());
                }
                Ok(Some(now)) if holding::body(&now) == saved.body => return Check::Met(false),
                Ok(Some(mut now)) => {
                    now.data = Value::Object(saved.body.clone());
                    api.replace(&name.name, &PostParams::default(), &now).await
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(_) => Check::Met(true),
                Err(error) => Check::NotYet(words(&error)),
            }
        });
        put_back.await.map_err(|failure| {
            let tried = format!("putting {name} back for {}", limit::text(within));
            Failure::error(tried, failure.seen.unwrap_or_default())
        })
    }

    /// Waits until the operator has acted on the configuration and the registry is as available as it was.
    async fn settled(&self, within: Duration) -> Result<(), Failure> {
        let configs: Api<Config> = Api::all(self.client.clone());
        wait("the operator to act on the configuration that was put back", within)
            .of("operator")
            .object(&configs, names::CLUSTER, |config: Option<&Config>| {
                let Some(config) = config else { return Check::NotYet("no configuration".to_owned()) };
                let status = config.status.as_ref();
                let observed = status.and_then(|status| status.observed_generation) >= config.metadata.generation;
                let conditions = status.map_or(&[][..], |status| &status.conditions);
                let is = |type_| OperatorCondition::find(conditions, type_).map(|found| found.status.clone());
                let was_available = self.holding.available.as_deref() == Some("True");
                let available = !was_available
                    || is("Available").as_deref() == Some("True") && is("Progressing").as_deref() == Some("False");
                Check::when(observed && available, || format!("observed: {observed}, Available: {:?}", is("Available")))
            })
            .await
    }

    /// Takes away what scenarios made and is still there, puts everything back, and removes the file.
    ///
    /// # Errors
    /// When something cannot be taken away or put back within the limit; the file stays then.
    pub(super) async fn release(self, within: Duration) -> Result<(), Failure> {
        let made = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        let mut first = None;
        for object in made.iter().rev() {
            match object.api(&self.client).delete(&object.name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => {
                    first.get_or_insert(Failure::error(format!("taking away {object}"), words(&error)));
                }
                Ok(_) => {}
            }
        }
        self.put_back(within).await?;
        if let Some(failure) = first {
            return Err(self.unfinished(failure));
        }
        std::fs::remove_file(&self.path).tried(format!("removing {}", self.path.display()))
    }

    fn unfinished(&self, failure: Failure) -> Failure {
        Failure { kind: Kind::Error, ..failure }.next(format!(
            "run `registry-conformance cluster gc` once the cluster answers; what it held is in {}",
            self.path.display()
        ))
    }

    fn append(&self, entry: &Entry) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(line(entry).as_bytes()) {
            tracing::error!(%error, path = %self.path.display(), "what a scenario makes could not be written down");
        }
    }
}

impl Journal for Held {
    fn will_make(&self, object: ObjectName) {
        self.append(&Entry::Made { object: object.clone() });
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(object);
    }
}

/// Puts back what killed runs have changed in any cluster: the servers of those that are as they were, and what could not be
/// put back.
pub(super) async fn recover_all() -> (Vec<String>, Vec<Failure>) {
    let (mut clusters, mut failures) = (vec![], vec![]);
    for path in records(&holding::folder(), holding::SUFFIX) {
        match recover_file(&path).await {
            Ok(server) => clusters.extend(server),
            Err(failure) => failures.push(failure),
        }
    }
    (clusters, failures)
}

async fn recover_file(path: &Path) -> Result<Option<String>, Failure> {
    let Some((holding, made)) = read(path)?.filter(|(holding, _)| !holding.owner.is_alive()) else { return Ok(None) };
    let server = holding.server.clone();
    let client = way_back(&holding, path).await.map_err(|failure| {
        let tried = format!("putting back what a killed run has changed in {server}");
        Failure::error(tried, format!("{}: {}", failure.tried, failure.seen.unwrap_or_default())).next(format!(
            "make {} lead to the cluster again; if the cluster is gone for good, remove {}",
            holding.kubeconfig.display(),
            path.display()
        ))
    })?;
    Held::open(client, holding, made, path.to_owned())?.release(SETTLED).await?;
    Ok(Some(server))
}

/// A client for the very cluster of the file: where a kubeconfig leads can have changed.
async fn way_back(holding: &Holding, file: &Path) -> Result<Client, Failure> {
    let access = kubeconfig::read(&holding.kubeconfig).await?;
    let client = kubeconfig::client(&access)?;
    let cluster = survey::identity(&client, &access).await?;
    if file.file_stem().is_some_and(|stem| stem == cluster.as_str()) {
        return Ok(client);
    }
    let tried = format!("asking {} which cluster it is", access.server());
    Err(Failure::error(tried, format!("it is another one ({cluster})")))
}

/// Two runs in one cluster would each take what the other has changed for what the cluster held.
fn refuse_two(cluster: &str) -> Result<(), Failure> {
    match read(&path(cluster))? {
        Some((holding, _)) if holding.owner.is_alive() => {
            let seen = format!("process {} judges it already", holding.owner.pid);
            Err(Failure::error(format!("judging the cluster at {}", holding.server), seen)
                .next("wait until that run has ended, or stop it with Ctrl-C"))
        }
        _ => Ok(()),
    }
}

/// What the API server says, without the form in which it says it.
fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => chain(other),
    }
}
