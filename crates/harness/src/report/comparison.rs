//! Two reports side by side: which verdicts, reasons and times differ. Which of the two is right is left to people.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde::Serialize;

use super::{Report, ScenarioReport};
use crate::verdict::Verdict;

/// How long a reason may be in the table; the whole one is in the other forms.
const REASON: usize = 160;

/// How a run differs from another.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    pub before: Side,
    pub after: Side,
    /// How many scenarios have another verdict. What one of two targets cannot run, and says why, is no verdict.
    pub differing: usize,
    /// How many scenarios only one of two targets could run.
    pub one_sided: usize,
    /// How long the scenarios took that both ran, without what lanes took to open and close.
    pub both: Both,
    /// Every requirement that a scenario of one of them shows, by id.
    pub requirements: Vec<RequirementPair>,
    /// Every scenario of one of them, by file and name.
    pub scenarios: Vec<ScenarioPair>,
}

/// One of the two runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    pub run: String,
    pub system: String,
    pub target: String,
}

/// The scenarios that both sides ran, and what they took in each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Both {
    pub scenarios: usize,
    pub before_seconds: f64,
    pub after_seconds: f64,
}

/// A requirement in both runs; `None` where nothing shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequirementPair {
    pub id: String,
    pub before: Option<Verdict>,
    pub after: Option<Verdict>,
}

/// A scenario in both runs; `None` where it was not asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScenarioPair {
    pub file: String,
    pub name: String,
    pub requirements: Vec<String>,
    pub before: Option<Outcome>,
    pub after: Option<Outcome>,
}

/// What a scenario came to in one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The system file's reason why a Fail is expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<String>,
    pub seconds: f64,
}

impl Outcome {
    fn of(scenario: &ScenarioReport) -> Self {
        let ScenarioReport { verdict, reason, known, seconds, .. } = scenario;
        Self { verdict: *verdict, reason: reason.clone(), known: known.clone(), seconds: *seconds }
    }

    fn ran(&self) -> bool {
        self.verdict != Verdict::NotRun
    }
}

impl Both {
    fn of(scenarios: &[ScenarioPair]) -> Self {
        scenarios.iter().filter_map(ScenarioPair::seconds).fold(Self::default(), |sum, (before, after)| Self {
            scenarios: sum.scenarios + 1,
            before_seconds: sum.before_seconds + before,
            after_seconds: sum.after_seconds + after,
        })
    }
}

impl ScenarioPair {
    fn same(&self) -> bool {
        self.before.as_ref().map(|one| one.verdict) == self.after.as_ref().map(|one| one.verdict)
    }

    /// Whether both sides had it before them and exactly one of them could run it.
    fn one_sided(&self) -> bool {
        matches!((&self.before, &self.after), (Some(before), Some(after)) if before.ran() != after.ran())
    }

    /// What it took on either side, if both ran it.
    fn seconds(&self) -> Option<(f64, f64)> {
        let (before, after) = (self.before.as_ref()?, self.after.as_ref()?);
        (before.ran() && after.ran()).then_some((before.seconds, after.seconds))
    }
}

impl Comparison {
    /// Compares. Scenarios are the same ones when file and name are: lines move.
    pub fn of(before: &Report, after: &Report) -> Self {
        let (left, right) = (by_name(before), by_name(after));
        let keys: BTreeSet<_> = left.keys().chain(right.keys()).copied().collect();
        let scenarios: Vec<ScenarioPair> = keys
            .into_iter()
            .filter_map(|key| {
                let (before, after) = (left.get(&key).copied(), right.get(&key).copied());
                let either = after.or(before)?;
                Some(ScenarioPair {
                    file: either.file.clone(),
                    name: either.name.clone(),
                    requirements: either.requirements.clone(),
                    before: before.map(Outcome::of),
                    after: after.map(Outcome::of),
                })
            })
            .collect();
        let verdict = |report: &Report, id: &str| {
            report.requirements.iter().find(|requirement| requirement.id == id).map(|found| found.verdict)
        };
        let ids: BTreeSet<&str> =
            [before, after].into_iter().flat_map(|report| &report.requirements).map(|one| one.id.as_str()).collect();
        let requirements = ids
            .into_iter()
            .map(|id| RequirementPair { id: id.to_owned(), before: verdict(before, id), after: verdict(after, id) })
            .collect();
        // The same target loses nothing that it could do before without this being a difference.
        let one_sided = |pair: &ScenarioPair| before.target != after.target && pair.one_sided();
        Self {
            before: side(before),
            after: side(after),
            differing: scenarios.iter().filter(|pair| !pair.same() && !one_sided(pair)).count(),
            one_sided: scenarios.iter().filter(|pair| one_sided(pair)).count(),
            both: Both::of(&scenarios),
            requirements,
            scenarios,
        }
    }

