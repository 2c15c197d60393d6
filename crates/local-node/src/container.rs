//! What a worker knows of one container of its pod, and the rules for running it again.
//! Pure state: processes are in `container_run`, the report of it in `pod_status`.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use tokio::time::Instant;

use crate::container_run::{Exit, Run};

/// Kubelet waits 10 s doubling to 300 s; local nodes are impatient so that tests of restarts are quick.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// A container that ran this long starts again without waiting, and its back-off begins anew.
const GOOD_RUN: Duration = Duration::from_secs(20);

/// The three kinds of containers of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Init,
    /// An init container with restartPolicy Always: it keeps running beside the others.
    Sidecar,
    Main,
}

/// One container over all its runs.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) spec: Spec,
    pub(crate) role: Role,
    pub(crate) state: State,
    pub(crate) run: Option<Run>,
    pub(crate) restarts: i32,
    pub(crate) ready: bool,
    pub(crate) started: bool,
    pub(crate) id: Option<String>,
    last: Option<ContainerStateTerminated>,
    runs: u64,
    backoff: Option<Duration>,
    /// The container is not started before this moment.
    pub(crate) not_before: Option<Instant>,
}

/// What the container does now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum State {
    Waiting { reason: &'static str, message: Option<String> },
    Running { since: Timestamp },
    Terminated(ContainerStateTerminated),
}

/// The pod's restart policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    pub(crate) fn parse(text: Option<&str>) -> Self {
        match text {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }
}

impl Container {
    pub(crate) fn new(spec: Spec, role: Role, pod_is_initialising: bool) -> Self {
        let reason = if pod_is_initialising && role == Role::Main { "PodInitializing" } else { "ContainerCreating" };
        Self {
            spec,
            role,
            state: State::Waiting { reason, message: None },
            run: None,
            restarts: 0,
            ready: false,
            started: false,
            id: None,
            last: None,
            runs: 0,
            backoff: None,
            not_before: None,
        }
    }

