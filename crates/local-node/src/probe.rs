//! Startup, readiness and liveness probes, and the HTTP and exec actions that hooks share with them.
//! Outcomes go to the pod's worker; what follows from them is decided there.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{ExecAction, HTTPGetAction, Probe, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{io::AsyncReadExt, time::Instant};

use crate::{launch::Prepared, spawner::Spawner};

/// The first pause between eager tries, which only look for a first success; it doubles up to the longest.
const FIRST_EAGER_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_EAGER_PAUSE: Duration = Duration::from_millis(200);
/// Output of an exec probe that is kept for its message.
const OUTPUT_BYTES: u64 = 10 * 1024;

/// Where and in what surroundings probes of a container act.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) spawner: Spawner,
    pub(crate) prepared: Prepared,
    /// The address the pod's processes listen on.
    pub(crate) address: String,
    /// Named ports of the container.
    pub(crate) ports: Vec<(String, u16)>,
    pub(crate) client: reqwest::Client,
}

/// The three kinds of probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

/// A threshold has been reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) kind: ProbeKind,
    pub(crate) passed: bool,
    pub(crate) message: String,
}

impl ProbeKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    fn seeks_success(self) -> bool {
        self != Self::Liveness
    }
}

/// A client for HTTP probes: like kubelet it verifies no certificate, follows no redirect and keeps no connection.
pub(crate) fn http_client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .no_proxy()
        .user_agent("kube-probe/1.34")
        .build()
}

/// Probes until the startup probe has passed or failed, or for ever; calls `report` whenever a threshold is reached.
///
/// Until the first success, startup and readiness are also tried between the periods and during the initial delay; failures
/// of these eager tries do not count, so that the delay and `failureThreshold` keep their meaning in time.
pub(crate) async fn run(kind: ProbeKind, probe: &Probe, target: &Target, mut report: impl FnMut(Verdict)) {
    let period = seconds(probe.period_seconds, 10);
    let failure_threshold = probe.failure_threshold.unwrap_or(3).max(1);
    let success_threshold = probe.success_threshold.unwrap_or(1).max(1);
    let mut next_counted = Instant::now() + seconds(probe.initial_delay_seconds, 0);
    if !kind.seeks_success() {
        tokio::time::sleep_until(next_counted).await;
    }
    let mut eager_pause = FIRST_EAGER_PAUSE;
    let (mut successes, mut failures) = (0, 0);
    let mut passing: Option<bool> = None;
    loop {
        let counts = Instant::now() >= next_counted;
        if counts {
            next_counted = Instant::now() + period;
        }
        match try_once(probe, target).await {
            Ok(()) => {
                failures = 0;
                successes += 1;
                if successes >= success_threshold && passing != Some(true) {
                    passing = Some(true);
                    report(Verdict { kind, passed: true, message: String::new() });
                    if kind == ProbeKind::Startup {
                        return;
                    }
                }
            }
            Err(message) if counts => {
                successes = 0;
                failures += 1;
                // Liveness reports each time the threshold is reached: the container may have been restarted meanwhile.
                if failures >= failure_threshold && (passing != Some(false) || kind == ProbeKind::Liveness) {
                    passing = Some(false);
                    failures = 0;
                    report(Verdict { kind, passed: false, message });
                    if kind == ProbeKind::Startup {
                        return;
                    }
                }
            }
            Err(_) => {}
        }
        let eager = kind.seeks_success() && successes == 0 && passing != Some(true);
        if eager {
            tokio::time::sleep_until(next_counted.min(Instant::now() + eager_pause)).await;
            eager_pause = (eager_pause * 2).min(LONGEST_EAGER_PAUSE);
        } else {
            tokio::time::sleep_until(next_counted).await;
        }
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default))
}

async fn try_once(probe: &Probe, target: &Target) -> Result<(), String> {
    let limit = seconds(probe.timeout_seconds, 1);
    let action = async {
        if let Some(action) = &probe.http_get {
            http_get(action, target).await
        } else if let Some(action) = &probe.tcp_socket {
            tcp(action, target).await
        } else if let Some(action) = &probe.exec {
            exec(action, target).await
        } else {
            Err("this kind of probe is not supported by local nodes".into())
        }
    };
    tokio::time::timeout(limit, action).await.unwrap_or_else(|_| Err(format!("no answer within {}s", limit.as_secs())))
}

/// Answers 200 to 399 are success, as with kubelet.
pub(crate) async fn http_get(action: &HTTPGetAction, target: &Target) -> Result<(), String> {
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let port = target.port(&action.port)?;
    let host = target.host(action.host.as_deref());
    let path = action.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut request = target.client.get(format!("{scheme}://{host}:{port}{slash}{path}"));
    for header in action.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
    }
    let answer = request.send().await.map_err(|error| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    })?;
    match answer.status().as_u16() {
        200..400 => Ok(()),
        code => Err(format!("HTTP probe failed with statuscode: {code}")),
    }
}

