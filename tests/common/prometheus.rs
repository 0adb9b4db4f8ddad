//! What those who watch a server ask for, in docs/metrics.md and deploy/, and promtool's word on it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::tools;

/// A file of the repository.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn text(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap()
}

pub fn sorted(mut names: Vec<&str>) -> Vec<&str> {
    names.sort_unstable();
    names
}

/// The metrics in the tables under a heading of docs/metrics.md, sorted.
pub fn documented<'a>(page: &'a str, heading: &str) -> Vec<&'a str> {
    let (_, below) = page.split_once(&format!("\n## {heading}\n")).expect(heading);
    let section = below.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows = rows.filter(|row| row.starts_with("echo_") || row.starts_with("process_"));
    sorted(rows.map(|row| row.split('`').next().unwrap()).collect())
}

/// The names of metrics in `text`, without the suffixes of a histogram's series.
pub fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("echo_") || word.starts_with("process_"));
    names.map(without_suffix).collect()
}

fn without_suffix(name: &str) -> &str {
    let suffixes = ["_bucket", "_sum", "_count"];
    suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

/// The queries of a dashboard's panels.
pub fn queries(dashboard: &str, title: &str) -> Vec<String> {
    let parsed: Value = serde_json::from_str(&text(dashboard)).expect("valid JSON");
    assert_eq!(parsed["title"], title);
    let panels = parsed["panels"].as_array().unwrap();
    let queries: Vec<_> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect();
    assert!(queries.len() >= panels.len());
    queries
}

/// Whether the tests that need promtool can run.
pub fn have_promtool() -> bool {
    tools::have(&["promtool", "--version"], "promtool")
}

/// Has promtool parse queries as Grafana fills them in.
pub fn are_valid(queries: &[String]) {
    if !have_promtool() {
        return;
    }
    let rules: Vec<_> = queries
        .iter()
        .map(|query| query.replace("$__rate_interval", "1m"))
        .map(|query| {
            assert!(!query.contains("$__"), "{query}");
            serde_json::json!({ "record": "x", "expr": query })
        })
        .collect();
    for (at, rule) in rules.iter().enumerate() {
        let group = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": [rule] }] });
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules.yml");
        // JSON is YAML.
        fs::write(&path, group.to_string()).unwrap();
        promtool(&["check", "rules", path.to_str().unwrap()], "", &format!("query {at}"));
    }
}

/// Checks the rules in `deploy/prometheus/NAME.yml` and runs their unit tests, each of which has to
/// raise every alert once.
pub fn has_tested_rules(name: &str) {
    let rules = format!("deploy/prometheus/{name}.yml");
    let tests = format!("deploy/prometheus/{name}_test.yml");
    promtool(&["check", "rules", file(&rules).to_str().unwrap()], "", &rules);
    promtool(&["test", "rules", file(&tests).to_str().unwrap()], "", &tests);
    let tested = text(&tests);
    for rule in text(&rules).lines() {
        let Some(alert) = rule.trim().strip_prefix("- alert: ") else { continue };
        let expected = format!("alertname: {alert}\n        exp_alerts:");
        assert!(tested.contains(&expected), "{alert} is never raised in {tests}");
    }
}

/// Runs promtool, which must find nothing to complain of.
pub fn promtool(args: &[&str], input: &str, what: &str) {
    let output = tools::run(Command::new("promtool").args(args), input.as_bytes());
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {said}");
    assert!(!said.contains("FAILED"), "{what}: {said}");
    if input.is_empty() {
        return;
    }
    assert_eq!(said, "", "{what}");
}
