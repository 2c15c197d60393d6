//! What goes wrong around a kind run: each is one clear error and exit code 2, and the evidence is there. The real binary
//! is called; a client of an engine and a kind that answer from a script stand for what a machine may have.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output},
};

use rstest::rstest;
use serde_json::Value;
use tempfile::TempDir;

/// The label by which kind knows the containers of the cluster that a run would make.
const LABEL: &str = "label=io.x-k8s.kind.cluster=registry-conformance";

const REQUIREMENTS: &str = "subject: storage
requirements:
  - id: STO-S3-SECRET
    title: a secret gives access
    statement: A secret gives access to the bucket.
    kind: parameter
    versions: [\"4.6\"]
    sources: [{document: \"4.6\", section: \"2.4\"}]
    observable: the bucket
    components: [operator]
    testable: full
";
const FEATURE: &str = "@storage
Feature: Storage

  @STO-S3-SECRET
  Scenario: It stores
    Given the registry is Managed with emptyDir storage

  @STO-S3-SECRET @backend-azure
  Scenario: It stores in Azure
    Given the registry is Managed with emptyDir storage
";
const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: operator}
spec: {containers: [{name: operator, image: registry-conformance.local/operator}]}
";
const AZURE: &str = "name: azure-container
kind: azure
title: Azure
region: westeurope
container:
  image: example.com/azurite:1@sha256:0000000000000000000000000000000000000000000000000000000000000000
  archive: registry-conformance.local/azurite:1
  port: 10000
  args: []
";

/// A machine with an engine, kind and a folder of images, and a data folder in which everything fits.
struct Machine {
    root: TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { root: tempfile::tempdir().unwrap() };
        for (name, text) in [
            ("requirements/storage.yaml", REQUIREMENTS),
            ("features/storage/s.feature", FEATURE),
            ("systems/reference.yaml", "name: reference\ntitle: A system\nmanifests: [fixtures/pod.yaml]\n"),
            ("fixtures/pod.yaml", POD),
            ("fixtures/platform/platform.yaml", &POD.replace("operator", "platform")),
            ("kind-config/default.yaml", "kind: Cluster\nnodes: [{role: control-plane}, {role: worker}]\n"),
            ("backends/azure-container.yaml", AZURE),
        ] {
            machine.write(name, text);
        }
        machine.program("kind", "case \"$1\" in --version) echo kind version 0.33.0;; esac");
        machine.engine("");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A program of PATH that writes down what it was asked.
    fn program(&self, name: &str, script: &str) {
        let asked = self.path("asked");
        self.write(
            &format!("bin/{name}"),
            &format!("#!/bin/sh\necho \"{name} $*\" >> {}\n{script}\n", asked.display()),
        );
        fs::set_permissions(self.path("bin").join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// An engine without images, but for these cases of what it is asked.
    fn engine(&self, cases: &str) {
        let script = format!(
            "case \"$*\" in
                {cases}
                'version '*) echo 29.0.0;;
                'network inspect '*) echo '127.0.0.1 127.0.0.0/8';;
                'volume inspect '*) echo {};;
                'image inspect '*) echo 'no such image' >&2; exit 1;;
            esac",
            self.root.path().display()
        );
        self.program("docker", &script);
    }

    /// A kind that keeps the configuration it is given, and then fails with these words.
    fn kind_fails(&self, words: &str) {
        let kept = self.path("kind.yaml");
        let script = format!(
            "case \"$1\" in --version) echo kind version 0.33.0; exit;; esac
            while [ $# -gt 0 ]; do [ \"$1\" != --config ] || cp \"$2\" {}; shift; done
            echo 'ERROR: failed to create cluster: {words}' >&2; exit 1",
            kept.display()
        );
        self.program("kind", &script);
    }

    /// An archive that a list says is something else, and the list.
    fn images(&self, names: &str) {
        self.write("images/one.tar", "not what the list says");
        let list = format!(
            "archives:\n- {{file: one.tar, sha256: \"{}\", size: 22, images: [{{id: \"sha256:1\", names: [{names}]}}]}}\n",
            "0".repeat(64)
        );
        self.write("images/images.yaml", &list);
    }

    fn call(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_registry-conformance"));
        command.args(args).current_dir(self.root.path()).env_clear();
        command.env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()));
        for (name, folder) in [("DATA", "."), ("OUT", "results")] {
            command.env(format!("CONFORMANCE_{name}"), self.path(folder));
        }
        // Neither what earlier runs of this machine left, nor what they have in their cache, is this test's affair.
        for folder in ["HOME", "REGISTRY_CONFORMANCE_STATE", "REGISTRY_CONFORMANCE_CACHE"] {
            command.env(folder, self.path("state"));
        }
        command.output().unwrap()
    }

    fn run(&self, args: &[&str]) -> Output {
        self.call(&[&["run", "--target", "kind"], args].concat())
    }

    fn asked(&self) -> String {
        fs::read_to_string(self.path("asked")).unwrap_or_default()
    }

    /// The newest run as its report has it.
    fn report(&self) -> Value {
        let report = self.call(&["report", "latest", "--format", "json"]);
        serde_json::from_slice(&report.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&report.stderr)))
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Expects exit code 2 and one error that says all of this.
fn refused(output: &Output, expected: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{}", text(output));
    assert_eq!(error.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{error}");
    for expected in expected {
        assert!(error.contains(expected), "{expected:?} is missing in {error}");
    }
}

#[test]
fn without_a_client_of_an_engine() {
    let machine = Machine::new();
    fs::remove_file(machine.path("bin/docker")).unwrap();
    // A machine that has Docker elsewhere on PATH is asked with the folder of this test alone.
    let mut command = Command::new(env!("CARGO_BIN_EXE_registry-conformance"));
    command.args(["run", "--target", "kind"]).current_dir(machine.root.path()).env_clear();
    command.env("PATH", machine.path("bin")).env("CONFORMANCE_DATA", machine.root.path());
    command.env("REGISTRY_CONFORMANCE_STATE", machine.path("state"));
    refused(&command.output().unwrap(), &["docker is not on this machine's PATH", "--target embedded"]);
}

#[rstest]
#[case::that_is_silent(
    "'version '*) echo 'Cannot connect to the Docker daemon at unix:///run/d.sock. Is the docker daemon running?' >&2; exit 1;;",
    "Cannot connect to the Docker daemon at unix:///run/d.sock"
)]
#[case::that_forbids(
    "'version '*) echo 'permission denied while trying to connect to the Docker daemon socket' >&2; exit 1;;",
    "permission denied while trying to connect"
)]
fn with_an_engine(#[case] cases: &str, #[case] expected: &str) {
    let machine = Machine::new();
    machine.engine(cases);
    // Also when only scenarios are asked for that need a storage product.
    for selected in ["@storage", "@backend-azure"] {
        let output = machine.run(&["--select", selected]);
        refused(&output, &["finding a container engine", expected, "start its daemon"]);
        assert!(machine.report()["totals"]["notRun"].as_u64() >= Some(1), "the record says that nothing ran");
    }
}