async fn tcp(action: &TCPSocketAction, target: &Target) -> Result<(), String> {
    let port = target.port(&action.port)?;
    let host = target.host(action.host.as_deref());
    tokio::net::TcpStream::connect(format!("{host}:{port}")).await.map(drop).map_err(|error| error.to_string())
}

/// Runs a command in the container's surroundings; its process group is killed when this future is dropped.
pub(crate) async fn exec(action: &ExecAction, target: &Target) -> Result<(), String> {
    let launch = target.prepared.command(action.command.as_deref().unwrap_or_default(), false);
    let mut process = target.spawner.spawn(launch).await.map_err(|error| error.to_string())?;
    let mut output = Vec::new();
    let stdout = process.child.stdout.take();
    let stderr = process.child.stderr.take();
    if let (Some(stdout), Some(stderr)) = (stdout, stderr) {
        let mut both = stdout.chain(stderr).take(OUTPUT_BYTES);
        let _ = both.read_to_end(&mut output).await;
    }
    let status = process.child.wait().await.map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("{status}: {}", String::from_utf8_lossy(&output).trim())) }
}

impl Target {
    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        match port {
            IntOrString::Int(number) => u16::try_from(*number).map_err(|_| format!("port {number} does not exist")),
            IntOrString::String(name) => match name.parse() {
                Ok(number) => Ok(number),
                Err(_) => {
                    let found = self.ports.iter().find(|(known, _)| known == name).map(|(_, port)| *port);
                    found.ok_or_else(|| format!("the container declares no port named {name}"))
                }
            },
        }
    }

    /// The pod's own loopback is the address it listens on.
    fn host<'a>(&'a self, host: Option<&'a str>) -> &'a str {
        match host {
            None | Some("" | "localhost" | "127.0.0.1") => &self.address,
            Some(other) => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(address: &str) -> Target {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Target {
            spawner: Spawner::start().unwrap(),
            prepared: Prepared::for_tests(),
            address: address.into(),
            ports: vec![("web".into(), 1)],
            client: http_client().unwrap(),
        }
    }

    fn exec_probe(command: &[&str]) -> Probe {
        let command = Some(command.iter().map(|part| (*part).to_owned()).collect());
        Probe {
            exec: Some(ExecAction { command }),
            period_seconds: Some(1),
            failure_threshold: Some(1),
            ..Probe::default()
        }
    }

    #[tokio::test]
    async fn success_is_noticed_between_the_periods() {
        let folder = tempfile::tempdir().unwrap();
        let flag = folder.path().join("flag");
        let mut probe = exec_probe(&["/usr/bin/test", "-e", flag.to_str().unwrap()]);
        probe.period_seconds = Some(60);
        probe.failure_threshold = Some(3);
        let (report, mut verdicts) = tokio::sync::mpsc::unbounded_channel();
        let target = target("127.0.0.1");
        let task = tokio::spawn(async move {
            run(ProbeKind::Readiness, &probe, &target, |verdict| drop(report.send(verdict))).await;
        });
        std::fs::write(&flag, "").unwrap();
        let verdict = tokio::time::timeout(Duration::from_secs(5), verdicts.recv()).await.unwrap().unwrap();
        assert!(verdict.passed);
        task.abort();
    }

    #[tokio::test]
    async fn a_failed_startup_probe_is_reported_once_with_its_output() {
        let mut verdicts = Vec::new();
        let probe = exec_probe(&["/bin/sh", "-c", "echo broken; exit 3"]);
        run(ProbeKind::Startup, &probe, &target("127.0.0.1"), |verdict| verdicts.push(verdict)).await;
        assert_eq!(verdicts.len(), 1);
        assert!(!verdicts[0].passed && verdicts[0].message.contains("broken"), "{verdicts:?}");
    }

    #[tokio::test]
    async fn http_reaches_the_listen_address_even_for_localhost() {
        let listener = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = axum::Router::new()
            .route("/ok", axum::routing::get(|| async { "" }))
            .route("/moved", axum::routing::get(|| async { axum::http::StatusCode::FOUND }));
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        let get = |path: &str| HTTPGetAction {
            host: Some("localhost".into()),
            path: Some(path.into()),
            port: IntOrString::Int(i32::from(port)),
            ..HTTPGetAction::default()
        };
        let target = target("127.0.0.2");
        assert_eq!(http_get(&get("/ok"), &target).await, Ok(()));
        assert_eq!(http_get(&get("moved"), &target).await, Ok(()));
        assert!(http_get(&get("/none"), &target).await.unwrap_err().ends_with("404"));
        server.abort();
    }
}
