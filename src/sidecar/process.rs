//! Metrics of the process, under the names that Prometheus' own clients have for them, and of the runtime.
//!
//! They are read off `/proc` when somebody asks, so they are there on Linux alone; elsewhere they stay at 0.

use std::fs;

use prometheus::core::{Atomic, AtomicF64, AtomicI64, GenericCounter, GenericGauge};
use prometheus::{Counter, Gauge, IntGauge, Registry};
use tokio::runtime::Handle;

use crate::error::BoxError;
use crate::layer::metrics::Declared;
use crate::sidecar::heartbeat::Heartbeat;

/// What these are, in the order of the reference.
pub(super) const DECLARED: &[Declared] = &[
    CPU, RESIDENT, VIRTUAL, OPEN_FDS, MAX_FDS, STARTED, WORKERS, TASKS, QUEUE, BUSY, LAG,
];

const CPU: Declared = Declared::counter(
    "process_cpu_seconds_total",
    &[],
    "CPU time of the process, user's and system's.",
    "What the sidecar costs.",
);
const RESIDENT: Declared = Declared::gauge(
    "process_resident_memory_bytes",
    &[],
    "Memory that the process has in RAM.",
    "Against the container's memory limit.",
);
const VIRTUAL: Declared = Declared::gauge(
    "process_virtual_memory_bytes",
    &[],
    "Address space of the process.",
    "Seldom; most of it is not used.",
);
const OPEN_FDS: Declared = Declared::gauge(
    "process_open_fds",
    &[],
    "File descriptors that are open: connections above all.",
    "Against `process_max_fds`.",
);
const MAX_FDS: Declared = Declared::gauge(
    "process_max_fds",
    &[],
    "How many file descriptors may be open; 0 for any number.",
    "Connections are refused.",
);
const STARTED: Declared = Declared::gauge(
    "process_start_time_seconds",
    &[],
    "When the process was started.",
    "It changes: the sidecar was restarted.",
);
const WORKERS: Declared = Declared::gauge(
    "tokio_workers",
    &[],
    "Threads that serve calls (`--workers`).",
    "Beside `tokio_busy_seconds_total`.",
);
const TASKS: Declared = Declared::gauge(
    "tokio_alive_tasks",
    &[],
    "Tasks of the runtime that have not ended: about two for a connection.",
    "Memory grows.",
);
const QUEUE: Declared = Declared::gauge(
    "tokio_global_queue_depth",
    &[],
    "Tasks that are ready and wait for a thread.",
    "Above 0 for long: there is too little CPU.",
);
const BUSY: Declared = Declared::counter(
    "tokio_busy_seconds_total",
    &[],
    "How long the workers were busy, all together.",
    "Its rate, divided by the workers, near 1: more workers or more replicas.",
);
const LAG: Declared = Declared::gauge(
    "tokio_heartbeat_lag_seconds",
    &[],
    "The longest that the runtime was late in the last minute or two.",
    "Everything is slow: too little CPU, or a throttled container.",
);

/// Metrics of the process and of the runtime.
#[derive(Clone, Debug)]
pub(super) struct Process {
    cpu: Counter,
    resident: IntGauge,
    virtual_size: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    started: Gauge,
    workers: IntGauge,
    tasks: IntGauge,
    queue: IntGauge,
    busy: Counter,
    lag: Gauge,
}

impl Process {
    pub(super) fn register(registry: &Registry) -> Result<Self, BoxError> {
        let count = |declared| gauge::<AtomicI64>(registry, declared);
        Ok(Self {
            cpu: counter(registry, &CPU)?,
            resident: count(&RESIDENT)?,
            virtual_size: count(&VIRTUAL)?,
            open_fds: count(&OPEN_FDS)?,
            max_fds: count(&MAX_FDS)?,
            started: gauge(registry, &STARTED)?,
            workers: count(&WORKERS)?,
            tasks: count(&TASKS)?,
            queue: count(&QUEUE)?,
            busy: counter(registry, &BUSY)?,
            lag: gauge(registry, &LAG)?,
        })
    }

    /// Sets what is so now. Must be called on the runtime.
    pub(super) fn read(&self, heartbeat: &Heartbeat) {
        self.read_process();
        self.read_runtime();
        self.lag.set(heartbeat.lag().as_secs_f64());
    }

