//! What a legacy session is to us: sealed in its id what never changes, kept in a store what does.
//!
//! | Module | Holds |
//! | --- | --- |
//! | [`seal`] | keys, and the id that a caller sees |
//! | [`state`] | a session that was opened, and what changes of it |
//! | [`store`] | where the changing part is kept |
//! | [`answer`] | the first answer in a body, and what an `initialize` result says |
//!
//! Two layers use it: `session`, which seals and opens, and `rejoin`, which rebuilds. They share an
//! [`OpenSession`] in the request's extensions and know nothing else of each other.

pub mod answer;
#[cfg(test)]
pub(crate) mod script;
pub mod seal;
pub mod state;
pub mod store;

pub use answer::Capabilities;
pub use seal::{Sealed, SessionKey, SessionKeys};
pub use state::{Handle, OpenSession, SessionState};
pub use store::{Found, MemoryStore, SessionStore};
