//! `junit.xml`: a test suite per subject and a test case per scenario. A Fail is a `failure`, an Error an `error`, a
//! NotRun is `skipped` with its reason, so that no reader of JUnit counts what was not seen.

use std::{collections::BTreeMap, time::Duration};

use quick_junit::{NonSuccessKind, Report as Document, TestCase, TestCaseStatus, TestSuite};

use super::{Report, ScenarioReport, terminal};
use crate::verdict::Verdict;

/// The file's name in the folder of a run.
pub const FILE: &str = "junit.xml";

/// Prints the report.
pub fn print(report: &Report) -> String {
    let mut document = Document::new(format!("registry-conformance {} on {}", report.system, report.target));
    document.set_time(Duration::from_secs_f64(report.seconds.max(0.0)));
    let mut subjects = BTreeMap::<&str, Vec<&ScenarioReport>>::new();
    for scenario in &report.scenarios {
        let subject = scenario.file.trim_start_matches("features/").split('/').next().unwrap_or("features");
        subjects.entry(subject).or_default().push(scenario);
    }
    for (subject, scenarios) in subjects {
        let mut suite = TestSuite::new(subject);
        suite
            .set_time(Duration::from_secs_f64(scenarios.iter().map(|scenario| scenario.seconds).sum::<f64>().max(0.0)));
        for scenario in scenarios {
            suite.add_test_case(case(scenario));
        }
        document.add_test_suite(suite);
    }
    document.to_string().expect("quick-junit writes into memory and escapes all text")
}

fn case(scenario: &ScenarioReport) -> TestCase {
    let reason = scenario.reason.clone().unwrap_or_default();
    let mut status = match scenario.verdict {
        Verdict::Pass => TestCaseStatus::success(),
        Verdict::Fail => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Verdict::Error => TestCaseStatus::non_success(NonSuccessKind::Error),
        Verdict::NotRun => TestCaseStatus::skipped(),
    };
    match scenario.verdict {
        Verdict::Pass => {}
        Verdict::NotRun => {
            status.set_message(reason);
        }
        Verdict::Fail | Verdict::Error => {
            status.set_message(reason);
            status.set_type(if scenario.known.is_some() { "known" } else { scenario.verdict.word() });
            status.set_description(terminal::failure(scenario));
        }
    }
    let mut case = TestCase::new(scenario.name.clone(), status);
    case.set_classname(scenario.file.trim_start_matches("features/").trim_end_matches(".feature").replace('/', "."));
    case.set_time(Duration::from_secs_f64(scenario.seconds.max(0.0)));
    case.add_property(("file", scenario.file.as_str()));
    case.add_property(("line", scenario.line.to_string().as_str()));
    case.add_property(("requirements", scenario.requirements.join(" ").as_str()));
    case
}
