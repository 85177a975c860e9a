use proptest::collection::vec;
use proptest::prelude::*;
use serde::de::IgnoredAny;

use super::*;

fn accepts(bytes: &[u8]) -> bool {
    let mut json = Scanner::within(bytes, Span::new(0, bytes.len()));
    std::str::from_utf8(bytes).is_ok() && json.value().and_then(|_| json.end()).is_ok()
}

fn serde_accepts(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok() && serde_json::from_slice::<IgnoredAny>(bytes).is_ok()
}

/// JSON, nearly JSON, and rubbish.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = proptest::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\"a\"",
        "\"\"",
        "\"id\":",
        "{\"a\":",
        "[1,",
        "[]",
        "{}",
        "0",
        "-",
        "1.5",
        "01",
        "1.",
        ".5",
        "1e",
        "1e+5",
        "E-7",
        "1e999",
        "-0",
        "true",
        "false",
        "null",
        "nul",
        "\\",
        "\\u",
        "\"\\u00e9\"",
        "\"\\ud800\"",
        "\"\\u12",
        "\"\\n\\/\"",
        "\"\\x\"",
        "\n",
        "\t",
        " ",
        "\r",
        "\u{1}",
        "\"\u{1f}\"",
        "\"\u{7f}\"",
        "\u{feff}",
        "ü",
        "\"漢字 and much more of it, longer than a block\"",
    ]);
    vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes())
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "\\PC{0,70}".prop_map(Into::into),
        "[\\x00-\\x7f]{0,70}".prop_map(Into::into),
    ];
    leaf.prop_recursive(6, 40, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Into::into),
            vec(("[a-z\"\\\\]{0,9}", inner), 0..5).prop_map(|members| members
                .into_iter()
                .collect::<serde_json::Map<_, _>>()
                .into()),
        ]
    })
}

proptest! {
    #[test]
    fn it_accepts_what_serde_json_accepts(bytes in text()) {
        prop_assert_eq!(accepts(&bytes), serde_accepts(&bytes));
    }

    #[test]
    fn any_bytes_are_accepted_by_both_or_neither(bytes in vec(any::<u8>(), 0..40)) {
        prop_assert_eq!(accepts(&bytes), serde_accepts(&bytes));
    }

    #[test]
    fn json_is_accepted_and_damaged_json_by_both_or_neither(
        value in value(),
        pretty in any::<bool>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
        prop_assert!(accepts(&bytes));
        let at = at.index(bytes.len());
        bytes[at] = byte;
        prop_assert_eq!(accepts(&bytes), serde_accepts(&bytes));
        bytes.truncate(at);
        prop_assert_eq!(accepts(&bytes), serde_accepts(&bytes));
    }

    #[test]
    fn a_plain_prefix_ends_where_a_byte_is_special(bytes in vec(prop_oneof![9 => 0x20_u8..0x22, 90 => 0x5d_u8..=255, 1 => any::<u8>()], 0..200)) {
        let expected = bytes.iter().position(|&byte| is_special(byte)).unwrap_or(bytes.len());
        prop_assert_eq!(plain_prefix(&bytes), expected);
    }
}

#[test]
fn depth_is_bounded() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |depth: usize| [&open.repeat(depth), "1", &close.repeat(depth)].concat();
        assert!(accepts(nested(128).as_bytes()));
        assert!(!accepts(nested(129).as_bytes()));
        assert!(!accepts(open.repeat(1_000_000).as_bytes()));
    }
}
