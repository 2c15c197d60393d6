//! A cluster that somebody else has prepared, judged as a stranger finds it: verdicts come out, red ones where it is
//! broken, and whatever happens to the run, the cluster is afterwards as it was.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use api::{
    condition::OperatorCondition,
    config::ImageConfig,
    imageregistry::{Config, ImagePruner, ManagementState},
    mirror::{ImageContentSourcePolicy, ImageDigestMirrorSet, ImageTagMirrorSet},
    names,
    route::Route,
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Secret, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    config::Kubeconfig,
    core::ApiResource,
    runtime::{conditions::Condition, wait::await_condition},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take that is waited for.
const LIMIT: Duration = Duration::from_secs(180);

/// Somebody's cluster, held by a process that knows nothing of the runs.
struct Theirs {
    process: Child,
    folder: TempDir,
    kubeconfig: PathBuf,
    router: String,
    client: Client,
}

impl Theirs {
    /// Starts it with the reference system and makes a registry of it that people use.
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut process = program(&folder.path().join("state"))
            .args(["cluster", "up", "theirs", "--system", "reference"])
            .stdout(File::create(&log).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ends = Instant::now() + LIMIT;
        let said = loop {
            let said = fs::read_to_string(&log).unwrap();
            if said.contains("entered at") && said.ends_with('\n') {
                break said;
            }
            assert!(process.try_wait().unwrap().is_none() && Instant::now() < ends, "{said}");
            // Its standard output is all that it tells.
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let after = |mark: &str| said.split(mark).nth(1).unwrap().lines().next().unwrap().to_owned();
        let kubeconfig = PathBuf::from(after("KUBECONFIG="));
        let read = Kubeconfig::read_from(&kubeconfig).unwrap();
        let config = kube::Config::from_custom_kubeconfig(read, &Default::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        let theirs = Self { process, folder, kubeconfig, router: after("entered at "), client };
        theirs.prepare().await;
        theirs
    }

    async fn prepare(&self) {
        let configs: Api<Config> = Api::all(self.client.clone());
        until(&configs, names::CLUSTER, |config: Option<&Config>| config.is_some()).await;
        let theirs = json!({"spec": {
            "managementState": "Managed", "replicas": 1, "logLevel": "Debug", "defaultRoute": true,
            // A claim that the operator makes and would remove with the configuration, and all images with it.
            "requests": {"read": {"maxRunning": 7}}, "storage": {"pvc": {"claim": ""}},
        }});
        configs.patch(names::CLUSTER, &PatchParams::default(), &Patch::Merge(theirs)).await.unwrap();
        let images: Api<ImageConfig> = Api::all(self.client.clone());
        let authorities = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "their-authorities"}, "data": {},
        });
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), names::CONFIG_NAMESPACE);
        maps.create(&PostParams::default(), &serde_json::from_value(authorities).unwrap()).await.unwrap();
        let trusted = json!({"spec": {"additionalTrustedCA": {"name": "their-authorities"}}});
        images.patch(names::CLUSTER, &PatchParams::default(), &Patch::Merge(trusted)).await.unwrap();
        let mirrors: Api<ImageDigestMirrorSet> = Api::all(self.client.clone());
        let set = json!({
            "apiVersion": "config.openshift.io/v1", "kind": "ImageDigestMirrorSet", "metadata": {"name": "theirs"},
            "spec": {"imageDigestMirrors": [{"source": "registry.their.example/a", "mirrors": ["mirror.their.example/a"]}]},
        });
        mirrors.create(&PostParams::default(), &serde_json::from_value(set).unwrap()).await.unwrap();
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), names::REGISTRY_NAMESPACE);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": names::USER_STORAGE_SECRET},
            "stringData": {"REGISTRY_STORAGE_S3_ACCESSKEY": "theirs"},
        });
        secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
        self.serves().await;
    }

    /// Waits until the registry serves as it is configured.
    async fn serves(&self) {
        let configs: Api<Config> = Api::all(self.client.clone());
        until(&configs, names::CLUSTER, |config: Option<&Config>| {
            let Some(config) = config else { return false };
            let Some(status) = &config.status else { return false };
            let is = |type_, wanted| {
                OperatorCondition::find(&status.conditions, type_).is_some_and(|found| found.status == wanted)
            };
            status.observed_generation == config.metadata.generation
                && is("Available", "True")
                && is("Progressing", "False")
        })
        .await;
    }

    /// What people rely on: what every object says, by its name, and which names there are.
    async fn holdings(&self) -> BTreeMap<String, String> {
        let registry = Some(names::REGISTRY_NAMESPACE);
        let mut all = BTreeMap::new();
        self.add::<Config>(None, &mut all).await;
        self.add::<ImagePruner>(None, &mut all).await;
        self.add::<ImageConfig>(None, &mut all).await;
        self.add::<ImageDigestMirrorSet>(None, &mut all).await;
        self.add::<ImageTagMirrorSet>(None, &mut all).await;
        self.add::<ImageContentSourcePolicy>(None, &mut all).await;
        self.add::<Route>(registry, &mut all).await;
        self.add::<Secret>(registry, &mut all).await;
        self.add::<PersistentVolumeClaim>(registry, &mut all).await;
        self.add::<Deployment>(registry, &mut all).await;
        self.add::<ConfigMap>(Some(names::CONFIG_NAMESPACE), &mut all).await;
        self.add::<ClusterRole>(None, &mut all).await;
        self.add::<ClusterRoleBinding>(None, &mut all).await;
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        // One that is going away is emptied by its controller in its own time.
        let namespaces = namespaces.list(&ListParams::default()).await.unwrap();
        let stay = namespaces.iter().filter(|namespace| namespace.metadata.deletion_timestamp.is_none());
        all.extend(stay.map(|namespace| (format!("Namespace {}", namespace.name_any()), String::new())));
        all
    }

    async fn add<K: kube::Resource<DynamicType = ()>>(
        &self,
        namespace: Option<&str>,
        all: &mut BTreeMap<String, String>,
    ) {
        let kind = ApiResource::erase::<K>(&());
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &kind),
            None => Api::all_with(self.client.clone(), &kind),
        };
        for object in api.list(&ListParams::default()).await.unwrap() {
            let mut data = object.data.clone();
            data.as_object_mut().unwrap().remove("status");
            // What the operator derives for a registry that was taken away and came back: a certificate is a new one,
            // and the pods' template says which.
            let said = match kind.kind.as_str() {
                "Secret" if object.name_any() != names::USER_STORAGE_SECRET => String::new(),
                "Deployment" => data["spec"]["replicas"].to_string(),
                _ => data.to_string(),
            };
            all.insert(format!("{} {}", kind.kind, object.name_any()), said);
        }
    }

    /// A kubeconfig whose token comes from a program, so that it does not stand in the file.
    fn without_token(&self) -> PathBuf {
        let mut kubeconfig: Value = serde_yaml::from_str(&fs::read_to_string(&self.kubeconfig).unwrap()).unwrap();
        let credential = json!({
            "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
            "status": {"token": kubeconfig["users"][0]["user"]["token"]},
        });
        kubeconfig["users"][0]["user"] = json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": "echo", "args": [credential.to_string()],
            "interactiveMode": "Never",
        }});
        let path = self.folder.path().join("exec.kubeconfig");
        fs::write(&path, kubeconfig.to_string()).unwrap();
        path
    }

    /// A kubeconfig of somebody who may nothing.
    async fn stranger(&self) -> PathBuf {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), "default");
        let token = accounts.create_token_request("default", &PostParams::default(), &Default::default()).await;
        let token = token.unwrap().status.unwrap().token;
        let mut kubeconfig: Value = serde_yaml::from_str(&fs::read_to_string(&self.kubeconfig).unwrap()).unwrap();
        kubeconfig["users"][0]["user"] = json!({"token": token});
        let path = self.folder.path().join("stranger.kubeconfig");
        fs::write(&path, kubeconfig.to_string()).unwrap();
        path
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(i32::try_from(self.process.id()).unwrap()), Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

