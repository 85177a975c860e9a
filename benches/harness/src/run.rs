//! The one command: all peers under the same load, in alternating rounds, and a table of it.
//!
//! 1. All peers are up at once; a round loads them one after another (A B C, A B C, ...).
//! 2. Ratios are taken within a round, the table shows their medians.
//! 3. A round during which other programs used more than `--calm` cores is marked, and left out
//!    when at least half of the rounds are calm.
//! 4. Idle sessions are measured in a fresh process each.
//! 5. A wrong or lost answer makes the command fail.

use std::{
    path::Path,
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Result,
    cells::{CELLS, Cell},
    load::{Kind, Report},
    peers::{self, Buffers, Peer, Upstream},
    proc::{self, Cpu, Machine, Process, TempDir},
    table, targets,
};

/// How long a thousand sessions may take to open, and to be looked at once more.
const OPEN: Duration = Duration::from_mins(1);

/// Load all peers in alternating rounds and print a Markdown table.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The sidecar's binary, as PATH or NAME=PATH; several are compared with each other.
    #[arg(long, value_name = "[NAME=]PATH")]
    bin: Vec<String>,
    /// Rounds of each cell.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds that each peer is loaded for in a round.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Only these cells: call, call1, call64, modern, 16k, stream, idle.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Cores that other programs may use in a round that counts.
    #[arg(long, default_value_t = 0.3)]
    calm: f64,
    /// Two rounds of one second: a look, not a measurement.
    #[arg(long)]
    quick: bool,
}

/// One peer in one round.
#[derive(Debug)]
pub(crate) struct Sample {
    pub report: Report,
    /// Of the machine, while the peer was loaded.
    pub reading: Reading,
    /// Resident bytes before, and with all sessions open; of `idle` only.
    pub resident: Option<(u64, u64)>,
}

/// What a [`Meter`] saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub seconds: f64,
    /// Of the peer's processes.
    pub cpu: Cpu,
    /// Cores that other programs used.
    pub others: f64,
    /// Cores that the hypervisor kept back.
    pub stolen: f64,
}

/// All rounds of one cell: per round, one sample a peer, in the order of `peers`.
#[derive(Debug)]
pub(crate) struct Measured {
    pub cell: Cell,
    pub peers: Vec<String>,
    pub rounds: Vec<Vec<Sample>>,
    /// How many rounds were disturbed.
    pub noisy: usize,
    /// Which rounds count.
    pub counted: Vec<bool>,
}

