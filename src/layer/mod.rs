//! Each concern as one Tower layer over HTTP, outermost first.
//!
//! A layer takes its own small parameters, never the configuration; it knows no other layer. Inwards they share the
//! typed extensions [`Call`](crate::call::Call) and [`Pin`](crate::facts::Pin), outwards the
//! [`Facts`](crate::facts::Facts) cell. Outside [`rescue`] a layer answers for itself; inside it fails with a
//! [`Failure`](crate::error::Failure) and `rescue` answers.
//!
//! Three kinds: *request-only* layers return the inner future or an answer at once ([`Answered`]); *look-only* layers
//! poll the inner future and look at the answer through `&mut`; only layers that last to the end of a stream wrap the
//! body. Futures are named and not boxed, but for `hold`'s, which moves the call into the body of the answer that it
//! began, `session`'s legacy requests, which a task can take over, and what `inspect` reads, which would be most of all
//! futures around it.

mod along;
mod answered;
pub mod authenticate;
#[cfg(feature = "balance")]
pub mod balance;
mod boundary;
pub mod box_body;
pub mod complete;
pub mod credential;
pub mod deadline;
mod glob;
pub mod guard;
pub mod headers;
pub mod hold;
pub mod inspect;
pub mod learn;
pub mod limit;
pub mod log_bodies;
mod media;
#[cfg(feature = "metrics")]
pub mod metrics;
mod passed;
pub mod policy;
pub mod rate;
pub mod rejoin;
pub mod rescue;
mod response;
pub mod retry;
mod retry_after;
pub mod session;
#[cfg(test)]
pub(crate) mod testing;
pub mod timeouts;
pub mod trace;
pub mod wind_down;

pub use along::{ReadAlong, Reader};
pub use answered::Answered;
pub use box_body::BoxBodyLayer;
pub use passed::PassedBody;
