use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn one(text: &str) -> Message {
    match Message::read(text.as_bytes()).unwrap() {
        Parsed::One(message) => message,
        Parsed::Batch(_) => panic!("a batch"),
    }
}

#[test]
fn rule_1_spans_point_into_the_bytes() {
    let text = r#" {"x":1,"jsonrpc":"2.0","params":{"name":"a\u0062","_meta":{"progressToken": 7 }},"id": 1.0 ,"method":"tools\/call"}"#;
    let message = one(text);
    assert_eq!(message.kind, Kind::Request);
    assert_eq!(message.id.unwrap().text(text.as_bytes()), "1.0");
    assert_eq!(message.known_method(), Some(Method::ToolsCall));
    assert_eq!(message.subject().unwrap().decode(text.as_bytes()), "ab");
    assert_eq!(
        message
            .params
            .meta
            .progress_token
            .unwrap()
            .text(text.as_bytes()),
        "7"
    );
}

#[test]
fn rule_3_a_key_that_is_read_stands_once() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","n\u0061me":"b"}}"#,
    ] {
        assert_eq!(
            Message::read(text.as_bytes()),
            Err(Malformed::DuplicateKey),
            "{text}"
        );
    }
}

#[test]
fn rule_3_a_key_that_differs_by_case_alone_is_noted() {
    for text in [
        r#"{"jsonrpc":"2.0","method":"ping","Method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","NAME":"b"}}"#,
        r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","N\u0061me":"b"}}"#,
        r#"{"jsonrpc":"2.0","method":"x","param\u017f":{}}"#,
        r#"{"jsonrpc":"2.0","method":"x","params":{"tas\u212aId":"1"}}"#,
        r#"{"jsonrpc":"2.0","method":"x","params":{"_meta":{"ProgressToken":1}}}"#,
    ] {
        assert!(one(text).has_lookalike, "{text}");
    }
    for text in [
        r#"{"jsonrpc":"2.0","method":"x","params":{"arguments":{"Name":1}},"Other":2}"#,
        r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","names":1,"näme":2}}"#,
    ] {
        assert!(!one(text).has_lookalike, "{text}");
    }
}

proptest! {
    #[test]
    fn rule_3_no_case_of_a_key_goes_unnoticed(
        key in proptest::sample::select([ENVELOPE_KEYS, PARAMS_KEYS, META_KEYS].concat()),
        upper in proptest::collection::vec(any::<bool>(), 64),
        folds in any::<bool>(),
    ) {
        let shown: String = key
            .chars()
            .zip(upper)
            .map(|(letter, upper)| match letter {
                's' if folds => '\u{17f}',
                'k' if folds => '\u{212a}',
                letter if upper => letter.to_ascii_uppercase(),
                letter => letter,
            })
            .collect();
        prop_assume!(shown != key);
        let (mut envelope, mut params, mut meta) = (json!({}), json!({}), json!({}));
        let at = if ENVELOPE_KEYS.contains(&key) {
            &mut envelope
        } else if PARAMS_KEYS.contains(&key) {
            &mut params
        } else {
            &mut meta
        };
        at[&shown] = json!("x");
        params["_meta"] = meta;
        envelope["jsonrpc"] = json!("2.0");
        envelope["method"] = json!("x");
        envelope["params"] = params;
        prop_assert!(one(&envelope.to_string()).has_lookalike, "{shown}");
    }
}

#[test]
fn rule_4_a_batch_is_told_apart() {
    let text = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}, {"jsonrpc":"2.0","method":"notifications/initialized"}]"#;
    let Parsed::Batch(parts) = Message::read(text.as_bytes()).unwrap() else {
        panic!("one")
    };
    assert_eq!(parts.len(), 2);
    assert_eq!(
        parts[1].0.text(text.as_bytes()),
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#
    );
    assert_eq!(parts[1].1.kind, Kind::Notification);
    assert_eq!(Message::read(b"[]"), Err(Malformed::BatchSize));
}

#[test]
fn kinds_are_told_apart() {
    assert_eq!(
        one(r#"{"jsonrpc":"2.0","id":"a","result":{}}"#).kind,
        Kind::Result
    );
    assert_eq!(
        one(r#"{"jsonrpc":"2.0","id":null,"error":{}}"#).kind,
        Kind::Error
    );
    assert_eq!(one(r#"{"jsonrpc":"2.0","error":{}}"#).kind, Kind::Error);
    for text in [
        r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
        r#"{"jsonrpc":"2.0","id":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
        "7",
        "\"a\"",
    ] {
        assert_eq!(
            Message::read(text.as_bytes()),
            Err(Malformed::NotAMessage),
            "{text}"
        );
    }
    for text in ["", "{", "{}}", "{\"jsonrpc\":\"2.0\",}", "\u{feff}{}"] {
        assert_eq!(
            Message::read(text.as_bytes()),
            Err(Malformed::Syntax),
            "{text}"
        );
    }
}

#[test]
fn rule_5_what_is_read_says_the_same_to_everybody() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"rm\ud800"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call\udfff"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","\ud800":1}}"#,
    ] {
        assert_eq!(
            Message::read(text.as_bytes()),
            Err(Malformed::Syntax),
            "{text}"
        );
    }
    one(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"a":"\ud800"}}}"#);
}

#[test]
fn rule_6_depth_is_bounded() {
    let message = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"jsonrpc":"2.0","id":1,"result":{open}{close}}}"#)
    };
    assert!(Message::read(message(127).as_bytes()).is_ok());
    assert_eq!(
        Message::read(message(128).as_bytes()),
        Err(Malformed::Syntax)
    );
    assert_eq!(
        Message::read("[".repeat(1 << 20).as_bytes()),
        Err(Malformed::Syntax)
    );
}

