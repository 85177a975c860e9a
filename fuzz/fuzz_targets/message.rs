//! Any bytes are a message or an error, the same as serde_json would say of their syntax, and edits keep them JSON.
#![no_main]

use std::cell::Cell;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use outrigger::mcp::list::{self, List};
use outrigger::mcp::message::{Malformed, Message, Parsed};
use outrigger::mcp::{Reply, splice};
use serde::de::IgnoredAny;

fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok() && serde_json::from_slice::<IgnoredAny>(bytes).is_ok()
}

fuzz_target!(|bytes: &[u8]| {
    match Message::read(bytes) {
        Ok(parsed) => {
            assert!(is_json(bytes));
            edit(&Bytes::copy_from_slice(bytes), &parsed);
        }
        // Too deep, or a lone surrogate in what we read, is syntax to us and not to serde_json.
        Err(Malformed::Syntax) => {}
        Err(_) => assert!(is_json(bytes)),
    }
});

fn edit(bytes: &Bytes, parsed: &Parsed) {
    let messages: Vec<Message> = match parsed {
        Parsed::One(message) => vec![*message],
        Parsed::Batch(parts) => parts.iter().map(|(_, message)| *message).collect(),
        _ => return,
    };
    for message in &messages {
        let _ = message.subject().map(|subject| subject.decode(bytes).len());
        let _ = Reply::of(bytes, message);
        if let Some(id) = message.id {
            assert!(is_json(&splice::replace(bytes, id, b"\"other\"")));
        }
    }
    for list in [List::Tools, List::Resources] {
        let odd = Cell::new(false);
        let cut = list::remove_elements(bytes, list, |_| odd.replace(!odd.get()));
        if let Ok(cut) = cut {
            assert!(Message::read(&cut).is_ok());
        }
        let all = list::remove_elements(bytes, list, |_| true);
        assert!(all.is_err() || all.is_ok_and(|all| all == *bytes));
    }
}
