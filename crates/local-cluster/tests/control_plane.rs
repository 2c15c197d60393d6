//! A real control plane, started and stopped: who may do what, what is noticed, and that nothing stays behind.
//! The programs are found as for users; with a cold cache the first run builds them.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use local_cluster::ledger::ProcessIdentity;
use local_cluster::{ControlPlane, ControlPlaneOptions, Ledger, PodNetwork, Tools, ledger, tool};
use nix::sys::signal::Signal;

/// Tells the helper test below that it is the owner which shall be killed, and where to work.
const OWNER_FOLDER: &str = "LOCAL_CLUSTER_TEST_OWNER_FOLDER";

async fn tools() -> Tools {
    // A second call only finds the provider that the first installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tool::locate(|line| eprintln!("{line}")).await.expect("the programs can be found or built")
}

async fn start(dir: &Path, tools: Tools) -> ControlPlane {
    let network = PodNetwork::lease().expect("a free pod network");
    ControlPlane::start(ControlPlaneOptions::new(dir, tools, network)).await.expect("a control plane that starts")
}

async fn status(plane: &ControlPlane, token: &str, path: &str) -> u16 {
    let authority = std::fs::read(plane.cluster_ca()).unwrap();
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(&authority).unwrap()])
        .build()
        .unwrap();
    let answer = client.get(format!("{}{path}", plane.api_url())).bearer_auth(token).send().await.unwrap();
    answer.status().as_u16()
}

fn pids(plane: &ControlPlane) -> Vec<ProcessIdentity> {
    plane.children().iter().map(|child| ProcessIdentity::of(child.pid()).expect("a running child")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_control_planes_serve_their_own_users_and_leave_nothing() {
    let tools = tools().await;
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let first = start(&folder.path().join("first"), tools.clone()).await;
    eprintln!("ready after {:?}", started.elapsed());
    let second = start(&folder.path().join("second"), tools).await;
    assert_ne!(first.network().number(), second.network().number());

    let (admin, plain) = (&first.users()[0], &first.users()[1]);
    assert_eq!((admin.name.as_str(), plain.name.as_str()), ("kubeadmin", "user-01"));
    assert_eq!(status(&first, &admin.token, "/api/v1/nodes").await, 200);
    assert_eq!(status(&first, &admin.token, "/api/v1/namespaces/default").await, 200);
    assert_eq!(status(&first, &plain.token, "/api/v1/nodes").await, 403);
    assert_eq!(status(&first, "sha256~stranger", "/api/v1/nodes").await, 401);
    assert_eq!(status(&second, &admin.token, "/api/v1/nodes").await, 401, "tokens belong to one control plane");
    let through_the_doorstep = std::net::TcpStream::connect((
        first.network().listen_address(255, 1),
        first.api_url().rsplit_once(':').unwrap().1.parse::<u16>().unwrap(),
    ));
    assert!(through_the_doorstep.is_ok(), "the endpoint of the Service kubernetes leads to the server");

    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(first.kubeconfig()).unwrap().mode() & 0o777, 0o600);
    let children: Vec<ProcessIdentity> = pids(&first).into_iter().chain(pids(&second)).collect();
    let stopping = Instant::now();
    let exits = first.stop().await;
    eprintln!("stopped after {:?}", stopping.elapsed());
    assert_eq!(exits.iter().map(|exit| exit.name.as_str()).collect::<Vec<_>>()[3], "etcd", "etcd ends last");
    second.stop().await;
    assert!(children.iter().all(|child| !child.is_alive()));
    assert!(folder.path().join("first/logs/kube-apiserver.log").exists());
    assert!(!folder.path().join("first/pki").exists(), "keys do not outlive the control plane");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_child_is_reported_with_its_name_and_last_lines() {
    let folder = tempfile::tempdir().unwrap();
    let plane = start(folder.path(), tools().await).await;
    let etcd = plane.children().iter().find(|child| child.name() == "etcd").unwrap();
    etcd.signal(Signal::SIGKILL);
    let exit = tokio::time::timeout(Duration::from_secs(5), plane.wait_exit()).await.expect("noticed at once");
    let text = exit.to_string();
    assert!(text.starts_with("etcd was ended by SIGKILL: "), "{text}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_nine_of_the_owner_gc_removes_everything() {
    let folder = tempfile::tempdir().unwrap();
    let mut owner = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_owner_that_waits_to_be_killed", "--ignored", "--nocapture"])
        .env(OWNER_FOLDER, folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let announced = folder.path().join("announced.json");
    let deadline = Instant::now() + Duration::from_secs(90);
    while !announced.exists() {
        assert!(owner.try_wait().unwrap().is_none(), "the owner ended by itself");
        assert!(Instant::now() < deadline, "the owner announced nothing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let children: Vec<ProcessIdentity> = serde_json::from_slice(&std::fs::read(&announced).unwrap()).unwrap();
    assert_eq!(children.len(), 4);
    owner.kill().unwrap();
    owner.wait().unwrap();
    let report = ledger::gc_in(&folder.path().join("ledger")).unwrap();
    assert_eq!(report.folders, [folder.path().join("lane")], "{report:?}");
    assert_eq!(report.failures, Vec::<String>::new());
    assert!(children.iter().all(|child| !child.is_alive()));
    assert!(ledger::gc_in(&folder.path().join("ledger")).unwrap().is_empty());
}

/// Not a test: the process that the test above starts and kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by after_kill_nine_of_the_owner_gc_removes_everything"]
async fn an_owner_that_waits_to_be_killed() {
    let Some(folder) = std::env::var_os(OWNER_FOLDER).map(std::path::PathBuf::from) else { return };
    let ledger = Ledger::open_in(&folder.join("ledger")).unwrap();
    let lane = folder.join("lane");
    ledger.record_folder(&lane).unwrap();
    let mut options = ControlPlaneOptions::new(&lane, tools().await, PodNetwork::lease().unwrap());
    options.ledger = Some(ledger);
    let plane = ControlPlane::start(options).await.unwrap();
    let partial = folder.join("announced.partial");
    std::fs::write(&partial, serde_json::to_vec(&pids(&plane)).unwrap()).unwrap();
    std::fs::rename(partial, folder.join("announced.json")).unwrap();
    std::future::pending::<()>().await;
}
