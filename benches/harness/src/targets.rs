//! What the sidecar must reach and what it aims at, beside what was measured.

use std::fmt::Write as _;

use crate::{
    run::{Measured, Sample},
    table::{at_start, cpu, per_session, rps, show},
};

/// A figure that the sidecar must reach, and the one it aims at.
struct Target {
    figure: &'static str,
    measured: Option<f64>,
    must: f64,
    aim: f64,
    at_least: bool,
}

impl Target {
    fn at_most(figure: &'static str, measured: Option<f64>, must: f64, aim: f64) -> Self {
        Self {
            figure,
            measured,
            must,
            aim,
            at_least: false,
        }
    }

    fn at_least(figure: &'static str, measured: Option<f64>, must: f64, aim: f64) -> Self {
        Self {
            figure,
            measured,
            must,
            aim,
            at_least: true,
        }
    }

    fn verdict(&self) -> Option<String> {
        let measured = self.measured?;
        let reached = |limit| {
            if self.at_least {
                measured >= limit
            } else {
                measured <= limit
            }
        };
        Some(match (reached(self.must), reached(self.aim)) {
            (true, true) => "aim reached".to_owned(),
            (true, false) => "met".to_owned(),
            _ if self.must == 0.0 => "**missed**".to_owned(),
            _ => format!(
                "**missed by {:.0} %**",
                (measured / self.must - 1.0).abs() * 100.0
            ),
        })
    }
}

/// What of the targets the measured cells answer, for each sidecar.
pub(crate) fn of_sidecars(measured: &[Measured]) -> String {
    let known = ["direct", "nginx", "haproxy"];
    let mut names: Vec<&String> = measured.iter().flat_map(|m| &m.peers).collect();
    names.retain(|n| !known.contains(&n.as_str()));
    names.sort_unstable();
    names.dedup();
    let mut out = String::new();
    for name in names {
        let _ = writeln!(
            out,
            "\n### Targets: {name}\n\n| figure | measured | must | aim | |\n| --- | --- | --- | --- | --- |"
        );
        for t in of_sidecar(measured, name) {
            let Some(verdict) = t.verdict() else { continue };
            let sign = if t.at_least { ">=" } else { "<=" };
            let shown = show(t.measured, 2);
            let _ = writeln!(
                out,
                "| {} | {shown} | {sign} {} | {sign} {} | {verdict} |",
                t.figure, t.must, t.aim
            );
        }
    }
    out
}

fn of_sidecar(measured: &[Measured], name: &str) -> Vec<Target> {
    let wrong = measured
        .iter()
        .map(|m| m.total(name, |s| s.report.errors + s.report.events_lost));
    let wrong = Some(wrong.sum::<u64>() as f64);
    let mut targets = Vec::from(speed(measured, name));
    targets.extend(idle(measured, name));
    targets.push(Target::at_most(
        "wrong replies, events lost",
        wrong,
        0.0,
        0.0,
    ));
    targets
}

fn speed(measured: &[Measured], name: &str) -> [Target; 6] {
    let ratio =
        |wanted, base, of: fn(&Sample) -> f64| cell(measured, wanted)?.ratio(name, base, of);
    let added = cell(measured, "call1").and_then(|m| m.added(name, |s| s.report.p50_us));
    let rps = ratio("call", "direct", rps);
    let small = ratio("call", "haproxy", cpu);
    let large = ratio("16k", "haproxy", cpu);
    let delay = |of: fn(&Sample) -> f64| ratio("stream", "haproxy", of);
    let (p50, p99) = (
        delay(|s| s.report.delay_p50_us),
        delay(|s| s.report.delay_p99_us),
    );
    [
        Target::at_most("CPU, 256 B, 16 in flight, of haproxy", small, 1.25, 1.10),
        Target::at_most(
            "CPU, 16 KiB, of haproxy with 64 KiB buffers",
            large,
            1.3,
            1.1,
        ),
        Target::at_least("rps, 16 in flight, of direct", rps, 0.40, 0.44),
        Target::at_most("added p50 µs, 1 in flight", added, 35.0, 30.0),
        Target::at_most("streamed event, p50, of haproxy", p50, 1.2, 1.05),
        Target::at_most("streamed event, p99, of haproxy", p99, 1.3, 1.1),
    ]
}

fn idle(measured: &[Measured], name: &str) -> [Target; 3] {
    let value = |of: fn(&Sample) -> f64| cell(measured, "idle")?.value(name, of);
    let (start, each) = (value(at_start), value(per_session));
    let busy = value(Sample::idle_percent);
    [
        Target::at_most("RSS at start, MiB", start, 12.0, 6.0),
        Target::at_most("RSS per idle session, KB", each, 36.0, 20.0),
        Target::at_most("CPU with idle sessions, % of a core", busy, 0.5, 0.0),
    ]
}

fn cell<'a>(measured: &'a [Measured], name: &str) -> Option<&'a Measured> {
    measured.iter().find(|m| m.cell.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let target = |measured, at_least| {
            let (must, aim) = if at_least { (0.40, 0.44) } else { (1.25, 1.10) };
            Target {
                figure: "",
                measured,
                must,
                aim,
                at_least,
            }
            .verdict()
        };
        assert_eq!(target(Some(1.0), false).as_deref(), Some("aim reached"));
        assert_eq!(target(Some(1.2), false).as_deref(), Some("met"));
        assert_eq!(
            target(Some(1.5), false).as_deref(),
            Some("**missed by 20 %**")
        );
        assert_eq!(target(Some(0.5), true).as_deref(), Some("aim reached"));
        assert_eq!(
            target(Some(0.2), true).as_deref(),
            Some("**missed by 50 %**")
        );
        assert_eq!(target(None, true), None);
    }
}