#[test]
fn a_batch_is_bounded() {
    let part = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let batch = |parts: usize| format!("[{}]", vec![part; parts].join(","));
    assert!(Message::read(batch(MAX_BATCH).as_bytes()).is_ok());
    assert_eq!(
        Message::read(batch(MAX_BATCH + 1).as_bytes()),
        Err(Malformed::BatchSize)
    );
    assert_eq!(
        Message::read(br#"[{"jsonrpc":"2.0","id":1,"method":"ping"},7]"#),
        Err(Malformed::NotAMessage)
    );
}

/// What stands at `span`, as serde reads it.
fn value_at(bytes: &[u8], span: Option<Span>) -> Option<Value> {
    span.map(|span| serde_json::from_slice(span.of(bytes)).unwrap())
}

fn text_at(bytes: &[u8], text: Option<Text>) -> Option<Value> {
    text.map(|text| text.decode(bytes).into_owned().into())
}

fn only_text(value: Option<&Value>) -> Option<Value> {
    value.filter(|value| value.is_string()).cloned()
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-c\"\\\\/ü\n]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(key(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => prop::sample::select(vec!["name", "uri", "_meta", "progressToken", "arguments", "requestId", "id", "traceparent"]).prop_map(String::from),
        1 => "[a-c\"ü\n]{0,5}",
    ]
}

proptest! {
    #[test]
    fn rule_1_spans_hold_what_serde_reads(params in json_value(), id in prop_oneof![any::<i64>().prop_map(Value::from), "[a-z\"]{0,4}".prop_map(Value::from)], extra in json_value(), pretty in any::<bool>()) {
        let whole = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params, "x": extra});
        let bytes = if pretty { serde_json::to_vec_pretty(&whole) } else { serde_json::to_vec(&whole) }.unwrap();
        let Ok(Parsed::One(message)) = Message::read(&bytes) else { panic!("not read") };
        prop_assert_eq!(value_at(&bytes, message.id), Some(id));
        prop_assert_eq!(message.known_method(), Some(Method::ToolsCall));
        let read = message.params;
        prop_assert_eq!(value_at(&bytes, read.span), Some(params.clone()));
        prop_assert_eq!(text_at(&bytes, read.name), only_text(params.get("name")));
        prop_assert_eq!(text_at(&bytes, read.uri), only_text(params.get("uri")));
        prop_assert_eq!(value_at(&bytes, read.arguments), params.get("arguments").cloned());
        prop_assert_eq!(value_at(&bytes, read.request_id), params.get("requestId").cloned());
        prop_assert_eq!(value_at(&bytes, read.meta.span), params.get("_meta").cloned());
        let meta = |key: &str| params.get("_meta").and_then(|meta| meta.get(key)).cloned();
        prop_assert_eq!(value_at(&bytes, read.meta.progress_token), meta("progressToken"));
        prop_assert_eq!(value_at(&bytes, read.meta.traceparent), meta("traceparent"));
    }

    #[test]
    fn rule_6_any_bytes_give_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..80), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let _ = Message::read(&bytes);
        let mut damaged = br#"[{"jsonrpc":"2.0","id":1.0,"method":"tools/call","params":{"n\u0061me":"a","_meta":{}}}]"#.to_vec();
        let at = at.index(damaged.len());
        damaged[at] = byte;
        if Message::read(&damaged).is_ok() {
            prop_assert!(serde_json::from_slice::<Value>(&damaged).is_ok());
        }
        damaged.truncate(at);
        prop_assert!(Message::read(&damaged).is_err());
    }
}

/// Every recorded message, and those in recorded streams: name and bytes.
fn transcripts() -> Vec<(String, Vec<u8>)> {
    let mut folders = vec![std::path::PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/transcripts"
    ))];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.display().to_string();
            match path.extension().and_then(|extension| extension.to_str()) {
                None => folders.push(path),
                Some("json") => found.push((name, std::fs::read(path).unwrap())),
                Some("sse") => {
                    let mut decoder = crate::codec::sse::Decoder::new(1 << 20);
                    decoder.push(&std::fs::read(path).unwrap());
                    while let Some(event) = decoder.next().unwrap() {
                        found.extend(event.message().map(|data| (name.clone(), data.to_vec())));
                    }
                    assert!(decoder.is_between_events(), "{name}");
                }
                Some(_) => {}
            }
        }
    }
    found
}

#[test]
fn recorded_messages_of_every_method_are_read() {
    let mut methods = Vec::new();
    for (name, bytes) in transcripts() {
        let messages = match Message::read(&bytes) {
            Ok(Parsed::One(message)) => vec![message],
            Ok(Parsed::Batch(parts)) => parts.into_iter().map(|(_, part)| part).collect(),
            Err(error) => panic!("{name}: {error}"),
        };
        let kind = messages[0].kind;
        let expected = match name.rsplit('.').nth(1).unwrap() {
            "request" => Some(Kind::Request),
            "notification" => Some(Kind::Notification),
            "result" => Some(Kind::Result),
            "error" => Some(Kind::Error),
            _ => None,
        };
        assert!(
            expected.is_none_or(|expected| expected == kind),
            "{name}: {kind:?}"
        );
        methods.extend(messages.iter().filter_map(Message::known_method));
    }
    for method in Method::ALL {
        assert!(methods.contains(method), "no recorded {method}");
    }
}
