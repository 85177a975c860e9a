//! `outrigger demo --once`: all goes as expected, and looks as it should.

use std::process::Command;

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