async fn until<K, C>(api: &Api<K>, name: &str, condition: C)
where
    K: Clone + std::fmt::Debug + Send + serde::de::DeserializeOwned + kube::Resource<DynamicType = ()> + 'static,
    C: Condition<K>,
{
    tokio::time::timeout(LIMIT, await_condition(api.clone(), name, condition))
        .await
        .expect("it takes too long")
        .unwrap();
}

/// Our program, with a state folder of its own.
fn program(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_registry-conformance"));
    command.env("REGISTRY_CONFORMANCE_STATE", state).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    command
}

/// Those who judge, on their own machine.
struct Judges(TempDir);

impl Judges {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = program(&self.0.path().join("state"));
        command.args(words).arg("--out").arg(self.0.path().join("out"));
        command
    }

    fn run(&self, kubeconfig: &Path, select: &str, more: &[&str]) -> Command {
        let mut command = self.command(&["run", "--target", "cluster", "--system", "installed", "--select", select]);
        command.arg("--kubeconfig").arg(kubeconfig).args(more);
        command
    }

    /// A copy of their own.
    fn kubeconfig(&self, theirs: &Theirs) -> PathBuf {
        let path = self.0.path().join("kubeconfig");
        fs::copy(&theirs.kubeconfig, &path).unwrap();
        path
    }

    fn gc(&self) -> Output {
        program(&self.0.path().join("state")).args(["cluster", "gc"]).output().unwrap()
    }

    /// What is kept of clusters until they are as they were.
    fn kept(&self) -> usize {
        fs::read_dir(self.0.path().join("state/ledger/held")).map_or(0, Iterator::count)
    }

    fn report(&self) -> Value {
        let text = fs::read_to_string(self.0.path().join("out/latest/report.yaml")).unwrap();
        serde_yaml::from_str(&text).unwrap()
    }

    fn verdict(&self, name: &str) -> (String, String) {
        let report = self.report();
        let scenarios = report["scenarios"].as_array().unwrap();
        let found = scenarios.iter().find(|one| one["name"] == name).unwrap();
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        (text("verdict"), text("reason"))
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Starts a run and sends it a signal as soon as it has changed the registry configuration.
async fn ended_in_mid_run(theirs: &Theirs, judges: &Judges, signal: Signal) -> Option<i32> {
    let configs: Api<Config> = Api::all(theirs.client.clone());
    let uid = configs.get(names::CLUSTER).await.unwrap().metadata.uid;
    let more = ["--allow-disruption", "--router", &theirs.router];
    let mut run = judges.run(&judges.kubeconfig(theirs), "@OPR-PATCH-NOTFOUND or @TRU-CA-POD-ANCHORS", &more);
    let mut run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Theirs is gone: its operator is stopped soon after, or is already.
    until(&configs, names::CLUSTER, move |config: Option<&Config>| {
        config.is_none_or(|config| config.metadata.uid != uid)
    })
    .await;
    kill(Pid::from_raw(i32::try_from(run.id()).unwrap()), signal).unwrap();
    run.wait().unwrap().code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_others_is_judged_and_stays_as_it_was() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let theirs = Theirs::start().await;
    let judges = Judges(tempfile::tempdir().unwrap());
    let before = theirs.holdings().await;
    assert!(before.contains_key("Route default-route") && before.contains_key("ImageDigestMirrorSet theirs"));

    // Without disturbing anybody.
    let quiet = "@ACC-LOGIN-TOKEN or @ACC-ROLE-VIEWER or @MIR-NODE-CONF or @OPR-MGMT-REMOVED-REGISTRY";
    let output = judges.run(&theirs.without_token(), quiet, &[]).output().unwrap();
    for name in ["An access token logs in", "registry-viewer lets a user pull", "The mirrors reach every node"] {
        assert_eq!(judges.verdict(name).0, "pass", "{name}: {}", text(&output));
    }
    let (verdict, reason) = judges.verdict("Removed takes the registry away");
    assert!(verdict == "notRun" && reason.contains("--allow-disruption"), "{verdict}: {reason}");
    assert_eq!(theirs.holdings().await, before);
    assert_eq!(judges.kept(), 0);

    // Everything goes: configuration, operator, registry, trust.
    let loud = "@OPR-MGMT-REMOVED-REGISTRY or @OPR-PATCH-NOTFOUND or @EXP-DEFAULTROUTE-LOGIN or @TRU-CA-POD-ANCHORS";
    let more = ["--allow-disruption", "--router", &theirs.router];
    let output = judges.run(&theirs.kubeconfig, loud, &more).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(theirs.holdings().await, before);
    assert_eq!(judges.kept(), 0);

    // Two at a time would take each other's changes for theirs.
    let more = ["--allow-disruption"];
    let mut first = judges.run(&theirs.kubeconfig, "@OPR-MGMT-UNMANAGED", &more);
    let mut first = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let configs: Api<Config> = Api::all(theirs.client.clone());
    until(&configs, names::CLUSTER, |config: Option<&Config>| {
        config.is_some_and(|config| config.spec.management_state == Some(ManagementState::Unmanaged))
    })
    .await;
    let output = judges.run(&theirs.kubeconfig, "@ACC-LOGIN-COLON", &[]).output().unwrap();
    assert!(output.status.code() == Some(2) && text(&output).contains("judges it already"), "{}", text(&output));
    assert_eq!(first.wait().unwrap().code(), Some(0));
    assert_eq!(theirs.holdings().await, before);

    // Interrupted: it is put right at once.
    assert_eq!(ended_in_mid_run(&theirs, &judges, Signal::SIGINT).await, Some(2));
    assert_eq!(theirs.holdings().await, before);
    assert_eq!(judges.kept(), 0);

    // Killed: what is left over is put right by `cluster gc`, and by the next run.
    ended_in_mid_run(&theirs, &judges, Signal::SIGKILL).await;
    assert_ne!(theirs.holdings().await, before);
    assert_eq!(judges.kept(), 1);
    fs::remove_file(judges.0.path().join("kubeconfig")).unwrap();
    let output = judges.gc();
    assert!(output.status.code() == Some(2) && text(&output).contains("gone for good"), "{}", text(&output));
    assert_eq!(judges.kept(), 1);
    judges.kubeconfig(&theirs);
    let output = judges.gc();
    assert!(output.status.success() && text(&output).contains("is as it was before"), "{}", text(&output));
    assert_eq!(theirs.holdings().await, before);
    ended_in_mid_run(&theirs, &judges, Signal::SIGKILL).await;
    assert_ne!(theirs.holdings().await, before);
    let output = judges.run(&theirs.kubeconfig, "@ACC-LOGIN-COLON", &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(theirs.holdings().await, before);
    assert_eq!(judges.kept(), 0);

    // A broken promise of theirs is a Fail.
    let roles: Api<ClusterRole> = Api::all(theirs.client.clone());
    let rules = Patch::Merge(json!({"rules": []}));
    roles.patch("registry-viewer", &PatchParams::default(), &rules).await.unwrap();
    let output = judges.run(&theirs.kubeconfig, "@ACC-ROLE-VIEWER or @ACC-LOGIN-TOKEN", &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(judges.verdict("registry-viewer lets a user pull").0, "fail");
    assert_eq!(judges.verdict("An access token logs in").0, "pass");

    refused(&theirs, &judges).await;
}

/// Each cluster that cannot be judged is one clear error before anything is done.
async fn refused(theirs: &Theirs, judges: &Judges) {
    let path = |name: &str| theirs.folder.path().join(name);
    fs::write(path("malformed"), "clusters: [").unwrap();
    fs::write(path("empty"), "apiVersion: v1\nkind: Config\ncurrent-context: a\n").unwrap();
    let nowhere: Value = serde_yaml::from_str(&fs::read_to_string(&theirs.kubeconfig).unwrap()).unwrap();
    let mut unknown = nowhere.clone();
    unknown["users"][0]["user"] = json!({"token": "never-issued"});
    fs::write(path("unknown"), unknown.to_string()).unwrap();
    let mut nowhere = nowhere;
    nowhere["clusters"][0]["cluster"]["server"] = json!("https://127.0.0.1:1");
    fs::write(path("nowhere"), nowhere.to_string()).unwrap();
    let stranger = theirs.stranger().await;
    let cases = [
        (path("missing"), "No such file"),
        (path("malformed"), "reading the kubeconfig"),
        (path("empty"), "no context of that name"),
        (path("nowhere"), "see whether the cluster runs"),
        (path("unknown"), "log in again"),
        (stranger, "role cluster-admin"),
    ];
    let judge = |kubeconfig: &Path, system: &str| {
        let mut command = judges.command(&["run", "--target", "cluster", "--system", system, "--select", "@access"]);
        command.arg("--kubeconfig").arg(kubeconfig).output().unwrap()
    };
    let check = |output: &Output, expected: &str| {
        let said = text(output);
        assert_eq!(output.status.code(), Some(2), "{expected}: {said}");
        assert!(said.contains(expected) && said.contains("next: ") && said.lines().count() <= 4, "{expected}: {said}");
    };
    for (kubeconfig, expected) in cases {
        check(&judge(&kubeconfig, "installed"), expected);
    }
    check(&judge(&theirs.kubeconfig, "reference"), "nothing is installed in a cluster that was there before");
    check(&judges.command(&["run", "--target", "cluster", "--system", "installed"]).output().unwrap(), "--kubeconfig");
    let mut prove = judges.command(&["prove", "--target", "cluster", "--system", "installed"]);
    check(&prove.arg("--kubeconfig").arg(&theirs.kubeconfig).output().unwrap(), "prove with --target embedded");
    check(&judges.command(&["run", "--allow-disruption"]).output().unwrap(), "--target cluster");
    let deployments: Api<Deployment> = Api::namespaced(theirs.client.clone(), names::REGISTRY_NAMESPACE);
    deployments.delete(names::OPERATOR_DEPLOYMENT, &DeleteParams::default()).await.unwrap();
    check(&judge(&theirs.kubeconfig, "installed"), "there is no Deployment");
}
