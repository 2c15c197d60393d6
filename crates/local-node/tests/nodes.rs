//! Nodes on a real control plane: pods of all kinds run, are reported, looked into, restarted and cleaned away.
//! The images of the pods are /bin/sh and this test program itself, started again as a small web server.

mod cluster;
mod web;

use std::time::{Duration, Instant};

use cluster::{Cluster, pod, shell_pod};
use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    ResourceExt,
    api::{AttachParams, EvictParams, ListParams, LogParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Not a test: what the image `test/web` runs.
#[test]
#[ignore = "the program of a pod"]
fn web_server_process() {
    if let Ok(address) = std::env::var("LISTEN") {
        web::serve(&address);
    }
}

/// Not a test: nodes in a process of their own, which can be killed.
#[test]
#[ignore = "the program of the nodes"]
fn nodes_process() {
    if let Ok(arguments) = std::env::var("NODES_ARGUMENTS") {
        cluster::run_nodes(&arguments);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_run_pods_as_processes() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut cluster = Cluster::start().await;
    cluster.start_nodes().await;

    nodes_are_ready(&cluster).await;
    a_deployment_finds_its_volumes_environment_and_address(&cluster).await;
    changes_of_sources_reach_the_pod(&cluster).await;
    logs_are_followed(&cluster).await;
    exec_speaks_both_ways(&cluster).await;
    ports_are_forwarded(&cluster).await;
    jobs_end_and_failures_are_told(&cluster).await;
    init_containers_come_first(&cluster).await;
    what_is_missing_is_waited_for(&cluster).await;
    liveness_restarts(&cluster).await;
    stopping_keeps_to_the_order(&cluster).await;
    budgets_hold_evictions_back(&cluster).await;
    api_overrides_hold_from_the_next_start(&cluster).await;
    pods_start_and_are_noticed_quickly(&cluster).await;
    killed_nodes_leave_nothing_and_their_successors_restart_the_pods(&mut cluster).await;
    nodes_share_the_folder_of_volumes(&cluster).await;
    cluster.stop().await;
}

async fn nodes_are_ready(cluster: &Cluster) {
    let nodes = cluster.all::<Node>().list(&ListParams::default()).await.unwrap();
    assert_eq!(nodes.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["node-0", "node-1"]);
    for node in nodes {
        assert!(node.spec.and_then(|spec| spec.taints).unwrap_or_default().is_empty());
        assert!(node.metadata.labels.unwrap().contains_key("node-role.kubernetes.io/worker"));
    }
}

async fn a_deployment_finds_its_volumes_environment_and_address(cluster: &Cluster) {
    cluster.create::<ConfigMap>(json!({"metadata": {"name": "cm"}, "data": {"key": "one"}})).await;
    cluster
        .create::<Secret>(json!({"metadata": {"name": "tls"}, "stringData": {"tls.crt": "CERT", "password": "hidden"}}))
        .await;
    let path = format!("{}/data", api::volumes::ON_NODES);
    let volume = json!({
        "accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Gi"}, "storageClassName": "",
        "hostPath": {"path": path, "type": "DirectoryOrCreate"},
    });
    let volume = serde_json::from_value(json!({"metadata": {"name": "data"}, "spec": volume})).unwrap();
    cluster.all::<PersistentVolume>().create(&PostParams::default(), &volume).await.unwrap();
    let claim = json!({
        "accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "",
    });
    cluster.create::<PersistentVolumeClaim>(json!({"metadata": {"name": "data"}, "spec": claim})).await;
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
    let template = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {
            "volumes": [
                {"name": "tls", "projected": {"sources": [{"secret": {"name": "tls"}}]}},
                {"name": "cm", "configMap": {"name": "cm", "items": [{"key": "key", "path": "sub/k"}]}},
                {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "host", "hostPath": {"path": "/etc/containers", "type": "DirectoryOrCreate"}},
                {"name": "token", "projected": {"sources": [
                    {"serviceAccountToken": {"audience": "openshift", "path": "token"}}]}},
                {"name": "none", "configMap": {"name": "none", "optional": true}},
            ],
            "containers": [{
                "name": "web", "image": "test/web:v1", "ports": [{"containerPort": 5000, "name": "http"}],
                "env": [
                    {"name": "LISTEN", "value": ":5000"},
                    {"name": "CERTIFICATE", "value": "/etc/secrets/tls.crt"},
                    {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "tls", "key": "password"}}},
                    {"name": "GREETING", "value": "$(PASSWORD) at $(HOSTNAME)"},
                    {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "HTTP_PROXY", "value": "http://own"},
                ],
                "volumeMounts": [
                    mount("tls", "/etc/secrets"), mount("cm", "/config"), mount("data", "/registry"),
                    mount("host", "/etc/containers"), mount("token", "/var/run/secrets/openshift/serviceaccount"),
                    mount("none", "/none"), {"name": "tls", "mountPath": "/single", "subPath": "password"},
                ],
                "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
                "lifecycle": {"preStop": {"sleep": {"seconds": 0}}},
            }],
        },
    });
    let spec = json!({"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    cluster.create::<Deployment>(json!({"metadata": {"name": "web"}, "spec": spec})).await;
    cluster
        .wait::<Deployment>("web", "two ready replicas", |deployment| {
            deployment.status.as_ref().and_then(|status| status.ready_replicas) == Some(2)
        })
        .await;

    let pods = cluster.web_pods().await;
    let address = pods[0].status.as_ref().unwrap().pod_ip.clone().unwrap();
    assert!(address.starts_with(&format!("10.{}.", cluster.network())), "{address}");
    let listen = api::address::listen_address(address.parse().unwrap());
    let environment = web::get(&format!("{listen}:5000")).await;
    let value = |name: &str| {
        let line = environment.lines().find(|line| line.split('=').next() == Some(name));
        line.and_then(|line| line.split_once('=')).map(|(_, value)| value.to_owned())
    };
    assert_eq!(value("LISTEN"), Some(format!("{listen}:5000")));
    assert_eq!(std::fs::read_to_string(value("CERTIFICATE").unwrap()).unwrap(), "CERT");
    assert_eq!(value("GREETING"), Some(format!("hidden at {}", pods[0].name_any())));
    assert_eq!(value("POD_IP"), Some(address));
    assert_eq!(value("HTTP_PROXY").as_deref(), Some("http://own"));
    assert_eq!(value("HTTPS_PROXY").as_deref(), Some("http://127.0.0.1:1"));
    assert_eq!(value("FROM_IMAGE").as_deref(), Some("yes"));
    assert!(["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CARGO"].iter().all(|n| value(n).is_none()));

    let kubeconfig = kube::config::Kubeconfig::read_from(value("KUBECONFIG").unwrap()).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let review = serde_json::from_value(json!({"metadata": {}})).unwrap();
    let reviews = kube::Api::<k8s_openapi::api::authentication::v1::SelfSubjectReview>::all(client);
    let review = reviews.create(&kube::api::PostParams::default(), &review).await.unwrap();
    let user = review.status.unwrap().user_info.unwrap().username;
    assert_eq!(user.as_deref(), Some("system:serviceaccount:default:default"));
}

async fn changes_of_sources_reach_the_pod(cluster: &Cluster) {
    let pod = cluster.web_pods().await[0].name_any();
    assert_eq!(cluster.exec(&pod, &["cat", "/config/sub/k", "/single"]).await.0, "onehidden");
    let change = Patch::Merge(json!({"data": {"key": "two"}}));
    cluster.api::<ConfigMap>().patch("cm", &PatchParams::default(), &change).await.unwrap();
    let since = Instant::now();
    while cluster.exec(&pod, &["cat", "/config/sub/k"]).await.0 != "two" {
        assert!(since.elapsed() < Duration::from_secs(2), "the change did not arrive");
    }
}

async fn logs_are_followed(cluster: &Cluster) {
    cluster
        .create::<Pod>(shell_pod(
            "talker",
            "Never",
            "for n in 1 2 3 4 5; do echo line $n; sleep 0.1; done; echo end >&2",
        ))
        .await;
    cluster.wait_phase("talker", "Running").await;
    let follow = LogParams { follow: true, ..LogParams::default() };
    let pods = cluster.api::<Pod>();
    let lines = pods.log_stream("talker", &follow).await.unwrap().lines();
    let lines: Vec<String> = tokio::time::timeout(Duration::from_secs(10), lines.try_collect()).await.unwrap().unwrap();
    assert_eq!(lines.len(), 6, "{lines:?}");
    let tail = LogParams { tail_lines: Some(1), ..LogParams::default() };
    assert_eq!(cluster.api::<Pod>().logs("talker", &tail).await.unwrap(), "end\n");
}

async fn exec_speaks_both_ways(cluster: &Cluster) {
    let pod = cluster.web_pods().await[0].name_any();
    let (text, status) = cluster.exec(&pod, &["sh", "-c", "ls /etc/secrets; exit 3"]).await;
    assert_eq!(text, "password\ntls.crt\n");
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));

    let parameters = AttachParams::default().stdin(true).stderr(false);
    let mut process = cluster.api::<Pod>().exec(&pod, ["wc", "-c"], &parameters).await.unwrap();
    let mut stdin = process.stdin().unwrap();
    stdin.write_all(&vec![b'x'; 300_000]).await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let mut text = String::new();
    process.stdout().unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text.trim(), "300000");
}

