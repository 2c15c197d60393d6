//! Bad input: each is one clear error with file and line where there is one, and exit code 2, before anything is
//! started. The real binary is called, on a small data folder of its own.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use rstest::rstest;
use tempfile::TempDir;

const REQUIREMENTS: &str = "subject: operator
requirements:
  - id: OPR-PARAM-REPLICAS
    title: replicas sets the number of registry pods
    statement: The number of replicas is a parameter of the operator's configuration.
    kind: parameter
    versions: [\"4.6\"]
    sources: [{document: \"4.6\", section: \"2.4\"}]
    observable: the Deployment's replicas
    components: [operator]
    testable: full
  - id: OPR-LATER
    title: something else
    statement: Something else.
    kind: state
    versions: [\"4.6\"]
    sources: [{document: \"4.6\", section: \"2.5\"}]
    observable: something
    components: [operator]
    testable: full
    planned: it needs a cluster with two zones
";

const FEATURE: &str = "@operator
Feature: Parameters

  @OPR-PARAM-REPLICAS
  Scenario: It has replicas
    Given the registry is Managed with emptyDir storage
";

const SYSTEM: &str = "name: reference\ntitle: A system\nlimits: {step: 30s}\n";

/// A data folder in which everything fits.
fn data() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("requirements/operator.yaml", REQUIREMENTS),
        ("features/operator/parameters.feature", FEATURE),
        ("systems/reference.yaml", SYSTEM),
    ] {
        write(folder.path(), name, text);
    }
    folder
}

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn call(data: &Path, args: &[&str]) -> Output {
    command(data, args).output().unwrap()
}

fn command(data: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_registry-conformance"));
    command.args(args).current_dir(data).env_clear().env("CONFORMANCE_DATA", data);
    for kept in ["PATH", "HOME"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command
}

/// Expects exit code 2 and an error text that holds `expected`.
fn refused(output: &Output, expected: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains(expected), "{error}");
    assert_eq!(output.status.code(), Some(2), "{error}");
}

#[rstest]
#[case::flag(&["run", "--selct", "@operator"], "unexpected argument '--selct' found")]
#[case::command(&["rum"], "unrecognized subcommand 'rum'")]
#[case::system(&["run", "--system", "refrence"], "error: there is no system \"refrence\"; did you mean reference?")]
#[case::target(&["run", "--target", "moon"], "error: there is no target \"moon\"; there are: embedded (")]
#[case::requirement(
    &["run", "--select", "@OPR-PARAM-REPLICA"],
    "error: nothing is tagged @OPR-PARAM-REPLICA: did you mean OPR-PARAM-REPLICAS?"
)]
#[case::tag(&["run", "--select", "@operater"], "error: nothing is tagged @operater: did you mean operator?")]
#[case::expression(&["run", "--select", "@operator and"], "it ends where a tag, a place or a name was expected")]
#[case::place(&["run", "--select", "parameters.feature:99"], "no scenario stands at parameters.feature:99")]
#[case::nothing(
    &["run", "--select", "@OPR-LATER"],
    "nothing is selected by @OPR-LATER: OPR-LATER has no scenario (it needs a cluster with two zones)"
)]
#[case::version(&["run", "--docs-version", "4.7"], "no requirement names documentation version 4.7; did you mean 4.6?")]
#[case::lanes(&["run", "--lanes", "0"], "0 is not in 1..=64")]
#[case::fault(&["prove", "--fault", "gone"], "there is no fault \"gone\"")]
#[case::no_faults(&["prove"], "no fault aims at a scenario selected by everything")]
#[case::run(&["report", "yesterday"], "name a folder that `run` has written, or `latest`")]
#[case::data(&["run", "--data", "nowhere"], "cannot read nowhere/features")]
fn an_unknown_name_is_one_clear_error(#[case] args: &[&str], #[case] expected: &str) {
    refused(&call(data().path(), args), expected);
}

#[rstest]
#[case::feature(
    "features/operator/parameters.feature",
    "@operator\nFeature: P\n\n  Scenario: S\n    Whenever it rains\n",
    "features/operator/parameters.feature:5: is not Gherkin: `Whenever it rains` is no step"
)]
#[case::step(
    "features/operator/parameters.feature",
    "Feature: P\n\n  @OPR-PARAM-REPLICAS\n  Scenario: S\n    Given the registry is Managd with emptyDir storage\n",
    "features/operator/parameters.feature:5: no step is defined for \"Given the registry is Managd with emptyDir storage\"; the nearest is: Given the registry is Managed"
)]
#[case::system(
    "systems/reference.yaml",
    "name: reference\ntitle: A\nlimtis: {}\n",
    "systems/reference.yaml:3: unknown field `limtis`"
)]
#[case::backend("backends/s3.yaml", "name: s3\nkind: s4\n", "backends/s3.yaml:2: ")]
#[case::requirement(
    "requirements/operator.yaml",
    "subject: operator\nrequirements:\n  - id: OPR-A\n    titel: t\n",
    "requirements/operator.yaml:4: "
)]
#[case::deviation(
    "systems/reference.yaml",
    "name: reference\ntitle: A\nknownDeviations:\n  - requirement: OPR-PARAM-REPLICA\n    reason: r\n    source: s\n",
    "systems/reference.yaml:4: there is no requirement OPR-PARAM-REPLICA; did you mean OPR-PARAM-REPLICAS?"
)]
fn a_wrong_file_is_an_error_with_its_line(#[case] file: &str, #[case] text: &str, #[case] expected: &str) {
    let data = data();
    write(data.path(), file, text);
    refused(&call(data.path(), &["run"]), expected);
    assert!(!data.path().join("conformance-results").exists(), "nothing was begun");
}

