use std::pin::pin;
use std::task::{Context, Poll, Waker};

use futures_core::Stream as _;
use http_body_util::Full;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Everything that comes out of `chunks`, and what is left over.
fn decode<'a>(limit: usize, chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, Bytes) {
    let mut decoder = Decoder::new(limit);
    let mut events = Vec::new();
    for chunk in chunks {
        decoder.push(chunk);
        while let Ok(Some(event)) = decoder.next() {
            events.push(event);
        }
    }
    (events, decoder.finish())
}

fn decode_whole(bytes: &[u8]) -> (Vec<Event>, Bytes) {
    decode(usize::MAX, [bytes])
}

/// The events that can be read, without the last LF that may come too late (rule 5).
fn readable<'a>(limit: usize, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Event> {
    let (mut events, _) = decode(limit, chunks);
    events.retain(|event| !event.is_padding());
    for event in &mut events {
        if event.raw.ends_with(b"\r\n") {
            event.raw.truncate(event.raw.len() - 1);
        }
    }
    events
}

fn only(bytes: &[u8]) -> Event {
    let (mut events, rest) = decode_whole(bytes);
    assert_eq!((events.len(), rest.len()), (1, 0), "{events:?} {rest:?}");
    events.remove(0)
}

/// Bytes as peers send them, and as they never should.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop_oneof![Just("\n"), Just("\r"), Just("\r\n"), Just("\n\n"), Just("\r\r"), Just("\r\n\r\n")],
        8 => prop_oneof![
            Just("data"), Just("data:"), Just("data: "), Just("id: "), Just("event: message"),
            Just("event: endpoint"), Just("retry: 250"), Just("retry: x"), Just("retry: 99999999999999999999"),
        ],
        4 => prop_oneof![Just(": ping"), Just(":"), Just("\u{feff}"), Just("ü漢"), Just("\0"), Just(" "), Just("x")],
        2 => Just("{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}"),
    ];
    vec(piece, 0..24).prop_map(|pieces| pieces.concat().into_bytes())
}

/// The same bytes, cut at any places.
fn split(bytes: &[u8], cuts: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut at: Vec<_> = cuts
        .iter()
        .map(|cut| cut.index(bytes.len() + 1))
        .chain([0, bytes.len()])
        .collect();
    at.sort_unstable();
    at.windows(2)
        .map(|pair| bytes[pair[0]..pair[1]].to_vec())
        .collect()
}

/// What another reader makes of it: name, data, id, retry.
type Fields = (Option<String>, Option<String>, Option<String>, Option<u64>);

fn read_by_another(bytes: &[u8]) -> Vec<Fields> {
    let body = Full::new(Bytes::copy_from_slice(bytes));
    let mut stream = pin!(sse_stream::SseStream::new(body));
    let mut context = Context::from_waker(Waker::noop());
    let mut found = Vec::new();
    while let Poll::Ready(Some(event)) = stream.as_mut().poll_next(&mut context) {
        let event = event.unwrap();
        found.push((event.event, event.data, event.id, event.retry));
    }
    found
}

