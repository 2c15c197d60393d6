//! What scripts read of a run, read by parsers that share nothing with the writers: `report.yaml`, `proof.yaml`,
//! `junit.xml`, `events.ndjson` and the catalogue's JSON keep their fixed names and types, whatever a system says.

use std::collections::BTreeMap;

use harness::{
    coverage::Coverage,
    datafile::{DataFile, Place},
    event::{Event, Opening, What},
    evidence::{self, Evidence},
    failure::Failure,
    fault::FaultEntry,
    proof::{FaultProof, Proof},
    report::{Report, json, junit, yaml},
    requirement::Catalogue,
    scenario::{Scenario, Step},
    suite::Suite,
    system::Deviation,
    verdict::Verdict,
};
use rstest::rstest;
use serde_json::Value;

/// Texts that a careless writer breaks on: other types in YAML, markup, control characters, colours, lines.
const AWKWARD: [&str; 8] = [
    "null",
    "0x1f",
    "- not: [a, list]",
    "a <b> & \"c\" ]]> d",
    "two\nlines \n",
    "bell \u{7} and nul \u{0}",
    "\u{1b}[31mred\u{1b}[0m",
    "ümläut 日本 \u{1f980}",
];

fn scenario(line: usize, name: &str, requirement: &str) -> Scenario {
    Scenario {
        name: name.to_owned(),
        feature: "Feature".into(),
        file: "features/operator/parameters.feature".into(),
        line,
        last_line: line + 2,
        outline: None,
        subject: "operator".into(),
        tags: vec![requirement.to_owned()],
        requirements: vec![requirement.to_owned()],
        steps: vec![Step { keyword: "Given".into(), text: "something".into(), line: line + 1 }],
    }
}

/// A record on disk with every verdict, a known deviation, a leak and a lane that could not be started, in which people
/// and systems say `text`.
fn record(text: &str) -> (tempfile::TempDir, Vec<Event>) {
    let folder = tempfile::tempdir().unwrap();
    let evidence = Evidence::create(folder.path()).unwrap();
    let all = [
        scenario(3, "It holds", "OPR-A"),
        scenario(9, &format!("It is broken: {text}"), "OPR-B"),
        scenario(15, "It is known", "OPR-C"),
        scenario(21, "It is ours", "OPR-A"),
        scenario(27, "It is left out", "OPR-D"),
    ];
    evidence.record(What::RunStarted(Box::new(Opening {
        run: "20260131-142501-embedded-reference-1a2b".into(),
        version: "0.1.0".into(),
        system: "reference".into(),
        target: "embedded".into(),
        docs_versions: vec!["4.2".into(), "4.10".into()],
        selection: "everything".into(),
        seed: Some(u64::MAX),
        lanes: vec![all[..4].to_vec()],
        not_run: vec![all[4].clone()],
        requirements: BTreeMap::new(),
        known_deviations: vec![Deviation { requirement: "OPR-C".into(), reason: text.into(), source: "a page".into() }],
    })));
    evidence.record_of(all[4].id(), What::NotRun { reason: text.into() });
    let lane = evidence.lane(1);
    lane.record(What::LaneFailed { failure: Failure::error("starting etcd", text), was_ready: false });
    for (scenario, verdict) in all.iter().zip([Verdict::Pass, Verdict::Fail, Verdict::Fail, Verdict::Error]) {
        lane.enter_scenario(Some(scenario.id()));
        lane.record(What::ScenarioStarted);
        if verdict != Verdict::Pass {
            lane.record(What::StepFailed {
                step: format!("Then {text}"),
                line: scenario.line + 1,
                failure: Failure::fail("looking", text, text).of("operator").next(text),
                location: None,
                seconds: 0.25,
            });
            lane.record(What::ComponentLog { component: "operator".into(), lines: vec![text.into()] });
            lane.record(What::Leak { kind: "Secret".into(), name: text.into() });
        }
        let reason = (verdict != Verdict::Pass).then(|| text.to_owned());
        lane.record(What::ScenarioFinished { verdict, reason, seconds: 1.5 });
    }
    lane.enter_scenario(None);
    evidence.record(What::RunFinished { seconds: 6.125 });
    let events = evidence::read(folder.path()).unwrap();
    (folder, events)
}

