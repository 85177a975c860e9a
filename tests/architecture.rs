//! Who may use whom, read off the `use` lines; and what the crate is without its features.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on must stop where it stands"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What every part may use: the types that hold the stack together.
const CORE: &[&str] = &[
    "body",
    "call",
    "catalog",
    "clock",
    "convention",
    "error",
    "exchange",
    "facts",
    "head",
    "secret",
    "session",
    "short",
];

/// Each part, and what else of ours it may use. The order is that of `ARCHITECTURE.md`.
const ARROWS: &[(&str, &[&str])] = &[
    ("mcp", &[]),
    ("codec", &[]),
    ("auth", &["mcp"]),
    ("layer", &["mcp", "codec", "auth"]),
    ("transport", &["mcp", "codec"]),
    ("telemetry", &["mcp", "transport"]),
    ("config", &["mcp"]),
    ("admin", &["transport"]),
    (
        "sidecar",
        &[
            "mcp",
            "codec",
            "auth",
            "layer",
            "transport",
            "telemetry",
            "config",
            "admin",
        ],
    ),
    (
        "cli",
        &[
            "mcp",
            "codec",
            "auth",
            "layer",
            "transport",
            "config",
            "admin",
            "sidecar",
        ],
    ),
];

/// What layers share with one another; each other module of `layer` is a layer, and knows no other.
const SHARED_BY_LAYERS: &[&str] = &[
    "Answered",
    "PassedBody",
    "ReadAlong",
    "Reader",
    "BoxBodyLayer",
    "along",
    "answered",
    "boundary",
    "box_body",
    "glob",
    "media",
    "passed",
    "rate",
    "response",
    "retry_after",
    "testing",
    "timeouts",
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The first two segments behind `crate::` in the code of a file, comments left out; a list in braces gives several.
fn uses(text: &str) -> BTreeSet<(String, String)> {
    let word = |text: &str| -> String {
        text.trim()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let code: Vec<_> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let mut found = BTreeSet::new();
    for path in code.join("\n").split("crate::").skip(1) {
        let (first, rest) = path.split_once("::").unwrap_or((path, ""));
        let seconds = match rest.strip_prefix('{') {
            Some(list) => list
                .split('}')
                .next()
                .unwrap_or_default()
                .split(',')
                .map(word)
                .collect(),
            None => vec![word(rest)],
        };
        let is_path = word(first).len() == first.len();
        for second in seconds {
            found.insert((word(first), if is_path { second } else { String::new() }));
        }
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn parts_use_only_what_they_may() {
    for (part, allowed) in ARROWS {
        let folder = root().join(part);
        assert!(folder.is_dir(), "there is no part {part}");
        // A part's tests may lean on others to drive it.
        let code = sources(&folder)
            .into_iter()
            .filter(|file| !file.ends_with("tests.rs"));
        for file in code {
            for (used, _) in uses(&fs::read_to_string(&file).unwrap()) {
                let used = used.as_str();
                let is_type = used.starts_with(char::is_uppercase);
                let is_core = CORE.contains(&used) && !matches!(*part, "mcp" | "codec");
                assert!(
                    used == *part || is_core || is_type || allowed.contains(&used),
                    "{} uses {used}, which {part} may not",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn every_part_is_listed() {
    for entry in fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let name = path.file_name().unwrap().to_str().unwrap();
            let listed = CORE.contains(&name) || ARROWS.iter().any(|(part, _)| *part == name);
            assert!(listed, "src/{name} is not in the table of this test");
        }
    }
}

#[test]
fn a_layer_knows_no_other_layer() {
    let folder = root().join("layer");
    for file in sources(&folder) {
        let relative = file.strip_prefix(&folder).unwrap();
        let first = relative
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap();
        let own = first.trim_end_matches(".rs");
        let is_test = relative.to_str().unwrap().contains("test");
        for (part, other) in uses(&fs::read_to_string(&file).unwrap()) {
            if part != "layer" || own == "mod" || is_test || other.is_empty() {
                continue;
            }
            assert!(
                other == own || SHARED_BY_LAYERS.contains(&other.as_str()),
                "{} uses layer::{other}",
                file.display()
            );
        }
    }
}

#[test]
fn files_stay_readable() {
    for file in sources(&root()) {
        if file.to_str().unwrap().contains("test") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = code
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("//"));
        let lines = lines.count();
        assert!(lines <= 460, "{} has {lines} lines of code", file.display());
    }
}

/// The crates of a normal build with these features.
fn tree(features: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            "outrigger",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--locked",
        ])
        .args(features)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn without_features_there_is_no_client_server_cluster_or_command_line() {
    let tree = tree(&["--no-default-features"]);
    for banned in ["kube", "clap", "hyper", "rustls", "prometheus"] {
        assert!(
            !tree
                .lines()
                .any(|line| line.split(' ').next() == Some(banned)),
            "{banned} is in\n{tree}"
        );
    }
}

#[test]
fn there_is_one_tls_stack() {
    let tree = tree(&["--all-features"]);
    for banned in ["ring", "openssl-sys", "native-tls", "openssl"] {
        assert!(
            !tree
                .lines()
                .any(|line| line.split(' ').next() == Some(banned)),
            "{banned} is in\n{tree}"
        );
    }
}

/// What may be in the binary. `deny.toml` says the same to cargo-deny, which also knows advisories.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Whether one of an expression's alternatives is allowed whole.
fn is_allowed(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], "").replace('/', " OR ");
    plain.split(" OR ").any(|alternative| {
        alternative.split(" AND ").all(|licence| {
            let name = licence.split(" WITH ").next().unwrap_or_default().trim();
            LICENCES.contains(&name)
        })
    })
}

#[test]
fn licences_are_allowed() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            "outrigger",
            "--all-features",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
        ])
        .args(["--format", "{l}\t{p}", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let (licence, package) = line.split_once('\t').unwrap();
        assert!(is_allowed(licence), "{package} is under {licence:?}");
    }
}

#[test]
fn every_crate_comes_from_the_registry() {
    let lock =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    for line in lock.lines().filter(|line| line.starts_with("source = ")) {
        assert!(line.starts_with("source = \"registry+"), "{line}");
    }
}
