//! However bytes are split, the same events come out and no byte is lost. The first byte chooses the split.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::codec::sse::{Decoder, Event, encode_event};

fn decode<'a>(limit: usize, chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<Event>, Vec<u8>) {
    let mut decoder = Decoder::new(limit);
    let (mut events, mut out) = (Vec::new(), Vec::new());
    for chunk in chunks {
        decoder.push(chunk);
        while let Ok(Some(mut event)) = decoder.next() {
            out.extend_from_slice(&event.raw);
            if !event.is_padding() {
                event.raw.clear();
                events.push(event);
            }
        }
    }
    out.extend_from_slice(&decoder.finish());
    (events, out)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&size, bytes)) = bytes.split_first() else {
        return;
    };
    let size = usize::from(size) + 1;
    let (events, out) = decode(usize::MAX, std::iter::once(bytes));
    assert_eq!(out, bytes);
    assert_eq!(
        decode(usize::MAX, bytes.chunks(size)),
        (events.clone(), out)
    );
    let small = decode(size, bytes.chunks(7)).0;
    assert_eq!(small, decode(size, std::iter::once(bytes)).0);
    for event in events {
        let data = event.data.unwrap_or_default();
        let written = encode_event(None, None, &data);
        let (read, _) = decode(usize::MAX, std::iter::once(&written[..]));
        let expected = String::from_utf8_lossy(&data)
            .replace("\r\n", "\n")
            .replace('\r', "\n");
        assert_eq!(
            String::from_utf8_lossy(read[0].data.as_deref().unwrap_or_default()),
            expected
        );
    }
});
