//! `outrigger demo --once`: all goes as expected, and looks as it should.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// The output with times and ports masked; both vary.
fn masked(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let words = line.split(' ').map(|word| {
            let is_time = word.contains('.') && word.parse::<f64>().is_ok();
            match word.strip_prefix("http://127.0.0.1:") {
                Some(rest) => rest.split_once('/').map_or_else(
                    || word.to_owned(),
                    |(_, path)| format!("http://127.0.0.1:PORT/{path}"),
                ),
                None if is_time => "#".to_owned(),
                None => word.to_owned(),
            }
        });
        let line = words.collect::<Vec<_>>().join(" ");
        // What is left of a time is how many spaces stood before it.
        let line = match line.split_once("# ms  ") {
            Some((before, note)) => format!("{} # ms  {note}", before.trim_end()),
            None => line,
        };
        match line.split_once("the first after ") {
            Some((before, _)) => format!("{before}the first after # ms"),
            None => line,
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_demo_goes_as_expected_and_looks_as_it_should() {
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(["demo", "--once"])
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    let golden = include_str!("demo.txt").replace("VERSION", env!("CARGO_PKG_VERSION"));
    assert_eq!(masked(&out), golden.trim_end(), "{err}");
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert_eq!(err, "");
}

#[test]
fn the_demo_stays_until_ctrl_c_and_can_be_talked_to() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .arg("demo")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    for line in lines.map_while(Result::ok) {
        let is_last = line.starts_with("Or point an MCP client");
        said.push(line);
        if is_last {
            break;
        }
    }
    let said = said.join("\n");
    for (server, era) in [
        ("modern", "modern, 2026-07-28"),
        ("legacy", "legacy, 2025-11-25"),
    ] {
        let url = said
            .split_whitespace()
            .find(|word| word.ends_with(&format!("/servers/{server}/mcp")))
            .unwrap_or_else(|| panic!("no URL of {server}: {said}"));
        let output = Command::new(env!("CARGO_BIN_EXE_outrigger"))
            .args(["test", url])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(era), "{text}");
        assert_eq!(output.status.code(), Some(0), "{text}");
    }
    let told = Command::new("kill")
        .args(["-INT", &demo.id().to_string()])
        .status()
        .unwrap();
    assert!(told.success());
    assert_eq!(demo.wait().unwrap().code(), Some(0));
}
