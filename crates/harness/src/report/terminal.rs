//! The report for people: what failed and why, then a table by subject and one line that says it all. It returns text
//! without colour unless asked, so that it can be compared and piped.

use std::{collections::BTreeMap, fmt::Write};

use super::{Report, ScenarioReport};
use crate::verdict::{Totals, Verdict};

/// How many log lines of a component a failure shows; the rest is in the evidence.
const LOG_LINES: usize = 12;

/// Whether the words of verdicts are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Plain,
    Ansi,
}

/// The whole report.
pub fn print(report: &Report, colour: Colour) -> String {
    let mut out = String::new();
    for broken in &report.broken_lanes {
        let word = paint(Verdict::Error, colour);
        let text = broken.failure.text().replace('\n', "\n  ");
        let _ = writeln!(out, "{word} {}\n  {text}", broken.reason());
        let explained = report.scenarios.iter().filter(|one| broken.explains(one)).count();
        if explained > 0 {
            let were = if explained == 1 { "scenario was" } else { "scenarios were" };
            let _ = writeln!(out, "  {explained} {were} not judged for this");
        }
        out.push('\n');
    }
    let explained = |one: &ScenarioReport| report.broken_lanes.iter().any(|broken| broken.explains(one));
    let red = |one: &&ScenarioReport| matches!(one.verdict, Verdict::Fail | Verdict::Error) && !explained(one);
    for scenario in report.scenarios.iter().filter(red) {
        out.push_str(&headline(scenario, colour));
        out.push_str(&failure(scenario));
        out.push('\n');
    }
    let unread: Vec<&ScenarioReport> = report.scenarios.iter().filter(|one| one.verdict == Verdict::NotRun).collect();
    if !unread.is_empty() {
        out.push_str("Not run:\n");
        for scenario in unread {
            let reason = scenario.reason.as_deref().unwrap_or("no reason was recorded");
            let _ = writeln!(out, "  {} ({}:{}): {reason}", scenario.name, scenario.file, scenario.line);
        }
        out.push('\n');
    }
    for requirement in &report.stale_deviations {
        let _ = writeln!(
            out,
            "{requirement} is listed as a known deviation of {} and passed: remove it from systems/{}.yaml",
            report.system, report.system
        );
    }
    out.push_str(&table(report));
    out.push_str(&closing(report, colour));
    out
}

fn headline(scenario: &ScenarioReport, colour: Colour) -> String {
    let known = scenario.known.as_ref().map_or(String::new(), |known| format!(" (known: {known})"));
    let verdict = match (&scenario.known, colour) {
        (None, _) => paint(scenario.verdict, colour),
        (Some(_), Colour::Plain) => super::KNOWN.to_owned(),
        (Some(_), Colour::Ansi) => format!("\u{1b}[33m{}\u{1b}[0m", super::KNOWN),
    };
    format!("{verdict} {}{known}\n  at {}:{}\n", scenario.name, scenario.file, scenario.line)
}

/// What is known of a scenario that failed: the sentence, what was expected, what was seen last, the requirement with
/// its document section, and the log lines of the component concerned.
pub fn failure(scenario: &ScenarioReport) -> String {
    let mut out = String::new();
    let mut part = |label: &str, text: &str| {
        let indented = text.trim_end().replace('\n', "\n                ");
        let _ = writeln!(out, "  {label:<14}{indented}");
    };
    match &scenario.failed {
        None => part("reason", scenario.reason.as_deref().unwrap_or("no reason was recorded")),
        Some(failed) => {
            part("step", &format!("{} (line {})", failed.step, failed.line));
            part("tried", &failed.failure.tried);
            if let Some(expected) = &failed.failure.expected {
                part("expected", expected);
            }
            if let Some(seen) = &failed.failure.seen {
                part("last seen", seen);
            }
            for source in &failed.sources {
                part("requirement", source);
            }
            if let Some(location) = &failed.location {
                part("in", location);
            }
            if let Some(next) = &failed.failure.next {
                part("next", next);
            }
            for line in &failed.trail {
                part("before it", line);
            }
            for (component, lines) in &failed.logs {
                let from = lines.len().saturating_sub(LOG_LINES);
                part(&format!("{component} log"), &format!("the last {} lines", lines.len() - from));
                for line in &lines[from..] {
                    part("", line);
                }
            }
        }
    }
    for leak in &scenario.leaks {
        part("left behind", leak);
    }
    out
}

fn table(report: &Report) -> String {
    let mut subjects = BTreeMap::<&str, Vec<&ScenarioReport>>::new();
    for scenario in &report.scenarios {
        let subject = scenario.file.trim_start_matches("features/").split('/').next().unwrap_or_default();
        subjects.entry(subject).or_default().push(scenario);
    }
    let mut out =
        format!("{:<14}{:>6}{:>6}{:>7}{:>9}{:>10}\n", "subject", "pass", "fail", "error", "not run", "seconds");
    for (subject, scenarios) in subjects {
        let totals = Totals::of(scenarios.iter().map(|scenario| scenario.verdict));
        let seconds: f64 = scenarios.iter().map(|scenario| scenario.seconds).sum();
        let _ = writeln!(
            out,
            "{subject:<14}{:>6}{:>6}{:>7}{:>9}{seconds:>10.1}",
            totals.pass, totals.fail, totals.error, totals.not_run
        );
    }
    out
}

fn closing(report: &Report, colour: Colour) -> String {
    let requirements = |verdict| report.requirements.iter().filter(|one| one.verdict == verdict).count();
    let mut out = format!(
        "\n{}: {} on {}, {} of {} scenarios passed, {} of {} requirements shown, {:.1} s\n",
        paint(overall(report), colour),
        report.system,
        report.target,
        report.totals.pass,
        report.totals.all(),
        requirements(Verdict::Pass),
        report.requirements.len(),
        report.seconds
    );
    let known = report.requirements.iter().filter(|one| one.known.is_some()).count();
    if known > 0 {
        let were = if known == 1 { "deviation" } else { "deviations" };
        let verb = if known == 1 { "was" } else { "were" };
        let _ = writeln!(out, "{known} known {were} of {} {verb} seen", report.system);
    }
    if let Some(stopped) = &report.stopped {
        let _ = writeln!(out, "The run ended early: {stopped}");
    }
    out
}

fn overall(report: &Report) -> Verdict {
    match report.exit(false) {
        crate::verdict::Exit::Passed => Verdict::Pass,
        crate::verdict::Exit::Failed => Verdict::Fail,
        crate::verdict::Exit::Unjudged => Verdict::Error,
    }
}

fn paint(verdict: Verdict, colour: Colour) -> String {
    let code = match verdict {
        Verdict::Pass => "32",
        Verdict::Fail => "31;1",
        Verdict::Error => "35;1",
        Verdict::NotRun => "33",
    };
    match colour {
        Colour::Plain => verdict.word().to_owned(),
        Colour::Ansi => format!("\u{1b}[{code}m{}\u{1b}[0m", verdict.word()),
    }
}
