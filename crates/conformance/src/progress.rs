//! What a person sees while a run goes on: a live line per lane on a terminal, else one line per finished scenario.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use harness::{
    event::{Event, What},
    evidence::Listener,
    verdict::Verdict,
};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::output;

/// The progress of a run on standard error.
#[derive(Clone)]
pub(crate) struct Progress {
    inner: Arc<Mutex<Lines>>,
}

struct Lines {
    /// None when standard error is no terminal.
    live: Option<MultiProgress>,
    bars: BTreeMap<usize, ProgressBar>,
    /// Silent: the caller prints by itself.
    quiet: bool,
    names: BTreeMap<String, String>,
    /// Lanes that could not be started or ended by themselves; those that were started again later are none of them.
    failed_lanes: BTreeSet<usize>,
    planned: usize,
    done: usize,
}

impl Progress {
    /// Live lines when `terminal`, else plain ones.
    pub fn start(terminal: bool) -> Self {
        Self::with(terminal.then(MultiProgress::new), false)
    }

    /// No lines at all.
    pub fn quiet() -> Self {
        Self::with(None, true)
    }

    fn with(live: Option<MultiProgress>, quiet: bool) -> Self {
        let lines = Lines {
            live,
            bars: BTreeMap::new(),
            quiet,
            names: BTreeMap::new(),
            failed_lanes: BTreeSet::new(),
            planned: 0,
            done: 0,
        };
        Self { inner: Arc::new(Mutex::new(lines)) }
    }

    /// Shows a line that stays.
    pub fn line(&self, text: &str) {
        self.lock().line(text);
    }

    /// Follows the events of a run.
    pub fn listener(&self) -> Listener {
        let progress = self.clone();
        Box::new(move |event| progress.lock().tell(event))
    }

    /// Removes the live lines.
    pub fn finish(&self) {
        let lines = self.lock();
        lines.bars.values().for_each(ProgressBar::finish_and_clear);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn line(&self, text: &str) {
        match &self.live {
            _ if self.quiet => {}
            Some(live) => {
                let _ = live.println(text);
            }
            None => output::tell(text),
        }
    }

    fn tell(&mut self, event: &Event) {
        let name = event.scenario.as_ref().and_then(|id| self.names.get(id)).cloned().unwrap_or_default();
        match (&event.what, event.lane) {
            (What::RunStarted(opening), _) => {
                for scenario in opening.lanes.iter().flatten().chain(&opening.not_run) {
                    self.names.insert(scenario.id(), scenario.name.clone());
                }
                self.planned += opening.lanes.iter().map(Vec::len).sum::<usize>();
            }
            (What::LaneOpening, Some(lane)) => self.live_line(lane, "starting a control plane and the system"),
            (What::LaneReady { seconds }, Some(lane)) => {
                self.failed_lanes.remove(&lane);
                self.live_line(lane, "ready");
                self.line(&format!("lane {lane}: ready after {seconds:.1} s"));
            }
            (What::LaneFailed { failure, was_ready }, Some(lane)) => {
                self.failed_lanes.insert(lane);
                let became = if *was_ready { "ended by itself" } else { "could not be started" };
                self.line(&format!("lane {lane}: {became}\n{}", indented(&failure.text())));
            }
            (What::ScenarioStarted, Some(lane)) => self.live_line(lane, &name),
            (What::StepStarted { keyword, text, .. }, Some(lane)) => {
                self.live_line(lane, &format!("{name}: {keyword} {text}"));
            }
            (What::ScenarioFinished { verdict, reason, seconds }, _) => {
                self.done += 1;
                let (done, planned) = (self.done, self.planned);
                let lane = event.lane.map_or(String::new(), |lane| format!("lane {lane}  "));
                let fault = event.fault.as_ref().map_or(String::new(), |fault| format!("  under {fault}"));
                self.line(&format!("{done:>3}/{planned} {lane}{:<7} {seconds:>6.1} s  {name}{fault}", verdict.word()));
                // What kept a whole lane from being judged was told once.
                let told = event.lane.is_some_and(|lane| self.failed_lanes.contains(&lane));
                if let (Verdict::Fail | Verdict::Error, Some(reason), false) = (verdict, reason, told) {
                    self.line(&indented(reason));
                }
            }
            (What::Note { text }, Some(_)) if event.scenario.is_none() => self.line(text),
            (What::Stopping { reason }, _) => self.line(&format!("stopping: {reason}")),
            (What::LaneClosed { .. }, Some(lane)) => {
                if let Some(bar) = self.bars.remove(&lane) {
                    bar.finish_and_clear();
                }
            }
            _ => {}
        }
    }

    fn live_line(&mut self, lane: usize, text: &str) {
        let Some(live) = &self.live else { return };
        let bar = self.bars.entry(lane).or_insert_with(|| {
            let bar = live.add(ProgressBar::new_spinner());
            let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed:>4} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_prefix(format!("lane {lane}"));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        bar.set_message(text.lines().next().unwrap_or_default().to_owned());
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("      {line}")).collect::<Vec<_>>().join("\n")
}