async fn ports_are_forwarded(cluster: &Cluster) {
    let pod = cluster.web_pods().await[0].name_any();
    let mut forward = cluster.api::<Pod>().portforward(&pod, &[5000, 5001]).await.unwrap();
    let mut stream = forward.take_stream(5000).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("HOSTNAME="), "{answer}");
    let error = forward.take_error(5001).unwrap().await.unwrap();
    assert!(error.contains("failed to connect") && error.contains(":5001"), "{error}");
}

async fn jobs_end_and_failures_are_told(cluster: &Cluster) {
    let job = |name: &str, script: &str, limit: u32| {
        let mut template = shell_pod(name, "Never", script);
        template["spec"]["containers"][0]["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
        json!({"metadata": {"name": name}, "spec": {"backoffLimit": limit, "template": {"spec": template["spec"]}}})
    };
    cluster.create::<Job>(job("good", "echo fine", 0)).await;
    cluster.create::<Job>(job("bad", "echo because >&2; exit 4", 0)).await;
    cluster.wait::<Job>("good", "success", |job| job.status.as_ref().and_then(|s| s.succeeded) == Some(1)).await;
    cluster.wait::<Job>("bad", "failure", |job| job.status.as_ref().and_then(|s| s.failed) == Some(1)).await;
    let failed = ListParams::default().labels("job-name=bad");
    let pod = cluster.api::<Pod>().list(&failed).await.unwrap().items.remove(0);
    let status = pod.status.unwrap().container_statuses.unwrap().remove(0);
    let terminated = status.state.unwrap().terminated.unwrap();
    assert_eq!((terminated.exit_code, terminated.reason.as_deref()), (4, Some("Error")));
    assert_eq!(terminated.message.as_deref(), Some("because\n"));

    let mut late = shell_pod("late", "Always", "exec sleep 1000");
    late["spec"]["activeDeadlineSeconds"] = json!(1);
    cluster.create::<Pod>(late).await;
    let pod = cluster.wait_phase("late", "Failed").await;
    assert_eq!(pod.status.unwrap().reason.as_deref(), Some("DeadlineExceeded"));
}

async fn init_containers_come_first(cluster: &Cluster) {
    let mounts = json!([{"name": "shared", "mountPath": "/shared"}]);
    let container = |name: &str, script: &str| json!({"name": name, "image": "test/sh", "args": ["-c", script], "volumeMounts": mounts});
    let mut side = container("side", "exec sleep 1000");
    side["restartPolicy"] = json!("Always");
    let spec = json!({
        "volumes": [{"name": "shared", "emptyDir": {}}],
        "restartPolicy": "Never",
        "initContainers": [container("first", "sleep 0.2; echo made > /shared/f"), side],
        "containers": [container("main", "cat /shared/f")],
    });
    cluster.create::<Pod>(pod("ordered", spec)).await;
    cluster.wait_phase("ordered", "Succeeded").await;
    let log = LogParams { container: Some("main".into()), ..LogParams::default() };
    assert_eq!(cluster.api::<Pod>().logs("ordered", &log).await.unwrap(), "made\n");
}

async fn what_is_missing_is_waited_for(cluster: &Cluster) {
    let mut waits = shell_pod("waits", "Never", "echo $VALUE; cat /v/a");
    waits["spec"]["volumes"] = json!([{"name": "v", "configMap": {"name": "later"}}]);
    waits["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    waits["spec"]["containers"][0]["env"] =
        json!([{"name": "VALUE", "valueFrom": {"secretKeyRef": {"name": "later", "key": "a"}}}]);
    cluster.create::<Pod>(waits).await;
    cluster.create::<Pod>(pod("unknown", json!({"containers": [{"name": "c", "image": "no/such"}]}))).await;
    cluster.wait_waiting("unknown", "ErrImagePull").await;
    cluster.wait_waiting("waits", "ContainerCreating").await;
    cluster.create::<ConfigMap>(json!({"metadata": {"name": "later"}, "data": {"a": "from map"}})).await;
    cluster.wait_waiting("waits", "CreateContainerConfigError").await;
    cluster.create::<Secret>(json!({"metadata": {"name": "later"}, "stringData": {"a": "from secret"}})).await;
    cluster.wait_phase("waits", "Succeeded").await;
    assert_eq!(cluster.api::<Pod>().logs("waits", &LogParams::default()).await.unwrap(), "from secret\nfrom map");
}

async fn liveness_restarts(cluster: &Cluster) {
    let mut sick = shell_pod("sick", "Always", "echo run; exec sleep 1000");
    sick["spec"]["terminationGracePeriodSeconds"] = json!(1);
    sick["spec"]["containers"][0]["livenessProbe"] =
        json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1});
    cluster.create::<Pod>(sick).await;
    let restarted = |pod: &Pod| {
        let status = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref()?.first().cloned());
        status.is_some_and(|status| status.restart_count >= 2 && status.last_state.is_some())
    };
    cluster.wait::<Pod>("sick", "two restarts", restarted).await;
    let previous = LogParams { previous: true, ..LogParams::default() };
    assert_eq!(cluster.api::<Pod>().logs("sick", &previous).await.unwrap(), "run\n");
}

