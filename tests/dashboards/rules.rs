//! The alert rules: what `promtool` says of them, and that their own tests notice what they should.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::boards::assert_exported;
use crate::compose::values;
use crate::prometheus::is_installed;
use crate::{RUNBOOK, is_in_the_runbook, read, root};

const RULES: &str = "dashboards/alerts.yml";

/// Few, and each to be acted on.
pub const ALERTS: [&str; 8] = [
    "PenstockNotLive",
    "PenstockLagGrows",
    "PenstockWatermarkStuck",
    "PenstockGapNotRepairable",
    "PenstockQuarantineRises",
    "PenstockStoreErrors",
    "PenstockDiskFilling",
    "PenstockLeaseConflict",
];

fn promtool(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new("promtool");
    command.args(args).current_dir(dir).output().unwrap()
}

fn assert_good(output: &Output) {
    let (out, words) = (&output.stdout, &output.stderr);
    let words = [out.as_slice(), words].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&words)
    );
}

#[test]
fn alerts_tell_how_bad_it_is_and_what_to_do() {
    let rules = read(RULES);
    let code = rules.lines().filter(|line| !line.trim().starts_with('#'));
    let code = code.collect::<Vec<&str>>().join("\n");
    assert_exported([(RULES.to_owned(), code.clone())]);
    assert_eq!(values(&code, "- alert"), ALERTS);
    for key in ["for", "summary", "description"] {
        assert_eq!(values(&code, key).len(), ALERTS.len(), "{key}");
    }
    let severities = values(&code, "severity");
    assert_eq!(severities.len(), ALERTS.len());
    let known = |severity: &&str| ["critical", "warning"].contains(severity);
    assert!(severities.iter().all(known), "{severities:?}");
    let links = values(&code, "runbook_url");
    assert_eq!(links.len(), ALERTS.len());
    for link in links {
        assert!(is_in_the_runbook(link, RUNBOOK), "no {link}");
    }
}

#[test]
fn promtool_finds_nothing_wrong() {
    if !is_installed("promtool_finds_nothing_wrong") {
        return;
    }
    let dir = root().join("dashboards");
    assert_good(&promtool(&dir, &["check", "rules", "alerts.yml"]));
    assert_good(&promtool(&dir, &["check", "config", "prometheus.yml"]));
    assert_good(&promtool(&dir, &["test", "rules", "alerts_test.yml"]));
}

/// The rules' tests have cases in which each alert fires, and others in which it does not.
#[test]
fn the_tests_of_the_rules_notice_an_alert_that_is_never_or_always_there() {
    if !is_installed("the_tests_of_the_rules_notice_an_alert_that_is_never_or_always_there") {
        return;
    }
    let (rules, cases) = (read(RULES), read("dashboards/alerts_test.yml"));
    let rules: Vec<&str> = rules.split("      - alert: ").collect();
    assert_eq!(rules.len(), 1 + ALERTS.len());
    for at in 1..rules.len() {
        for instead in [
            "expr: vector(0) > 0",
            "expr: sum by (job, instance) ({job!=\"\"}) < +Inf",
        ] {
            let (name, rule) = rules[at].split_once('\n').unwrap();
            let hold = rule.find("        for: ").unwrap();
            let other = format!("{name}\n        {instead}\n{}", &rule[hold..]);
            let mut changed = rules.clone();
            changed[at] = &other;
            let dir = tempfile::tempdir().unwrap();
            let changed = changed.join("      - alert: ");
            fs::write(dir.path().join("alerts.yml"), changed).unwrap();
            fs::write(dir.path().join("alerts_test.yml"), &cases).unwrap();
            assert_good(&promtool(dir.path(), &["check", "rules", "alerts.yml"]));
            let tested = promtool(dir.path(), &["test", "rules", "alerts_test.yml"]);
            assert!(!tested.status.success(), "{name} with {instead}");
        }
    }
}