#[rstest]
#[case::absent(None, "systems/reference.yaml:4: cannot read fixtures/operator.yaml: No such file or directory")]
#[case::not_yaml(Some("kind: [\n"), "fixtures/operator.yaml:")]
#[case::no_object(Some("replicas: 1\n"), "fixtures/operator.yaml:1: document 1: ")]
fn a_manifest_that_is_missing_or_wrong_is_noticed_before_anything_is_started(
    #[case] manifest: Option<&str>,
    #[case] expected: &str,
) {
    let data = data();
    let system = "name: reference\ntitle: A system\nmanifests:\n  - fixtures/operator.yaml\n";
    write(data.path(), "systems/reference.yaml", system);
    if let Some(text) = manifest {
        write(data.path(), "fixtures/operator.yaml", text);
    }
    for args in [&["run"][..], &["plan"], &["catalog", "check"]] {
        refused(&call(data.path(), args), expected);
    }
    assert!(!data.path().join("conformance-results").exists(), "nothing was begun");
}

#[test]
fn a_port_of_pods_that_something_else_took_is_an_error_and_no_fail() {
    let data = data();
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {{containers: [{{name: a, ports: [{{containerPort: {port}}}]}}]}}\n"
    );
    write(data.path(), "fixtures/operator.yaml", &manifest);
    write(data.path(), "systems/reference.yaml", "name: reference\ntitle: A\nmanifests: [fixtures/operator.yaml]\n");
    let output = call(data.path(), &["run"]);
    refused(&output, &format!("something listens on port {port} of all addresses of this machine"));
    let report = call(data.path(), &["report", "latest", "--format", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["totals"]["notRun"], 1, "nothing was begun, and the report says so");
}

/// `head` and its like: the reader is gone before the first word, so that every write meets a closed pipe.
#[rstest]
#[case::steps(&["steps"], 0)]
#[case::steps_json(&["steps", "--format", "json"], 0)]
#[case::plan(&["plan"], 0)]
#[case::catalog(&["catalog"], 0)]
#[case::catalog_json(&["catalog", "--format", "json"], 0)]
#[case::check(&["catalog", "check"], 1)]
#[case::doctor(&["doctor"], 0)]
#[case::help(&["run", "--help"], 0)]
#[case::refused(&["run", "--system", "moon"], 2)]
fn a_reader_that_has_gone_does_not_change_the_exit_code(#[case] args: &[&str], #[case] expected: i32) {
    let data = data();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = command(data.path(), args);
    let status = command.stdout(writer.try_clone().unwrap()).stderr(writer).status().unwrap();
    // Whether programs of a control plane are there is the machine's affair, not this test's.
    if args == ["doctor"] && status.code() == Some(2) {
        return;
    }
    assert_eq!(status.code(), Some(expected), "{status}");
}

#[test]
fn an_output_that_cannot_be_written_is_one_clear_error() {
    let data = data();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command(data.path(), &["steps"]).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    refused(&output.wait_with_output().unwrap(), "error: cannot write to standard output: No space left on device");
}

#[test]
fn a_wrong_fault_is_an_error_with_its_line() {
    let data = data();
    write(data.path(), "faults/deaf.yaml", "id: deaf\ntitle: t\nseam: operator-api\nrequirments: []\nrules: []\n");
    refused(&call(data.path(), &["prove"]), "faults/deaf.yaml:4: unknown field `requirments`");
}

#[test]
fn results_that_cannot_be_written_are_one_clear_error() {
    let data = data();
    let results = data.path().join("results");
    fs::write(&results, "a file where a folder should be").unwrap();
    let output = call(data.path(), &["run", "--out", "results"]);
    refused(&output, "error: cannot write results to results/");
    refused(&output, "choose another folder with --out");
    // Root may write anywhere, so the read-only folder is tried only as somebody else.
    if nix::unistd::geteuid().is_root() {
        return;
    }
    fs::remove_file(&results).unwrap();
    fs::create_dir(&results).unwrap();
    fs::set_permissions(&results, fs::Permissions::from_mode(0o555)).unwrap();
    refused(&call(data.path(), &["run", "--out", "results"]), "error: cannot write results to results/");
}

#[test]
fn check_finds_what_does_not_fit() {
    let data = data();
    let output = call(data.path(), &["catalog", "check"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(
        text.lines().next(),
        Some("features/operator/parameters.feature:5: no fault turns \"It has replicas\" red; add one to faults/")
    );
    assert!(text.ends_with("2 requirements, 1 scenarios, 0 faults, 1 systems: 1 findings\n"), "{text}");
}

#[test]
fn catalog_prints_fixed_names() {
    let data = data();
    let output = call(data.path(), &["catalog", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["requirements"], 2);
    assert_eq!(json["testable"], 2);
    assert_eq!(json["shown"], 1);
    assert_eq!(json["proven"], 0);
    assert_eq!(json["bySubject"]["operator"]["shown"], 1);
    assert_eq!(json["entries"][1]["id"], "OPR-LATER");
    assert_eq!(json["entries"][1]["reason"], "it needs a cluster with two zones");
    assert_eq!(json["entries"][0]["scenarios"][0], "features/operator/parameters.feature:5");
}
