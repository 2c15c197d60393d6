//! Lanes side by side: each on its own thread, one scenario at a time, until the work is done or the run is asked to
//! stop. It is cucumber's runner too: what happens is told in cucumber's own events, for any of its writers.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cucumber::step::Collection;
use futures::{FutureExt as _, StreamExt as _, channel::mpsc, future, stream};
use harness::{
    event::{Opening, What},
    evidence::Evidence,
    failure::Failure,
    limit, report,
    system::Limits,
    verdict::Verdict,
};
use tokio::sync::oneshot;

use crate::{
    cucumber_events::Narrator,
    lane::{FaultFile, LaneOf, Target},
    parser::Features,
    session::{Session, summary},
    stop::Stop,
};

/// Scenarios that run one after the other in one lane, under a fault or none.
#[derive(Debug, Clone, Default)]
pub struct Job {
    /// The fault and the opening of its own part of the evidence.
    pub fault: Option<(FaultFile, Box<Opening>)>,
    /// The ids of the scenarios, in order.
    pub scenarios: Vec<String>,
}

/// Jobs of a lane; lanes that share a queue take from it in turn.
pub type Queue = Arc<Mutex<VecDeque<Job>>>;

/// A queue of these jobs.
pub fn queue(jobs: impl IntoIterator<Item = Job>) -> Queue {
    Arc::new(Mutex::new(jobs.into_iter().collect()))
}

/// All that lanes need.
pub struct Runner<T: Target> {
    pub target: Arc<T>,
    pub features: Arc<Features>,
    pub collection: Collection<T::World>,
    pub limits: Limits,
    pub evidence: Evidence,
    pub stop: Stop,
    /// Leave a lane as a failure left it, until the run is asked to stop.
    pub keep: bool,
    /// One queue per lane.
    pub queues: Vec<Queue>,
}

impl<T: Target> Runner<T> {
    /// Runs all lanes to their end. What happened is in the evidence, also when the run was stopped: the reason is
    /// recorded when work was left undone.
    pub async fn drive(self) {
        let (limits, evidence, stop) = (self.limits.clone(), self.evidence.clone(), self.stop.clone());
        let count = self.queues.len();
        // After that a lane's thread is given up.
        let end = limits.cleanup + self.target.close_limit(&limits);
        let asked = stop.clone();
        evidence.when_broken(Box::new(move |broken| asked.now(broken.to_string())));
        let shared = Arc::new(self);
        let mut ends = Vec::with_capacity(count);
        for index in 0..count {
            ends.push(spawn(&shared, index));
        }
        let mut all = Box::pin(future::join_all(ends));
        let outlived = tokio::select! {
            done = &mut all => done,
            () = stop.asked() => wait_for_end(&mut all, end, count).await,
            () = tokio::time::sleep(limits.run) => {
                stop.now(format!("run deadline of {}", limit::text(limits.run)));
                wait_for_end(&mut all, end, count).await
            }
        };
        if outlived.iter().any(|end| !matches!(end, Ok(LaneEnd::Done)))
            && let Some(reason) = stop.reason()
        {
            evidence.record(What::Stopping { reason: reason.to_owned() });
        }
    }

