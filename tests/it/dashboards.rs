//! What dashboards and alert rules of the chart name exists, and each alert is explained.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::metrics::{documented, family};

const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// What Prometheus itself adds to each target.
const OF_PROMETHEUS: [&str; 1] = ["up"];

/// The files of that folder of the chart, with what is in them.
fn files(folder: &str, ending: &str) -> Vec<(PathBuf, String)> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/outrigger/files");
    let mut found: Vec<_> = fs::read_dir(chart.join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == ending))
        .map(|path| (path.clone(), fs::read_to_string(&path).unwrap()))
        .collect();
    found.sort();
    found
}

/// Each `expr` and each variable's `query` within a dashboard.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "expr" || key == "query" => {
                        found.push(text.clone());
                    }
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

/// The `expr` of each rule, and its name: they are block scalars.
fn rules(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut name = "";
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let plain = line.trim_start().trim_start_matches("- ");
        if let Some(rest) = plain
            .strip_prefix("alert: ")
            .or_else(|| plain.strip_prefix("record: "))
        {
            name = rest;
        }
        let Some(rest) = plain.strip_prefix("expr:") else {
            continue;
        };
        let mut expr = rest.trim().trim_start_matches('|').to_owned();
        while let Some(next) = lines.peek() {
            if next.trim().is_empty() || next.len() - next.trim_start().len() <= indent {
                break;
            }
            expr = format!("{expr}\n{}", lines.next().unwrap());
        }
        found.push((name.to_owned(), expr));
    }
    found
}

/// What the query language itself has that looks like a name, as far as we use it.
const PROMQL: [&str; 18] = [
    "and",
    "by",
    "changes",
    "count",
    "histogram_quantile",
    "increase",
    "label_values",
    "last_over_time",
    "max",
    "min",
    "min_over_time",
    "on",
    "or",
    "rate",
    "sum",
    "time",
    "topk",
    "vector",
];

/// What a scrape adds.
const OF_THE_SCRAPE: [&str; 5] = ["container", "instance", "job", "namespace", "pod"];

/// The names in an expression that are neither the language's nor labels nor text.
fn names(expr: &str, labels: &BTreeSet<String>) -> BTreeSet<String> {
    let text: String = expr.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '$');
    text.split(|c| !is_of_a_name(c))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
        .filter(|word| !PROMQL.contains(word) && !OF_THE_SCRAPE.contains(word) && *word != "le")
        .filter(|word| !labels.contains(*word))
        .map(str::to_owned)
        .collect()
}

/// Fails if an expression names what is no metric of ours.
#[track_caller]
fn exist(place: &str, expr: &str) {
    let documented = documented();
    let labels = documented
        .values()
        .flat_map(|metric| metric.labels.clone())
        .collect();
    let names = names(expr, &labels);
    assert!(!names.is_empty(), "{place}: no metric in {expr}");
    for name in names {
        let is_ours = family(&name, &documented).is_some_and(|family| {
            // A histogram has no samples of its own name, and nothing else has the others.
            (documented[&family].kind == "histogram") == (family != name)
        });
        assert!(
            is_ours || OF_PROMETHEUS.contains(&name.as_str()),
            "{place}: there is no {name}, in {expr}"
        );
    }
}

#[test]
fn each_metric_that_a_dashboard_names_exists() {
    let dashboards = files("dashboards", "json");
    assert_eq!(dashboards.len(), 3);
    for (path, text) in dashboards {
        let place = path.display().to_string();
        let board: Value = serde_json::from_str(&text).unwrap();
        let mut found = Vec::new();
        expressions(&board, &mut found);
        let found: Vec<_> = found.iter().filter(|expr| *expr != "prometheus").collect();
        assert!(found.len() > 8, "{place}: {found:?}");
        for expr in found {
            exist(&place, expr);
        }
        let variables: Vec<_> = board["templating"]["list"]
            .as_array()
            .unwrap()
            .iter()
            .map(|variable| variable["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            variables,
            ["datasource", "namespace", "pod", "server"],
            "{place}"
        );
        for panel in board["panels"].as_array().unwrap() {
            let title = &panel["title"];
            if panel["type"] != "row" {
                assert!(panel["description"].is_string(), "{place}: {title}");
                assert!(
                    panel["fieldConfig"]["defaults"]["unit"].is_string(),
                    "{place}: {title}"
                );
            }
        }
    }
}

#[test]
fn each_metric_that_a_rule_names_exists_and_each_alert_is_explained() {
    let files = files("rules", "yaml");
    assert_eq!(files.len(), 1);
    let rules = rules(&files[0].1);
    assert!(rules.len() >= 8, "{rules:?}");
    for (name, expr) in rules {
        exist(&name, &expr);
        let heading = format!("\n### {name}\n");
        assert!(
            OPERATIONS.contains(&heading),
            "docs/operations.md lacks {name}"
        );
        let anchor = format!("docs/operations.md#{}", name.to_lowercase());
        assert!(
            files[0].1.contains(&anchor),
            "{name} does not lead to {anchor}"
        );
    }
}
