//! A machine without programs, downloads and Go: one clear error that names every way and tells what to install.
//! The search runs in a process of its own, since it is the environment that is taken away.

use std::process::Command;

use local_cluster::tool;

const HELPER: &str = "LOCAL_CLUSTER_TEST_LOCATE";

#[test]
fn nothing_at_hand_is_one_error_with_every_way_and_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let no_downloads = folder.path().join("downloads.yaml");
    std::fs::write(&no_downloads, "downloads: []").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_search_on_an_empty_machine", "--ignored", "--nocapture"])
        .env_clear()
        .env(HELPER, "1")
        .env("PATH", folder.path())
        .env("REGISTRY_CONFORMANCE_CACHE", folder.path().join("cache"))
        .env("REGISTRY_CONFORMANCE_DOWNLOADS", &no_downloads)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("error: etcd v3.6.8 could not be had. Tried:"), "{text}");
    for way in ["KUBEBUILDER_ASSETS: ", "PATH: ", "cache: ", "download: ", "build: cannot run go"] {
        assert!(text.contains(&format!("  - {way}")), "{way} is missing in {text}");
        assert!(text.contains(&format!("progress: etcd: {way}")), "{way} was not reported as it failed: {text}");
    }
    assert!(text.contains("install Go 1.26 or newer"), "{text}");
}

/// Not a test: the process that the test above starts.
#[tokio::test]
#[ignore = "started by nothing_at_hand_is_one_error_with_every_way_and_a_remedy"]
async fn a_search_on_an_empty_machine() {
    if std::env::var_os(HELPER).is_none() {
        return;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    match tool::locate(|line| println!("progress: {line}")).await {
        Ok(tools) => println!("found {tools:?}"),
        Err(error) => println!("error: {error}"),
    }
}
