//! The plan: which scenarios will run, in which lane and order, and why the rest will not. It is a pure decision from
//! values, so it can be printed and reviewed; nothing is started here.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{
    component::Lacking,
    nearest::did_you_mean,
    requirement::Catalogue,
    scenario::Scenario,
    selection::{Selection, SelectionError},
    suite::Suite,
    system::System,
};

/// What the place of the run can do. A scenario tagged `@needs-X`, `@backend-…` or `@disruptive` runs only where
/// that is present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The target's name, for reasons.
    pub target: String,
    pub present: BTreeSet<String>,
    /// What was looked for and is not there, and why, as a sentence part: "podman is not on PATH".
    pub absent: BTreeMap<String, String>,
}

/// All that a plan is made of.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    pub suite: &'a Suite,
    pub catalogue: &'a Catalogue,
    pub system: &'a System,
    pub capabilities: &'a Capabilities,
    /// Components of the system that are not there.
    pub lacking: &'a [Lacking],
    pub selection: &'a Selection,
    /// Only scenarios of requirements that one of these documentation versions states; all when empty.
    pub docs_versions: &'a [String],
    /// How many control planes side by side; fewer are used when there is less to do.
    pub lanes: usize,
    /// Shuffles the order; without it the order is that of the files.
    pub seed: Option<u64>,
    /// Seconds that scenarios took before, by [`Scenario::id`]; others are estimated from their steps.
    pub seconds: &'a BTreeMap<String, f64>,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The scenarios of each lane, in order.
    pub lanes: Vec<Vec<Scenario>>,
    pub not_run: Vec<NotRun>,
    pub seed: Option<u64>,
}

/// A scenario that was asked for and will not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotRun {
    pub scenario: Scenario,
    pub reason: String,
}

impl Plan {
    /// Decides.
    ///
    /// # Errors
    /// [`SelectionError`] when the selection names something unknown or selects nothing.
    pub fn make(inputs: &Inputs<'_>) -> Result<Self, SelectionError> {
        inputs.selection.check(inputs.suite, inputs.catalogue)?;
        check_versions(inputs)?;
        let selected: Vec<&Scenario> = inputs
            .suite
            .scenarios()
            .iter()
            .filter(|scenario| inputs.selection.matches(scenario))
            .filter(|scenario| stated_by(scenario, inputs.catalogue, inputs.docs_versions))
            .collect();
        if selected.is_empty() {
            return Err(nothing(inputs));
        }
        let (mut run, mut not_run) = (Vec::new(), Vec::new());
        for scenario in selected {
            match obstacle(scenario, inputs) {
                None => run.push(scenario.clone()),
                Some(reason) => not_run.push(NotRun { scenario: scenario.clone(), reason }),
            }
        }
        Ok(Self { lanes: distribute(run, inputs), not_run, seed: inputs.seed })
    }

    /// The scenarios that will run, lane by lane.
    pub fn scenarios(&self) -> impl Iterator<Item = (usize, &Scenario)> {
        self.lanes.iter().enumerate().flat_map(|(lane, scenarios)| scenarios.iter().map(move |one| (lane, one)))
    }

    /// How many will run.
    pub fn len(&self) -> usize {
        self.lanes.iter().map(Vec::len).sum()
    }

    /// Whether none will run.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn check_versions(inputs: &Inputs<'_>) -> Result<(), SelectionError> {
    let known = inputs.catalogue.versions();
    match inputs.docs_versions.iter().find(|version| !known.contains(version)) {
        None => Ok(()),
        Some(version) => Err(SelectionError::UnknownVersion {
            version: version.clone(),
            hint: did_you_mean(version, known.iter().map(String::as_str)),
        }),
    }
}

fn stated_by(scenario: &Scenario, catalogue: &Catalogue, versions: &[String]) -> bool {
    versions.is_empty()
        || scenario
            .requirements
            .iter()
            .filter_map(|id| catalogue.get(id))
            .any(|requirement| requirement.versions.iter().any(|version| versions.contains(version)))
}

