//! The runner against deliberately bad worlds, steps and lanes: whatever they do, the right verdict comes out with a
//! message that says why, and what comes after them still runs.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use cucumber::{Parser as _, Runner as _, given, then, when};
use futures::{FutureExt as _, StreamExt as _, future::LocalBoxFuture};
use harness::{
    datafile::{DataFile, Place},
    event::{Opening, What},
    evidence::Evidence,
    failure::{Failure, Step},
    fault::FaultEntry,
    plan::Capabilities,
    proof::{Caught, FaultProof},
    report::{Report, terminal},
    scenario::Scenario,
    system::Limits,
    verdict::{Exit, Verdict},
};
use registry_conformance::{
    lane::{FaultFile, Lane, LaneOf, Leak, Target},
    parser::Features,
    runner::{Job, Queue, Runner, queue},
    stop::Stop,
    vocabulary::Vocabulary,
};
use rstest::rstest;
use tokio_util::sync::CancellationToken;

/// A World that remembers what it was told to do wrong.
#[derive(Debug, Default, cucumber::World)]
struct World {
    leaks: Vec<String>,
    cleanup: Cleanup,
    shared: Arc<Shared>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Cleanup {
    #[default]
    Works,
    Fails,
    Hangs,
    Panics,
}

/// What all lanes of a test share.
#[derive(Debug, Default)]
struct Shared {
    /// Calls of the hook, in order.
    cleaned: Mutex<Vec<String>>,
    /// What lanes were told as they were opened.
    expected: Mutex<Vec<Vec<String>>>,
    opened: AtomicUsize,
    closed: AtomicUsize,
    /// The ground of the lanes has gone.
    gone: CancellationToken,
    meeting: Meeting,
    /// The fault that is on.
    fault: Mutex<Option<String>>,
}

/// Two lanes meet here only when both run at once.
#[derive(Debug)]
struct Meeting(tokio::sync::Barrier);

impl Default for Meeting {
    fn default() -> Self {
        Self(tokio::sync::Barrier::new(2))
    }
}

#[given("a step that holds")]
#[when("a step that holds")]
#[then("a step that holds")]
async fn holds(_: &mut World) -> Step {
    Ok(())
}

#[then("the promise is broken")]
async fn broken(_: &mut World) -> Step {
    Err(Failure::fail("reading Config/cluster", "managementState Managed", "managementState Removed")
        .of("operator")
        .next("read the operator's log"))
}

#[then("the machine is at fault")]
async fn ours(_: &mut World) -> Step {
    Err(Failure::error("copying the kubeconfig", "No space left on device"))
}

#[then("it panics")]
async fn panics(world: &mut World) {
    world.leaks.first().expect("there was a leak");
}

#[when("it hangs")]
async fn hangs(_: &mut World) -> Step {
    std::future::pending().await
}

#[when(expr = "it takes {int} ms")]
async fn takes(_: &mut World, milliseconds: u64) -> Step {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    Ok(())
}

#[when(expr = "it blocks its thread for {int} ms")]
async fn blocks(_: &mut World, milliseconds: u64) -> Step {
    std::thread::sleep(Duration::from_millis(milliseconds));
    Ok(())
}

#[when(expr = "it leaves {word} behind")]
async fn leaves(world: &mut World, name: String) -> Step {
    world.leaks.push(name);
    Ok(())
}

#[given(expr = "a clean-up that {word}")]
async fn cleanup(world: &mut World, how: String) -> Step {
    world.cleanup = match how.as_str() {
        "fails" => Cleanup::Fails,
        "hangs" => Cleanup::Hangs,
        "panics" => Cleanup::Panics,
        _ => Cleanup::Works,
    };
    Ok(())
}

#[when("it meets the other lane")]
async fn meets(world: &mut World) -> Step {
    world.shared.meeting.0.wait().await;
    Ok(())
}

#[when("the engine goes away")]
async fn goes_away(world: &mut World) -> Step {
    world.shared.gone.cancel();
    std::future::pending().await
}

#[then("a promise is broken as the ground goes")]
async fn broken_by_us(world: &mut World) -> Step {
    world.shared.gone.cancel();
    Err(Failure::fail("reading Config/cluster", "managementState Managed", "connection refused"))
}

#[then("no fault is on")]
async fn no_fault(world: &mut World) -> Step {
    match world.shared.fault.lock().unwrap().as_deref() {
        None => Ok(()),
        Some(fault) => Err(Failure::fail("asking for the fault", "none", fault)),
    }
}

#[given("an ambiguous sentence")]
async fn one_way(_: &mut World) {}

#[given(regex = "^an ambiguous (.*)$")]
async fn other_way(_: &mut World, _what: String) {}

/// How a target's lanes behave when they are opened.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Opens {
    Well,
    Fails,
    Hangs,
    WithoutWorld,
    WithoutClearing,
}