/// Measures and prints.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let kinds = kinds(options)?;
    let cells = chosen(&options.only)?;
    let dir = TempDir::new()?;
    let upstream = Upstream::start(dir.path())?;
    println!("{}", proc::machine());
    let mut measured = Vec::new();
    for cell in cells {
        eprintln!("measuring: {}", cell.title);
        let done = if cell.kind == Kind::Idle {
            idle(cell, &kinds, &upstream, dir.path(), options)?
        } else {
            loaded(cell, &kinds, &upstream, dir.path(), options)?
        };
        print!("{}", table::cell(&done));
        measured.push(done);
    }
    print!("{}", targets::of_sidecars(&measured));
    let wrong: u64 = measured
        .iter()
        .flat_map(|m| m.rounds.iter().flatten())
        .map(|s| s.report.errors + s.report.events_lost)
        .sum();
    Ok(if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn kinds(options: &Options) -> Result<Vec<peers::Kind>> {
    let mut kinds = vec![
        peers::Kind::Direct,
        peers::Kind::Nginx,
        peers::Kind::Haproxy,
    ];
    kinds.retain(|kind| {
        let installed = kind.is_installed();
        if !installed {
            eprintln!("{} is not installed: left out", kind.name());
        }
        installed
    });
    for bin in &options.bin {
        let (name, bin) = bin.split_once('=').unwrap_or(("outrigger", bin));
        let kind = peers::Kind::Sidecar {
            name: name.to_owned(),
            bin: bin.to_owned(),
        };
        if !kind.is_installed() {
            return Err(format!("no such file: {bin}").into());
        }
        kinds.push(kind);
    }
    Ok(kinds)
}

fn chosen(only: &[String]) -> Result<Vec<Cell>> {
    if let Some(name) = only
        .iter()
        .find(|n| CELLS.iter().all(|c| c.name != n.as_str()))
    {
        let names = CELLS.map(|c| c.name).join(", ");
        return Err(format!("no cell is called {name}: there are {names}").into());
    }
    let wanted = |c: &Cell| only.is_empty() || only.iter().any(|n| n == c.name);
    Ok(CELLS.into_iter().filter(wanted).collect())
}

impl Options {
    fn rounds(&self) -> u32 {
        if self.quick { 2 } else { self.rounds.max(1) }
    }

    fn seconds(&self) -> f64 {
        if self.quick { 1.0 } else { self.seconds }
    }

    fn measured(&self, cell: Cell, peers: &[peers::Kind], rounds: Vec<Vec<Sample>>) -> Measured {
        let calm = |round: &Vec<Sample>| round.iter().all(|s| s.reading.others <= self.calm);
        let counted: Vec<bool> = rounds.iter().map(calm).collect();
        let noisy = counted.iter().filter(|c| !**c).count();
        let enough = noisy * 2 <= counted.len();
        Measured {
            cell,
            peers: peers.iter().map(|k| k.name().to_owned()).collect(),
            noisy,
            counted: if enough {
                counted
            } else {
                vec![true; rounds.len()]
            },
            rounds,
        }
    }
}

fn loaded(
    cell: Cell,
    kinds: &[peers::Kind],
    upstream: &Upstream,
    dir: &Path,
    options: &Options,
) -> Result<Measured> {
    let start = |kind| Peer::start(kind, upstream, cell.buffers(), dir);
    let peers = kinds.iter().map(start).collect::<Result<Vec<Peer>>>()?;
    for peer in &peers {
        load(peer, cell, options.seconds().min(1.0))?;
    }
    let round = |_| {
        peers
            .iter()
            .map(|p| load(p, cell, options.seconds()))
            .collect()
    };
    let rounds = (0..options.rounds()).map(round).collect::<Result<_>>()?;
    Ok(options.measured(cell, kinds, rounds))
}

/// Loads one peer once.
fn load(peer: &Peer, cell: Cell, seconds: f64) -> Result<Sample> {
    let meter = Meter::start(peer.pid);
    let me = std::env::current_exe()?;
    let output = Command::new(me)
        .args(arguments(peer, cell, seconds))
        .stderr(Stdio::inherit())
        .output()?;
    let reading = meter.stop();
    let text = String::from_utf8(output.stdout)?;
    let line = text
        .lines()
        .last()
        .ok_or_else(|| format!("{}: no report", peer.name))?;
    let report: Report = serde_json::from_str(line)?;
    if let Some(error) = &report.first_error {
        eprintln!(
            "{}: {} errors, the first: {error}",
            peer.name, report.errors
        );
    }
    Ok(Sample {
        report,
        reading,
        resident: None,
    })
}

fn arguments(peer: &Peer, cell: Cell, seconds: f64) -> Vec<String> {
    let kind = format!("{:?}", cell.kind).to_lowercase();
    let mut arguments: Vec<String> = ["load", "--url", &peer.url, "--kind", &kind]
        .map(str::to_owned)
        .into();
    arguments.extend(["--era".to_owned(), cell.era.to_string()]);
    arguments.extend(["--in-flight".to_owned(), cell.in_flight.to_string()]);
    arguments.extend(["--bytes".to_owned(), cell.bytes.to_string()]);
    match cell.kind {
        // Each connection carries one stream, whose length is fixed.
        Kind::Stream => arguments.extend(["--requests".to_owned(), cell.in_flight.to_string()]),
        Kind::Call | Kind::Idle => arguments.extend(["--seconds".to_owned(), seconds.to_string()]),
    }
    arguments
}

/// CPU of a process and of the rest of the machine, over a span of time.
struct Meter {
    pid: u32,
    begin: Instant,
    cpu: Cpu,
    ours: f64,
    machine: Machine,
}

impl Meter {
    fn start(pid: u32) -> Self {
        let (machine, ours, cpu) = (Machine::read(), proc::ours(), proc::cpu(pid));
        Self {
            pid,
            begin: Instant::now(),
            cpu,
            ours,
            machine,
        }
    }

    fn stop(&self) -> Reading {
        let cpu = proc::cpu(self.pid) - self.cpu;
        let (ours, machine) = (proc::ours() - self.ours, Machine::read());
        let seconds = self.begin.elapsed().as_secs_f64();
        Reading {
            seconds,
            cpu,
            others: (machine.busy - self.machine.busy - ours).max(0.0) / seconds,
            stolen: (machine.stolen - self.machine.stolen) / seconds,
        }
    }
}

fn idle(
    cell: Cell,
    kinds: &[peers::Kind],
    upstream: &Upstream,
    dir: &Path,
    options: &Options,
) -> Result<Measured> {
    // The upstream is no proxy: what a session costs there is nobody's question.
    let kinds: Vec<_> = kinds
        .iter()
        .filter(|k| !matches!(k, peers::Kind::Direct))
        .cloned()
        .collect();
    let mut rounds = Vec::new();
    for _ in 0..options.rounds().min(3) {
        let mut round = Vec::new();
        for kind in &kinds {
            round.push(hold(
                &Peer::start(kind, upstream, Buffers::Default, dir)?,
                cell,
                dir,
                options,
            )?);
        }
        rounds.push(round);
    }
    Ok(options.measured(cell, &kinds, rounds))
}

/// Opens the sessions of one fresh peer and looks at its memory.
fn hold(peer: &Peer, cell: Cell, dir: &Path, options: &Options) -> Result<Sample> {
    thread::sleep(Duration::from_millis(300));
    let before = proc::resident(peer.pid);
    let me = std::env::current_exe()?;
    let me = me.to_str().ok_or("the path of this program is not UTF-8")?;
    let arguments = arguments(peer, cell, options.seconds() + 2.0);
    let mut command = vec![me];
    command.extend(arguments.iter().map(String::as_str));
    let mut load = Process::start(&command, &dir.join("idle.log"))?;
    load.wait_for(OPEN, |l| l.starts_with("OPEN ").then_some(()))?;
    thread::sleep(Duration::from_millis(500));
    let meter = Meter::start(peer.pid);
    thread::sleep(Duration::from_secs_f64(options.seconds()));
    let reading = meter.stop();
    let resident = Some((before, proc::resident(peer.pid)));
    let report = load.wait_for(OPEN, |l| serde_json::from_str(l).ok())?;
    Ok(Sample {
        report,
        reading,
        resident,
    })
}
