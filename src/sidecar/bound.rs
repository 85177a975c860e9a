//! A sidecar whose sockets are bound: it serves until a drain is over.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tower_service::Service as _;

use crate::admin::{Admin, Command, Control};
use crate::sidecar::Handle;
use crate::sidecar::router::Router;
use crate::sidecar::server::{Retired, ServerState};
use crate::sidecar::shared::Shared;
use crate::transport::listener::{Drain, Limits, serve};

/// The longest that a drain leaves an idle connection open: whoever has sent nothing in it may connect anew.
const FAREWELL: Duration = Duration::from_secs(6);

/// How long upstreams may take to hear what was cancelled at the end of a drain, and which sessions are over.
const TELLING: Duration = Duration::from_secs(1);
/// How often it is looked whether they have.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How many sessions are ended at once.
const ENDING_AT_ONCE: usize = 32;

#[derive(Debug)]
pub(super) struct BoundListener {
    pub(super) socket: TcpListener,
    pub(super) router: Arc<Router>,
    pub(super) base_path: String,
}

/// A sidecar whose sockets are bound.
#[derive(Debug)]
pub struct Bound {
    pub(super) shared: Arc<Shared>,
    pub(super) listeners: Vec<BoundListener>,
    pub(super) admin: Admin,
    pub(super) admin_socket: TcpListener,
    pub(super) control: Control,
    pub(super) control_socket: TcpListener,
    pub(super) commands: Option<mpsc::Receiver<Command>>,
    pub(super) grace: Duration,
}

impl Bound {
    /// The URLs of the servers: `/mcp` where there is one, else one for each.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        let mut urls = Vec::new();
        for listener in &self.listeners {
            let Ok(address) = listener.socket.local_addr() else {
                continue;
            };
            let routes = listener.router.routes();
            let paths = routes.paths();
            let short = format!("{}/mcp", listener.base_path.trim_end_matches('/'));
            if paths.contains(&short.as_str()) {
                urls.push(format!("http://{address}{short}"));
            } else {
                let long = paths.iter().filter(|path| path.contains("/servers/"));
                urls.extend(long.map(|path| format!("http://{address}{path}")));
            }
        }
        urls
    }

    /// Where listeners listen.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.socket.local_addr().ok())
            .collect()
    }

    /// Where metrics, health and status are.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_socket.local_addr().ok()
    }

    /// Where the control port is.
    #[must_use]
    pub fn control_address(&self) -> Option<SocketAddr> {
        self.control_socket.local_addr().ok()
    }

    /// What reloads and drains it while it runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            shared: self.shared.clone(),
        }
    }

    /// What the control port asks for. Can be taken once; whoever takes it must obey.
    pub fn take_commands(&mut self) -> Option<mpsc::Receiver<Command>> {
        self.commands.take()
    }

    /// Serves until a drain is over.
    ///
    /// # Cancellation
    ///
    /// Dropping the future stops accepting; open connections are cut when the runtime ends.
    pub async fn run(self) {
        self.admin.started();
        let drain = self.shared.drain.clone();
        let shared = self.shared;
        let mut serving = JoinSet::new();
        let room = shared.room.of_one(self.listeners.len());
        let limits = Limits {
            // 6 s of a gateway's minute: its agents keep connections. 500 ms of a sidecar's 5 s, whose agent has gone.
            farewell: (self.grace / 10).min(FAREWELL),
            connections: room.connections,
            // Somebody else's turn comes, too; a proxy in front may be the one address of all.
            per_address: room.connections - room.connections / 4,
            unfinished_heads: room.unfinished_heads,
            ..Limits::default()
        };
        for listener in self.listeners {
            serving.spawn(serve(
                listener.socket,
                listener.router,
                limits.clone(),
                drain.clone(),
            ));
        }
        // It ends with this future.
        let mut beating = JoinSet::new();
        beating.spawn(shared.heartbeat.clone().beat());
        // The admin port answers until the last call has ended: probes must see the drain.
        let open = Drain::default();
        let admin = serve(
            self.admin_socket,
            Arc::new(self.admin),
            beside(),
            open.clone(),
        );
        let control = serve(self.control_socket, Arc::new(self.control), beside(), open);
        let calls = async {
            drain.begun().await;
            let mut grace = pin!(tokio::time::sleep(self.grace));
            let mut served = pin!(async { while serving.join_next().await.is_some() {} });
            tokio::select! {
                biased;
                () = served.as_mut() => {}
                () = grace.as_mut() => {
                    warn_of_cut(&shared, self.grace);
                    // First, so that a call which is cut is cancelled and does not go on without its caller.
                    close_detached(&shared);
                    drain.finish();
                    served.await;
                }
            }
            end_upstream(&shared, grace.as_mut()).await;
        };
        tokio::select! {
            () = calls => {}
            ((), ()) = async { tokio::join!(admin, control) } => {}
        }
    }
}

