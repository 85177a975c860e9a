//! Where upstream credentials come from: traits, and the static kinds.

pub mod source;
pub mod template;

pub use source::{SecretCell, SourceError, Watch};
pub use template::{Template, TemplateError, TokenKind};
