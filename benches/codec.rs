//! The codec by itself: what it costs to read an envelope, and to decode SSE.
//!
//! `cargo bench -p outrigger-bench --bench codec`

use outrigger::{codec::sse, mcp::message::Message};

mod measure;

fn main() {
    envelopes();
    events();
}

/// A `tools/call` whose text has `bytes` bytes, with an envelope as of 2026-07-28 or without.
fn call(bytes: usize, modern: bool) -> String {
    let meta = if modern {
        r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"0"}},"#
    } else {
        ""
    };
    let text = "all work and no play ".repeat(bytes / 21 + 1);
    let text = text.get(..bytes).unwrap_or_default();
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{meta}"name":"echo","arguments":{{"text":"{text}"}}}}}}"#
    )
}

fn envelopes() {
    measure::head("one pass over an envelope");
    for (name, bytes) in [("256 B", 256), ("2 KB", 2_000), ("100 KB", 100_000)] {
        for (era, modern) in [("legacy", false), ("2026-07-28", true)] {
            let body = call(bytes, modern);
            assert!(
                Message::read(body.as_bytes()).is_ok(),
                "a call that is none"
            );
            measure::line(&format!("{name}, {era}"), || Message::read(body.as_bytes()));
        }
    }
}

fn events() {
    /// A decoder allows one event of this many bytes.
    const LIMIT: usize = 1 << 20;
    measure::head("decoding one SSE event");
    for (name, bytes) in [("256 B", 256), ("2 KB", 2_000), ("100 KB", 100_000)] {
        let event = sse::encode_event(None, Some("0123456789-1"), call(bytes, false).as_bytes());
        let mut decoder = sse::Decoder::new(LIMIT);
        measure::line(&format!("SSE, {name}, in one piece"), || {
            decoder.push(&event);
            decoder.next().is_ok_and(|event| event.is_some())
        });
        measure::line(&format!("SSE, {name}, in pieces of 1,400 B"), || {
            event.chunks(1_400).fold(0, |events, part| {
                decoder.push(part);
                events + usize::from(decoder.next().is_ok_and(|event| event.is_some()))
            })
        });
    }
}