fn nothing(inputs: &Inputs<'_>) -> SelectionError {
    let planned: Vec<String> = inputs
        .selection
        .requirements()
        .into_iter()
        .filter(|id| inputs.suite.showing(id).next().is_none())
        .filter_map(|id| inputs.catalogue.get(id))
        .map(|requirement| {
            let reason = requirement.planned.as_deref().or(requirement.why.as_deref());
            format!("{} has no scenario ({})", requirement.id, reason.unwrap_or("no reason is stated"))
        })
        .collect();
    let mut why = String::new();
    if !inputs.docs_versions.is_empty() {
        why.push_str(&format!(" in documentation version {}", inputs.docs_versions.join(", ")));
    }
    if !planned.is_empty() {
        why.push_str(&format!(": {}", planned.join("; ")));
    }
    SelectionError::Empty { selection: inputs.selection.to_string(), why }
}

/// Why a scenario that is asked for cannot run here; `None` when it can.
fn obstacle(scenario: &Scenario, inputs: &Inputs<'_>) -> Option<String> {
    let capabilities = inputs.capabilities;
    for need in scenario.needs() {
        if !capabilities.present.contains(need) {
            return Some(match capabilities.absent.get(need) {
                Some(reason) => reason.clone(),
                None => format!("target {} does not offer {need}", capabilities.target),
            });
        }
    }
    if let Some(lacking) = inputs.lacking.iter().find(|lacking| lacking.stops(scenario)) {
        return Some(lacking.reason.clone());
    }
    let claims = &inputs.system.claims;
    if let Some(claim) = scenario.claims().find(|claim| !claims.capabilities.iter().any(|own| own == claim)) {
        return Some(format!("system {} does not claim {claim}", inputs.system.name));
    }
    if !stated_by(scenario, inputs.catalogue, &claims.docs_versions) {
        return Some(format!(
            "system {} follows documentation version {}, which does not state it",
            inputs.system.name,
            claims.docs_versions.join(", ")
        ));
    }
    None
}

/// Scenarios of one subject stay together while that keeps the lanes even; a subject heavier than a lane's fair share
/// is cut. Heaviest first onto the lightest lane.
fn distribute(scenarios: Vec<Scenario>, inputs: &Inputs<'_>) -> Vec<Vec<Scenario>> {
    let lanes = inputs.lanes.clamp(1, 254).min(scenarios.len());
    if lanes == 0 {
        return Vec::new();
    }
    let weight = |scenario: &Scenario| -> f64 {
        inputs.seconds.get(&scenario.id()).copied().unwrap_or(1.0 + scenario.steps.len() as f64 * 0.5)
    };
    let fair = scenarios.iter().map(weight).sum::<f64>() / lanes as f64;
    let mut random = inputs.seed.map(Random);

    let mut subjects = BTreeMap::<String, Vec<Scenario>>::new();
    for scenario in scenarios {
        subjects.entry(scenario.subject.clone()).or_default().push(scenario);
    }
    let mut groups: Vec<(f64, Vec<Scenario>)> = Vec::new();
    for (_, mut members) in subjects {
        if let Some(random) = &mut random {
            random.shuffle(&mut members);
        }
        let (mut group, mut load) = (Vec::new(), 0.0);
        for scenario in members {
            let own = weight(&scenario);
            if !group.is_empty() && load + own > fair {
                groups.push((load, std::mem::take(&mut group)));
                load = 0.0;
            }
            load += own;
            group.push(scenario);
        }
        groups.push((load, group));
    }
    if let Some(random) = &mut random {
        random.shuffle(&mut groups);
    }
    groups.sort_by(|a, b| b.0.total_cmp(&a.0));

    let mut filled: Vec<(f64, Vec<Vec<Scenario>>)> = vec![(0.0, Vec::new()); lanes];
    for (load, group) in groups {
        let lightest = filled.iter_mut().min_by(|a, b| a.0.total_cmp(&b.0)).expect("there is at least one lane");
        lightest.0 += load;
        lightest.1.push(group);
    }
    filled
        .into_iter()
        .map(|(_, mut groups)| {
            match &mut random {
                Some(random) => random.shuffle(&mut groups),
                None => groups.sort_by(|a, b| (&a[0].file, a[0].line).cmp(&(&b[0].file, b[0].line))),
            }
            groups.into_iter().flatten().collect::<Vec<_>>()
        })
        .filter(|lane| !lane.is_empty())
        .collect()
}

