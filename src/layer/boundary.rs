//! Where a stream of events stands: between two events, or within one.
//!
//! Only the last bytes of each chunk decide, so nothing has to be decoded.

/// Where the bytes so far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Boundary {
    place: Place,
    /// The last byte was CR: an LF now is of the same line end.
    after_cr: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Between,
    LineStart,
    InLine,
}

impl Boundary {
    /// The start of a stream.
    pub(crate) fn start() -> Self {
        Self {
            place: Place::Between,
            after_cr: false,
        }
    }

    /// Takes note of what went out.
    pub(crate) fn pass(&mut self, chunk: &[u8]) {
        // After four bytes it does not matter what was before: either one of them is of a line, or they are at least
        // two line ends.
        let tail = chunk.get(chunk.len().saturating_sub(4)..).unwrap_or(chunk);
        if tail.len() == 4 {
            self.place = Place::InLine;
            self.after_cr = false;
        }
        for &byte in tail {
            let is_same_end = byte == b'\n' && self.after_cr;
            self.after_cr = byte == b'\r';
            self.place = match (byte, self.place) {
                _ if is_same_end => self.place,
                (b'\r' | b'\n', Place::InLine) => Place::LineStart,
                (b'\r' | b'\n', _) => Place::Between,
                _ => Place::InLine,
            };
        }
    }

    /// Whether something of one's own may stand here.
    pub(crate) fn is_between(self) -> bool {
        self.place == Place::Between
    }

    /// What ends an event that has begun, so that nobody takes it for a message: the last name counts.
    pub(crate) fn abort(self) -> &'static [u8] {
        match self.place {
            Place::Between => b"",
            Place::LineStart => b"event: aborted\n\n",
            Place::InLine => b"\nevent: aborted\n\n",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::sse::Decoder;

    fn after(chunks: &[&[u8]]) -> Boundary {
        let mut boundary = Boundary::start();
        for chunk in chunks {
            boundary.pass(chunk);
        }
        boundary
    }

    #[test]
    fn blank_lines_are_between() {
        for text in [
            "",
            "data: x\n\n",
            ": c\n\n",
            "data: x\r\n\r\n",
            "data: x\r\r",
            "x\n\n\n\n",
        ] {
            assert!(after(&[text.as_bytes()]).is_between(), "{text:?}");
        }
        for text in ["data", "data: x\n", "data: x\r\n", "data: x\n\nd", ": c\n"] {
            assert!(!after(&[text.as_bytes()]).is_between(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_split_ends_at_the_same_place(text in "[a:\r\n]{0,24}", cut in 0_usize..24) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            let one_by_one: Vec<_> = bytes.chunks(1).collect();
            let place = |boundary: Boundary| boundary.place;
            prop_assert_eq!(place(after(&[bytes])), place(after(&one_by_one)));
            prop_assert_eq!(place(after(&[&bytes[..cut], &bytes[cut..]])), place(after(&one_by_one)));
        }

        #[test]
        fn an_aborted_event_is_no_message(text in "(data: [a-c]{0,3}\n|data: [a-c]{0,3}\n\n|id: 1\n){0,6}(data: [a-c]{0,3})?") {
            let mut decoder = Decoder::new(1 << 16);
            decoder.push(text.as_bytes());
            let mut whole = 0;
            while let Some(event) = decoder.next().unwrap() {
                whole += usize::from(event.message().is_some());
            }
            let mut decoder = Decoder::new(1 << 16);
            decoder.push(text.as_bytes());
            decoder.push(after(&[text.as_bytes()]).abort());
            let mut found = 0;
            while let Some(event) = decoder.next().unwrap() {
                found += usize::from(event.message().is_some());
            }
            prop_assert_eq!(found, whole);
            prop_assert!(decoder.is_between_events());
        }
    }
}
