//! The protocol as data: what messages, methods and revisions are, without I/O and without anything else of ours.
//!
//! | Module | Holds |
//! | --- | --- |
//! | [`message`] | the envelope of a message, read once, borrowed |
//! | [`reply`] | what an answer holds |
//! | [`list`] | the elements of a list result, and their removal |
//! | [`method`] | every method of every revision, as a table |
//! | [`revision`] | the five revisions and the two eras |
//! | [`headers`] | names and values of the protocol's HTTP headers, the Base64 sentinel |
//! | [`fault`] | JSON-RPC error codes and the writing of an error message |
//! | [`context`] | the context of a trace, in `_meta` and as W3C writes it |
//! | [`splice`] | edits of a message that leave every other byte alone |

pub mod context;
pub mod fault;
pub mod headers;
pub mod list;
pub mod message;
pub mod method;
pub mod reply;
pub mod revision;
mod scan;
pub mod splice;

pub use message::{Message, Parsed, Span};
pub use method::Method;
pub use reply::Reply;
pub use revision::{Era, Revision};