struct TestTarget {
    opens: Opens,
    shared: Arc<Shared>,
}

struct TestLane {
    opens: Opens,
    shared: Arc<Shared>,
}

impl Target for TestTarget {
    type World = World;

    fn capabilities(&self) -> Capabilities {
        Capabilities { target: "test".into(), ..Default::default() }
    }

    fn prepare<'a>(&'a self, _: &'a dyn Fn(&str)) -> LocalBoxFuture<'a, Result<(), Failure>> {
        async { Ok(()) }.boxed_local()
    }

    fn open(
        &self,
        _: usize,
        needs: BTreeSet<String>,
        _: Evidence,
    ) -> LocalBoxFuture<'_, Result<LaneOf<Self>, Failure>> {
        self.shared.expected.lock().unwrap().push(needs.into_iter().collect());
        async move {
            match self.opens {
                Opens::Fails => return Err(Failure::error("starting etcd", "port 2379 is in use")),
                Opens::Hangs => std::future::pending().await,
                _ => {}
            }
            self.shared.opened.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(TestLane { opens: self.opens, shared: self.shared.clone() }) as LaneOf<Self>)
        }
        .boxed_local()
    }
}

impl Lane<World> for TestLane {
    fn world<'a>(&'a self, _: &'a Scenario) -> LocalBoxFuture<'a, Result<World, Failure>> {
        async move {
            if self.opens == Opens::WithoutWorld {
                return Err(Failure::error("making the scenario's folder", "Permission denied"));
            }
            Ok(World { shared: self.shared.clone(), ..Default::default() })
        }
        .boxed_local()
    }

    fn after<'a>(&'a self, world: &'a mut World, verdict: Verdict) -> LocalBoxFuture<'a, Result<Vec<Leak>, Failure>> {
        async move {
            self.shared.cleaned.lock().unwrap().push(verdict.to_string());
            match world.cleanup {
                Cleanup::Works => {}
                Cleanup::Fails => return Err(Failure::error("deleting the project", "503 Service Unavailable")),
                Cleanup::Hangs => std::future::pending().await,
                Cleanup::Panics => panic!("no such ledger"),
            }
            Ok(world.leaks.iter().map(|name| Leak { kind: "ImageStream".into(), name: name.clone() }).collect())
        }
        .boxed_local()
    }

    fn logs<'a>(&'a self, component: &'a str, _: usize) -> LocalBoxFuture<'a, Vec<String>> {
        async move { vec![format!("{component}: leader elected"), format!("{component}: sync failed")] }.boxed_local()
    }

