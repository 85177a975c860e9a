//! The Markdown that `run` prints: one table a cell.

use std::fmt::Write as _;

use crate::{
    load::Kind,
    run::{Measured, Sample},
    stats::median,
};

/// The table of one cell.
pub(crate) fn cell(measured: &Measured) -> String {
    let mut out = format!("\n### {}\n\n", measured.cell.title);
    match measured.cell.kind {
        Kind::Call => calls(measured, &mut out),
        Kind::Stream => streams(measured, &mut out),
        Kind::Idle => idle(measured, &mut out),
    }
    // Writing to a string does not fail.
    let _ = writeln!(out, "\n{}", footer(measured));
    out
}

fn calls(m: &Measured, out: &mut String) {
    out.push_str("| peer | rps | of direct | p50 µs | p99 µs | added p50 µs | CPU s/100k | of it kernel | CPU of haproxy | errors |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for name in &m.peers {
        let _ = writeln!(
            out,
            "| {name} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            show(m.value(name, rps), 0),
            show(m.ratio(name, "direct", rps), 2),
            show(m.value(name, |s| s.report.p50_us), 0),
            show(m.value(name, |s| s.report.p99_us), 0),
            show(m.added(name, |s| s.report.p50_us), 0),
            show(m.value(name, cpu), 2),
            show(m.value(name, kernel), 2),
            show(m.ratio(name, "haproxy", cpu), 2),
            m.total(name, |s| s.report.errors),
        );
    }
}

fn streams(m: &Measured, out: &mut String) {
    out.push_str("| peer | delay p50 µs | p99 µs | p50 of haproxy | p99 of haproxy | CPU s/100k events | events | lost | errors |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for name in &m.peers {
        let _ = writeln!(
            out,
            "| {name} | {} | {} | {} | {} | {} | {} | {} | {} |",
            show(m.value(name, |s| s.report.delay_p50_us), 0),
            show(m.value(name, |s| s.report.delay_p99_us), 0),
            show(m.ratio(name, "haproxy", |s| s.report.delay_p50_us), 2),
            show(m.ratio(name, "haproxy", |s| s.report.delay_p99_us), 2),
            show(
                m.value(name, |s| s.reading.cpu.total() * 1e5
                    / s.report.events as f64),
                2
            ),
            m.total(name, |s| s.report.events),
            m.total(name, |s| s.report.events_lost),
            m.total(name, |s| s.report.errors),
        );
    }
}

fn idle(m: &Measured, out: &mut String) {
    out.push_str("| peer | RSS at start MiB | RSS with all MiB | per session KB | CPU idle, % of a core | closed |\n| --- | --- | --- | --- | --- | --- |\n");
    for name in &m.peers {
        let _ = writeln!(
            out,
            "| {name} | {} | {} | {} | {} | {} |",
            show(m.value(name, at_start), 1),
            show(
                m.value(name, |s| s.resident.map_or(f64::NAN, |r| r.1 as f64 / MIB)),
                1
            ),
            show(m.value(name, per_session), 1),
            show(m.value(name, Sample::idle_percent), 2),
            m.total(name, |s| s.report.errors),
        );
    }
}

const MIB: f64 = 1024.0 * 1024.0;

pub(crate) fn rps(sample: &Sample) -> f64 {
    sample.report.rps
}

pub(crate) fn cpu(sample: &Sample) -> f64 {
    sample.reading.cpu.total() * 1e5 / sample.report.requests as f64
}

fn kernel(sample: &Sample) -> f64 {
    sample.reading.cpu.sys * 1e5 / sample.report.requests as f64
}

pub(crate) fn at_start(sample: &Sample) -> f64 {
    sample.resident.map_or(f64::NAN, |r| r.0 as f64 / MIB)
}

pub(crate) fn per_session(sample: &Sample) -> f64 {
    let sessions = sample.report.requests as f64;
    sample.resident.map_or(f64::NAN, |(a, b)| {
        b.saturating_sub(a) as f64 / 1000.0 / sessions
    })
}

fn footer(m: &Measured) -> String {
    let left_out = m.counted.iter().filter(|c| !**c).count();
    let samples = || m.rounds.iter().flatten();
    let others = samples().map(|s| s.reading.others).fold(0.0, f64::max);
    let stolen = median(samples().map(|s| s.reading.stolen)).unwrap_or(0.0);
    let marked = if left_out == m.noisy {
        format!("{left_out} left out")
    } else {
        format!(
            "{} disturbed and yet counted, for too few were calm",
            m.noisy
        )
    };
    format!(
        "{} rounds, {marked}; other programs used up to {others:.2} cores, the hypervisor kept {stolen:.2} (median).",
        m.rounds.len()
    )
}

pub(crate) fn show(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(String::new, |v| format!("{v:.digits$}"))
}

impl Sample {
    pub(crate) fn idle_percent(&self) -> f64 {
        self.reading.cpu.total() * 100.0 / self.reading.seconds
    }
}

impl Measured {
    fn of(&self, name: &str) -> Option<usize> {
        self.peers.iter().position(|p| p == name)
    }

    fn counted(&self) -> impl Iterator<Item = &Vec<Sample>> {
        self.rounds
            .iter()
            .zip(&self.counted)
            .filter_map(|(round, counts)| counts.then_some(round))
    }

    /// The median over the rounds that count.
    pub(crate) fn value(&self, name: &str, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        let at = self.of(name)?;
        median(self.counted().filter_map(|r| r.get(at)).map(of))
    }

    /// The median of what `name` and `base` give together within each round.
    fn paired(
        &self,
        name: &str,
        base: &str,
        of: impl Fn(&Sample) -> f64,
        pair: impl Fn(f64, f64) -> f64,
    ) -> Option<f64> {
        let (at, base) = (self.of(name)?, self.of(base)?);
        median(
            self.counted()
                .filter_map(|r| Some(pair(of(r.get(at)?), of(r.get(base)?)))),
        )
    }

    pub(crate) fn ratio(&self, name: &str, base: &str, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        self.paired(name, base, of, |a, b| a / b)
    }

    pub(crate) fn added(&self, name: &str, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        self.paired(name, "direct", of, |a, b| a - b)
    }

    pub(crate) fn total(&self, name: &str, of: impl Fn(&Sample) -> u64) -> u64 {
        let at = self.of(name);
        self.rounds.iter().filter_map(|r| r.get(at?)).map(of).sum()
    }
}
