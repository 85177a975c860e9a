//! However bytes are split, the same lines come out. The first byte chooses split and limit.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use outrigger::codec::line::{Decoder, TooLong, encode};

fn decode<'a>(limit: usize, chunks: impl Iterator<Item = &'a [u8]>) -> Vec<Result<Bytes, TooLong>> {
    let mut decoder = Decoder::new(limit);
    let mut lines = Vec::new();
    for chunk in chunks {
        decoder.push(chunk);
        lines.extend(std::iter::from_fn(|| decoder.next()));
    }
    lines.extend(decoder.finish());
    lines
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&size, bytes)) = bytes.split_first() else {
        return;
    };
    let size = usize::from(size) + 1;
    let lines = decode(size, std::iter::once(bytes));
    assert_eq!(decode(size, bytes.chunks(size)), lines);
    assert_eq!(decode(size, bytes.chunks(1)), lines);
    let written = encode(bytes);
    assert_eq!(written.iter().filter(|&&byte| byte == b'\n').count(), 1);
});