    fn broken(&self) -> LocalBoxFuture<'_, Failure> {
        async {
            self.shared.gone.cancelled().await;
            Failure::error("keeping the nodes running", "the engine went away")
        }
        .boxed_local()
    }

    fn set_fault<'a>(&'a self, fault: &'a FaultFile) -> LocalBoxFuture<'a, Result<(), Failure>> {
        async move {
            if fault.entry.seam == "nowhere" {
                return Err(Failure::error("finding the seam", "there is no seam nowhere"));
            }
            *self.shared.fault.lock().unwrap() = Some(fault.entry.id.clone());
            Ok(())
        }
        .boxed_local()
    }

    fn clear_faults(&self) -> LocalBoxFuture<'_, Result<(), Failure>> {
        async move {
            *self.shared.fault.lock().unwrap() = None;
            if self.opens == Opens::WithoutClearing {
                return Err(Failure::error("waiting for the operator", "it is still Degraded"));
            }
            Ok(())
        }
        .boxed_local()
    }

    fn how_to_look(&self) -> Vec<String> {
        vec!["kubectl --kubeconfig /run/lane/kubeconfig get pods -A".into()]
    }

    fn close(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), Failure>> {
        async move {
            self.shared.closed.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
        .boxed_local()
    }
}

/// A run to be made; its parts can be changed before.
struct Made {
    features: Arc<Features>,
    runner: Runner<TestTarget>,
    shared: Arc<Shared>,
}

fn limits() -> Limits {
    let milliseconds = Duration::from_millis;
    Limits {
        start: milliseconds(400),
        step: milliseconds(300),
        scenario: milliseconds(700),
        cleanup: milliseconds(300),
        run: Duration::from_secs(20),
        ..Limits::default()
    }
}

/// Scenarios, each given as its steps, in lanes.
fn made(lanes: &[&[&str]], opens: Opens) -> Made {
    let mut text = String::from("Feature: Bad things\n");
    for (lane, scenarios) in lanes.iter().enumerate() {
        for (at, steps) in scenarios.iter().enumerate() {
            text.push_str(&format!("\n  @OPR-TEST @backend-{lane}\n  Scenario: lane {lane} scenario {at}\n"));
            for step in steps.split("; ") {
                text.push_str(&format!("    {step}\n"));
            }
        }
    }
    let features = Arc::new(Features::read([&DataFile::new("features/operator/bad.feature", text)]).unwrap());
    let mut all = features.suite().scenarios().iter();
    let queues: Vec<Vec<Scenario>> =
        lanes.iter().map(|scenarios| all.by_ref().take(scenarios.len()).cloned().collect()).collect();
    let evidence = Evidence::in_memory();
    evidence.record(What::RunStarted(Box::new(opening(queues.clone()))));
    let shared = Arc::new(Shared::default());
    let runner = Runner {
        target: Arc::new(TestTarget { opens, shared: shared.clone() }),
        features: features.clone(),
        collection: Vocabulary::<World>::registered().collection().clone(),
        limits: limits(),
        evidence,
        stop: Stop::default(),
        keep: false,
        queues: queues.iter().map(|lane| one_job(lane)).collect(),
    };
    Made { features, runner, shared }
}

fn one_job(lane: &[Scenario]) -> Queue {
    queue([Job { fault: None, scenarios: lane.iter().map(Scenario::id).collect() }])
}

fn opening(lanes: Vec<Vec<Scenario>>) -> Opening {
    Opening {
        run: "test".into(),
        version: "0".into(),
        system: "bad".into(),
        target: "test".into(),
        docs_versions: vec!["4.6".into()],
        selection: "everything".into(),
        seed: None,
        lanes,
        not_run: vec![],
        requirements: std::collections::BTreeMap::from([(
            "OPR-TEST".to_owned(),
            harness::event::Stated { title: "The operator does it".into(), sources: vec!["4.6 section 2.1".into()] },
        )]),
        known_deviations: vec![],
    }
}

impl Made {
    async fn report(self) -> Report {
        let evidence = self.runner.evidence.clone();
        self.runner.drive().await;
        evidence.record(What::RunFinished { seconds: 1.0 });
        Report::of(&evidence.events().unwrap())
    }
}

fn verdicts(report: &Report) -> Vec<(Verdict, &str)> {
    report.scenarios.iter().map(|one| (one.verdict, one.reason.as_deref().unwrap_or_default())).collect()
}

