//! The open connections of one listener: what each is doing, since when, and what they may take together.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::sync::Notify;

use crate::transport::listener::Limits;

/// How often a drain looks at a connection within [`Limits::farewell`].
pub(super) const LOOKS: u32 = 4;

/// What each connection may take for a head that has not ended: hyper's first buffer.
pub(super) const SMALL_HEAD: usize = 8 * 1024;

/// What a connection is at.
pub(super) const FIRST_BYTE: u8 = 0;
pub(super) const HEAD: u8 = 1;
pub(super) const BUSY: u8 = 2;
pub(super) const IDLE: u8 = 3;

/// One connection, as the sweep sees it.
#[derive(Debug)]
pub(super) struct Connection {
    doing: AtomicU8,
    /// The tick at which it began to do so.
    since: AtomicU32,
    /// The tick since which no byte could be written; 0 while bytes flow or none wait.
    stalled: AtomicU32,
    /// Bytes of a head that has not ended.
    head: AtomicUsize,
    pub(super) cut: AtomicBool,
    pub(super) stop: AtomicBool,
    /// One for both: what a connection waits for beside its caller costs each of its polls.
    pub(super) wake: Notify,
}

/// All connections of one listener, and the coarse clock that they are measured with.
#[derive(Debug)]
pub(super) struct Connections {
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    /// How many each address has.
    addresses: Mutex<HashMap<IpAddr, usize>>,
    /// What unfinished heads take beyond the first 8 KiB of each.
    heads: AtomicUsize,
    next: AtomicU64,
    tick: AtomicU32,
    /// Whether a drain has begun, so that the next answer of a connection is its last.
    leaving: AtomicBool,
    pub(super) limits: Limits,
}

impl Connections {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            open: Mutex::default(),
            addresses: Mutex::default(),
            heads: AtomicUsize::new(0),
            next: AtomicU64::new(0),
            tick: AtomicU32::new(0),
            leaving: AtomicBool::new(false),
            limits,
        }
    }

    /// Takes a connection of that address in, unless it has its share already.
    pub(super) fn add(self: &Arc<Self>, address: IpAddr) -> Option<Registered> {
        let address = whose(address);
        {
            let mut addresses = self.addresses();
            let held = addresses.entry(address).or_default();
            if *held >= self.limits.per_address {
                return None;
            }
            *held += 1;
        }
        let connection = Arc::new(Connection {
            doing: AtomicU8::new(FIRST_BYTE),
            since: AtomicU32::new(self.tick.load(Ordering::Relaxed)),
            stalled: AtomicU32::new(0),
            head: AtomicUsize::new(0),
            cut: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            wake: Notify::new(),
        });
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(key, connection.clone());
        Some(Registered {
            connections: self.clone(),
            connection,
            key,
            address,
        })
    }

    pub(super) fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The head of that connection takes nothing any more.
    fn forget_head(&self, connection: &Connection) {
        let counted = beyond(connection.head.load(Ordering::Relaxed));
        connection.head.store(0, Ordering::Relaxed);
        if counted > 0 {
            self.heads.fetch_sub(counted, Ordering::Relaxed);
        }
    }

    /// Moves the coarse clock by one second and cuts what has waited too long.
    pub(super) fn sweep(&self) {
        let now = self.tick.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        for connection in self.lock().values() {
            let stalled = connection.stalled.load(Ordering::Relaxed);
            let since = connection.since.load(Ordering::Relaxed);
            let (since, allowed) = match connection.doing.load(Ordering::Relaxed) {
                // Whatever its answer is at: what waits to be written waits for the caller.
                _ if stalled != 0 => (stalled, self.limits.write),
                FIRST_BYTE => (since, self.limits.first_byte),
                HEAD => (since, self.limits.head),
                IDLE => (since, self.limits.idle),
                _ => continue,
            };
            if u64::from(now.wrapping_sub(since)) > allowed.as_secs() {
                connection.cut();
            }
        }
    }

    /// Ends each connection with its next answer, or once nothing has been asked on it for a while. Never returns.
    pub(super) async fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        let farewell = self.limits.farewell;
        if !farewell.is_zero() {
            let mut quiet: HashMap<u64, u8> = HashMap::new();
            loop {
                tokio::time::sleep(farewell / LOOKS).await;
                let open = self.lock();
                quiet.retain(|key, _| open.contains_key(key));
                for (key, connection) in open.iter() {
                    let looks = quiet.entry(*key).or_default();
                    *looks = match connection.doing.load(Ordering::Relaxed) {
                        BUSY | HEAD => 0,
                        _ => looks.saturating_add(1),
                    };
                    if u32::from(*looks) >= LOOKS {
                        connection.stop();
                    }
                }
            }
        }
        self.stop_all();
        std::future::pending::<()>().await;
    }

    pub(super) fn stop_all(&self) {
        for connection in self.lock().values() {
            connection.stop();
        }
    }

    pub(super) fn cut_all(&self) {
        for connection in self.lock().values() {
            connection.cut();
        }
    }
}