    /// Whether every scenario came to the same verdict; reasons and seconds do not count.
    pub fn same(&self) -> bool {
        self.differing == 0
    }

    /// For people: a row per requirement and scenario whose verdicts differ, or per each of them with `all`.
    pub fn table(&self, all: bool) -> String {
        let mut out = String::new();
        for (letter, side) in [("A", &self.before), ("B", &self.after)] {
            let _ = writeln!(out, "{letter}: {} ({} on {})", side.run, side.system, side.target);
        }
        let mut rows: BTreeMap<&str, Vec<&ScenarioPair>> = BTreeMap::new();
        for pair in self.scenarios.iter().filter(|pair| all || !pair.same()) {
            let own = pair.requirements.iter().map(String::as_str);
            for id in own.chain(pair.requirements.is_empty().then_some("(no requirement)")) {
                rows.entry(id).or_default().push(pair);
            }
        }
        if !rows.is_empty() {
            let _ = writeln!(out, "\n{:<28}{:<12}{:<12}{:>9}{:>9}  scenario", "requirement", "A", "B", "A s", "B s");
        }
        for (id, pairs) in rows {
            for pair in pairs {
                let (before, after) = (pair.before.as_ref(), pair.after.as_ref());
                let _ = writeln!(
                    out,
                    "{id:<28}{:<12}{:<12}{:>9}{:>9}  {}",
                    word(before),
                    word(after),
                    seconds(before),
                    seconds(after),
                    pair.name
                );
                for (letter, outcome) in [("A", before), ("B", after)] {
                    if let Some(outcome) = outcome
                        && let Some(reason) = &outcome.reason
                    {
                        let known = outcome.known.as_ref().map_or(String::new(), |known| format!(" (known: {known})"));
                        let _ = writeln!(out, "    {letter}: {}{known}", short(reason));
                    }
                }
            }
        }
        let Both { scenarios, before_seconds: before, after_seconds: after } = self.both;
        if before > 0.0 {
            let times = after / before;
            let took = format!("took {before:.1} s in A and {after:.1} s in B, {times:.1} times as long");
            let _ = writeln!(out, "\nThe {scenarios} scenarios that both ran {took}");
        }
        let total = self.scenarios.len();
        let _ = match (self.differing, self.one_sided) {
            (0, 0) => writeln!(out, "\nThe same verdict for all {total} scenarios"),
            (0, one) => writeln!(
                out,
                "\nThe same verdict for all {} scenarios that both targets can run; one of them cannot run {one} more",
                total - one
            ),
            (differing, _) => writeln!(out, "\n{differing} of {total} scenarios have another verdict"),
        };
        out
    }
}

fn by_name(report: &Report) -> BTreeMap<(&str, &str), &ScenarioReport> {
    report.scenarios.iter().map(|one| ((one.file.as_str(), one.name.as_str()), one)).collect()
}

fn side(report: &Report) -> Side {
    Side { run: report.run.clone(), system: report.system.clone(), target: report.target.clone() }
}

fn word(outcome: Option<&Outcome>) -> &'static str {
    match outcome {
        None => "-",
        Some(Outcome { verdict: Verdict::Fail, known: Some(_), .. }) => super::KNOWN,
        Some(outcome) => outcome.verdict.word(),
    }
}