#[rstest]
#[case::passes("Given a step that holds; Then a step that holds", Verdict::Pass, "")]
#[case::fails(
    "Then the promise is broken",
    Verdict::Fail,
    "reading Config/cluster: expected managementState Managed, last seen managementState Removed"
)]
#[case::is_ours("Then the machine is at fault", Verdict::Error, "copying the kubeconfig: No space left on device")]
#[case::panics("Then it panics", Verdict::Error, "running the step \"it panics\": it panicked: there was a leak")]
#[case::hangs("When it hangs", Verdict::Error, "step deadline of 300ms: the step was still going on and was dropped")]
#[case::is_slow_in_sum(
    "When it takes 250 ms; When it takes 251 ms; When it takes 252 ms",
    Verdict::Error,
    "scenario deadline of 700ms: the step was still going on and was dropped"
)]
#[case::leaks("When it leaves images behind", Verdict::Error, "it left behind: ImageStream images")]
#[case::fails_and_leaks(
    "When it leaves images behind; Then the promise is broken",
    Verdict::Fail,
    "last seen managementState Removed; it left behind: ImageStream images"
)]
#[case::cannot_be_cleaned(
    "Given a clean-up that fails",
    Verdict::Error,
    "cleaning up after it: deleting the project: 503 Service Unavailable"
)]
#[case::hangs_in_cleaning("Given a clean-up that hangs", Verdict::Error, "cleanup deadline of 300ms")]
#[case::panics_in_cleaning("Given a clean-up that panics", Verdict::Error, "panicked: no such ledger")]
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_scenario_gets_its_verdict_and_the_next_one_runs(
    #[case] steps: &str,
    #[case] verdict: Verdict,
    #[case] reason: &str,
) {
    let made = made(&[&[steps, "Given a step that holds"]], Opens::Well);
    let shared = made.shared.clone();
    let report = made.report().await;
    let (seen, why) = verdicts(&report)[0];
    assert_eq!(seen, verdict, "{why}");
    assert!(why.contains(reason), "{why}");
    assert_eq!(verdicts(&report)[1], (Verdict::Pass, ""));
    assert_eq!(shared.cleaned.lock().unwrap().len(), 2, "the hook runs after every scenario");
    assert_eq!(shared.closed.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_scenario_tells_its_whole_story() {
    let report = made(&[&["Given a step that holds; Then the promise is broken; Then a step that holds"]], Opens::Well)
        .report()
        .await;
    assert_eq!(report.exit(false), Exit::Failed);
    insta::assert_snapshot!(strip(&terminal::failure(&report.scenarios[0])), @r"
      step          Then the promise is broken (line 6)
      tried         reading Config/cluster
      expected      managementState Managed
      last seen     managementState Removed
      requirement   OPR-TEST The operator does it (4.6 section 2.1)
      in            runner.rs
      next          read the operator's log
      operator log  the last 2 lines
                    operator: leader elected
                    operator: sync failed
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_placed_where_it_happened() {
    let report = made(&[&["Then it panics"]], Opens::Well).report().await;
    let location = report.scenarios[0].failed.as_ref().unwrap().location.clone().unwrap();
    let line = location.rsplit_once("runner.rs:").expect("it happened in this file").1;
    let source = include_str!("runner.rs").lines().nth(line.parse::<usize>().unwrap() - 1).unwrap();
    assert!(source.contains("leaks.first().expect"), "{source}");
}

#[rstest]
#[case(Opens::Fails, "lane 1 could not be started: starting etcd: port 2379 is in use")]
#[case(Opens::Hangs, "lane 1 could not be started: start deadline of 400ms: lane 1 was not ready")]
#[case(Opens::WithoutWorld, "making the scenario's folder: Permission denied")]
#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_cannot_do_is_an_error_and_no_fail(#[case] opens: Opens, #[case] reason: &str) {
    let report = made(&[&["Given a step that holds", "Then the promise is broken"]], opens).report().await;
    for (verdict, why) in verdicts(&report) {
        assert_eq!((verdict, why), (Verdict::Error, reason));
    }
    assert_eq!(report.exit(false), Exit::Unjudged);
}

#[rstest]
#[case::while_a_step_waits("When the engine goes away")]
#[case::and_a_step_fails_for_it("Then a promise is broken as the ground goes")]
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_ends_by_itself_is_told_once_and_makes_no_fail(#[case] step: &str) {
    let made = made(&[&["Given a step that holds", step, "Then the promise is broken", "Then it panics"]], Opens::Well);
    let shared = made.shared.clone();
    let report = made.report().await;
    let seen = verdicts(&report);
    assert_eq!(seen[0], (Verdict::Pass, ""));
    assert_eq!(seen[1], (Verdict::Error, "keeping the nodes running: the engine went away"));
    for (verdict, why) in &seen[2..] {
        assert_eq!(*verdict, Verdict::Error);
        assert_eq!(*why, "lane 1 ended by itself: keeping the nodes running: the engine went away");
    }
    assert_eq!(report.exit(false), Exit::Unjudged);
    let text = terminal::print(&report, terminal::Colour::Plain);
    assert!(text.starts_with("ERROR lane 1 ended by itself\n"), "{text}");
    assert!(text.contains("  2 scenarios were not judged for this\n"), "{text}");
    assert_eq!(text.matches("the engine went away").count(), 2, "for the lane and where it happened: {text}");
    assert_eq!((shared.cleaned.lock().unwrap().len(), shared.closed.load(Ordering::SeqCst)), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_run_side_by_side() {
    let report =
        made(&[&["When it meets the other lane"], &["When it meets the other lane"]], Opens::Well).report().await;
    assert_eq!(verdicts(&report), [(Verdict::Pass, ""), (Verdict::Pass, "")]);
    let lanes: Vec<Option<usize>> = report.scenarios.iter().map(|one| one.lane).collect();
    assert_eq!(lanes, [Some(1), Some(2)]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_step_that_blocks_its_thread_holds_up_no_other_lane() {
    let made = made(&[&["When it blocks its thread for 600 ms"], &["When it takes 50 ms"]], Opens::Well);
    let evidence = made.runner.evidence.clone();
    made.report().await;
    let order: Vec<Option<usize>> = evidence
        .events()
        .unwrap()
        .iter()
        .filter(|event| matches!(event.what, What::ScenarioFinished { .. }))
        .map(|event| event.lane)
        .collect();
    assert_eq!(order, [Some(2), Some(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_the_step_runs_the_hook_and_keeps_what_was_seen() {
    let mut made = made(&[&["Given a step that holds", "When it hangs", "Given a step that holds"]], Opens::Well);
    made.runner.limits.step = Duration::from_secs(30);
    made.runner.limits.scenario = Duration::from_secs(30);
    let (stop, shared) = (made.runner.stop.clone(), made.shared.clone());
    let asked = stop.clone();
    made.runner.evidence.listen(Box::new(move |event| {
        if matches!(&event.what, What::StepStarted { text, .. } if text == "it hangs") {
            asked.now("interrupted by Ctrl-C");
        }
    }));
    let began = Instant::now();
    let report = made.report().await;
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(
        verdicts(&report),
        [
            (Verdict::Pass, ""),
            (Verdict::Error, "running the step: interrupted by Ctrl-C"),
            (Verdict::NotRun, "the run ended before its turn: interrupted by Ctrl-C")
        ]
    );
    assert_eq!(*shared.cleaned.lock().unwrap(), ["pass", "ERROR"]);
    assert_eq!(shared.closed.load(Ordering::SeqCst), 1);
    assert_eq!(report.stopped.as_deref(), Some("interrupted by Ctrl-C"));
    assert_eq!(report.exit(false), Exit::Unjudged);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_run_has_a_deadline_too() {
    let mut made = made(&[&["When it takes 250 ms"; 8]], Opens::Well);
    made.runner.limits.run = Duration::from_millis(600);
    let report = made.report().await;
    assert_eq!(report.stopped.as_deref(), Some("run deadline of 600ms"));
    assert!(report.totals.pass >= 1 && report.totals.not_run >= 1, "{:?}", report.totals);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_lane_stays_as_the_failure_left_it_until_asked() {
    let mut made = made(&[&["Then the promise is broken", "Given a step that holds"]], Opens::Well);
    made.runner.keep = true;
    let (stop, shared) = (made.runner.stop.clone(), made.shared.clone());
    let seen = shared.clone();
    made.runner.evidence.listen(Box::new(move |event| {
        if matches!(&event.what, What::Note { text } if text.contains("kept until Ctrl-C")) {
            assert!(seen.cleaned.lock().unwrap().is_empty());
            assert_eq!(seen.closed.load(Ordering::SeqCst), 0);
            stop.now("interrupted by Ctrl-C");
        }
    }));
    let report = made.report().await;
    assert_eq!(report.scenarios[0].verdict, Verdict::Fail);
    assert_eq!(verdicts(&report)[1], (Verdict::NotRun, "the lane is kept as the failure before left it (--keep)"));
    assert_eq!(shared.closed.load(Ordering::SeqCst), 1);
    assert_eq!(report.stopped, None);
}

#[test]
fn undefined_and_ambiguous_steps_are_found_before_anything_starts() {
    let made = made(&[&["Given a step that hold; Given an ambiguous sentence; Given a step that holds"]], Opens::Well);
    let findings = Vocabulary::<World>::registered().check(&made.features, made.features.suite().scenarios());
    let printed: Vec<String> = findings.iter().map(|finding| strip(&finding.to_string())).collect();
    insta::assert_snapshot!(printed.join("\n"), @r#"
    features/operator/bad.feature:5: no step is defined for "Given a step that hold"; the nearest is: Given a step that holds  (runner.rs)
    features/operator/bad.feature:6: more than one step fits "Given an ambiguous sentence": an ambiguous … (runner.rs) and an ambiguous sentence (runner.rs)
    "#);
}

/// The text without the folder and line numbers of this file, which depend on where it is built.
fn strip(text: &str) -> String {
    let mut out = String::new();
    for part in text.split_inclusive("runner.rs:") {
        let part = match out.ends_with("runner.rs") {
            true => part.trim_start_matches(|c: char| c.is_ascii_digit()),
            false => part,
        };
        match part.strip_suffix("runner.rs:") {
            Some(before) => {
                let folder = before.rfind([' ', '(']).map_or(0, |at| at + 1);
                out.push_str(&before[..folder]);
                out.push_str("runner.rs");
            }
            None => out.push_str(part),
        }
    }
    out
}

fn under_fault(made: &Made, id: &str, seam: &str) -> Job {
    let scenarios = made.features.suite().scenarios().to_vec();
    let entry = FaultEntry {
        id: id.into(),
        seam: seam.into(),
        title: String::new(),
        requirements: vec!["OPR-TEST".into()],
        scenarios: vec![],
        place: Place::default(),
    };
    let ids = scenarios.iter().map(Scenario::id).collect();
    let fault = FaultFile { entry, file: DataFile::new("faults/x.yaml", "") };
    Job { fault: Some((fault, Box::new(opening(vec![scenarios])))), scenarios: ids }
}

fn proofs(evidence: &Evidence, jobs: &[Job]) -> Vec<FaultProof> {
    let events = evidence.events().unwrap();
    jobs.iter()
        .map(|job| {
            let entry = &job.fault.as_ref().unwrap().0.entry;
            let own: Vec<_> =
                events.iter().filter(|event| event.fault.as_deref() == Some(&entry.id)).cloned().collect();
            FaultProof::of(entry, &Report::of(&own), 1.0)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_is_on_for_its_scenarios_and_off_after_them() {
    let mut made = made(&[&["Then no fault is on"]], Opens::Well);
    let jobs = [under_fault(&made, "first", "operator-api"), under_fault(&made, "second", "operator-api")];
    made.runner.queues = vec![queue(jobs.clone())];
    let (evidence, shared) = (made.runner.evidence.clone(), made.shared.clone());
    made.runner.drive().await;
    for proof in proofs(&evidence, &jobs) {
        assert_eq!(proof.verdict, Caught::Caught, "{:?}", proof.reason);
    }
    assert_eq!(*shared.fault.lock().unwrap(), None);
    assert_eq!(shared.opened.load(Ordering::SeqCst), 1);
}

#[rstest]
#[case::the_scenario_does_not_look("Given a step that holds", "operator-api", "came to pass")]
#[case::an_error_is_no_catch("Then the machine is at fault", "operator-api", "came to ERROR (copying the kubeconfig")]
#[case::it_cannot_be_switched_on("Then no fault is on", "nowhere", "there is no seam nowhere")]
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_nothing_notices_is_missed(#[case] steps: &str, #[case] seam: &str, #[case] reason: &str) {
    let mut made = made(&[&[steps]], Opens::Well);
    let jobs = [under_fault(&made, "quiet", seam)];
    made.runner.queues = vec![queue(jobs.clone())];
    let evidence = made.runner.evidence.clone();
    made.runner.drive().await;
    let proof = proofs(&evidence, &jobs).remove(0);
    assert_eq!(proof.verdict, Caught::Missed);
    assert!(proof.reason.as_deref().unwrap().contains(reason), "{:?}", proof.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_does_not_get_well_is_replaced() {
    let mut made = made(&[&["Then no fault is on"]], Opens::WithoutClearing);
    let jobs = [under_fault(&made, "first", "operator-api"), under_fault(&made, "second", "operator-api")];
    made.runner.queues = vec![queue(jobs.clone())];
    let (evidence, shared) = (made.runner.evidence.clone(), made.shared.clone());
    made.runner.drive().await;
    assert!(proofs(&evidence, &jobs).iter().all(|proof| proof.verdict == Caught::Caught));
    assert_eq!(shared.opened.load(Ordering::SeqCst), 2);
    assert_eq!(shared.closed.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn cucumber_is_told_everything_in_its_own_events() {
    use cucumber::event::{Cucumber, Feature, Scenario as Told, Step as ToldStep};
    let made = made(&[&["Given a step that holds; Then the promise is broken; Then a step that holds"]], Opens::Well);
    let features = Arc::unwrap_or_clone(made.features.clone()).parse((), cucumber::cli::Empty);
    let events: Vec<_> =
        made.runner.run(features, cucumber::cli::Empty).map(|event| event.unwrap().value).collect().await;
    let told: Vec<&str> = events
        .iter()
        .map(|event| match event {
            Cucumber::Started => "started",
            Cucumber::ParsingFinished { steps: 3, .. } => "parsed",
            Cucumber::Finished => "finished",
            Cucumber::Feature(_, Feature::Started) => "feature",
            Cucumber::Feature(_, Feature::Finished) => "feature end",
            Cucumber::Feature(_, Feature::Scenario(_, scenario)) => match &scenario.event {
                Told::Started => "scenario",
                Told::Finished => "scenario end",
                Told::Step(_, ToldStep::Started) => "step",
                Told::Step(_, ToldStep::Passed(..)) => "passed",
                Told::Step(_, ToldStep::Failed(..)) => "failed",
                Told::Step(_, ToldStep::Skipped) => "skipped",
                _ => "other",
            },
            _ => "other",
        })
        .collect();
    assert_eq!(
        told,
        [
            "started",
            "parsed",
            "feature",
            "scenario",
            "step",
            "passed",
            "step",
            "failed",
            "step",
            "skipped",
            "scenario end",
            "feature end",
            "finished"
        ]
    );
}