    /// Takes over what an earlier nodes process reported: its process is gone, so the next run counts as a restart.
    pub(crate) fn resume(&mut self, status: &ContainerStatus) {
        self.restarts = status.restart_count;
        self.last = status.last_state.as_ref().and_then(|state| state.terminated.clone());
        self.id = status.container_id.clone();
        let Some(state) = &status.state else { return };
        if let Some(running) = &state.running {
            self.state = State::Terminated(ContainerStateTerminated {
                container_id: status.container_id.clone(),
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".into()),
                message: Some("The node was restarted while the container ran".into()),
                started_at: running.started_at.clone(),
                finished_at: Some(Time(Timestamp::now())),
                signal: None,
            });
        } else if let Some(terminated) = &state.terminated {
            self.state = State::Terminated(terminated.clone());
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    /// The number of the run that starts next.
    pub(crate) fn next_run(&mut self) -> u64 {
        self.runs += 1;
        self.runs
    }

    /// A new run begins; it counts as a restart if there was one before.
    pub(crate) fn count_restart(&mut self) {
        if self.has_run() {
            self.restarts += 1;
        }
    }

    /// The process has been started.
    pub(crate) fn begin(&mut self, run: Run) {
        self.keep_last();
        self.state = State::Running { since: run.started_at };
        self.id = Some(run.container_id.clone());
        self.started = self.spec.startup_probe.is_none();
        self.ready = self.started && self.spec.readiness_probe.is_none();
        self.not_before = None;
        self.run = Some(run);
    }

    /// Moves a terminated state aside before the container waits or runs again; only a new run counts as a restart.
    fn keep_last(&mut self) {
        if let State::Terminated(terminated) = &self.state {
            self.last = Some(terminated.clone());
        }
    }

    /// The process has ended.
    pub(crate) fn end(&mut self, exit: &Exit) {
        let terminated = ContainerStateTerminated {
            container_id: self.id.clone(),
            exit_code: exit.code,
            reason: Some(if exit.code == 0 { "Completed" } else { "Error" }.into()),
            message: exit.message.clone(),
            signal: exit.signal,
            started_at: Some(Time(exit.started_at)),
            finished_at: Some(Time(exit.finished_at)),
        };
        let ran = Duration::try_from(exit.finished_at.duration_since(exit.started_at)).unwrap_or_default();
        self.finish(terminated, ran);
    }

    /// The process could not be started at all.
    pub(crate) fn fail_to_start(&mut self, error: &std::io::Error) {
        let now = Time(Timestamp::now());
        self.keep_last();
        self.id = Some(format!("process://{}", uuid::Uuid::new_v4().simple()));
        let terminated = ContainerStateTerminated {
            container_id: self.id.clone(),
            exit_code: 128,
            reason: Some("StartError".into()),
            message: Some(format!("starting {:?} failed: {error}", self.spec.name)),
            signal: None,
            started_at: Some(now.clone()),
            finished_at: Some(now),
        };
        self.finish(terminated, Duration::ZERO);
    }

    fn finish(&mut self, terminated: ContainerStateTerminated, ran: Duration) {
        self.state = State::Terminated(terminated);
        self.run = None;
        self.ready = false;
        self.started = false;
        // The first restart is immediate; each further one waits, until a run was good.
        let pause = match self.backoff.filter(|_| ran < GOOD_RUN) {
            None => Duration::ZERO,
            Some(Duration::ZERO) => FIRST_BACKOFF,
            Some(pause) => (pause * 2).min(LONGEST_BACKOFF),
        };
        self.backoff = Some(pause);
        self.not_before = Some(Instant::now() + pause);
    }

    /// Waits for something; what happened before stays visible as the last state.
    pub(crate) fn wait(&mut self, reason: &'static str, message: Option<String>) {
        self.keep_last();
        self.state = State::Waiting { reason, message };
    }

    /// Waits before the next restart, as `CrashLoopBackOff`.
    pub(crate) fn wait_in_backoff(&mut self) {
        let pause = self.backoff.unwrap_or_default();
        let message = format!("back-off {pause:?} restarting failed container={}", self.spec.name);
        self.wait("CrashLoopBackOff", Some(message));
    }

    /// The exit of the current state, or of the last one if the container waits to be restarted.
    pub(crate) fn latest_exit(&self) -> Option<&ContainerStateTerminated> {
        match &self.state {
            State::Terminated(terminated) => Some(terminated),
            State::Waiting { .. } => self.last.as_ref(),
            State::Running { .. } => None,
        }
    }

    /// The exit that is final: the container will not be started again.
    pub(crate) fn is_done(&self, policy: RestartPolicy) -> bool {
        self.run.is_none() && self.latest_exit().is_some_and(|exit| !self.restarts_after(exit.exit_code, policy))
    }

    fn restarts_after(&self, code: i32, policy: RestartPolicy) -> bool {
        match (self.role, policy) {
            (Role::Sidecar, _) | (Role::Main, RestartPolicy::Always) => true,
            (Role::Init, RestartPolicy::Never) | (Role::Main, RestartPolicy::Never) => false,
            (Role::Init, _) | (Role::Main, RestartPolicy::OnFailure) => code != 0,
        }
    }

    /// Whether there was a run before, so that the next one counts as a restart.
    pub(crate) fn has_run(&self) -> bool {
        self.latest_exit().is_some()
    }

    /// An init container that lets the next one start.
    pub(crate) fn is_initialised(&self) -> bool {
        match self.role {
            Role::Sidecar => self.run.is_some() && self.started,
            _ => matches!(&self.state, State::Terminated(exit) if exit.exit_code == 0),
        }
    }

    /// As the API shows it.
    pub(crate) fn status(&self) -> ContainerStatus {
        let state = match &self.state {
            State::Waiting { reason, message } => ContainerState {
                waiting: Some(ContainerStateWaiting { reason: Some((*reason).into()), message: message.clone() }),
                ..ContainerState::default()
            },
            State::Running { since } => ContainerState {
                running: Some(ContainerStateRunning { started_at: Some(Time(*since)) }),
                ..ContainerState::default()
            },
            State::Terminated(terminated) => {
                ContainerState { terminated: Some(terminated.clone()), ..ContainerState::default() }
            }
        };
        let image = self.spec.image.clone().unwrap_or_default();
        let completed = self.role == Role::Init && self.is_initialised();
        ContainerStatus {
            name: self.spec.name.clone(),
            image_id: if self.id.is_some() { format!("process://{image}") } else { String::new() },
            image,
            container_id: self.id.clone(),
            restart_count: self.restarts,
            ready: self.ready || completed,
            started: Some(self.started),
            state: Some(state),
            last_state: self
                .last
                .clone()
                .map(|terminated| ContainerState { terminated: Some(terminated), ..ContainerState::default() }),
            ..ContainerStatus::default()
        }
    }
}

#[cfg(test)]
impl Container {
    /// A container in a given state, for tests of the status.
    pub(crate) fn in_state(name: &str, role: Role, state: State) -> Self {
        let spec = Spec { name: name.into(), image: Some("i".into()), ..Spec::default() };
        let mut container = Self::new(spec, role, false);
        container.ready = matches!(state, State::Running { .. });
        container.state = state;
        container
    }

    pub(crate) fn exited(name: &str, role: Role, code: i32) -> Self {
        let exit = ContainerStateTerminated { exit_code: code, ..ContainerStateTerminated::default() };
        Self::in_state(name, role, State::Terminated(exit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(Role::Main, RestartPolicy::Always, 0, false)]
    #[case(Role::Main, RestartPolicy::OnFailure, 0, true)]
    #[case(Role::Main, RestartPolicy::OnFailure, 1, false)]
    #[case(Role::Main, RestartPolicy::Never, 1, true)]
    #[case(Role::Init, RestartPolicy::Always, 0, true)]
    #[case(Role::Init, RestartPolicy::Always, 1, false)]
    #[case(Role::Init, RestartPolicy::Never, 1, true)]
    #[case(Role::Sidecar, RestartPolicy::Never, 1, false)]
    fn done(#[case] role: Role, #[case] policy: RestartPolicy, #[case] code: i32, #[case] expected: bool) {
        assert_eq!(Container::exited("c", role, code).is_done(policy), expected);
    }

    #[test]
    fn back_off_grows_from_the_second_failure_and_ends_with_a_good_run() {
        let mut container = Container::in_state("c", Role::Main, State::Waiting { reason: "x", message: None });
        let now = Timestamp::now();
        let mut fail = |seconds: i64| {
            container.end(&Exit {
                code: 1,
                signal: None,
                message: None,
                started_at: now,
                finished_at: now + Duration::from_secs(seconds.unsigned_abs()),
            });
            container.backoff.unwrap().as_millis()
        };
        let pauses: Vec<_> = (0..8).map(|_| fail(0)).collect();
        assert_eq!(pauses, [0, 500, 1000, 2000, 4000, 8000, 10000, 10000]);
        assert_eq!((fail(21), fail(0)), (0, 500));
    }

    #[test]
    fn a_restarted_node_shows_the_lost_run_as_last_state() {
        let mut container = Container::new(Spec { name: "c".into(), ..Spec::default() }, Role::Main, false);
        let mut before = Container::in_state("c", Role::Main, State::Running { since: Timestamp::now() }).status();
        before.restart_count = 3;
        container.resume(&before);
        assert!(container.has_run() && !container.is_done(RestartPolicy::Always));
        container.wait("CrashLoopBackOff", None);
        let status = container.status();
        assert_eq!(status.restart_count, 3);
        assert_eq!(status.last_state.unwrap().terminated.unwrap().exit_code, 137);
    }
}
