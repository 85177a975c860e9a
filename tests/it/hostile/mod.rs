//! What a running sidecar does when peers leave, hang, or mean harm: whole stack, real sockets, byte-wise peers.
//!
//! Time is the tests' own: [`rig::skip`] moves it. Peers are plain sockets, so that each byte is a test's decision.

mod answers;
mod cancel;
mod client;
mod gone;
mod limits;
mod peer;
mod pool;
mod rig;
mod server;
mod sessions;
mod slow;
mod wire;