/// Says how many calls the end of the grace cuts.
fn warn_of_cut(shared: &Shared, grace: Duration) {
    let servers = shared.lock().servers.clone();
    let calls: usize = servers.values().map(|server| server.calling()).sum();
    if calls > 0 {
        tracing::warn!(calls, ?grace, "calls are cut: shutdown.grace is over");
    }
}

/// Cancels the calls that outlived their callers, and lets no more do so.
fn close_detached(shared: &Shared) {
    let generation = shared.lock();
    let retired = generation.retired.iter().filter_map(Retired::detached);
    let owners = generation.servers.values();
    for owner in owners
        .map(|server| server.sessions.detached().clone())
        .chain(retired)
    {
        owner.close();
    }
}

/// Lets the calls that outlived their callers end, as the grace lets others; then cancels what is left, waits until its
/// upstreams were told, and ends the sessions that nobody can use any more.
async fn end_upstream(shared: &Shared, grace: Pin<&mut Sleep>) {
    let (servers, retired) = {
        let mut generation = shared.lock();
        let servers: Vec<_> = generation.servers.values().cloned().collect();
        (servers, std::mem::take(&mut generation.retired))
    };
    let owners: Vec<_> = servers
        .iter()
        .map(|server| server.sessions.detached().clone())
        .chain(retired.iter().filter_map(Retired::detached))
        .collect();
    let ended = async {
        for owner in &owners {
            owner.idle().await;
        }
    };
    tokio::select! {
        biased;
        () = ended => {}
        () = grace => {}
    }
    for owner in &owners {
        owner.close();
    }
    let told = async {
        // Whoever is dropped tells its upstream from a task of its own, which has to begin first.
        tokio::time::sleep(LOOK_AGAIN).await;
        while servers.iter().any(|server| server.is_calling())
            || retired.iter().any(Retired::is_calling)
        {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        if shared.common.keys_end_with_process {
            end_sessions(&servers).await;
        }
    };
    // Side by side: whoever waits for the process to end waits a second in all.
    let _ = tokio::join!(
        tokio::time::timeout(TELLING, told),
        shared.common.exported.flush()
    );
}

/// Tells upstreams that their sessions are over, some at a time.
async fn end_sessions(servers: &[Arc<ServerState>]) {
    let mut sending = JoinSet::new();
    for server in servers {
        for request in server.sessions.end_all() {
            if sending.len() >= ENDING_AT_ONCE {
                sending.join_next().await;
            }
            // What becomes of it is the upstream's business: it forgets a session by itself, later.
            let mut upstream = server.upstream.clone();
            sending.spawn(async move {
                if poll_fn(|cx| upstream.poll_ready(cx)).await.is_ok() {
                    let _ = upstream.call(request).await;
                }
            });
        }
    }
    while sending.join_next().await.is_some() {}
}

/// What the admin and the control port bound. They answer whoever can connect: nobody may take much there, and nobody
/// may keep the kubelet's probes out.
fn beside() -> Limits {
    Limits {
        connections: 128,
        per_address: 16,
        head_bytes: 8 * 1024,
        idle: Duration::from_secs(30),
        write: Duration::from_secs(10),
        ..Limits::default()
    }
}