#[test]
fn with_a_cluster_of_that_name_that_somebody_else_made() {
    let machine = Machine::new();
    machine.engine(&format!("*\"--filter {LABEL}\"*) echo theirs-control-plane;;"));
    let output = machine.run(&[]);
    refused(&output, &["somebody else has a cluster of that name (theirs-control-plane)", "it is left alone"]);
    let asked = machine.asked();
    for word in ["delete", " rm ", "theirs", "create", "stop", "kill"] {
        assert!(!asked.contains(word), "{word:?} was asked for: {asked}");
    }
}

#[rstest]
#[case::without_a_list(None, "images has no images.yaml; make the folder with `ci/air-gap/build --out")]
#[case::without_the_node(
    Some("registry-conformance.local/other:1"),
    "the image registry-conformance.local/kind-node is in none of the archives"
)]
#[case::that_was_changed(Some("registry-conformance.local/kind-node:v1"), "it was damaged or changed on its way")]
fn with_a_folder_of_images(#[case] names: Option<&str>, #[case] expected: &str) {
    let machine = Machine::new();
    fs::create_dir(machine.path("images")).unwrap();
    if let Some(names) = names {
        machine.images(names);
    }
    refused(&machine.run(&["--images", "images"]), &[expected]);
    assert!(!machine.asked().contains("docker load"), "what is not whole is not loaded: {}", machine.asked());
    assert_eq!(machine.report()["totals"]["notRun"], 2);
}

#[test]
fn with_an_archive_that_is_gone() {
    let machine = Machine::new();
    machine.images("registry-conformance.local/kind-node:v1");
    fs::remove_file(machine.path("images/one.tar")).unwrap();
    refused(&machine.run(&["--images", "images"]), &["images/one.tar", "No such file"]);
}

/// Answers of an engine that has the cluster `mine`, of two nodes, of which these run.
fn mine(running: &str) -> String {
    format!(
        "*cluster=mine*status=running*) echo '{running}';;
        *cluster=mine*role=control-plane*) echo mine-1;;
        *cluster=mine*role=worker*) echo mine-2;;
        *cluster=mine*role=external*) ;;
        *cluster=mine*) echo 'mine-1\nmine-2';;
        'port mine-1 6443/tcp') echo 127.0.0.1:9;;
        'exec mine-1 cat /etc/kubernetes/admin.conf') echo '{{\"apiVersion\": \"v1\", \"clusters\": [{{\"name\": \"c\", \"cluster\": {{}}}}], \"contexts\": [{{\"name\": \"c\", \"context\": {{\"cluster\": \"c\", \"user\": \"u\"}}}}], \"users\": [{{\"name\": \"u\", \"user\": {{}}}}], \"current-context\": \"c\"}}';;
        inspect*) echo kind;;"
    )
}