fn text(bytes: Option<&Bytes>) -> Option<String> {
    bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

proptest! {
    #[test]
    fn rule_1_any_split_gives_the_same_events(bytes in stream(), cuts in vec(any::<prop::sample::Index>(), 0..12)) {
        let chunks = split(&bytes, &cuts);
        prop_assert_eq!(readable(usize::MAX, chunks.iter().map(Vec::as_slice)), readable(usize::MAX, [&bytes[..]]));
    }

    #[test]
    fn rule_2_no_byte_is_lost(bytes in vec(any::<u8>(), 0..200), cuts in vec(any::<prop::sample::Index>(), 0..4)) {
        let chunks = split(&bytes, &cuts);
        let (events, rest) = decode(usize::MAX, chunks.iter().map(Vec::as_slice));
        let mut out: Vec<u8> = events.iter().flat_map(|event| event.raw.to_vec()).collect();
        out.extend(rest);
        prop_assert_eq!(out, bytes);
    }

    #[test]
    fn rule_4_the_split_does_not_change_what_is_too_large(
        bytes in stream(),
        cuts in vec(any::<prop::sample::Index>(), 0..6),
        limit in 0_usize..40,
    ) {
        let chunks = split(&bytes, &cuts);
        let pieces = readable(limit, chunks.iter().map(Vec::as_slice));
        prop_assert!(pieces.iter().all(|event| event.raw.len() <= limit));
        prop_assert_eq!(pieces, readable(limit, [&bytes[..]]));
    }

    #[test]
    fn c68_events_are_what_another_reader_sees(bytes in stream()) {
        let ours: Vec<Fields> = decode_whole(&bytes)
            .0
            .iter()
            .filter(|event| !event.is_padding())
            .map(|event| (text(event.name.as_ref()), text(event.data.as_ref()), text(event.id.as_ref()), event.retry))
            .collect();
        prop_assert_eq!(ours, read_by_another(&bytes));
    }

    #[test]
    fn data_survives_encoding(data in "[a-z{}\" \n]{0,40}", name in proptest::option::of("[a-z\r\n]{1,5}"), id in proptest::option::of("[0-9\n\0]{1,5}")) {
        let event = only(&encode_event(name.as_deref(), id.as_deref(), data.as_bytes()));
        prop_assert_eq!(text(event.data.as_ref()), Some(data));
        let kept = |value: Option<String>| value.map(|value| value.replace(['\r', '\n', '\0'], ""));
        prop_assert_eq!(text(event.name.as_ref()), kept(name));
        prop_assert_eq!(text(event.id.as_ref()), kept(id));
    }

    #[test]
    fn an_edit_changes_only_its_lines(bytes in stream(), data in "[a-z \n]{0,12}") {
        for event in decode_whole(&bytes).0.iter().filter(|event| !event.is_padding()) {
let bytes = event.with_data(data.as_bytes());
            // Not at the start, where a byte order mark would be cut off.
            let edited = readable(usize::MAX, [b"\n", &bytes[..]]).remove(0);
            prop_assert_eq!(edited.data.as_deref(), Some(data.as_bytes()));
            prop_assert_eq!((&edited.name, &edited.id, edited.retry), (&event.name, &event.id, event.retry));
            let others = |raw: &[u8]| -> Vec<u8> {
                Lines(raw)
                    .filter(|line| line.field().is_none_or(|(name, _)| name != b"data"))
                    .flat_map(|line| [line.text, line.end].concat())
                    .collect()
            };
            // The blank line at the end may have had to change (see `rewrite`).
            let kept = others(&event.raw);
            prop_assert!(others(&bytes).starts_with(kept.trim_ascii_end()));
        }
    }
}

#[test]
fn c68_line_ends_names_and_lines_of_data() {
    for bytes in [
        "event: message\ndata: a\ndata: b\nid: 1\n\n",
        "event: message\r\ndata: a\r\ndata: b\r\nid: 1\r\n\r\n",
        "event: message\rdata: a\rdata: b\rid: 1\r\r",
        "event:message\rdata:a\n: comment\r\ndata:b\nid:1\n\r",
    ] {
        let event = only(bytes.as_bytes());
        assert_eq!(event.name.as_deref(), Some(&b"message"[..]));
        assert_eq!(event.message().unwrap(), "a\nb");
        assert_eq!(event.id.as_deref(), Some(&b"1"[..]));
        assert_eq!(event.raw, bytes.as_bytes());
    }
    let bare = only(b"data: {}\n\n");
    assert_eq!(
        (&bare.name, bare.message().unwrap()),
        (&None, &bare.data.clone().unwrap())
    );
    assert_eq!(only(b"event: endpoint\ndata: /m\n\n").message(), None);
}

#[test]
fn c68_an_event_that_primes_a_stream_has_an_id_and_empty_data() {
    let event = only(b"id: 4_7\nretry: 500\ndata: \n\n");
    assert_eq!(
        (event.id.as_deref(), event.retry),
        (Some(&b"4_7"[..]), Some(500))
    );
    assert_eq!(
        (event.data.as_deref(), event.message()),
        (Some(&b""[..]), None)
    );
    let only_id = only(b"id\n\n");
    assert_eq!(
        (only_id.id.as_deref(), only_id.data),
        (Some(&b""[..]), None)
    );
}

#[test]
fn c67_comments_come_out_at_once_and_are_no_event() {
    let mut decoder = Decoder::new(64);
    decoder.push(b": ping\n");
    let comment = decoder.next().unwrap().unwrap();
    assert!(comment.is_padding() && decoder.is_between_events());
    assert_eq!(comment.raw, ": ping\n");
    decoder.push(b"data: 1\n");
    assert_eq!(decoder.next(), Ok(None));
    assert!(!decoder.is_between_events());
}

#[test]
fn rule_3_comments_add_up_to_nothing() {
    let mut decoder = Decoder::new(16);
    for _ in 0..100 {
        decoder.push(b": ping");
        assert_eq!(decoder.next(), Ok(None));
        decoder.push(b"\n");
        assert!(decoder.next().unwrap().unwrap().is_padding());
    }
    decoder.push(&b": ping\n".repeat(100));
    assert_eq!(decoder.next().unwrap().unwrap().raw.len(), 700);
}

#[test]
fn rule_3_a_byte_order_mark_is_no_part_of_a_field() {
    let (events, rest) = decode_whole("\u{feff}data: 1\n\n\u{feff}data: 2\n\n".as_bytes());
    assert!(rest.is_empty());
    assert_eq!(events[0].raw, BYTE_ORDER_MARK);
    assert_eq!(events[1].data.as_deref(), Some(&b"1"[..]));
    assert!(events[2].is_padding());
}

#[test]
fn rule_4_too_large_is_the_end_and_holds_no_more() {
    for chunks in [
        vec!["data: 1\n\n", "data: 123456789", "0"],
        vec!["data: 1\n\ndata: 1234567890\n\n"],
    ] {
        let mut decoder = Decoder::new(15);
        let mut outcome = Ok(None);
        let mut events = 0;
        for chunk in chunks {
            decoder.push(chunk.as_bytes());
            outcome = decoder.next();
            while let Ok(Some(_)) = outcome {
                events += 1;
                outcome = decoder.next();
            }
        }
        assert_eq!((events, outcome), (1, Err(TooLarge)));
        decoder.push(&[b'x'; 1000]);
        assert_eq!(decoder.next(), Err(TooLarge));
        assert!(decoder.finish().starts_with(b"data: 1234567890"));
    }
}

#[test]
fn rule_5_an_event_does_not_wait_for_the_byte_after_it() {
    for end in ["\n\n", "\r\r", "\n\r", "\r\n\n", "\r\n\r"] {
        let mut decoder = Decoder::new(64);
        decoder.push(b"data: 1");
        decoder.push(end.as_bytes());
        assert!(decoder.next().unwrap().is_some(), "{end:?}");
    }
    let mut decoder = Decoder::new(64);
    decoder.push(b"data: 1\r\n\r");
    assert_eq!(decoder.next().unwrap().unwrap().raw, "data: 1\r\n\r");
    decoder.push(b"\ndata: 2\n\n");
    assert_eq!(decoder.next().unwrap().unwrap().raw, "\n");
    assert_eq!(decoder.next().unwrap().unwrap().raw, "data: 2\n\n");
}

#[test]
fn rule_6_what_does_not_count_is_left_out() {
    let event = only(b"id: a\nid: b\0\nretry: 1\nretry: -2\nretry:\nretry: 99999999999999999999\nevent: a\nevent\ndata\ndatum: x\n\n");
    assert_eq!(event.id.as_deref(), Some(&b"a"[..]));
    assert_eq!(event.retry, Some(1));
    assert_eq!(event.name.as_deref(), Some(&b""[..]));
    assert_eq!(event.data.as_deref(), Some(&b""[..]));
    assert!(only(b"datum: x\n\n").is_padding());
}

#[test]
fn an_edit_keeps_the_other_lines() {
    let event = only(
        b": c\nevent:message\r\ndata: {\r\ndata:}\r\nx: y\r\n\r\n"
            .strip_prefix(b": c\n")
            .unwrap(),
    );
    assert_eq!(
        event.with_data(b"[1,\n2]"),
        "event:message\r\ndata: [1,\r\ndata: 2]\r\nx: y\r\n\r\n"
    );
    assert_eq!(
        event.with_id(b"7\n\0"),
        "event:message\r\ndata: {\r\ndata:}\r\nx: y\r\nid: 7\r\n\r\n"
    );
    assert_eq!(
        only(b"data: 1\rdata: 2\n\n").with_data(b"3"),
        "data: 3\r\n\n"
    );
    assert_eq!(only(b"id: 1\n\n").with_data(b"{}"), "id: 1\ndata: {}\n\n");
    assert_eq!(
        only(b"id: 1\ndata: 2\nid: 3\n\n").with_id(b"4"),
        "id: 4\ndata: 2\n\n"
    );
}

#[test]
fn comments_are_written_line_by_line() {
    assert_eq!(comment("one\ntwo"), ": one\n: two\n\n");
    assert_eq!(comment(""), ": \n\n");
    let (events, _) = decode_whole(&comment("data: 1\r\rdata: 2"));
    assert!(events.iter().all(Event::is_padding));
}
