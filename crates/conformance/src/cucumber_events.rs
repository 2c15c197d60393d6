//! What happens in a run, told in cucumber's own events, so that any of cucumber's writers can follow it. Our evidence
//! says more; this is a translation for others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cucumber::{
    Event,
    event::{Cucumber, Feature, Rule, Scenario, Source, StepError},
    parser,
    step::Collection,
};
use futures::channel::mpsc::UnboundedSender;
use harness::event::{Event as Happened, What};

use crate::parser::Features;

type Told<W> = parser::Result<Event<Cucumber<W>>>;

/// Translates events, one after the other.
pub(crate) struct Narrator<W> {
    told: UnboundedSender<Told<W>>,
    collection: Collection<W>,
    scenarios: BTreeMap<String, Sources>,
    /// Features and rules that have begun, and how many of their scenarios are still to end.
    open: BTreeMap<String, usize>,
    begun: BTreeSet<String>,
}

/// A scenario's sources, which cucumber knows by identity.
struct Sources {
    feature: Source<gherkin::Feature>,
    rule: Option<Source<gherkin::Rule>>,
    scenario: Source<gherkin::Scenario>,
    steps: Vec<Source<gherkin::Step>>,
    backgrounds: usize,
    at: usize,
    feature_key: String,
}

impl<W: 'static> Narrator<W> {
    pub fn new(
        told: UnboundedSender<Told<W>>,
        features: &Features,
        collection: Collection<W>,
        planned: &[String],
    ) -> Self {
        let mut sources = BTreeMap::<String, Source<gherkin::Feature>>::new();
        let mut rules = BTreeMap::<(String, usize), Source<gherkin::Rule>>::new();
        let (mut scenarios, mut open) = (BTreeMap::new(), BTreeMap::<String, usize>::new());
        for id in planned {
            let (Some((feature, rule, scenario)), Some(parsed)) = (features.sources(id), features.get(id)) else {
                continue;
            };
            let key = parsed.scenario.file.clone();
            let rule = rule.map(|rule| {
                let key = (key.clone(), rule.position.line);
                rules.entry(key).or_insert_with(|| Source::new(rule.clone())).clone()
            });
            *open.entry(key.clone()).or_default() += 1;
            let told = Sources {
                feature: sources.entry(key.clone()).or_insert_with(|| Source::new(feature.clone())).clone(),
                rule,
                scenario: Source::new(scenario.clone()),
                steps: parsed.steps.iter().cloned().map(Source::new).collect(),
                backgrounds: parsed.steps.len() - scenario.steps.len(),
                at: 0,
                feature_key: key,
            };
            scenarios.insert(id.clone(), told);
        }
        Self { told, collection, scenarios, open, begun: BTreeSet::new() }
    }

    pub fn opening(&self, parsed: &[parser::Result<gherkin::Feature>]) {
        self.send(Cucumber::Started);
        for error in parsed.iter().filter_map(|feature| feature.as_ref().err()) {
            let _ = self.told.unbounded_send(Err(error.clone()));
        }
        self.send(Cucumber::ParsingFinished {
            features: parsed.len(),
            rules: parsed.iter().flatten().map(|feature| feature.rules.len()).sum(),
            scenarios: self.scenarios.len(),
            steps: self.scenarios.values().map(|scenario| scenario.steps.len()).sum(),
            parser_errors: parsed.iter().filter(|feature| feature.is_err()).count(),
        });
    }

    pub fn closing(&self) {
        self.send(Cucumber::Finished);
    }

    pub fn tell(&mut self, event: &Happened) {
        let Some(id) = &event.scenario else { return };
        let Some(scenario) = self.scenarios.get_mut(id) else { return };
        let background = scenario.at < scenario.backgrounds;
        let step = scenario.steps.get(scenario.at).cloned();
        let mut out = Vec::new();
        let mut ended = false;
        let wrap = |step: Source<gherkin::Step>, event| {
            if background { Scenario::Background(step, event) } else { Scenario::Step(step, event) }
        };
        use cucumber::event::Step;
        match (&event.what, step) {
            (What::ScenarioStarted, _) => out.push(Scenario::Started),
            (What::StepStarted { .. }, Some(step)) => out.push(wrap(step, Step::Started)),
            (What::StepPassed { .. }, Some(step)) => {
                scenario.at += 1;
                if let Ok(Some((_, captures, location, _))) = self.collection.find(&step) {
                    out.push(wrap(step, Step::Passed(captures, location)));
                }
            }
            (What::StepFailed { failure, .. }, Some(step)) => {
                scenario.at += 1;
                let error = StepError::Panic(Arc::new(failure.text()));
                out.push(wrap(step, Step::Failed(None, None, None, error)));
            }
            (What::StepSkipped { .. }, Some(step)) => {
                scenario.at += 1;
                out.push(wrap(step.clone(), Step::Started));
                out.push(wrap(step, Step::Skipped));
            }
            (What::Note { text }, _) => out.push(Scenario::Log(format!("{text}\n"))),
            (What::ScenarioFinished { .. }, _) => {
                out.push(Scenario::Finished);
                ended = true;
            }
            _ => {}
        }
        self.begin(id);
        for event in out {
            self.send_scenario(id, event);
        }
        if ended {
            self.end(id);
        }
    }

    /// Says that the feature and rule of a scenario have begun, once.
    fn begin(&mut self, id: &str) {
        let scenario = &self.scenarios[id];
        if self.begun.insert(scenario.feature_key.clone()) {
            self.send(Cucumber::feature_started(scenario.feature.clone()));
        }
        if let Some(rule) = &scenario.rule
            && self.begun.insert(format!("{}:{}", scenario.feature_key, rule.position.line))
        {
            self.send(Cucumber::Feature(scenario.feature.clone(), Feature::Rule(rule.clone(), Rule::Started)));
        }
    }

    /// Says that the feature of a scenario has ended when this was its last.
    fn end(&mut self, id: &str) {
        let scenario = &self.scenarios[id];
        let Some(left) = self.open.get_mut(&scenario.feature_key) else { return };
        *left -= 1;
        if *left > 0 {
            return;
        }
        let same = |other: &&Sources| other.feature == scenario.feature;
        let mut ended = BTreeSet::new();
        for rule in self.scenarios.values().filter(same).filter_map(|other| other.rule.clone()) {
            if ended.insert(rule.position.line) {
                self.send(Cucumber::Feature(scenario.feature.clone(), Feature::Rule(rule, Rule::Finished)));
            }
        }
        self.send(Cucumber::feature_finished(scenario.feature.clone()));
    }

    fn send_scenario(&self, id: &str, event: Scenario<W>) {
        let told = &self.scenarios[id];
        let event = event.with_retries(None);
        self.send(Cucumber::scenario(told.feature.clone(), told.rule.clone(), told.scenario.clone(), event));
    }

    fn send(&self, event: Cucumber<W>) {
        // Nobody listens any more when the stream was dropped; the run goes on for its evidence.
        let _ = self.told.unbounded_send(Ok(Event::new(event)));
    }
}
