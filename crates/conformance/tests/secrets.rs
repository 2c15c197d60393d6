//! A run from outside: while it goes on nobody else can read what it keeps secret, and when it is over none of the
//! secrets it used stands in what it left. Secrets are looked for by their values, not by their form.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, Config, ResourceExt as _, api::ListParams, config::Kubeconfig};

/// Scenarios that log in, make a storage secret and put a wrong one.
const SELECTION: &str = "@STO-S3-SECRET or @ACC-LOGIN-TOKEN or @ACC-LOGIN-COLON or @EXP-DEFAULTROUTE-LOGIN";
/// Shorter values are no secrets that could be told from ordinary words.
const SHORTEST: usize = 16;

/// What was seen of a run while it went on.
#[derive(Default)]
struct Seen {
    /// Values, by what they are.
    secrets: BTreeSet<(String, String)>,
    /// Files that somebody else could read.
    open: BTreeSet<PathBuf>,
}

#[tokio::test]
async fn what_a_run_keeps_secret_is_its_owners_alone_and_stands_in_no_result() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let out = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut run = Command::new(env!("CARGO_BIN_EXE_registry-conformance"))
        .args(["run", "--lanes", "1", "--select", SELECTION, "--data"])
        .arg(&root)
        .arg("--out")
        .arg(out.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let seen = watch(&mut run, out.path()).await;
    let output = run.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");

    let kinds: BTreeSet<&str> = seen.secrets.iter().map(|(kind, _)| kind.split(' ').next().unwrap()).collect();
    for kind in ["token", "key", "Secret", "environment"] {
        assert!(kinds.contains(kind), "no {kind} was seen, so that nothing is shown of it; there were {kinds:?}");
    }
    assert_eq!(seen.open, BTreeSet::new(), "somebody else could read these");
    let results = fs::canonicalize(out.path().join("latest")).unwrap();
    let mut texts = vec![(PathBuf::from("the terminal"), said)];
    for file in files(&results) {
        texts.push((file.clone(), String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned()));
    }
    assert!(texts.len() > 3, "a run leaves events and reports");
    for (place, text) in &texts {
        for (what, value) in &seen.secrets {
            let form = forms(value).into_iter().find(|form| text.contains(form));
            assert!(form.is_none(), "{what} stands in {}", place.display());
        }
    }
}

/// Looks at a run again and again until it ends.
async fn watch(run: &mut Child, out: &Path) -> Seen {
    let mut seen = Seen::default();
    let ends = Instant::now() + Duration::from_secs(240);
    while run.try_wait().unwrap().is_none() {
        assert!(Instant::now() < ends, "the run does not end");
        if let Some(lane) = lane(out) {
            look_at_files(&lane, &mut seen);
            look_at_processes(&lane, &mut seen);
            look_at_cluster(&lane, &mut seen).await;
        }
        // Scenarios make and remove secrets; nothing announces them to somebody outside.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    seen
}

fn lane(out: &Path) -> Option<PathBuf> {
    let lane = fs::canonicalize(out.join("latest")).ok()?.join("lanes/1");
    lane.is_dir().then_some(lane)
}

/// Keys and tokens below the lane. What somebody else can reach is open; behind a folder of the owner's nothing is.
fn look_at_files(lane: &Path, seen: &mut Seen) {
    for folder in [lane, lane.parent().unwrap()] {
        if fs::metadata(folder).is_ok_and(|found| found.permissions().mode() & 0o077 != 0) {
            seen.open.insert(folder.to_owned());
        }
    }
    for file in files(lane) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let is_key = text.contains("PRIVATE KEY-----");
        let is_token = name == "token" || name.contains("tokens");
        if is_key || is_token || text.contains("sha256~") && name.contains("kubeconfig") {
            // Modes of a pod's own volumes are what the pod's manifest says; the folders above keep others out.
            let own = !file.components().any(|part| part.as_os_str() == "volumes");
            if own && fs::metadata(&file).is_ok_and(|found| found.permissions().mode() & 0o077 != 0) {
                seen.open.insert(file.clone());
            }
        }
        if is_key {
            // One line of the key is enough: whoever prints a key prints all of it.
            let line = text.lines().skip_while(|line| !line.contains("PRIVATE KEY")).nth(1);
            seen.secrets.extend(line.map(|line| (format!("key {}", file.display()), line.to_owned())));
        } else if name == "token" {
            seen.secrets.insert((format!("token {}", file.display()), text.trim().to_owned()));
        } else if is_token {
            let tokens = text.lines().filter_map(|line| line.split(',').next());
            seen.secrets.extend(tokens.map(|token| (format!("token of {name}"), token.to_owned())));
        }
    }
}

/// Keys that the run's processes were given by their environment.
fn look_at_processes(lane: &Path, seen: &mut Seen) {
    let lane = lane.display().to_string();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = fs::read(process.path().join("cmdline")) else { continue };
        if !String::from_utf8_lossy(&line).contains(&lane) {
            continue;
        }
        let Ok(environment) = fs::read(process.path().join("environ")) else { continue };
        for variable in String::from_utf8_lossy(&environment).split('\0') {
            let Some((name, value)) = variable.split_once('=') else { continue };
            if name.contains("SECRET") && value.len() >= SHORTEST && !value.starts_with('/') {
                seen.secrets.insert((format!("environment {name}"), value.to_owned()));
            }
        }
    }
}

/// The data of every Secret of the lane's cluster.
async fn look_at_cluster(lane: &Path, seen: &mut Seen) {
    let Ok(kubeconfig) = Kubeconfig::read_from(lane.join("command.kubeconfig")) else { return };
    let Ok(config) = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await else { return };
    let Ok(client) = Client::try_from(config) else { return };
    let Ok(Ok(secrets)) =
        tokio::time::timeout(Duration::from_secs(2), Api::<Secret>::all(client).list(&ListParams::default())).await
    else {
        return;
    };
    for secret in secrets {
        for (key, value) in secret.data.iter().flatten() {
            let Ok(value) = std::str::from_utf8(&value.0) else { continue };
            let public = key.ends_with(".crt") || key == "namespace" || key.ends_with("ACCESSKEY");
            let value = match value.contains("PRIVATE KEY-----") {
                true => value.lines().nth(1).unwrap_or_default(),
                false => value.trim(),
            };
            if !public && value.len() >= SHORTEST && !value.contains("-----BEGIN CERTIFICATE") {
                seen.secrets.insert((format!("Secret {} {key}", secret.name_any()), value.to_owned()));
            }
        }
    }
}

/// A value as it stands in texts: itself, in Base64 and with its lines escaped as in JSON.
fn forms(value: &str) -> [String; 3] {
    [value.to_owned(), STANDARD.encode(value), value.replace('\n', "\\n").replace('"', "\\\"")]
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            found.extend(files(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found
}
