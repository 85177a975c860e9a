//! Edits of a message that leave every other byte alone.

use bytes::{Bytes, BytesMut};

use crate::mcp::message::Span;

/// `message` with the bytes at `span` replaced.
///
/// A span that is not inside the message leaves it as it is.
#[must_use]
pub fn replace(message: &Bytes, span: Span, with: &[u8]) -> Bytes {
    let (start, end) = (span.start as usize, span.end as usize);
    let (Some(head), Some(tail)) = (message.get(..start), message.get(end..)) else {
        return message.clone();
    };
    let mut edited = BytesMut::with_capacity(head.len() + with.len() + tail.len());
    edited.extend_from_slice(head);
    edited.extend_from_slice(with);
    edited.extend_from_slice(tail);
    edited.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::mcp::message::{Message, Parsed};

    #[test]
    fn only_the_span_changes() {
        let message =
            Bytes::from_static(br#"{ "jsonrpc":"2.0", "id": 1.0, "method":"ping","x":[1e3] }"#);
        let Parsed::One(read) = Message::read(&message).unwrap() else {
            panic!("a batch")
        };
        let edited = replace(&message, read.id.unwrap(), br#""r2""#);
        assert_eq!(
            edited,
            &br#"{ "jsonrpc":"2.0", "id": "r2", "method":"ping","x":[1e3] }"#[..]
        );
    }

    proptest! {
        #[test]
        fn every_byte_outside_the_span_stays(bytes in vec(any::<u8>(), 0..40), a in any::<Index>(), b in any::<Index>(), with in vec(any::<u8>(), 0..8)) {
            let (a, b) = (a.index(bytes.len() + 1), b.index(bytes.len() + 1));
            let (start, end) = (a.min(b), a.max(b));
            let edited = replace(&Bytes::from(bytes.clone()), Span::new(start, end), &with);
            prop_assert_eq!(&edited[..start], &bytes[..start]);
            prop_assert_eq!(&edited[start..start + with.len()], &with[..]);
            prop_assert_eq!(&edited[start + with.len()..], &bytes[end..]);
            let outside = Span::new(start, bytes.len() + 1);
            prop_assert_eq!(replace(&Bytes::from(bytes.clone()), outside, &with), bytes);
        }
    }
}