fn seconds(outcome: Option<&Outcome>) -> String {
    outcome.map_or_else(|| "-".to_owned(), |outcome| format!("{:.1}", outcome.seconds))
}

fn short(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(REASON) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(name: &str, id: &str, verdict: Verdict, reason: Option<&str>, seconds: f64) -> ScenarioReport {
        ScenarioReport {
            name: name.into(),
            file: "features/storage/s3.feature".into(),
            line: 3,
            requirements: vec![id.into()],
            verdict,
            reason: reason.map(str::to_owned),
            known: None,
            seconds,
            lane: None,
            failed: None,
            leaks: vec![],
        }
    }

    fn report(system: &str, scenarios: Vec<ScenarioReport>) -> Report {
        let requirements = super::super::requirement_reports(&scenarios);
        let named = |text: &str| text.to_owned();
        Report {
            run: named("r-") + system,
            system: named(system),
            target: named("embedded"),
            scenarios,
            requirements,
            ..Report::default()
        }
    }

    fn two() -> (Report, Report) {
        let mut known = scenario("Keys are forced", "STO-KEYS", Verdict::Fail, Some("expected 1, last seen 2"), 3.0);
        known.known = Some("keys are read from elsewhere".into());
        let before = vec![
            scenario("Blobs lie there", "STO-BLOBS", Verdict::Pass, None, 1.25),
            scenario("Keys are forced", "STO-KEYS", Verdict::Pass, None, 2.0),
            scenario("Only here", "STO-BLOBS", Verdict::Pass, None, 1.0),
        ];
        let after = vec![scenario("Blobs lie there", "STO-BLOBS", Verdict::Pass, None, 9.0), known];
        (report("reference", before), report("openshift", after))
    }

    #[test]
    fn people_see_what_differs_and_why() {
        let (before, after) = two();
        insta::assert_snapshot!(Comparison::of(&before, &after).table(false));
    }

    #[test]
    fn a_run_is_the_same_as_itself_however_long_it_took() {
        let (before, _) = two();
        let mut later = before.clone();
        later.scenarios[0].seconds = 99.0;
        later.scenarios[0].line = 44;
        let comparison = Comparison::of(&before, &later);
        assert!(comparison.same());
        assert!(comparison.table(false).ends_with("\nThe same verdict for all 3 scenarios\n"));
        assert_eq!(comparison.table(true).lines().filter(|line| line.starts_with("STO-")).count(), 3);
    }

    #[test]
    fn what_a_target_cannot_run_differs_only_from_the_same_target() {
        let (before, _) = two();
        let mut after = before.clone();
        after.scenarios[2].verdict = Verdict::NotRun;
        after.scenarios[2].reason = Some("nodes pull no images here".into());
        let comparison = Comparison::of(&before, &after);
        assert_eq!((comparison.differing, comparison.one_sided), (1, 0));
        after.target = "kind".into();
        let comparison = Comparison::of(&before, &after);
        assert!(comparison.same());
        let table = comparison.table(false);
        assert!(table.contains("B: nodes pull no images here"), "{table}");
        assert!(
            table.contains("2 scenarios that both ran took 3.2 s in A and 3.2 s in B, 1.0 times as long"),
            "{table}"
        );
        assert!(table.contains("for all 2 scenarios that both targets can run; one of them cannot run 1"), "{table}");
    }

    #[test]
    fn scripts_see_both_sides_of_everything() {
        let (before, after) = two();
        let value = serde_json::to_value(Comparison::of(&before, &after)).unwrap();
        assert_eq!(value["differing"], 2);
        assert_eq!(value["both"], serde_json::json!({"scenarios": 2, "beforeSeconds": 3.25, "afterSeconds": 12.0}));
        assert_eq!(value["scenarios"][1]["after"]["known"], "keys are read from elsewhere");
        assert_eq!(value["scenarios"][2]["after"], serde_json::Value::Null);
        assert_eq!(value["requirements"][1]["before"], "pass");
        assert_eq!(value["requirements"][1]["after"], "fail");
    }
}
