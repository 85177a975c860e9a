//! Any text survives a header, any header says something or nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::mcp::headers;

fuzz_target!(|bytes: &[u8]| {
    let _ = headers::decode(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let written = headers::encode(text);
        assert!(written.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        assert_eq!(headers::decode(written.as_bytes()).as_deref(), Some(text));
    }
});