#[rstest]
#[case::that_nobody_made("*.Label*) echo 'yours\nyours\nhers';;", &[], "it has hers, yours")]
#[case::where_there_is_none("", &[], "the engine has no kind cluster at all")]
#[case::of_which_a_node_stands_still(&mine("mine-1"), &[], "its container mine-2 does not run")]
#[case::that_does_not_answer(&mine("mine-1\nmine-2"), &[], "its API server says: ")]
#[case::and_another_to_make("", &["--kind-config", "default"], "--kind-config says how a cluster is made")]
fn with_a_running_cluster(#[case] engine: &str, #[case] more: &[&str], #[case] expected: &str) {
    let machine = Machine::new();
    machine.engine(engine);
    let output = machine.run(&[&["--cluster", "mine"], more].concat());
    refused(&output, &["using the running kind cluster mine", expected]);
    let asked = machine.asked();
    for word in ["network create", " rm ", "exec mine-1 sh", "docker load", "kind create"] {
        assert!(!asked.contains(word), "{word:?} was asked for: {asked}");
    }
}

/// A storage product whose image is not in the folder is a capability that is not there, told beforehand.
#[test]
fn with_a_folder_that_lacks_a_storage_product() {
    let machine = Machine::new();
    machine.images("registry-conformance.local/kind-node:v1");
    let plan = machine.call(&["plan", "--target", "kind", "--images", "images"]);
    let plan = text(&plan);
    assert!(plan.contains("the archives of --images lack registry-conformance.local/azurite:1"), "{plan}");
    machine.images("\"registry-conformance.local/kind-node:v1\", \"registry-conformance.local/azurite:1\"");
    assert!(!text(&machine.call(&["plan", "--target", "kind", "--images", "images"])).contains("not run"));
}

#[rstest]
#[case::a_taken_port(
    "docker run error: Bind for 127.0.0.1:6443 failed: port is already allocated",
    "another program has the port"
)]
#[case::another_taken_port(
    "docker run error: listen tcp4 127.0.0.1:6443: bind: address already in use",
    "another program has the port"
)]
#[case::a_full_disk("docker run error: write /var/lib/docker/tmp: no space left on device", "free disk space")]
#[case::an_image_that_is_nowhere("failed to pull image \"kindest/node\": manifest unknown", "--images DIR")]
#[case::a_digest_that_differs(
    "failed to pull image \"kindest/node\": failed to verify: unexpected digest sha256:1",
    "--images DIR"
)]
#[case::an_engine_that_stops("Cannot connect to the Docker daemon at unix:///run/d.sock", "start the Docker daemon")]
fn when_kind_meets(#[case] words: &str, #[case] expected: &str) {
    let machine = Machine::new();
    machine.kind_fails(words);
    let output = machine.run(&["--select", "not @backend-azure"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(words) && said.contains(expected), "{said}");
    let place = machine.path("results").canonicalize().unwrap().join("latest/logs/lane-1/kind.log");
    assert!(fs::read_to_string(&place).unwrap().contains(words), "what kind said stays in {}", place.display());
    let report = machine.report();
    assert_eq!(report["totals"]["error"], 1, "an Error and no Fail: {report}");
    // What was made before is removed: the run's own network and volume, by its label.
    assert!(machine.asked().contains("docker network ls --quiet --filter label=registry-conformance.run="));
}

/// The one list is what kind and the engine are asked for, and nothing else.
#[test]
fn no_image_is_asked_for_that_the_list_does_not_name() {
    let machine = Machine::new();
    machine.write(
        "kind-config/default.yaml",
        "kind: Cluster\nnodes: [{role: control-plane}, {role: worker, image: \"example.com/node:1@sha256:ab\"}]\n",
    );
    machine.kind_fails("nothing");
    machine.run(&["--select", "not @backend-azure"]);
    let output = machine.call(&["plan", "--target", "kind", "--images", "--format", "json"]);
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let listed: Vec<&str> = list.as_array().unwrap().iter().filter_map(|image| image["image"].as_str()).collect();
    let pulled: Vec<&str> =
        listed.iter().copied().filter(|image| !image.starts_with("registry-conformance.local/")).collect();
    assert!(pulled.iter().all(|image| image.contains("@sha256:")), "{pulled:?}");
    assert!(listed.contains(&"registry-conformance.local/operator"), "{listed:?}");
    assert!(listed.contains(&"registry-conformance.local/platform"), "{listed:?}");

    let config: Value = serde_yaml::from_str(&fs::read_to_string(machine.path("kind.yaml")).unwrap()).unwrap();
    let nodes: Vec<&str> =
        config["nodes"].as_array().unwrap().iter().map(|node| node["image"].as_str().unwrap()).collect();
    assert_eq!(nodes.len(), 2);
    assert!(nodes.iter().all(|image| listed.contains(image)), "{nodes:?} are not all among {listed:?}");
    let asked = machine.asked();
    for line in asked.lines().filter(|line| line.starts_with("docker ")) {
        let word = line.split_whitespace().nth(1).unwrap();
        assert!(!["pull", "run", "create", "build", "import"].contains(&word), "{line}");
    }
    assert!(!asked.contains("--image "), "kind is told its images by the configuration alone: {asked}");
}
