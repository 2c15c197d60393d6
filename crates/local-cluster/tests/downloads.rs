//! The way by official downloads, against a server on this machine: the right archive is used and fetched once, every
//! other one is refused with its reason and the next way is tried. The search runs in a process of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use local_cluster::Tool;
use rstest::rstest;
use sha2::{Digest, Sha512};
use tempfile::TempDir;

const HELPER: &str = "LOCAL_CLUSTER_TEST_DOWNLOAD";

/// What the server does with a request.
#[derive(Clone, Copy)]
enum Serve {
    Whole,
    Truncated,
    Missing,
}

/// A server of one archive, with the paths it was asked for.
struct Mirror {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Mirror {
    fn start(archive: Vec<u8>, serve: Serve) -> Mirror {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                seen.lock().unwrap().push(request.split_whitespace().nth(1).unwrap_or_default().to_owned());
                let (status, sent) = match serve {
                    Serve::Whole => ("200 OK", archive.len()),
                    Serve::Truncated => ("200 OK", archive.len() / 2),
                    Serve::Missing => ("404 Not Found", 0),
                };
                let length = if sent == 0 { 0 } else { archive.len() };
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&archive[..sent]));
            }
        });
        Mirror { address, asked }
    }

    fn table(&self, folder: &Path, checksum: &str) {
        let text = format!(
            "downloads:\n  - url: http://{}/kubernetes.tar.gz\n    version: v1.36.0\n    arch: {}\n    checksum: {checksum}\n    programs:\n      kube-apiserver: server/bin/kube-apiserver\n      kube-scheduler: server/bin/kube-scheduler\n",
            self.address,
            std::env::consts::ARCH
        );
        std::fs::write(folder.join("table.yaml"), text).unwrap();
    }
}

/// An archive with two programs, and the folder it was made in.
fn archive() -> (TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let programs = folder.path().join("server/bin");
    std::fs::create_dir_all(&programs).unwrap();
    for name in ["kube-apiserver", "kube-scheduler", "another"] {
        std::fs::write(programs.join(name), format!("#!/bin/sh\necho {name}\n")).unwrap();
    }
    let made = Command::new("tar").arg("-czf").arg("a.tgz").arg("server").current_dir(folder.path()).status().unwrap();
    assert!(made.success());
    let bytes = std::fs::read(folder.path().join("a.tgz")).unwrap();
    (folder, bytes)
}

fn sha512(bytes: &[u8]) -> String {
    let hex: String = Sha512::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha512:{hex}")
}

/// Looks for two programs on a machine that has tar and nothing else, and returns what was said.
fn search(folder: &Path) -> String {
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    for name in ["tar", "gzip"] {
        let real = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
            .unwrap();
        let _ = std::os::unix::fs::symlink(real, bin.join(name));
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_search_with_a_table", "--ignored", "--nocapture"])
        .env_clear()
        .env(HELPER, "1")
        .env("PATH", &bin)
        .env("REGISTRY_CONFORMANCE_CACHE", folder.join("cache"))
        .env("REGISTRY_CONFORMANCE_DOWNLOADS", folder.join("table.yaml"))
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_published_archive_is_fetched_once_for_all_its_programs() {
    let (folder, bytes) = archive();
    let mirror = Mirror::start(bytes.clone(), Serve::Whole);
    mirror.table(folder.path(), &sha512(&bytes));
    let text = search(folder.path());
    let url = format!("http://{}/kubernetes.tar.gz", mirror.address);
    assert!(text.contains(&format!("downloading kube-apiserver, kube-scheduler v1.36.0 from {url}")), "{text}");
    assert!(text.contains("found kube-apiserver v1.36.0 by download"), "{text}");
    assert!(text.contains("found kube-scheduler v1.36.0 by cache"), "{text}");
    let again = search(folder.path());
    assert!(again.contains("found kube-apiserver v1.36.0 by cache"), "{again}");
    assert_eq!(*mirror.asked.lock().unwrap(), ["/kubernetes.tar.gz"]);
    let left: Vec<_> = std::fs::read_dir(folder.path().join("cache/work")).unwrap().collect();
    assert!(left.is_empty(), "the workshop was not tidied: {left:?}");
}

#[rstest]
#[case::wrong_checksum(Serve::Whole, Some("00"), ", published is sha512:00")]
#[case::truncated(Serve::Truncated, None, "/kubernetes.tar.gz: ")]
#[case::not_there(Serve::Missing, None, "404 Not Found")]
fn another_file_is_refused_with_its_reason_and_the_next_way_is_tried(
    #[case] serve: Serve,
    #[case] wrong: Option<&str>,
    #[case] reason: &str,
) {
    let (folder, bytes) = archive();
    let mirror = Mirror::start(bytes.clone(), serve);
    let published = wrong.map_or_else(|| sha512(&bytes), |digits| format!("sha512:{}", digits.repeat(64)));
    mirror.table(folder.path(), &published);
    let text = search(folder.path());
    let line = text.lines().find(|line| line.starts_with("progress: kube-apiserver: download: ")).unwrap_or_default();
    assert!(line.contains(reason), "{text}");
    assert!(text.contains("progress: kube-apiserver: build: cannot run go"), "{text}");
    assert!(!folder.path().join("cache/tools/kubernetes-v1.36.0").exists());
    assert!(text.contains("error: kube-apiserver"), "{text}");
}

#[test]
fn a_table_that_cannot_be_read_is_a_reason_too() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("table.yaml"), "downloads: [{url: x, checksum: md5:1}]").unwrap();
    let text = search(folder.path());
    assert!(text.contains("download: REGISTRY_CONFORMANCE_DOWNLOADS ("), "{text}");
}

/// Not a test: the process that the tests above start.
#[tokio::test]
#[ignore = "started by the tests of downloads"]
async fn a_search_with_a_table() {
    if std::env::var_os(HELPER).is_none() {
        return;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let wanted = [Tool::KubeApiserver, Tool::KubeScheduler];
    match local_cluster::tool::locate_all(&wanted, |line| println!("progress: {line}")).await {
        Ok(tools) => {
            tools.iter().for_each(|(tool, found)| println!("found {tool} {} by {}", found.version, found.origin));
        }
        Err(error) => println!("error: {error}"),
    }
}
