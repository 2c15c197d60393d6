//! The status of a pod as a kubelet reports it, computed from the states of its containers.
//! Pure; sending it is the worker's business. Source: Kubernetes documentation, "Pod Lifecycle", phases and conditions.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    container::{Container, RestartPolicy, Role, State},
    downward::Addresses,
};

/// Why a pod was ended by its node, whatever its containers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What the status is computed from.
pub(crate) struct Observed<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) containers: &'a [Container],
    pub(crate) addresses: &'a Addresses,
    pub(crate) started_at: Timestamp,
    pub(crate) volumes_ready: bool,
    pub(crate) failure: Option<&'a Failure>,
    /// All processes have ended because the pod is being deleted.
    pub(crate) terminated: bool,
    /// The conditions reported before, for their transition times.
    pub(crate) before: &'a [PodCondition],
}

impl Observed<'_> {
    fn policy(&self) -> RestartPolicy {
        if self.terminated {
            return RestartPolicy::Never;
        }
        RestartPolicy::parse(self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()))
    }

    fn main(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|container| container.role == Role::Main)
    }

    fn init(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|container| container.role != Role::Main)
    }

    fn phase(&self) -> &'static str {
        if self.failure.is_some() {
            return "Failed";
        }
        let policy = self.policy();
        let has_begun =
            self.main().any(|container| container.run.is_some() || container.has_run() || is_running(container));
        if !has_begun {
            let init_failed =
                self.init().any(|init| init.role == Role::Init && init.is_done(policy) && !init.is_initialised());
            return if init_failed || self.terminated { "Failed" } else { "Pending" };
        }
        if self.main().any(is_running) {
            return "Running";
        }
        if self.main().any(|container| !container.has_run()) {
            return if self.terminated { "Failed" } else { "Pending" };
        }
        if policy == RestartPolicy::Always {
            return "Running";
        }
        let failed = |container: &Container| container.latest_exit().is_some_and(|exit| exit.exit_code != 0);
        match (self.main().any(failed), policy) {
            (false, _) => "Succeeded",
            (true, RestartPolicy::Never) => "Failed",
            (true, _) => "Running",
        }
    }

    fn conditions(&self, phase: &str) -> Vec<PodCondition> {
        let finished = match phase {
            "Succeeded" => Some("PodCompleted"),
            "Failed" => Some("PodFailed"),
            _ => None,
        };
        let incomplete: Vec<_> = self.init().filter(|init| !init.is_initialised()).map(Container::name).collect();
        let initialised = incomplete.is_empty() || phase == "Running" || phase == "Succeeded";
        let unready: Vec<_> = self
            .containers
            .iter()
            .filter(|container| container.role != Role::Init && !container.ready)
            .map(Container::name)
            .collect();
        let containers_ready = match (finished, unready.is_empty()) {
            (Some(reason), _) => Err((reason, String::new())),
            (None, true) => Ok(()),
            (None, false) => {
                Err(("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" "))))
            }
        };
        let ready = containers_ready.clone().and_then(|()| self.gates());
        vec![
            condition(
                "PodReadyToStartContainers",
                if self.volumes_ready && finished.is_none() {
                    Ok(())
                } else {
                    Err((finished.unwrap_or_default(), String::new()))
                },
            ),
            condition(
                "Initialized",
                if initialised {
                    Ok(())
                } else {
                    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
                    Err(("ContainersNotInitialized", message))
                },
            ),
            condition("Ready", ready),
            condition("ContainersReady", containers_ready),
        ]
    }

    fn gates(&self) -> Result<(), (&'static str, String)> {
        let gates = self.pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
        let conditions = self.pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let is_true = |gate: &str| conditions.iter().any(|known| known.type_ == gate && known.status == "True");
        let missing: Vec<_> = gates.map(|gate| gate.condition_type.as_str()).filter(|gate| !is_true(gate)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err((
            "ReadinessGatesNotReady",
            format!("corresponding condition of pod readiness gate {missing:?} is not True"),
        ))
    }
}

fn is_running(container: &Container) -> bool {
    matches!(container.state, State::Running { .. })
}

fn condition(name: &str, state: Result<(), (&str, String)>) -> PodCondition {
    let (status, reason, message) = match state {
        Ok(()) => ("True", None, None),
        Err((reason, message)) => {
            ("False", Some(reason.to_owned()).filter(|r| !r.is_empty()), Some(message).filter(|m| !m.is_empty()))
        }
    };
    PodCondition { type_: name.into(), status: status.into(), reason, message, ..PodCondition::default() }
}

/// The status to report. Conditions that others own are left out: they are merged by their type on the server.
pub(crate) fn compute(observed: &Observed<'_>) -> PodStatus {
    let phase = observed.phase();
    let mut conditions = observed.conditions(phase);
    for condition in &mut conditions {
        let before = observed.before.iter().find(|known| known.type_ == condition.type_);
        let unchanged = before.filter(|known| known.status == condition.status);
        condition.last_transition_time =
            unchanged.and_then(|known| known.last_transition_time.clone()).or_else(|| Some(Time(Timestamp::now())));
        condition.observed_generation = observed.pod.metadata.generation;
    }
    let statuses = |init: bool| -> Option<Vec<ContainerStatus>> {
        let chosen = observed.containers.iter().filter(|container| (container.role != Role::Main) == init);
        let list: Vec<_> = chosen.map(Container::status).collect();
        (!list.is_empty()).then_some(list)
    };
    PodStatus {
        phase: Some(phase.into()),
        conditions: Some(conditions),
        container_statuses: statuses(false),
        init_container_statuses: statuses(true),
        host_ip: Some(observed.addresses.host.clone()),
        host_ips: Some(vec![HostIP { ip: observed.addresses.host.clone() }]),
        pod_ip: Some(observed.addresses.pod.clone()),
        pod_ips: Some(vec![PodIP { ip: observed.addresses.pod.clone() }]),
        start_time: Some(Time(observed.started_at)),
        observed_generation: observed.pod.metadata.generation,
        reason: observed.failure.map(|failure| failure.reason.to_owned()),
        message: observed.failure.map(|failure| failure.message.clone()),
        ..PodStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn running(name: &str) -> Container {
        Container::in_state(name, Role::Main, State::Running { since: Timestamp::UNIX_EPOCH })
    }

    fn waiting(name: &str, role: Role) -> Container {
        Container::in_state(name, role, State::Waiting { reason: "ContainerCreating", message: None })
    }

    fn status(policy: &str, containers: &[Container], terminated: bool) -> PodStatus {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p"}, "spec": {"restartPolicy": policy, "containers": []}}))
        .unwrap();
        compute(&Observed {
            pod: &pod,
            containers,
            addresses: &Addresses { pod: "10.1.1.2".into(), host: "127.0.0.1".into() },
            started_at: Timestamp::UNIX_EPOCH,
            volumes_ready: true,
            failure: None,
            terminated,
            before: &[],
        })
    }

    fn condition<'a>(status: &'a PodStatus, name: &str) -> &'a PodCondition {
        status.conditions.iter().flatten().find(|condition| condition.type_ == name).unwrap()
    }

    #[rstest]
    #[case::new("Always", vec![waiting("a", Role::Main)], false, "Pending")]
    #[case::running("Always", vec![running("a")], false, "Running")]
    #[case::one_of_two("Always", vec![running("a"), waiting("b", Role::Main)], false, "Running")]
    #[case::crashed("Always", vec![Container::exited("a", Role::Main, 1)], false, "Running")]
    #[case::job_done("OnFailure", vec![Container::exited("a", Role::Main, 0)], false, "Succeeded")]
    #[case::job_retries("OnFailure", vec![Container::exited("a", Role::Main, 1)], false, "Running")]
    #[case::job_failed("Never", vec![Container::exited("a", Role::Main, 1)], false, "Failed")]
    #[case::job_half("Never", vec![Container::exited("a", Role::Main, 1), running("b")], false, "Running")]
    #[case::init_failed("Never", vec![Container::exited("i", Role::Init, 1), waiting("a", Role::Main)], false, "Failed")]
    #[case::init_retries("Always", vec![Container::exited("i", Role::Init, 1), waiting("a", Role::Main)], false, "Pending")]
    #[case::deleted("Always", vec![Container::exited("a", Role::Main, 0)], true, "Succeeded")]
    #[case::killed("Always", vec![Container::exited("a", Role::Main, 137)], true, "Failed")]
    fn phases(#[case] policy: &str, #[case] containers: Vec<Container>, #[case] terminated: bool, #[case] phase: &str) {
        assert_eq!(status(policy, &containers, terminated).phase.as_deref(), Some(phase));
    }

    #[test]
    fn unready_containers_are_named() {
        let mut slow = running("slow");
        slow.ready = false;
        let status = status("Always", &[running("a"), slow], false);
        assert_eq!(condition(&status, "Ready").status, "False");
        assert_eq!(condition(&status, "Ready").reason.as_deref(), Some("ContainersNotReady"));
        assert_eq!(
            condition(&status, "ContainersReady").message.as_deref(),
            Some("containers with unready status: [slow]")
        );
        assert_eq!(condition(&status, "Initialized").status, "True");
    }

    #[test]
    fn completed_pods_are_not_ready_for_that_reason() {
        let status = status("Never", &[Container::exited("a", Role::Main, 0)], false);
        assert_eq!(condition(&status, "Ready").reason.as_deref(), Some("PodCompleted"));
    }
}
