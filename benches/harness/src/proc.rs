//! What Linux says of processes: CPU from `/proc/PID/stat`, memory from `/proc/PID/smaps_rollup`.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    ops::Sub,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::Result;

/// The kernel shows CPU times to programs in hundredths of a second, whatever its own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    pub user: f64,
    pub sys: f64,
}

impl Cpu {
    pub(crate) fn total(self) -> f64 {
        self.user + self.sys
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            user: self.user - other.user,
            sys: self.sys - other.sys,
        }
    }
}

/// One line of `/proc/PID/stat`, as far as it is needed.
struct Stat {
    pid: u32,
    parent: u32,
    cpu: Cpu,
    /// Of children that are gone.
    reaped: Cpu,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in brackets may hold anything: the fields are counted from behind it.
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let seconds = |at: usize| Some(fields.get(at)?.parse::<f64>().ok()? / TICKS_PER_SECOND);
        Some(Self {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            cpu: Cpu {
                user: seconds(11)?,
                sys: seconds(12)?,
            },
            reaped: Cpu {
                user: seconds(13)?,
                sys: seconds(14)?,
            },
        })
    }

    fn all() -> Vec<Self> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|e| Self::read(e.file_name().to_str()?.parse().ok()?))
            .collect()
    }
}

/// `root` and its descendants that live.
fn tree(root: u32) -> Vec<Stat> {
    let mut rest = Stat::all();
    let mut found = Vec::new();
    let mut pids = vec![root];
    while let Some(pid) = pids.pop() {
        for at in (0..rest.len()).rev() {
            if rest
                .get(at)
                .is_some_and(|s| s.pid == pid || s.parent == pid)
            {
                let stat = rest.swap_remove(at);
                if stat.pid != pid {
                    pids.push(stat.pid);
                }
                found.push(stat);
            }
        }
    }
    found
}

/// CPU of `root` and its descendants that live.
pub(crate) fn cpu(root: u32) -> Cpu {
    tree(root).iter().fold(Cpu::default(), |sum, stat| Cpu {
        user: sum.user + stat.cpu.user,
        sys: sum.sys + stat.cpu.sys,
    })
}

/// CPU seconds of this program and of all that it ever started.
pub(crate) fn ours() -> f64 {
    let me = std::process::id();
    let reaped = Stat::read(me).map_or(0.0, |stat| stat.reaped.total());
    cpu(me).total() + reaped
}

/// Resident bytes of `root` and its descendants.
pub(crate) fn resident(root: u32) -> u64 {
    tree(root)
        .iter()
        .filter_map(|stat| resident_of_one(stat.pid))
        .sum()
}

fn resident_of_one(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("Rss:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// CPU seconds of the whole machine: what programs used, and what the hypervisor gave to others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Machine {
    pub busy: f64,
    pub stolen: f64,
}

impl Machine {
    pub(crate) fn read() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let ticks: Vec<f64> = line
            .split_whitespace()
            .skip(1)
            .filter_map(|f| f.parse().ok())
            .collect();
        let seconds = |at: usize| ticks.get(at).copied().unwrap_or(0.0) / TICKS_PER_SECOND;
        // user, nice, system, irq, softirq; 3 and 4 are idle and waiting for discs.
        Self {
            busy: [0, 1, 2, 5, 6].into_iter().map(seconds).sum(),
            stolen: seconds(7),
        }
    }
}

/// The machine in a line: processor, cores, kernel.
pub(crate) fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find(|l| l.starts_with("model name"))
        .and_then(|l| l.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{model}, {cores} cores, Linux {}",
        read("/proc/sys/kernel/osrelease").trim()
    )
}

/// A child process that ends with its owner, its output in a file.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with as many open files as the system allows.
    pub(crate) fn start(command: &[&str], log: &Path) -> Result<Self> {
        let out = File::create(log)?;
        let child = Command::new("sh")
            .args(["-c", r#"ulimit -n "$(ulimit -Hn)"; exec "$@""#, "sh"])
            .args(command)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a line of the output gives something.
    pub(crate) fn wait_for<T>(
        &mut self,
        within: Duration,
        mut find: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let end = Instant::now() + within;
        loop {
            let lines = BufReader::new(File::open(&self.log)?)
                .lines()
                .map_while(std::result::Result::ok);
            if let Some(found) = lines.into_iter().find_map(|l| find(&l)) {
                return Ok(found);
            }
            if self.child.try_wait()?.is_some() || Instant::now() > end {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let name = self.log.display();
                return Err(format!("a process did not come up ({name}):\n{log}").into());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks the process to end, and waits until it has; after `within` it is killed.
    pub(crate) fn end(&mut self, within: Duration) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        // SIGTERM, so that nginx takes its workers with it and callgrind writes its counts.
        Command::new("kill")
            .args(["-TERM", &self.pid().to_string()])
            .status()?;
        let end = Instant::now() + within;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > end {
                self.child.kill()?;
                self.child.wait()?;
                return Err(format!("{} did not end when asked to", self.log.display()).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What does not end in time is killed, and nobody is left to tell.
        let _ = self.end(Duration::from_secs(3));
    }
}

/// A directory that goes with its owner.
#[derive(Debug)]
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("outrigger-bench-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A directory that stays behind in the temporary one does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_a_stat() {
        let me = std::process::id();
        assert!(resident(me) > 100_000);
        assert!(Stat::read(me).unwrap().parent > 0);
        assert!(tree(me).iter().any(|s| s.pid == me));
        assert!(Machine::read().busy > 0.0);
    }

    #[test]
    fn a_process_shows_its_output_and_ends() {
        let dir = TempDir::new().unwrap();
        let log = dir.path().join("sleep.log");
        let mut process = Process::start(&["sh", "-c", "echo up; sleep 60"], &log).unwrap();
        let line = process.wait_for(Duration::from_secs(10), |l| Some(l.to_owned()));
        assert_eq!(line.unwrap(), "up");
        process.end(Duration::from_secs(10)).unwrap();
    }
}