impl Connection {
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }
}

/// A connection in the table, taken out on drop.
pub(super) struct Registered {
    pub(super) connections: Arc<Connections>,
    pub(super) connection: Arc<Connection>,
    key: u64,
    address: IpAddr,
}

impl Registered {
    pub(super) fn state(&self) -> State {
        State {
            connections: self.connections.clone(),
            connection: self.connection.clone(),
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.key);
        self.connections.forget_head(&self.connection);
        if let Entry::Occupied(mut held) = self.connections.addresses().entry(self.address) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

/// Notes what a connection does.
#[derive(Clone)]
pub(super) struct State {
    pub(super) connections: Arc<Connections>,
    connection: Arc<Connection>,
}

impl State {
    pub(super) fn set(&self, doing: u8) {
        let now = self.connections.tick.load(Ordering::Relaxed);
        self.connection.since.store(now, Ordering::Relaxed);
        self.connection.doing.store(doing, Ordering::Relaxed);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.connections.leaving.load(Ordering::Relaxed)
    }

    /// A whole head has come.
    pub(super) fn asked(&self) {
        self.connections.forget_head(&self.connection);
        self.set(BUSY);
    }

    /// Notes that so many bytes came. Fails where the heads of all connections take too much.
    pub(super) fn saw_bytes(&self, bytes: usize) -> io::Result<()> {
        match self.connection.doing.load(Ordering::Relaxed) {
            FIRST_BYTE | IDLE => self.set(HEAD),
            HEAD => {}
            // They are a body's.
            _ => return Ok(()),
        }
        // Nobody else writes it: a connection is read by one task.
        let before = self.connection.head.load(Ordering::Relaxed);
        let after = before.saturating_add(bytes);
        self.connection.head.store(after, Ordering::Relaxed);
        let more = beyond(after) - beyond(before);
        if more == 0 {
            return Ok(());
        }
        let held = self.connections.heads.fetch_add(more, Ordering::Relaxed);
        if held.saturating_add(more) > self.connections.limits.unfinished_heads {
            return Err(io::Error::other("heads of requests take too much memory"));
        }
        Ok(())
    }

    /// Notes whether bytes could be written.
    pub(super) fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        let stalled = &self.connection.stalled;
        match polled {
            Poll::Pending if stalled.load(Ordering::Relaxed) == 0 => {
                let now = self.connections.tick.load(Ordering::Relaxed);
                stalled.store(now.max(1), Ordering::Relaxed);
            }
            Poll::Ready(Ok(_)) if stalled.load(Ordering::Relaxed) != 0 => {
                stalled.store(0, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

/// What a head takes beyond the first bytes, which all have.
fn beyond(head: usize) -> usize {
    head.saturating_sub(SMALL_HEAD)
}

/// The address that a share is counted under: of those that one machine can take as it likes, one.
fn whose(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        IpAddr::V4(address) if !address.is_loopback() => address.into(),
        IpAddr::V4(_) | IpAddr::V6(_) => Ipv4Addr::LOCALHOST.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_one_machine_can_take_as_it_likes_are_one() {
        let same = |a: &str, b: &str| whose(a.parse().unwrap()) == whose(b.parse().unwrap());
        assert!(same("127.0.0.1", "127.9.9.9"));
        assert!(same("127.0.0.1", "::1"));
        assert!(same("::ffff:10.0.0.1", "10.0.0.1"));
        assert!(same("2001:db8:0:1::1", "2001:db8:0:1:ffff::"));
        assert!(!same("2001:db8:0:1::1", "2001:db8:0:2::1"));
        assert!(!same("10.0.0.1", "10.0.0.2"));
    }
}