    fn read_process(&self) {
        let file = |name: &str| fs::read_to_string(format!("/proc/{name}")).unwrap_or_default();
        if let Some(stat) = Stat::parse(&file("self/stat")) {
            raise(&self.cpu, stat.cpu);
            self.virtual_size.set(stat.virtual_size);
            if let Some(booted) = number(&file("stat"), "btime") {
                #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
                self.started.set(booted as f64 + stat.started);
            }
        }
        if let Some(kilobytes) = number(&file("self/status"), "VmRSS:") {
            self.resident.set(kilobytes.saturating_mul(1024));
        }
        if let Some(most) = number(&file("self/limits"), "Max open files") {
            self.max_fds.set(most);
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // One of them is that of the folder.
            let open = open.count().saturating_sub(1);
            self.open_fds.set(i64::try_from(open).unwrap_or(i64::MAX));
        }
    }

    fn read_runtime(&self) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let runtime = runtime.metrics();
        let bounded = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let workers = runtime.num_workers();
        self.workers.set(bounded(workers));
        self.tasks.set(bounded(runtime.num_alive_tasks()));
        self.queue.set(bounded(runtime.global_queue_depth()));
        let busy = (0..workers).map(|worker| runtime.worker_total_busy_duration(worker));
        raise(&self.busy, busy.sum::<std::time::Duration>().as_secs_f64());
    }
}

fn counter(
    registry: &Registry,
    declared: &Declared,
) -> Result<GenericCounter<AtomicF64>, BoxError> {
    Ok(declared.counters(registry)?.with_label_values::<&str>(&[]))
}

fn gauge<P>(registry: &Registry, declared: &Declared) -> Result<GenericGauge<P>, BoxError>
where
    P: Atomic + 'static,
{
    Ok(declared.gauges(registry)?.with_label_values::<&str>(&[]))
}

/// Brings a counter to what somebody else has counted. Two that do so at once may count a moment twice, until the next.
fn raise(counter: &Counter, to: f64) {
    let more = to - counter.get();
    if more > 0.0 {
        counter.inc_by(more);
    }
}

/// The number behind a line's first words.
fn number(text: &str, words: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(words))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What `/proc/self/stat` says (`proc_pid_stat(5)`).
#[derive(Debug, PartialEq)]
struct Stat {
    /// In seconds.
    cpu: f64,
    /// In seconds after the machine's start.
    started: f64,
    /// In bytes.
    virtual_size: i64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The kernel shows times to user space in hundredths of a second, whatever its own tick is.
        const TICKS: f64 = 100.0;
        // The command's name is in parentheses, and may have some itself. What follows it is field 3.
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_whitespace().skip(11);
        let (user, system): (f64, f64) =
            (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let mut fields = fields.skip(6);
        let started: f64 = fields.next()?.parse().ok()?;
        Some(Self {
            cpu: (user + system) / TICKS,
            started: started / TICKS,
            virtual_size: fields.next()?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_process_are_found_behind_any_name() {
        let stat = "4242 (a) b (c)) S 1 4242 4242 0 -1 4194304 500 0 0 0 150 50 0 0 20 0 3 0 12345 98304000 1500 18446744073709551615";
        assert_eq!(
            Stat::parse(stat),
            Some(Stat {
                cpu: 2.0,
                started: 123.45,
                virtual_size: 98_304_000,
            })
        );
        assert_eq!(Stat::parse(""), None);
        assert_eq!(Stat::parse("1 (x) S 1 2"), None);
    }

    #[test]
    fn numbers_stand_behind_their_words() {
        let status = "Name:\toutrigger\nVmRSS:\t   11184 kB\n";
        assert_eq!(number(status, "VmRSS:"), Some(11184));
        let limits = "Max open files            1024                 524288               files\n";
        assert_eq!(number(limits, "Max open files"), Some(1024));
        let unlimited =
            "Max open files            unlimited            unlimited            files\n";
        assert_eq!(number(unlimited, "Max open files"), None);
        assert_eq!(number("btime 1764225000\n", "btime"), Some(1_764_225_000));
    }

    #[tokio::test]
    async fn this_process_has_memory_descriptors_and_a_runtime() {
        let registry = Registry::new();
        let process = Process::register(&registry).unwrap();
        process.read(&Heartbeat::default());
        assert!(process.resident.get() > 1 << 20);
        assert!(process.virtual_size.get() >= process.resident.get());
        assert!(process.open_fds.get() > 2);
        let now = crate::clock::Clock::system().unix_seconds();
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
        let age = now as f64 - process.started.get();
        assert!((-2.0..3600.0).contains(&age), "{age}");
        assert_eq!(process.workers.get(), 1);
    }
}