    fn next_job(&self, index: usize) -> Option<Job> {
        if self.stop.reason().is_some() {
            return None;
        }
        self.queues[index].lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// How a lane ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneEnd {
    Done,
    /// Asked to stop with work left.
    Cut,
}

type Ends = Vec<Result<LaneEnd, oneshot::error::RecvError>>;

async fn wait_for_end(all: &mut (impl Future<Output = Ends> + Unpin), end: Duration, count: usize) -> Ends {
    match tokio::time::timeout(end, all).await {
        Ok(ends) => ends,
        // A step that blocks its thread cannot be dropped; the process ends without it, and its children with that.
        Err(_) => vec![Ok(LaneEnd::Cut); count],
    }
}

/// Starts a lane's thread. Steps that block it by mistake do not hold up other lanes, and children that die with the
/// thread that started them live as long as their lane.
fn spawn<T: Target>(runner: &Arc<Runner<T>>, index: usize) -> oneshot::Receiver<LaneEnd> {
    let (end, ended) = oneshot::channel();
    let runner = runner.clone();
    let runtime = tokio::runtime::Handle::current();
    let body = move || {
        let result = runtime.block_on(lane(&runner, index));
        // Whoever waits for the end may drop the target, and is to be the last who does.
        drop(runner);
        let _ = end.send(result);
    };
    // Debug builds of deep async state machines need more than the default 2 MiB.
    let thread = std::thread::Builder::new().name(format!("lane-{}", index + 1)).stack_size(16 << 20);
    thread.spawn(body).expect("a thread per lane can be started");
    ended
}

async fn lane<T: Target>(runner: &Runner<T>, index: usize) -> LaneEnd {
    let number = index + 1;
    let evidence = runner.evidence.lane(number);
    let mut opened: Option<LaneOf<T>> = None;
    let mut kept = false;
    while let Some(job) = runner.next_job(index) {
        let lane = match opened.take() {
            Some(lane) => lane,
            None => match open(runner, number, &job, &evidence).await {
                Ok(lane) => lane,
                // Nothing was begun; what was asked for is reported as not run, with the reason for the stop.
                Err(_) if runner.stop.reason().is_some() => return LaneEnd::Cut,
                Err(failure) => {
                    evidence.record(What::LaneFailed { failure: failure.clone(), was_ready: false });
                    let reason = format!("{}: {}", report::reason(number, false), summary(&failure));
                    refuse(&evidence, &job, &job.scenarios, &reason);
                    while let Some(job) = runner.next_job(index) {
                        refuse(&evidence, &job, &job.scenarios, &reason);
                    }
                    break;
                }
            },
        };
        let good = work(runner, number, lane.as_ref(), &evidence, &job, &mut kept).await;
        if kept {
            keep(runner, lane.as_ref(), &evidence, number).await;
            close(runner, lane, &evidence).await;
            return LaneEnd::Done;
        }
        if good {
            opened = Some(lane);
        } else {
            close(runner, lane, &evidence).await;
        }
    }
    if let Some(lane) = opened {
        close(runner, lane, &evidence).await;
    }
    let left = !runner.queues[index].lock().unwrap_or_else(PoisonError::into_inner).is_empty();
    if left || runner.stop.reason().is_some() { LaneEnd::Cut } else { LaneEnd::Done }
}

async fn open<T: Target>(
    runner: &Runner<T>,
    number: usize,
    job: &Job,
    evidence: &Evidence,
) -> Result<LaneOf<T>, Failure> {
    let first = job.scenarios.iter().filter_map(|id| runner.features.get(id));
    let needs = first.flat_map(|parsed| parsed.scenario.needs().map(str::to_owned)).collect();
    evidence.record(What::LaneOpening);
    let began = Instant::now();
    let start = runner.target.start_limit(&runner.limits);
    let opened = tokio::select! {
        biased;
        () = runner.stop.asked() => {
            return Err(Failure::error(format!("starting lane {number}"), runner.stop.reason().unwrap_or_default()));
        }
        opened = tokio::time::timeout(start, runner.target.open(number, needs, evidence.clone())) => opened,
    };
    let lane = opened.map_err(|_| {
        let start = limit::text(start);
        Failure::error(format!("start deadline of {start}"), format!("lane {number} was not ready"))
            .next("look at the component logs of the lane, or raise `start` in the system's limits")
    })??;
    evidence.record(What::LaneReady { seconds: began.elapsed().as_secs_f64() });
    Ok(lane)
}

/// Runs a job. Returns whether the lane may be used again.
async fn work<T: Target>(
    runner: &Runner<T>,
    number: usize,
    lane: &dyn crate::lane::Lane<T::World>,
    evidence: &Evidence,
    job: &Job,
    kept: &mut bool,
) -> bool {
    if let Some((fault, opening)) = &job.fault {
        evidence.enter_fault(Some(fault.entry.id.clone()));
        evidence.record(What::RunStarted(opening.clone()));
        if let Err(failure) = lane.set_fault(fault).await {
            let reason = format!("fault {} could not be switched on: {}", fault.entry.id, summary(&failure));
            refuse(evidence, job, &job.scenarios, &reason);
            evidence.enter_fault(None);
            return false;
        }
        evidence.record(What::FaultOn);
    }
    let session = Session {
        lane,
        collection: &runner.collection,
        limits: &runner.limits,
        evidence,
        stop: &runner.stop,
        keep: runner.keep,
    };
    let began = Instant::now();
    let mut whole = true;
    for (at, id) in job.scenarios.iter().enumerate() {
        if runner.stop.reason().is_some() {
            break;
        }
        let Some(parsed) = runner.features.get(id) else {
            let reason = "it is not among the features".to_owned();
            evidence.record_of(
                id.clone(),
                What::ScenarioFinished { verdict: Verdict::Error, reason: Some(reason), seconds: 0.0 },
            );
            continue;
        };
        let outcome = session.run(parsed).await;
        if let Some(failure) = lane.broken().now_or_never() {
            gone(evidence, number, &job.scenarios[at + 1..], failure);
            whole = false;
            break;
        }
        if runner.keep && matches!(outcome.verdict, Verdict::Fail | Verdict::Error) && runner.stop.reason().is_none() {
            *kept = true;
            for id in &job.scenarios[at + 1..] {
                let reason = "the lane is kept as the failure before left it (--keep)".to_owned();
                evidence.record_of(id.clone(), What::NotRun { reason });
            }
            break;
        }
    }
    if job.fault.is_none() || *kept {
        return whole;
    }
    evidence.record(What::RunFinished { seconds: began.elapsed().as_secs_f64() });
    if !whole {
        evidence.record(What::FaultOff);
        evidence.enter_fault(None);
        return false;
    }
    let cleared = tokio::time::timeout(runner.limits.start, lane.clear_faults()).await;
    evidence.record(What::FaultOff);
    let good = match cleared {
        Ok(Ok(())) => true,
        Ok(Err(failure)) => {
            evidence.note(format!("the lane is given up: {}", summary(&failure)));
            false
        }
        Err(_) => {
            evidence.note(format!(
                "the lane is given up: start deadline of {} after a fault",
                limit::text(runner.limits.start)
            ));
            false
        }
    };
    evidence.enter_fault(None);
    good
}

/// Records that a lane ended by itself, and that these scenarios could not be judged for it.
fn gone(evidence: &Evidence, lane: usize, scenarios: &[String], failure: Failure) {
    let reason = format!("{}: {}", report::reason(lane, true), summary(&failure));
    if !scenarios.is_empty() {
        evidence.record(What::LaneFailed { failure, was_ready: true });
    }
    for id in scenarios {
        let reason = Some(reason.clone());
        evidence.record_of(id.clone(), What::ScenarioFinished { verdict: Verdict::Error, reason, seconds: 0.0 });
    }
}

/// Records that scenarios could not be judged.
fn refuse(evidence: &Evidence, job: &Job, scenarios: &[String], reason: &str) {
    if let Some((fault, opening)) = &job.fault {
        evidence.enter_fault(Some(fault.entry.id.clone()));
        evidence.record(What::RunStarted(opening.clone()));
    }
    for id in scenarios {
        let reason = Some(reason.to_owned());
        evidence.record_of(id.clone(), What::ScenarioFinished { verdict: Verdict::Error, reason, seconds: 0.0 });
    }
    if job.fault.is_some() {
        evidence.record(What::RunFinished { seconds: 0.0 });
        evidence.enter_fault(None);
    }
}

async fn keep<T: Target>(
    runner: &Runner<T>,
    lane: &dyn crate::lane::Lane<T::World>,
    evidence: &Evidence,
    number: usize,
) {
    let look = lane.how_to_look().join("\n  ");
    evidence.note(format!("lane {number} is kept until Ctrl-C; look at it with\n  {look}"));
    runner.stop.asked().await;
}

async fn close<T: Target>(runner: &Runner<T>, lane: LaneOf<T>, evidence: &Evidence) {
    let began = Instant::now();
    let limit = runner.target.close_limit(&runner.limits);
    match tokio::time::timeout(limit, lane.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => evidence.note(format!("closing the lane: {}", summary(&failure))),
        Err(_) => evidence.note(format!("closing the lane was not done after {}", limit::text(limit))),
    }
    evidence.record(What::LaneClosed { seconds: began.elapsed().as_secs_f64() });
}

/// Cucumber's runner: the work is that of the queues; the features it is given are those that were planned from.
impl<T: Target> cucumber::Runner<T::World> for Runner<T> {
    type Cli = cucumber::cli::Empty;
    type EventStream =
        stream::LocalBoxStream<'static, cucumber::parser::Result<cucumber::Event<cucumber::event::Cucumber<T::World>>>>;