async fn stopping_keeps_to_the_order(cluster: &Cluster) {
    let script = "trap 'echo term >> /etc/order/f; exit 0' TERM; touch /etc/order/f; while :; do sleep 0.05; done";
    let mut careful = shell_pod("careful", "Always", script);
    careful["spec"]["nodeName"] = json!("node-0");
    careful["spec"]["volumes"] =
        json!([{"name": "v", "hostPath": {"path": "/etc/order", "type": "DirectoryOrCreate"}}]);
    careful["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/etc/order"}]);
    careful["spec"]["containers"][0]["lifecycle"] =
        json!({"preStop": {"exec": {"command": ["sh", "-c", "echo hook >> /etc/order/f"]}}});
    careful["spec"]["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["test", "-e", "/etc/order/f"]}});
    cluster.create::<Pod>(careful).await;
    cluster.wait_ready("careful").await;
    cluster.delete_pod("careful", None).await;
    let file = cluster.nodes_folder().join("node-0/root/etc/order/f");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "hook\nterm\n");

    let stubborn = "trap '' TERM; touch $HOME/up; while :; do sleep 0.05; done";
    let mut stubborn = shell_pod("stubborn", "Always", stubborn);
    stubborn["spec"]["containers"][0]["readinessProbe"] =
        json!({"exec": {"command": ["sh", "-c", "test -e $HOME/up"]}});
    cluster.create::<Pod>(stubborn).await;
    cluster.wait_ready("stubborn").await;
    let since = Instant::now();
    cluster.delete_pod("stubborn", Some(1)).await;
    assert!(
        since.elapsed() >= Duration::from_secs(1) && since.elapsed() < Duration::from_secs(4),
        "{:?}",
        since.elapsed()
    );
}