/// Every key is there and has its type; `keys` are written `name type`.
fn has(value: &Value, keys: &[&str]) {
    for key in keys {
        let (name, kind) = key.split_once(' ').unwrap();
        let found = &value[name];
        let fits = match kind {
            "string" => found.is_string(),
            "string?" => found.is_string() || found.is_null() && value.as_object().unwrap().contains_key(name),
            "count" => found.is_u64(),
            "seconds" => found.as_f64().is_some_and(|seconds| seconds >= 0.0),
            "strings" => found.as_array().is_some_and(|items| items.iter().all(Value::is_string)),
            "map" => found.is_object(),
            "list" => found.is_array(),
            other => panic!("{other} is no kind"),
        };
        assert!(fits, "{name} is no {kind}: {value:#}");
    }
}

fn read_yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[rstest]
fn report_yaml_has_its_fixed_keys(#[values(0, 1, 2, 3, 4, 5, 6, 7)] text: usize) {
    let (_folder, events) = record(AWKWARD[text]);
    let report = Report::of(&events);
    let read = read_yaml(&yaml::print(&report));
    has(&read, &["system string", "target string", "docsVersions strings", "seconds seconds", "totals map"]);
    has(&read, &["scenarios list", "requirements list"]);
    has(&read["totals"], &["pass count", "fail count", "error count", "notRun count"]);
    assert_eq!(read["docsVersions"][1], "4.10", "a version is no number");
    for scenario in read["scenarios"].as_array().unwrap() {
        has(scenario, &["name string", "file string", "line count", "requirements strings"]);
        has(scenario, &["verdict string", "reason string?", "seconds seconds"]);
    }
    for requirement in read["requirements"].as_array().unwrap() {
        has(requirement, &["id string", "verdict string", "scenarios strings"]);
    }
    let verdicts: Vec<_> = read["scenarios"].as_array().unwrap().iter().map(|one| &one["verdict"]).collect();
    assert_eq!(verdicts, ["pass", "fail", "fail", "error", "notRun"]);
    assert_eq!(read["scenarios"][1]["reason"], AWKWARD[text]);
    // The two forms say the same.
    assert_eq!(read, serde_json::from_str::<Value>(&json::print(&report)).unwrap());
}

#[rstest]
fn junit_counts_what_the_report_counts(#[values(0, 1, 2, 3, 4, 5, 6, 7)] text: usize) {
    let (_folder, events) = record(AWKWARD[text]);
    let report = Report::of(&events);
    let text = junit::print(&report);
    let document = roxmltree::Document::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let root = document.root_element();
    assert_eq!(root.tag_name().name(), "testsuites");
    let count = |of: roxmltree::Node<'_, '_>, name: &str| of.attribute(name).unwrap().parse::<usize>().unwrap();
    let elements = |name: &str| root.descendants().filter(|node| node.has_tag_name(name)).count();
    let totals = &report.totals;
    assert_eq!(elements("testcase"), totals.pass + totals.fail + totals.error + totals.not_run);
    assert_eq!(elements("failure"), totals.fail);
    assert_eq!(elements("error"), totals.error);
    assert_eq!(elements("skipped"), totals.not_run);
    let stated: Vec<_> = ["tests", "failures", "errors"].map(|name| count(root, name)).to_vec();
    assert_eq!(stated, [elements("testcase"), totals.fail, totals.error]);
    for suite in root.children().filter(|node| node.has_tag_name("testsuite")) {
        let own = |name: &str| suite.descendants().filter(|node| node.has_tag_name(name)).count();
        assert_eq!(count(suite, "tests"), own("testcase"));
        assert_eq!(count(suite, "failures"), own("failure"));
        assert_eq!(count(suite, "errors"), own("error"));
        assert_eq!(
            suite.attribute("disabled").or(suite.attribute("skipped")),
            Some(own("skipped").to_string().as_str())
        );
    }
    for case in root.descendants().filter(|node| node.has_tag_name("testcase")) {
        assert!(case.attribute("name").is_some() && case.attribute("classname").is_some());
        assert!(case.attribute("time").unwrap().parse::<f64>().is_ok());
    }
}

