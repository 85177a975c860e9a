//! Calls that outlive their client: each in a task of its own, which reads it to its end.
//!
//! Contract:
//!
//! 1. [`Detached`] is the owner. At most as many calls at once as it was made for; one more is dropped, which cancels it.
//!    A quarter of them, and at least one, is the most for one principal, or for one session of nobody in particular.
//! 2. A call ends with its answer, after the time it was given, when the owner is closed, or [`GRACE`] after its client
//!    has cancelled it: the cancel has gone upstream by then, and the server may end the call by itself. Whether the
//!    client cancels before or after it leaves makes no difference.
//! 3. A cancel is remembered for a call that has not left yet: [`MAX_CANCELLED`] of them, of ids up to [`MAX_ID`] bytes.
//!    A call with a longer one runs to its end.
//! 4. What is dropped instead of read to its end is cancelled upstream, as below `session` a drop always is.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use tokio::runtime::Handle as Runtime;
use tokio::sync::{Notify, watch};

use crate::body::Body;
use crate::error::BoxError;
use crate::facts::HeldShare;
use crate::session::Handle;
use crate::session::state::lock;

/// How long a cancelled call may take to end by itself.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// How many cancels of calls that are not here are remembered.
const MAX_CANCELLED: usize = 256;
/// The longest id by which a call is cancelled, in its JSON spelling.
const MAX_ID: usize = 256;

/// Who owns the calls of one server that outlived their clients.
#[derive(Clone)]
pub struct Detached(Arc<Pool>);

/// An owner that nobody may need any more.
#[derive(Clone)]
pub struct WeakDetached(Weak<Pool>);

impl fmt::Debug for WeakDetached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WeakDetached").finish_non_exhaustive()
    }
}

impl WeakDetached {
    /// The owner, if anybody needs it still.
    #[must_use]
    pub fn upgrade(&self) -> Option<Detached> {
        self.0.upgrade().map(Detached)
    }
}

struct Pool {
    limit: usize,
    time: Duration,
    count: watch::Sender<usize>,
    is_closed: watch::Sender<bool>,
    by_id: Mutex<HashMap<Key, Arc<Notify>>>,
    /// What was cancelled by a client that had not left yet, oldest first.
    cancelled: Mutex<VecDeque<Key>>,
    /// How many each holder has; an entry only for who has some.
    by_holder: Mutex<HashMap<Holder, usize>>,
    dropped: AtomicU64,
}

/// By which a client cancels a call: its session, and the id in its JSON spelling.
type Key = (Handle, Bytes);

impl Detached {
    /// An owner of at most `limit` calls, of `time` each.
    #[must_use]
    pub fn new(limit: usize, time: Duration) -> Self {
        Self(Arc::new(Pool {
            limit,
            time,
            count: watch::Sender::new(0),
            is_closed: watch::Sender::new(false),
            by_id: Mutex::default(),
            cancelled: Mutex::default(),
            by_holder: Mutex::default(),
            dropped: AtomicU64::new(0),
        }))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        *self.0.count.borrow()
    }

    /// How many calls were cancelled because there were too many, or too late.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// The same, without keeping it: it lives as long as calls that are here, or may come here.
    #[must_use]
    pub fn downgrade(&self) -> WeakDetached {
        WeakDetached(Arc::downgrade(&self.0))
    }

    /// Cancels all, and takes no more: a client that leaves after this cancels its call.
    pub fn close(&self) {
        self.0.is_closed.send_replace(true);
    }

    /// Waits until there are none.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn idle(&self) {
        let mut count = self.0.count.subscribe();
        // The sender lives as long as `self`.
        let _ = count.wait_for(|count| *count == 0).await;
    }

    /// Ends the call that its client has cancelled, if it is here, or if it ever comes.
    pub(crate) fn cancel(&self, session: Handle, id: &[u8]) {
        if id.len() > MAX_ID {
            return;
        }
        // The id is a slice of a message, which must not be kept whole because of it.
        let key = (session, Bytes::copy_from_slice(id));
        if let Some(call) = lock(&self.0.by_id).remove(&key) {
            call.notify_one();
            return;
        }
        let mut cancelled = lock(&self.0.cancelled);
        if cancelled.len() >= MAX_CANCELLED {
            cancelled.pop_front();
        }
        cancelled.push_back(key);
    }

    /// Runs `call` to its end, if there is room and a runtime; else drops it.
    fn adopt(&self, job: Job, call: impl Future<Output = ()> + Send + 'static) {
        let key = job
            .key
            .filter(|(_, id)| id.len() <= MAX_ID)
            .map(|(session, id)| (session, Bytes::copy_from_slice(&id)));
        let runtime = Runtime::try_current();
        let (Ok(runtime), Some(place)) = (runtime, self.place(key, job.holder)) else {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let mut is_closed = self.0.is_closed.subscribe();
        let (time, held) = (self.0.time, job.held);
        runtime.spawn(async move {
            let cancelled = async {
                place.cancelled.notified().await;
                tokio::time::sleep(GRACE).await;
            };
            tokio::select! {
                biased;
                _ = is_closed.wait_for(|closed| *closed) => {}
                () = cancelled => {}
                () = tokio::time::sleep(time) => {}
                () = call => {}
            }
            drop((place, held));
        });
    }

    fn place(&self, key: Option<Key>, holder: Option<Holder>) -> Option<Place> {
        let pool = &self.0;
        let is_taken = !*pool.is_closed.borrow()
            && pool.count.send_if_modified(|count| {
                let has_room = *count < pool.limit;
                *count += usize::from(has_room);
                has_room
            });
        if !is_taken {
            return None;
        }
        let cancelled = Arc::new(Notify::new());
        // From here on, what is taken is given back when it is dropped.
        let mut place = Place {
            pool: pool.clone(),
            key: None,
            holder: None,
            cancelled: cancelled.clone(),
        };
        if let Some(holder) = holder {
            if !pool.charge(&holder) {
                return None;
            }
            place.holder = Some(holder);
        }
        if let Some(key) = &key {
            lock(&pool.by_id).insert(key.clone(), cancelled.clone());
            let mut earlier = lock(&pool.cancelled);
            if let Some(at) = earlier.iter().position(|it| it == key) {
                earlier.remove(at);
                cancelled.notify_one();
            }
        }
        place.key = key;
        Some(place)
    }
}