async fn budgets_hold_evictions_back(cluster: &Cluster) {
    let spec = json!({"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}});
    cluster.create::<PodDisruptionBudget>(json!({"metadata": {"name": "web"}, "spec": spec})).await;
    cluster
        .wait::<PodDisruptionBudget>("web", "two healthy pods", |budget| {
            budget.status.as_ref().is_some_and(|status| status.current_healthy == 2)
        })
        .await;
    let pod = cluster.web_pods().await[0].name_any();
    let refused = cluster.api::<Pod>().evict(&pod, &EvictParams::default()).await;
    assert!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 429), "{refused:?}");
    cluster.api::<PodDisruptionBudget>().delete("web", &kube::api::DeleteParams::default()).await.unwrap();
}

async fn api_overrides_hold_from_the_next_start(cluster: &Cluster) {
    let overrides = "- serviceAccount: default/default\n  server: https://127.0.0.1:7\n";
    std::fs::write(cluster.overrides(), overrides).unwrap();
    cluster
        .create::<Pod>(shell_pod("told", "Never", "echo $KUBERNETES_SERVICE_PORT; grep -c 127.0.0.1:7 $KUBECONFIG"))
        .await;
    cluster.wait_phase("told", "Succeeded").await;
    assert_eq!(cluster.api::<Pod>().logs("told", &LogParams::default()).await.unwrap(), "7\n1\n");
    std::fs::remove_file(cluster.overrides()).unwrap();
}

