//! Systems that come as programs in a folder. The folder here holds this executable under the names of OpenShift's
//! programs, which the reference answers to, and programs that cannot run.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use rstest::rstest;
use tempfile::TempDir;

const OPERATOR: &str = "cluster-image-registry-operator";

/// A folder with the reference under the names of real programs.
fn folder(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        symlink(env!("CARGO_BIN_EXE_registry-conformance"), folder.path().join(name)).unwrap();
    }
    folder
}

fn program(folder: &Path, name: &str, text: &str, mode: u32) {
    let path = folder.join(name);
    let _ = fs::remove_file(&path);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

fn call(folder: &Path, words: &[&str], select: &str) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(env!("CARGO_BIN_EXE_registry-conformance"));
    command.args(words).arg("--data").arg(root).args(["--system", "openshift", "--lanes", "1", "--select", select]);
    command.arg("--bin-dir").arg(folder).arg("--out").arg(folder.join("results"));
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn stand_ins_are_judged_like_the_programs_they_stand_in_for() {
    let folder = folder(&[OPERATOR, "image-registry"]);
    let output = call(folder.path(), &["run"], "login.feature or name~\"readOnly refuses pushes\"");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn what_is_missing_stops_only_what_needs_it() {
    let folder = folder(&[OPERATOR, "dockerregistry"]);
    let output = call(folder.path(), &["plan"], "@mirroring or name~\"An access token logs in\"");
    let text = text(&output);
    assert!(
        text.contains("holds no machine-config-controller, which is the node-renderer of system openshift"),
        "{text}"
    );
    assert!(text.contains("holds no oc, which is the cli of system openshift"), "{text}");
    assert!(text.contains(": 1 scenarios in 1 lanes"), "{text}");
}

#[test]
fn without_the_operator_what_it_is_not_needed_for_runs_all_the_same() {
    let folder = folder(&["machine-config-controller"]);
    fs::create_dir(folder.path().join("templates")).unwrap();
    let output = call(folder.path(), &["plan"], "mirror_sets.feature or name~\"An access token logs in\"");
    let text = text(&output);
    assert!(text.contains("holds no cluster-image-registry-operator, which is the operator"), "{text}");
    assert!(text.contains("The mirrors reach every node  [MIR-NODE-CONF]"), "{text}");
}

#[test]
fn a_renderer_without_its_templates_renders_nothing() {
    let folder = folder(&[OPERATOR, "machine-config-controller"]);
    let text = text(&call(folder.path(), &["plan"], "mirror_sets.feature"));
    assert!(text.contains("holds no templates, which the node-renderer of system openshift needs"), "{text}");
}

#[test]
fn an_empty_folder_is_refused() {
    let folder = folder(&[]);
    let output = call(folder.path(), &["run"], "login.feature");
    assert!(text(&output).contains("neither does any other of"), "{}", text(&output));
    assert_eq!(output.status.code(), Some(2));
}

#[rstest]
#[case::not_executable("#!/bin/sh\n", 0o644, "it is not executable")]
#[case::no_program("hello", 0o755, "it is neither an ELF program nor a script")]
#[case::another_machine("\x7fELF\x01\x02\x01aaaaaaaaaaabb", 0o755, "it is a program for ELF machine")]
fn what_cannot_run_here_is_refused_before_anything_starts(
    #[case] content: &str,
    #[case] mode: u32,
    #[case] expected: &str,
) {
    let folder = folder(&["dockerregistry"]);
    program(folder.path(), OPERATOR, content, mode);
    let output = call(folder.path(), &["run"], "login.feature");
    assert!(text(&output).contains(expected), "{}", text(&output));
    assert_eq!(output.status.code(), Some(2));
    assert!(!folder.path().join("results").exists(), "nothing was begun");
}

/// Says its version as the real one does, then does as the script says.
fn renderer(folder: &Path, script: &str) {
    let version = "echo 'I1121 07:00:00.1 1 bootstrap.go:40] Version: v1 (abc)' >&2; test $# = 1 && exit 255";
    program(folder, "machine-config-controller", &format!("#!/bin/sh\n{version}\n{script}\n"), 0o755);
    let _ = fs::create_dir(folder.join("templates"));
}

#[test]
fn what_the_renderer_renders_comes_onto_every_node() {
    let folder = folder(&[]);
    renderer(
        folder.path(),
        r#"pool=$(grep -ho 'node-role.kubernetes.io/[a-z]*' "$5/pool.json" | cut -d/ -f2)
mkdir -p "$7/machine-configs"
grep -q mirror.example.com/team "$5"/imagedigestmirrorset-*.json && table='%5B%5Bregistry%5D%5D%0Aprefix%3D%22%22%0Alocation%3D%22registry.example.com/team%22%0A%5B%5Bregistry.mirror%5D%5D%0Alocation%3D%22mirror.example.com/team%22%0Apull-from-mirror%3D%22digest-only%22%0A'
cat > "$7/machine-configs/rendered-$pool-$$.yaml" <<END
metadata: {name: rendered-$pool-$$}
spec: {config: {storage: {files: [{path: /etc/containers/registries.conf, contents: {source: "data:,$table"}}]}}}
END"#,
    );
    let output = call(folder.path(), &["run"], "name~\"The mirrors reach every node\"");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[rstest]
#[case::unknown_flag("echo 'Error: unknown flag: --templates' >&2; exit 1", "unknown flag", "exit status: 1")]
#[case::hangs("exec sleep 600", "bootstrap --templates", "it did not end within 15 s and was killed")]
fn a_renderer_that_does_not_work_is_an_error_with_its_last_words(
    #[case] script: &str,
    #[case] log: &str,
    #[case] why: &str,
) {
    let folder = folder(&[]);
    renderer(folder.path(), script);
    let output = call(folder.path(), &["run"], "name~\"The mirrors reach every node\"");
    let text = text(&output);
    for expected in [log, why, "starting the node-renderer as"] {
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(!text.contains("FAIL"), "{text}");
}

#[rstest]
#[case::unknown_flag("echo 'unknown flag: --files' >&2; exit 2", "unknown flag: --files", "exit status 2")]
#[case::never_ready("echo waiting; exec sleep 600", "waiting", "it did not report on ClusterOperator image-registry")]
fn a_program_that_ends_or_hangs_is_an_error_with_its_last_words(
    #[case] script: &str,
    #[case] log: &str,
    #[case] why: &str,
) {
    let folder = folder(&["dockerregistry"]);
    program(folder.path(), OPERATOR, &format!("#!/bin/sh\n{script}\n"), 0o755);
    let began = Instant::now();
    let output = call(folder.path(), &["run"], "name~\"An access token logs in\"");
    let text = text(&output);
    for expected in [log, why, OPERATOR] {
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(!text.contains("FAIL"), "{text}");
    // The component's own limit ended it, not the end of the program, which sleeps for ten minutes.
    assert!(began.elapsed() < Duration::from_secs(590), "{:?}", began.elapsed());
}
