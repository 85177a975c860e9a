//! A JSON answer on its way into a stream of events.

use bytes::{Bytes, BytesMut};

use crate::codec::sse;

/// Up to here an answer is held, so that its event is whole or not at all. What is longer flows.
pub(super) const MAX_HELD: usize = 256 * 1024;

/// One message that becomes one event.
#[derive(Debug, Default)]
pub(super) struct AsEvent {
    held: BytesMut,
    flows: bool,
}

impl AsEvent {
    /// What goes to the caller because of this piece; nothing while the message is held.
    pub(super) fn push(&mut self, piece: &[u8]) -> Bytes {
        if self.flows {
            return data_lines(piece, BytesMut::new());
        }
        self.held.extend_from_slice(piece);
        if self.held.len() <= MAX_HELD {
            return Bytes::new();
        }
        self.flows = true;
        data_lines(&self.held.split(), BytesMut::from("event: message\ndata: "))
    }

    /// The end of the event, or the whole; nothing if there was no message.
    pub(super) fn finish(&mut self) -> Option<Bytes> {
        if self.flows {
            return Some(Bytes::from_static(b"\n\n"));
        }
        let message = self.held.split();
        (!message.trim_ascii().is_empty())
            .then(|| sse::encode_event(Some("message"), None, &message))
    }
}

/// A line end in JSON is white space, so each may become a new line of data.
fn data_lines(piece: &[u8], mut out: BytesMut) -> Bytes {
    out.reserve(piece.len());
    for line in piece.split_inclusive(|byte| matches!(byte, b'\r' | b'\n')) {
        match line.split_last() {
            Some((b'\r' | b'\n', text)) => {
                out.extend_from_slice(text);
                out.extend_from_slice(b"\ndata: ");
            }
            _ => out.extend_from_slice(line),
        }
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::sse::Decoder;

    /// The data of the one event that the pieces become, without line ends.
    fn through(pieces: &[&str]) -> String {
        let mut as_event = AsEvent::default();
        let mut decoder = Decoder::new(1 << 24);
        for piece in pieces {
            decoder.push(&as_event.push(piece.as_bytes()));
        }
        decoder.push(&as_event.finish().unwrap());
        let event = decoder.next().unwrap().unwrap();
        assert!(decoder.next().unwrap().is_none());
        let data = String::from_utf8(event.message().unwrap().to_vec()).unwrap();
        data.replace('\n', "")
    }

    #[test]
    fn one_message_is_one_event() {
        assert_eq!(
            through(&["{\"id\":1,", "\r\n\"result\":{}}\n"]),
            "{\"id\":1,\"result\":{}}"
        );
        let long = format!("{{\"x\":\"{}\"\r\n}}", "y".repeat(MAX_HELD));
        assert_eq!(
            through(&["[", &long, ",\n", "1]"]),
            format!("[{},1]", long.replace("\r\n", ""))
        );
    }

    #[test]
    fn nothing_is_no_message() {
        assert_eq!(AsEvent::default().finish(), None);
    }
}