impl Pool {
    /// Gives `holder` one of its places; false if it has them all.
    fn charge(&self, holder: &Holder) -> bool {
        let mut by_holder = lock(&self.by_holder);
        let own = by_holder.get(holder).copied().unwrap_or_default();
        let has_room = own < (self.limit / 4).max(1);
        if has_room {
            by_holder.insert(holder.clone(), own + 1);
        }
        has_room
    }

    fn refund(&self, holder: &Holder) {
        let mut by_holder = lock(&self.by_holder);
        if let Some(own) = by_holder.get_mut(holder) {
            *own -= 1;
            if *own == 0 {
                by_holder.remove(holder);
            }
        }
    }
}

impl fmt::Debug for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detached")
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}

/// One call's place, given back when dropped.
struct Place {
    pool: Arc<Pool>,
    key: Option<Key>,
    holder: Option<Holder>,
    cancelled: Arc<Notify>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            let mut by_id = lock(&self.pool.by_id);
            // A client may have used its id again.
            if by_id
                .get(key)
                .is_some_and(|call| Arc::ptr_eq(call, &self.cancelled))
            {
                by_id.remove(key);
            }
        }
        if let Some(holder) = &self.holder {
            self.pool.refund(holder);
        }
        self.pool.count.send_modify(|count| *count -= 1);
    }
}

/// Who has places: a principal, or the session of nobody in particular.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    Principal(Arc<str>),
    Session(Handle),
}

/// What detaching one call takes.
pub(super) struct Job {
    pub(super) owner: Detached,
    pub(super) key: Option<Key>,
    pub(super) holder: Option<Holder>,
    /// What the call was admitted by.
    pub(super) held: Option<HeldShare>,
}

impl Job {
    /// Hands `call` to its owner.
    fn run(self, call: impl Future<Output = ()> + Send + 'static) {
        self.owner.clone().adopt(self, call);
    }
}

/// A future that is handed to its owner when it is dropped before its end.
///
/// It has to move then, so it is boxed from the start: one allocation for each legacy request.
pub(super) struct Kept<F: ?Sized> {
    future: Option<Pin<Box<F>>>,
    job: Option<Job>,
    detach: fn(Pin<Box<F>>, Job),
}

impl<F: ?Sized> Kept<F> {
    pub(super) fn new<B, E>(future: Pin<Box<F>>, job: Option<Job>) -> Self
    where
        F: Future<Output = Result<Response<B>, E>> + Send + 'static,
        B: http_body::Body + Send + 'static,
        E: Send + 'static,
    {
        Self {
            future: Some(future),
            job,
            detach: |future, job| {
                job.run(async move {
                    if let Ok(response) = future.await {
                        read_to_end(response.into_body()).await;
                    }
                });
            },
        }
    }

    /// Polls it; once it is ready, what its body needs to be detached in turn.
    pub(super) fn poll<T>(&mut self, cx: &mut Context<'_>) -> Poll<(T, Option<Job>)>
    where
        F: Future<Output = T>,
    {
        let Some(future) = &mut self.future else {
            // Polled again after it was ready, which futures need not bear.
            return Poll::Pending;
        };
        future.as_mut().poll(cx).map(|output| {
            self.future = None;
            (output, self.job.take())
        })
    }
}

impl<F: ?Sized> Drop for Kept<F> {
    fn drop(&mut self) {
        if let (Some(future), Some(job)) = (self.future.take(), self.job.take()) {
            (self.detach)(future, job);
        }
    }
}

/// A stream of events that is handed to its owner when it is dropped before its end.
pub(super) struct KeptBody {
    body: Option<Body>,
    job: Option<Job>,
}

impl KeptBody {
    pub(super) fn new(body: Body, job: Job) -> Self {
        Self {
            body: Some(body),
            job: Some(job),
        }
    }
}

impl http_body::Body for KeptBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(cx);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            (self.body, self.job) = (None, None);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body
            .as_ref()
            .is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

impl Drop for KeptBody {
    fn drop(&mut self) {
        let body = self
            .body
            .take()
            .filter(|body| !http_body::Body::is_end_stream(body));
        if let (Some(body), Some(job)) = (body, self.job.take()) {
            job.run(read_to_end(body));
        }
    }
}

async fn read_to_end<B: http_body::Body>(body: B) {
    let mut body = pin!(body);
    while let Some(Ok(_)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {}
}