#[rstest]
fn every_line_of_the_record_is_an_event_and_every_start_has_an_end(#[values(0, 3, 4, 5, 6)] text: usize) {
    let (folder, _) = record(AWKWARD[text]);
    let raw = std::fs::read_to_string(folder.path().join(evidence::FILE)).unwrap();
    assert!(raw.ends_with('\n'));
    let lines: Vec<Value> = raw.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut open = None;
    for (index, line) in lines.iter().enumerate() {
        has(line, &["sequence count", "at string", "event string"]);
        assert_eq!(line["sequence"], index + 1);
        assert!(line["at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
        match line["event"].as_str().unwrap() {
            "scenarioStarted" => assert_eq!(open.replace(line["scenario"].clone()), None),
            "scenarioFinished" => assert_eq!(open.take().as_ref(), Some(&line["scenario"])),
            _ => {}
        }
    }
    assert_eq!(open, None);
    assert_eq!(lines[0]["event"], "runStarted");
    assert_eq!(lines[lines.len() - 1]["event"], "runFinished");
}

#[test]
fn proof_yaml_has_its_fixed_keys() {
    let (_folder, events) = record("null");
    let fault = |id: &str, requirement: &str| FaultEntry {
        id: id.into(),
        seam: "operator-api".into(),
        title: String::new(),
        requirements: vec![requirement.into()],
        scenarios: vec![],
        place: Place::default(),
    };
    let report = Report::of(&events);
    let faults = [fault("red", "OPR-B"), fault("green", "OPR-A")];
    let proof = Proof {
        system: "reference".into(),
        target: "embedded".into(),
        seconds: 12.5,
        faults: faults.iter().map(|fault| FaultProof::of(fault, &report, 3.0)).collect(),
    };
    let read = read_yaml(&serde_yaml::to_string(&proof).unwrap());
    has(&read, &["faults list"]);
    for fault in read["faults"].as_array().unwrap() {
        has(fault, &["id string", "seam string", "requirements strings", "verdict string"]);
        has(fault, &["seconds seconds", "collateral strings"]);
    }
    assert_eq!(read["faults"][0]["verdict"], "caught");
    assert_eq!(read["faults"][1]["verdict"], "missed");
    assert_eq!(read["faults"][0]["collateral"].as_array().unwrap().len(), 2);
}

#[test]
fn the_catalogue_has_its_fixed_keys() {
    let text = "subject: operator\nrequirements:\n  - {id: OPR-A, title: t, statement: s, kind: state, versions: ['4.6'], sources: [{document: '4.6', section: '2'}], observable: o, components: [operator], testable: partial, why: w}\n";
    let catalogue = Catalogue::read([&DataFile::new("requirements/operator.yaml", text)]).unwrap();
    let suite = Suite::new(vec![scenario(3, "It holds", "OPR-A")]);
    let coverage = serde_json::to_value(Coverage::of(&catalogue, &suite, &[], &[])).unwrap();
    has(&coverage, &["requirements count", "testable count", "shown count", "proven count", "bySubject map"]);
    has(&coverage, &["entries list"]);
    has(&coverage["entries"][0], &["id string", "testable string", "versions strings", "scenarios strings"]);
    has(&coverage["entries"][0], &["faults strings", "reason string?"]);
    // What there is beside the fixed keys; docs/formats.md names it.
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        keys(&coverage),
        ["bySubject", "byVersion", "entries", "planned", "proven", "requirements", "shown", "testable"]
            .map(String::from)
    );
    assert_eq!(
        keys(&coverage["entries"][0]),
        ["faults", "id", "reason", "scenarios", "subject", "testable", "title", "versions"].map(String::from)
    );
}