async fn pods_start_and_are_noticed_quickly(cluster: &Cluster) {
    // Figures are for a benchmark to judge; here only gross slowness is an error.
    let mut quick = shell_pod("quick", "Never", "date +%s%N > /etc/started; exec sleep 1000");
    quick["spec"]["nodeName"] = json!("node-1");
    quick["spec"]["volumes"] = json!([{"name": "v", "hostPath": {"path": "/etc"}}]);
    quick["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/etc"}]);
    quick["spec"]["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["test", "-e", "/etc/started"]}});
    let created = jiff::Timestamp::now();
    cluster.create::<Pod>(quick).await;
    cluster.wait_ready("quick").await;
    let ready = jiff::Timestamp::now();
    let text = std::fs::read_to_string(cluster.nodes_folder().join("node-1/root/etc/started")).unwrap();
    let started = jiff::Timestamp::from_nanosecond(text.trim().parse().unwrap()).unwrap();
    let (start, notice) = (started.duration_since(created), ready.duration_since(started));
    println!("created to process started: {start:?}; started to seen ready: {notice:?}");
    assert!(start.as_millis() < 2000 && notice.as_millis() < 2000);
}

async fn killed_nodes_leave_nothing_and_their_successors_restart_the_pods(cluster: &mut Cluster) {
    cluster
        .create::<Pod>(shell_pod("family", "Always", "sleep 1000 & (setsid sleep 1000 &); echo up; sleep 1000"))
        .await;
    cluster.wait_phase("family", "Running").await;
    let before = cluster.web_pods().await;
    cluster.kill_nodes().await;
    cluster.wait_for_no_process().await;
    cluster.start_nodes().await;
    cluster
        .wait::<Deployment>("web", "two ready replicas", |deployment| {
            deployment.status.as_ref().and_then(|status| status.ready_replicas) == Some(2)
        })
        .await;
    let restarted = |pod: &Pod| {
        let status = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref()?.first().cloned());
        status.is_some_and(|status| status.restart_count == 1 && status.ready)
    };
    // Each of them: what the killed nodes last said of the others still reads as ready.
    for pod in &before {
        let after = cluster.wait::<Pod>(&pod.name_any(), "one restart", restarted).await;
        assert_eq!(after.status.unwrap().pod_ip, pod.status.clone().unwrap().pod_ip);
    }
    cluster.delete_pod("family", Some(0)).await;
}

async fn nodes_share_the_folder_of_volumes(cluster: &Cluster) {
    let pods = cluster.web_pods().await;
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    assert_ne!(node(&pods[0]), node(&pods[1]));
    cluster.exec(&pods[1].name_any(), &["sh", "-c", "echo kept > /registry/f"]).await;
    assert_eq!(cluster.exec(&pods[0].name_any(), &["cat", "/registry/f"]).await.0, "kept\n");
    assert!(cluster.nodes_folder().join("volumes/data/f").exists());
}
