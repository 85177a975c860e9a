//! A few bytes without an allocation: ids and names, nearly all of which are short.

/// What fits without an allocation.
const ROOM: usize = 30;

/// Bytes that are kept for as long as a call takes.
pub(crate) struct Short(Kind);

enum Kind {
    Here { length: u8, bytes: [u8; ROOM] },
    There(Box<[u8]>),
}

impl Short {
    /// A copy of these bytes.
    pub(crate) fn of(text: &[u8]) -> Self {
        let mut bytes = [0; ROOM];
        Self(
            match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
                (Some(room), Ok(length)) => {
                    room.copy_from_slice(text);
                    Kind::Here { length, bytes }
                }
                _ => Kind::There(text.into()),
            },
        )
    }

    /// The bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Kind::Here { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Kind::There(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_or_long_it_is_what_went_in() {
        for length in [0, 1, ROOM - 1, ROOM, ROOM + 1, 300] {
            let text = vec![b'x'; length];
            let short = Short::of(&text);
            assert_eq!(short.as_bytes(), text);
            assert_eq!(matches!(short.0, Kind::Here { .. }), length <= ROOM);
        }
    }
}
