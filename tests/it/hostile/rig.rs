//! A sidecar that runs in the test's own process, and the test's hold on time.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrigger::config::{Config, Reload};
use outrigger::sidecar::{AdminPorts, Handle, Sidecar};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::peer::{Conn, PATIENCE, Upstream};

/// A running sidecar.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    pub(crate) handle: Handle,
    running: JoinHandle<()>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// A configuration: one server at `upstream` with further keys, one listener with further keys.
pub(crate) fn yaml(upstream: SocketAddr, server: &str, listener: &str) -> String {
    format!(
        "listeners:\n- {{listen: \"127.0.0.1:0\"{listener}}}\n\
         servers:\n- {{name: up, endpoints: [{{url: \"http://{upstream}/mcp\"}}]{server}}}\n\
         observability: {{metrics: {{listen: \"127.0.0.1:0\"}}}}\n\
         control: {{listen: \"127.0.0.1:0\"}}\n"
    )
}

impl Rig {
    /// A sidecar in front of `upstream`; keys of its server begin with a comma.
    pub(crate) async fn start(upstream: &Upstream, server: &str) -> Self {
        Self::of(&yaml(upstream.address, server, "")).await
    }

    pub(crate) async fn of(yaml: &str) -> Self {
        let loaded = Config::from_text("test.yaml", yaml.as_bytes())
            .unwrap_or_else(|report| panic!("{report}"));
        let bound = Sidecar::build(&loaded)
            .unwrap()
            .bind(AdminPorts::OrAnyFree)
            .await
            .unwrap();
        Self {
            address: bound.addresses()[0],
            admin: bound.admin_address().unwrap(),
            handle: bound.handle(),
            running: tokio::spawn(bound.run()),
        }
    }

    pub(crate) fn reload(&self, yaml: &str) {
        let loaded = Config::from_text("test.yaml", yaml.as_bytes())
            .unwrap_or_else(|report| panic!("{report}"));
        self.handle.reload(&Reload::Good(Arc::new(loaded)));
        assert!(self.handle.status()["configuration"]["refused"].is_null());
    }

    /// Waits until it has drained.
    pub(crate) async fn ended(&mut self) {
        within(&mut self.running).await.unwrap();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.running.is_finished()
    }

    /// What `/status` says at a JSON pointer.
    pub(crate) fn status(&self, pointer: &str) -> u64 {
        let status = self.handle.status();
        status
            .pointer(pointer)
            .and_then(serde_json::Value::as_u64)
            .unwrap_or_else(|| panic!("no {pointer} in {status}"))
    }

    /// Waits until `/status` says this at a JSON pointer.
    pub(crate) async fn until(&self, pointer: &str, value: u64) {
        eventually(&format!("{pointer} is {value}"), || {
            (self.status(pointer) == value).then_some(())
        })
        .await;
    }

    /// The sum of all samples of a metric whose labels contain `label`.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> f64 {
        let mut conn = Conn::to(self.admin).await;
        conn.send("GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            .await;
        let text = within(conn.message()).await.unwrap().text();
        text.lines()
            .filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until calls with this cause have been counted.
    pub(crate) async fn counted(&self, cause: &str) {
        let label = format!("error_type=\"{cause}\"");
        let until = Instant::now() + PATIENCE;
        while self.metric("outrigger_errors_total", &label).await == 0.0 {
            assert!(Instant::now() < until, "{cause} was never counted");
            breathe().await;
        }
    }
}

/// Waits for a future, but not for ever.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let until = Instant::now() + PATIENCE;
    loop {
        tokio::select! {
            biased;
            output = &mut future => return output,
            () = breathe() => assert!(Instant::now() < until, "it took too long"),
        }
    }
}

/// Waits until there is something.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < until, "never: {what}");
        breathe().await;
    }
}

/// Lets other tasks and sockets go on between two looks at a condition.
async fn breathe() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}

/// Moves time on, second by second, with room for tasks and sockets in between.
pub(crate) async fn skip(seconds: u64) {
    for _ in 0..seconds {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::time::resume();
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }
    breathe().await;
}

/// Set in the process that runs one test and no other.
const ALONE: &str = "OUTRIGGER_TEST_ALONE";

/// Whether this test is the only one of its process; if not, it is run so now, and passes as that does.
///
/// What a process has in memory says nothing about one test while others run beside it.
pub(crate) fn is_alone() -> bool {
    if std::env::vars_os().any(|(name, _)| name == ALONE) {
        return true;
    }
    let thread = std::thread::current();
    let name = thread.name().expect("a test runs in a thread of its name");
    let ended = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--test-threads=1"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(
        ended.status.success() && said.contains("1 passed"),
        "{said}"
    );
    false
}

/// How much memory of its own the process has, in bytes.
pub(crate) fn memory() -> usize {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let private = rollup
        .lines()
        .filter(|line| line.starts_with("Private_Dirty:") || line.starts_with("Private_Clean:"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    private.sum::<usize>() * 1024
}
