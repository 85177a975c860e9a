//! What `README.md` says exists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

const README: &str = include_str!("../../README.md");

/// What a path of ours begins with.
const FOLDERS: [&str; 7] = [
    "benches/",
    "docs/",
    "examples/",
    "fuzz/",
    "scripts/",
    "src/",
    "tests/",
];

/// The command lines and their flags, by subcommand, in code blocks and inline code.
fn commands() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for piece in code() {
        let words: Vec<_> = piece.split_whitespace().collect();
        let Some(at) = words
            .iter()
            .position(|word| *word == "outrigger" || *word == "--")
        else {
            continue;
        };
        let is_ours = words.get(at) == Some(&"outrigger") || words.contains(&"cargo");
        let Some(subcommand) = words.get(at + 1).filter(|_| is_ours) else {
            continue;
        };
        if !subcommand.chars().all(|c| c.is_ascii_lowercase()) {
            continue;
        }
        let flags = words.iter().skip(at + 2).take_while(|word| **word != "#");
        let flags = flags
            .filter(|word| word.starts_with("--"))
            .map(|word| word.split('=').next().unwrap().to_owned());
        found
            .entry((*subcommand).to_owned())
            .or_default()
            .extend(flags);
    }
    found
}

/// Each line of a code block, and each piece of inline code.
fn code() -> Vec<String> {
    let mut pieces = Vec::new();
    let mut is_block = false;
    for line in README.lines() {
        if line.starts_with("```") {
            is_block = !is_block;
        } else if is_block {
            pieces.push(line.to_owned());
        } else {
            let inline = line.split('`').skip(1).step_by(2);
            pieces.extend(inline.map(str::to_owned));
        }
    }
    pieces
}

fn outrigger(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(arguments)
        .env_clear()
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), text)
}

#[test]
fn readme_commands_exist() {
    let commands = commands();
    for expected in ["run", "check", "demo", "test"] {
        assert!(
            commands.contains_key(expected),
            "no {expected} in README.md"
        );
    }
    for (subcommand, flags) in commands {
        let (is_known, help) = outrigger(&[&subcommand, "--help"]);
        assert!(
            is_known,
            "README.md names outrigger {subcommand}, which there is not"
        );
        for flag in flags {
            let is_there = help.split_whitespace().any(|word| word == flag);
            assert!(is_there, "outrigger {subcommand} has no {flag}");
        }
    }
}

#[test]
fn readme_paths_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let links = README
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    let named: Vec<_> = code()
        .iter()
        .flat_map(|piece| piece.split_whitespace())
        .map(|word| word.trim_end_matches([';', ',']).to_owned())
        .filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder)))
        .collect();
    let mut checked = 0;
    for path in links.map(str::to_owned).chain(named) {
        if path.contains("://") || path.starts_with('#') {
            continue;
        }
        let path = path.split('#').next().unwrap();
        assert!(
            root.join(path).exists(),
            "README.md names {path}, which there is not"
        );
        checked += 1;
    }
    assert!(checked > 5, "README.md names next to nothing");
}

#[test]
fn readme_configuration_is_valid() {
    let yaml = README
        .split("```yaml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("a configuration in README.md");
    let file = std::env::temp_dir().join(format!("outrigger-readme-{}.yaml", std::process::id()));
    std::fs::write(&file, yaml).unwrap();
    let (is_valid, said) = outrigger(&["check", file.to_str().unwrap()]);
    std::fs::remove_file(&file).unwrap();
    assert!(is_valid, "{said}");
}

/// The lines of a document's table whose first cell is inline code, by that cell.
fn first_cells(text: &str, heading: &str) -> Vec<String> {
    let section = text.split(heading).nth(1).expect("the heading");
    section
        .lines()
        .skip_while(|line| !line.contains("| "))
        .take_while(|line| line.contains("| "))
        .filter_map(|line| line.split("| `").nth(1)?.split('`').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn architecture_names_the_layers_in_the_order_of_the_stack() {
    let named = first_cells(
        include_str!("../../ARCHITECTURE.md"),
        "## The stack, outermost first",
    );
    let stack = include_str!("../../src/sidecar/stack.rs").to_lowercase();
    let (attempt, route) = stack.split_once("fn route(").unwrap();
    let outermost_first = |part: &str| -> Vec<String> {
        let lines = part.lines().filter(|line| line.contains(".layer("));
        lines.map(str::to_owned).rev().collect()
    };
    let built = [outermost_first(route), outermost_first(attempt)].concat();
    let mut place = 0;
    // `balance` and the connector are services, not layers, so no line puts them on.
    for layer in named
        .iter()
        .filter(|name| !["balance", "connector"].contains(&name.as_str()))
    {
        let word = layer.replace('_', "");
        let found = built
            .iter()
            .position(|line| line.replace('_', "").contains(&word));
        let found = found.unwrap_or_else(|| panic!("{layer} is not in the stack"));
        assert!(found >= place, "{layer} stands elsewhere in the stack");
        place = found + 1;
    }
    assert_eq!(named.len() - 2, built.len(), "{named:?} {built:?}");
}

#[test]
fn the_feature_table_is_that_of_the_manifest() {
    let mut named = first_cells(include_str!("../../src/lib.rs"), "# Features");
    let manifest = include_str!("../../Cargo.toml");
    let section = manifest.split("[features]").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    let mut features: Vec<_> = section
        .lines()
        .filter_map(|line| line.split_once(" = ["))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name != "default")
        .collect();
    named.sort();
    features.sort();
    assert_eq!(named, features);
}
