//! What is known of a server's tools from the lists that went by.
//!
//! Contract:
//!
//! 1. It is learned from complete `tools/list` answers in the upstream's own form, and forgotten never: a page that adds
//!    a tool adds it, a later list that names it again replaces what was known of it.
//! 2. A tool that no list has named is unknown, and nothing good is assumed of it.
//! 3. At most [`MAX_TOOLS`] names are kept; later ones stay unknown.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::mcp::list::{self, List};
use crate::mcp::message::{Message, Parsed};

/// The most tools that are known of one server.
pub const MAX_TOOLS: usize = 10_000;

/// What a server says of one tool. It is not checked: whoever acts on it trusts the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ToolFacts {
    /// `readOnlyHint`.
    pub is_read_only: bool,
    /// `idempotentHint`.
    pub is_idempotent: bool,
}

/// The tools of one server. Clones share what they know.
#[derive(Clone, Debug, Default)]
pub struct Catalog(Arc<RwLock<HashMap<Box<str>, ToolFacts>>>);

impl Catalog {
    /// What is known of a tool.
    #[must_use]
    pub fn tool(&self, name: &str) -> Option<ToolFacts> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .copied()
    }

    /// Learns from one message. One that is no list of tools teaches nothing.
    pub fn learn(&self, message: &[u8]) {
        let Ok(Parsed::One(read)) = Message::read(message) else {
            return;
        };
        let Ok(elements) = list::elements(message, &read, List::Tools) else {
            return;
        };
        if elements.is_empty() {
            return;
        }
        let mut tools = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for element in elements {
            let Some(name) = element.name else { continue };
            let name = name.decode(message);
            if tools.len() >= MAX_TOOLS && !tools.contains_key(&*name) {
                continue;
            }
            let facts = ToolFacts {
                is_read_only: element.is_read_only,
                is_idempotent: element.is_idempotent,
            };
            tools.insert(name.into(), facts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_1_a_list_teaches_and_a_later_one_replaces() {
        let catalog = Catalog::default();
        catalog.learn(br#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"read","annotations":{"readOnlyHint":true}},{"name":"put","annotations":{"idempotentHint":true}},{"name":"add"}]}}"#);
        assert!(catalog.tool("read").unwrap().is_read_only);
        assert!(catalog.tool("put").unwrap().is_idempotent);
        assert_eq!(catalog.tool("add"), Some(ToolFacts::default()));
        catalog.learn(br#"{"jsonrpc":"2.0","id":2,"result":{"tools":[{"name":"read"}]}}"#);
        assert!(!catalog.tool("read").unwrap().is_read_only);
    }

    #[test]
    fn rule_2_what_no_list_has_named_is_unknown() {
        let catalog = Catalog::default();
        for message in [
            &b"{"[..],
            br#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}"#,
            b"[]",
        ] {
            catalog.learn(message);
        }
        assert_eq!(catalog.tool("read"), None);
    }
}