    fn run<S>(self, features: S, _: Self::Cli) -> Self::EventStream
    where
        S: stream::Stream<Item = cucumber::parser::Result<gherkin::Feature>> + 'static,
    {
        let (told, telling) = mpsc::unbounded();
        let work = async move {
            let parsed: Vec<_> = features.collect().await;
            let planned: Vec<String> = self
                .queues
                .iter()
                .flat_map(|queue| queue.lock().unwrap_or_else(PoisonError::into_inner).clone())
                .flat_map(|job| job.scenarios)
                .collect();
            let mut narrator = Narrator::new(told, &self.features, self.collection.clone(), &planned);
            narrator.opening(&parsed);
            let (happened, mut happening) = mpsc::unbounded();
            self.evidence.listen(Box::new(move |event| {
                let _ = happened.unbounded_send(event.clone());
            }));
            let driving = self.drive();
            futures::pin_mut!(driving);
            loop {
                tokio::select! {
                    Some(event) = happening.next() => narrator.tell(&event),
                    () = &mut driving => break,
                }
            }
            while let Ok(event) = happening.try_recv() {
                narrator.tell(&event);
            }
            narrator.closing();
        };
        let work = stream::once(work).filter_map(|()| future::ready(None));
        stream::select(telling, work).boxed_local()
    }
}
