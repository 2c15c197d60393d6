//! The builder as a person calls it, with the mistakes that a person makes.

use std::path::Path;
use std::process::{Command, Output};

fn air_gap(cache: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_air-gap"))
        .args(args)
        .env("REGISTRY_CONFORMANCE_CACHE", cache)
        .env("PATH", "/absent")
        .output()
        .unwrap()
}

fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.matches("error: ").count(), 1, "one clear error: {text}");
    text
}

#[test]
fn a_machine_without_docker_is_told_what_to_install() {
    // The system's own folders are looked into as well, so this says something only where Docker is not installed.
    if ["/usr/sbin/dockerd", "/sbin/dockerd"].iter().any(|path| Path::new(path).exists()) {
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let text = refusal(&air_gap(cache.path(), &["engine", "start"]));
    assert!(text.contains("dockerd") && text.contains("apt-get install"), "{text}");
}

#[test]
fn a_folder_without_a_list_is_refused() {
    let cache = tempfile::tempdir().unwrap();
    let text = refusal(&air_gap(cache.path(), &["check", "/usr"]));
    assert!(text.contains("images.yaml") && text.contains("ci/air-gap/build --out"), "{text}");
}

#[test]
fn a_listed_archive_that_is_gone_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let list = "archives:\n  - file: node.tar\n    sha256: aa\n    size: 3\n    images: []\n";
    std::fs::write(cache.path().join("images.yaml"), list).unwrap();
    let text = refusal(&air_gap(cache.path(), &["check", &cache.path().display().to_string()]));
    assert!(text.contains("node.tar"), "{text}");
    std::fs::write(cache.path().join("node.tar"), "abc").unwrap();
    let text = refusal(&air_gap(cache.path(), &["check", &cache.path().display().to_string()]));
    assert!(text.contains("sha256") && text.contains("its list says"), "{text}");
}

#[test]
fn a_missing_program_for_nodes_says_how_to_build_it() {
    let cache = tempfile::tempdir().unwrap();
    let out = cache.path().join("out").display().to_string();
    let text = refusal(&air_gap(cache.path(), &["build", "--out", &out, "--helper", "/absent/kind-node"]));
    assert!(text.contains("cargo build -p kind-node"), "{text}");
}