/// SplitMix64: the same seed gives the same order on every machine and with every version of every crate.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = (self.next() % (last as u64 + 1)) as usize;
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{datafile::DataFile, suite::tests::scenario};

    fn catalogue() -> Catalogue {
        let entry = |id: &str, version: &str, planned: &str| {
            format!(
                "  - {{id: {id}, title: t, statement: s, kind: state, versions: [\"{version}\"], sources: [], observable: o, components: [], testable: full{planned}}}\n"
            )
        };
        let text = format!(
            "subject: storage\nrequirements:\n{}{}{}",
            entry("STO-OLD", "4.2", ""),
            entry("STO-NEW", "4.6", ""),
            entry("STO-LATER", "4.6", ", planned: \"needs a second node\"")
        );
        Catalogue::read([&DataFile::new("requirements/storage.yaml", text)]).unwrap()
    }

    fn suite() -> Suite {
        let mut all = Vec::new();
        for n in 0..12 {
            all.push(scenario("features/operator/a.feature", 10 * n + 1, &format!("operator {n}"), &["STO-NEW"]));
        }
        for n in 0..6 {
            all.push(scenario("features/storage/b.feature", 10 * n + 1, &format!("storage {n}"), &["STO-OLD"]));
        }
        all.push(scenario("features/access/c.feature", 1, "podman pulls", &["STO-NEW", "needs-podman"]));
        all.push(scenario("features/access/c.feature", 9, "skopeo copies", &["STO-NEW", "needs-skopeo"]));
        all.push(scenario("features/access/c.feature", 19, "a volume", &["STO-NEW", "claims-block"]));
        Suite::new(all)
    }

    struct Given {
        suite: Suite,
        catalogue: Catalogue,
        system: System,
        capabilities: Capabilities,
        lacking: Vec<Lacking>,
        seconds: BTreeMap<String, f64>,
    }

    fn given(system: &str) -> Given {
        let catalogue = catalogue();
        let file = DataFile::new("systems/s.yaml", format!("name: s\ntitle: S\n{system}"));
        Given {
            suite: suite(),
            system: System::read(&file, &catalogue).unwrap(),
            catalogue,
            capabilities: Capabilities {
                target: "embedded".into(),
                present: BTreeSet::from(["skopeo".into()]),
                absent: BTreeMap::from([("podman".into(), "podman is not on PATH".into())]),
            },
            lacking: Vec::new(),
            seconds: BTreeMap::new(),
        }
    }

    impl Given {
        fn plan(
            &self,
            select: &str,
            versions: &[&str],
            lanes: usize,
            seed: Option<u64>,
        ) -> Result<Plan, SelectionError> {
            let versions: Vec<String> = versions.iter().map(|version| (*version).to_owned()).collect();
            Plan::make(&Inputs {
                suite: &self.suite,
                catalogue: &self.catalogue,
                system: &self.system,
                capabilities: &self.capabilities,
                lacking: &self.lacking,
                selection: &if select.is_empty() { Selection::All } else { Selection::parse(select).unwrap() },
                docs_versions: &versions,
                lanes,
                seed,
                seconds: &self.seconds,
            })
        }
    }

    #[test]
    fn what_cannot_run_has_a_reason_a_stranger_understands() {
        let plan = given("").plan("@access", &[], 1, None).unwrap();
        let reasons: Vec<(&str, &str)> =
            plan.not_run.iter().map(|one| (one.scenario.name.as_str(), one.reason.as_str())).collect();
        assert_eq!(reasons, [("podman pulls", "podman is not on PATH"), ("a volume", "system s does not claim block")]);
        assert_eq!(plan.len(), 1);
    }

    #[test]
    fn a_missing_component_stops_only_what_needs_it() {
        let mut given = given("");
        let reason = "bin holds no renderer".to_owned();
        given.lacking = vec![Lacking { needed_by: Selection::parse("@storage").unwrap(), reason: reason.clone() }];
        let plan = given.plan("@storage or @operator", &[], 1, None).unwrap();
        assert!(plan.scenarios().all(|(_, scenario)| scenario.subject == "operator"));
        assert!(plan.not_run.iter().all(|one| one.scenario.subject == "storage" && one.reason == reason));
        assert_eq!((plan.len(), plan.not_run.len()), (12, 6));
    }

    #[test]
    fn a_system_of_one_version_is_not_judged_by_another() {
        let plan = given("claims: {docsVersions: [\"4.6\"]}").plan("@storage", &[], 1, None).unwrap();
        assert!(plan.is_empty());
        assert_eq!(plan.not_run[0].reason, "system s follows documentation version 4.6, which does not state it");
    }

    #[rstest]
    #[case(1)]
    #[case(2)]
    #[case(3)]
    #[case(50)]
    fn every_scenario_runs_once_in_even_lanes(#[case] lanes: usize) {
        let plan = given("").plan("not @access", &[], lanes, Some(7)).unwrap();
        let mut ids: Vec<String> = plan.scenarios().map(|(_, scenario)| scenario.id()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 18);
        assert_eq!(plan.len(), 18);
        assert_eq!(plan.lanes.len(), lanes.min(18));
        let sizes: Vec<usize> = plan.lanes.iter().map(Vec::len).collect();
        assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 18_usize.div_ceil(lanes), "{sizes:?}");
    }

    #[test]
    fn a_subject_keeps_its_lane_when_lanes_stay_even() {
        let mut given = given("");
        for scenario in given.suite.scenarios() {
            given.seconds.insert(scenario.id(), if scenario.subject == "storage" { 2.0 } else { 1.0 });
        }
        let plan = given.plan("not @access", &[], 2, None).unwrap();
        for lane in &plan.lanes {
            assert!(lane.iter().all(|scenario| scenario.subject == lane[0].subject));
        }
    }

    #[test]
    fn the_seed_decides_the_order_and_nothing_else_does() {
        let given = given("");
        let order = |seed| {
            let plan = given.plan("", &[], 2, seed).unwrap();
            plan.scenarios().map(|(lane, scenario)| (lane, scenario.id())).collect::<Vec<_>>()
        };
        assert_eq!(order(Some(1)), order(Some(1)));
        assert_ne!(order(Some(1)), order(Some(2)));
        assert_eq!(order(None), order(None));
    }

    #[rstest]
    #[case("@STO-LATER", &[], "nothing is selected by @STO-LATER: STO-LATER has no scenario (needs a second node); `plan` shows what there is")]
    #[case("@operator", &["4.2"], "nothing is selected by @operator in documentation version 4.2; `plan` shows what there is")]
    #[case("", &["4.7"], "no requirement names documentation version 4.7; did you mean 4.2 or 4.6?")]
    #[case("name~nobody", &[], "nothing is selected by name~\"nobody\"; `plan` shows what there is")]
    fn nothing_is_an_error(#[case] select: &str, #[case] versions: &[&str], #[case] expected: &str) {
        assert_eq!(given("").plan(select, versions, 1, None).unwrap_err().to_string(), expected);
    }

    #[test]
    fn a_documentation_version_filters() {
        let plan = given("").plan("", &["4.2"], 1, None).unwrap();
        assert!(plan.scenarios().all(|(_, scenario)| scenario.subject == "storage"));
    }
}
