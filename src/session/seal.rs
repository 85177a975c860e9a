//! The session id that a caller sees: what never changes of the session, encrypted and authenticated.
//!
//! Contract:
//!
//! 1. An id is visible ASCII (base64url) and cannot be guessed: it holds 192 random bits and a tag of 128 (C47).
//! 2. It opens only with its key, unaltered to the last character, and for the server it was made for. Whoever opens it
//!    compares principal and expiry ([`Sealed::admits`]). Everything else is the same [`Unopened`]: a caller does not
//!    learn why.
//! 3. The parameters of `initialize` are in it as long as it stays within [`MAX_ID`] characters; larger ones are in
//!    the store only, and such a session cannot be rebuilt by a process that does not have them.
//! 4. Two keys at a time, told apart by an id in clear, so that a key can be replaced without ending sessions.
//!
//! Layout: version (1), key id (4), nonce (24), then `XChaCha20-Poly1305` over endpoint, revision, expiry,
//! capabilities, upstream session, principal and parameters. Version, key id and the server's name are authenticated
//! with it. The first half of the nonce is the session's [`Handle`].

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use chacha20poly1305::aead::rand_core::RngCore as _;
use chacha20poly1305::aead::{Aead as _, OsRng, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::mcp::revision::Revision;
use crate::secret::Secret;
use crate::session::answer::Capabilities;
use crate::session::state::Handle;

/// The most characters of an id that holds the parameters of `initialize`.
pub const MAX_ID: usize = 1024;
/// The longest session id of an upstream that is taken.
pub const MAX_UPSTREAM: usize = 4096;
/// The most characters of an id that is looked at: an upstream's id and a principal of the longest kind.
const MAX_OPENED: usize = 16 * 1024;
const VERSION: u8 = 1;
const KEY_ID: usize = 4;
const NONCE: usize = 24;
const HEAD: usize = 1 + KEY_ID + NONCE;

/// A key for session ids: 256 bits, wiped when dropped.
#[derive(Clone)]
pub struct SessionKey(Zeroizing<[u8; 32]>);

impl SessionKey {
    /// A new key. Sessions sealed with it end with the process, unless it is kept.
    ///
    /// # Errors
    ///
    /// Fails if the system has no randomness to give.
    pub fn random() -> Result<Self, KeyError> {
        let mut key = Zeroizing::new([0; 32]);
        OsRng
            .try_fill_bytes(&mut *key)
            .map_err(|_| KeyError::Sealing)?;
        Ok(Self(key))
    }

    /// A key from its bytes.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// A key from a file or variable: 64 hexadecimal digits, or 32 bytes in Base64 of either alphabet.
    ///
    /// # Errors
    ///
    /// Fails on anything else, and on nothing but zeros; the error does not show it.
    pub fn parse(text: &Secret) -> Result<Self, KeyError> {
        let text = text.expose_secret();
        let bytes = Zeroizing::new(if text.len() == 64 {
            unhex(text).ok_or(KeyError::Form)?
        } else {
            let bare = text.trim_end_matches('=');
            STANDARD
                .decode(text)
                .or_else(|_| URL_SAFE_NO_PAD.decode(bare))
                .map_err(|_| KeyError::Form)?
        });
        let key = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| KeyError::Form)?;
        if key == [0; 32] {
            return Err(KeyError::Zeros);
        }
        Ok(Self::new(key))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.0).into())
    }

    /// Names the key without showing it: a piece of a tag under a nonce that no id has.
    fn id(&self) -> [u8; KEY_ID] {
        let payload = Payload {
            msg: &[],
            aad: b"outrigger session key id",
        };
        let mut id = [0; KEY_ID];
        if let Ok(tag) = self.cipher().encrypt(&XNonce::default(), payload) {
            id.iter_mut().zip(tag).for_each(|(to, from)| *to = from);
        }
        id
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(…)")
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

/// A key cannot be used, or nothing can be sealed with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// It is not 32 bytes.
    Form,
    /// It is nothing but zeros: an example's, which everybody knows.
    Zeros,
    /// The system has no randomness to give, or what has to be sealed is too large.
    Sealing,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "a session key is 32 bytes: 64 hexadecimal digits, or Base64",
            Self::Zeros => {
                "this session key is an example's, which everybody knows; make one: openssl rand -hex 32"
            }
            Self::Sealing => "a session id could not be sealed",
        })
    }
}

impl std::error::Error for KeyError {}

/// The key that seals, and one that was replaced and still opens.
#[derive(Clone, Debug)]
pub struct SessionKeys {
    current: Keyed,
    previous: Option<Keyed>,
}

#[derive(Clone, Debug)]
struct Keyed {
    id: [u8; KEY_ID],
    key: SessionKey,
}

impl Keyed {
    fn new(key: SessionKey) -> Self {
        Self { id: key.id(), key }
    }
}

impl SessionKeys {
    /// One key for both.
    #[must_use]
    pub fn new(key: SessionKey) -> Self {
        Self {
            current: Keyed::new(key),
            previous: None,
        }
    }

    /// Opens what `key` sealed, too.
    #[must_use]
    pub fn with_previous(mut self, key: SessionKey) -> Self {
        self.previous = Some(Keyed::new(key));
        self
    }

    /// Seals a session of `server`. The parameters of `initialize` are left out if the id would be too long.
    ///
    /// # Errors
    ///
    /// Fails if the system has no randomness to give, or an upstream's id or a principal is too long to be kept.
    pub fn seal(&self, sealed: &Sealed, server: &str) -> Result<(String, Handle), KeyError> {
        let params = sealed.params.as_deref().filter(|_| sealed.has_room());
        let plain = sealed.write(params).ok_or(KeyError::Sealing)?;
        if id_length(plain.len()) > MAX_OPENED {
            return Err(KeyError::Sealing);
        }
        let mut nonce = XNonce::default();
        OsRng
            .try_fill_bytes(&mut nonce)
            .map_err(|_| KeyError::Sealing)?;
        let payload = Payload {
            msg: &plain,
            aad: &associated(self.current.id, server),
        };
        let secret = self.current.key.cipher().encrypt(&nonce, payload);
        let mut id = Vec::with_capacity(HEAD + plain.len() + 16);
        id.push(VERSION);
        id.extend_from_slice(&self.current.id);
        id.extend_from_slice(&nonce);
        id.extend_from_slice(&secret.map_err(|_| KeyError::Sealing)?);
        Ok((URL_SAFE_NO_PAD.encode(id), Handle::of_nonce(&nonce)))
    }

    /// Opens an id of `server`.
    ///
    /// # Errors
    ///
    /// Fails on any id that was not sealed just so, for this server, with one of the two keys.
    pub fn open(&self, id: &[u8], server: &str) -> Result<(Sealed, Handle), Unopened> {
        if id.len() > MAX_OPENED {
            return Err(Unopened);
        }
        let bytes = URL_SAFE_NO_PAD.decode(id).map_err(|_| Unopened)?;
        let (version, rest) = bytes.split_first().ok_or(Unopened)?;
        let (key_id, rest) = rest.split_first_chunk::<KEY_ID>().ok_or(Unopened)?;
        let (nonce, secret) = rest.split_first_chunk::<NONCE>().ok_or(Unopened)?;
        if *version != VERSION {
            return Err(Unopened);
        }
        let mut keys = [Some(&self.current), self.previous.as_ref()]
            .into_iter()
            .flatten();
        let keyed = keys.find(|keyed| keyed.id == *key_id).ok_or(Unopened)?;
        let payload = Payload {
            msg: secret,
            aad: &associated(keyed.id, server),
        };
        let plain = keyed.key.cipher().decrypt(nonce.into(), payload);
        let sealed = Sealed::read(&plain.map_err(|_| Unopened)?).ok_or(Unopened)?;
        Ok((sealed, Handle::of_nonce(nonce)))
    }
}

/// What is authenticated beside the secret part.
fn associated(key_id: [u8; KEY_ID], server: &str) -> Vec<u8> {
    [&[VERSION][..], &key_id, server.as_bytes()].concat()
}

/// How long an id of `plain` bytes is.
fn id_length(plain: usize) -> usize {
    ((HEAD + plain + 16) * 4).div_ceil(3)
}

/// An id is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unopened;

impl fmt::Display for Unopened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the session id cannot be opened")
    }
}

impl std::error::Error for Unopened {}

/// What never changes of a session.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sealed {
    /// The index of the endpoint that opened it.
    pub endpoint: u32,
    /// The upstream's own id.
    pub upstream: Bytes,
    /// The revision that was negotiated, if it is one that we know.
    pub revision: Option<Revision>,
    /// Who opened it.
    pub principal: Option<Arc<str>>,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
    /// What the server declared.
    pub capabilities: Capabilities,
    /// The `params` of `initialize`, as JSON.
    pub params: Option<Bytes>,
}

impl Sealed {
    /// Whether `principal` may use it at `now`.
    #[must_use]
    pub fn admits(&self, principal: Option<&str>, now: u64) -> bool {
        self.principal.as_deref() == principal && now < self.expires
    }

    /// Whether the parameters of `initialize` go into the id.
    pub(crate) fn has_room(&self) -> bool {
        let plain = self.write(self.params.as_deref());
        plain.is_some_and(|plain| id_length(plain.len()) <= MAX_ID)
    }

    fn write(&self, params: Option<&[u8]>) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&self.endpoint.to_be_bytes());
        out.push(self.revision.map_or(0, revision_code));
        out.extend_from_slice(&self.expires.to_be_bytes());
        write_piece(&mut out, &self.capabilities.to_bytes())?;
        write_piece(&mut out, &self.upstream)?;
        out.push(self.principal.is_some().into());
        write_piece(
            &mut out,
            self.principal.as_deref().unwrap_or_default().as_bytes(),
        )?;
        out.push(params.is_some().into());
        out.extend_from_slice(params.unwrap_or_default());
        Some(out)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (endpoint, rest) = bytes.split_first_chunk::<4>()?;
        let (revision, rest) = rest.split_first()?;
        let (expires, rest) = rest.split_first_chunk::<8>()?;
        let (capabilities, rest) = read_piece(rest)?;
        let (upstream, rest) = read_piece(rest)?;
        let (has_principal, rest) = rest.split_first()?;
        let (principal, rest) = read_piece(rest)?;
        let (has_params, params) = rest.split_first()?;
        let principal = std::str::from_utf8(principal).ok()?;
        Some(Self {
            endpoint: u32::from_be_bytes(*endpoint),
            upstream: Bytes::copy_from_slice(upstream),
            revision: Revision::ALL
                .into_iter()
                .find(|known| revision_code(*known) == *revision),
            principal: (*has_principal == 1).then(|| principal.into()),
            expires: u64::from_be_bytes(*expires),
            capabilities: Capabilities::from_bytes(capabilities),
            params: (*has_params == 1).then(|| Bytes::copy_from_slice(params)),
        })
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed")
            .field("endpoint", &self.endpoint)
            .field("revision", &self.revision)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// Never changed once given out; 0 is none that we know.
fn revision_code(revision: Revision) -> u8 {
    match revision {
        Revision::V2024_11_05 => 1,
        Revision::V2025_03_26 => 2,
        Revision::V2025_06_18 => 3,
        Revision::V2025_11_25 => 4,
        Revision::V2026_07_28 => 5,
    }
}

fn write_piece(out: &mut Vec<u8>, piece: &[u8]) -> Option<()> {
    let length = u16::try_from(piece.len()).ok()?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(piece);
    Some(())
}

fn read_piece(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(u16::from_be_bytes(*length).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> SessionKeys {
        SessionKeys::new(SessionKey::new([7; 32]))
    }

    fn sealed() -> Sealed {
        Sealed {
            endpoint: 1,
            upstream: Bytes::from_static(b"0b06c5d9-4d2d-4a5b-8f15-ac1a1f2c6a58"),
            revision: Some(Revision::V2025_11_25),
            principal: Some("ann".into()),
            expires: 1_000,
            capabilities: Capabilities::of_result(
                br#"{"capabilities":{"tools":{"listChanged":true}}}"#,
            ),
            params: Some(Bytes::from_static(br#"{"protocolVersion":"2025-11-25"}"#)),
        }
    }

    #[test]
    fn c47_session_id_is_visible_ascii_and_unguessable() {
        let (first, one) = keys().seal(&sealed(), "wiki").unwrap();
        let (second, two) = keys().seal(&sealed(), "wiki").unwrap();
        assert!(first.bytes().all(|byte| (0x21..=0x7e).contains(&byte)));
        assert_ne!(first, second);
        assert_ne!(one, two);
        assert!(!first.contains("0b06c5d9"));
        assert_eq!(keys().open(first.as_bytes(), "wiki"), Ok((sealed(), one)));
    }

    #[test]
    fn c47_session_id_is_of_one_principal() {
        assert!(sealed().admits(Some("ann"), 999));
        assert!(!sealed().admits(Some("bob"), 999));
        assert!(!sealed().admits(None, 999));
        assert!(
            !Sealed {
                principal: None,
                ..sealed()
            }
            .admits(Some("ann"), 999)
        );
        assert!(
            Sealed {
                principal: None,
                ..sealed()
            }
            .admits(None, 999)
        );
    }

    #[test]
    fn c48_an_expired_session_is_over() {
        assert!(!sealed().admits(Some("ann"), 1_000));
    }

    #[test]
    fn rule_2_another_server_or_key_does_not_open_it() {
        let (id, _) = keys().seal(&sealed(), "wiki").unwrap();
        assert_eq!(keys().open(id.as_bytes(), "wik"), Err(Unopened));
        let other = SessionKeys::new(SessionKey::new([8; 32]));
        assert_eq!(other.open(id.as_bytes(), "wiki"), Err(Unopened));
    }

    #[test]
    fn rule_3_large_parameters_stay_outside() {
        let large = Sealed {
            params: Some(Bytes::from(vec![b'x'; 1024])),
            ..sealed()
        };
        let (id, _) = keys().seal(&large, "wiki").unwrap();
        assert!(id.len() <= MAX_ID, "{}", id.len());
        let (opened, _) = keys().open(id.as_bytes(), "wiki").unwrap();
        assert_eq!(opened.params, None);
        assert_eq!(opened.upstream, large.upstream);
    }

    #[test]
    fn rule_4_the_previous_key_opens_and_the_current_seals() {
        let (old, _) = keys().seal(&sealed(), "wiki").unwrap();
        let turned =
            SessionKeys::new(SessionKey::new([9; 32])).with_previous(SessionKey::new([7; 32]));
        assert!(turned.open(old.as_bytes(), "wiki").is_ok());
        let (new, _) = turned.seal(&sealed(), "wiki").unwrap();
        assert_eq!(keys().open(new.as_bytes(), "wiki"), Err(Unopened));
    }

    #[test]
    fn a_key_is_read_from_hexadecimal_and_base64() {
        let hex = "07".repeat(32);
        let base64 = STANDARD.encode([7; 32]);
        let (id, _) = keys().seal(&sealed(), "wiki").unwrap();
        for text in [hex, base64.clone(), base64.trim_end_matches('=').to_owned()] {
            let key = SessionKey::parse(&Secret::new(text)).unwrap();
            assert!(SessionKeys::new(key).open(id.as_bytes(), "wiki").is_ok());
        }
        for text in ["", "07", &"zz".repeat(32)] {
            let error = SessionKey::parse(&Secret::new(text)).unwrap_err();
            assert_eq!(error, KeyError::Form);
        }
        let zeros = SessionKey::parse(&Secret::new("0".repeat(64)));
        assert_eq!(zeros.unwrap_err(), KeyError::Zeros);
        assert_eq!(format!("{:?}", SessionKey::new([7; 32])), "SessionKey(…)");
    }

    proptest! {
        #[test]
        fn rule_2_an_altered_character_anywhere_fails(at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_-]") {
            let (id, _) = keys().seal(&sealed(), "wiki").unwrap();
            let at = at.index(id.len());
            let mut altered = id.clone().into_bytes();
            altered[at] = with.as_bytes()[0];
            let same = altered == id.as_bytes();
            prop_assert_eq!(keys().open(&altered, "wiki").is_ok(), same);
        }

        #[test]
        fn rule_2_a_piece_of_it_or_more_than_it_fails(cut in any::<prop::sample::Index>(), more in "[A-Za-z0-9_=-]{1,5}") {
            let (id, _) = keys().seal(&sealed(), "wiki").unwrap();
            prop_assert!(keys().open(&id.as_bytes()[..cut.index(id.len())], "wiki").is_err());
            let longer = format!("{id}{more}");
            prop_assert!(keys().open(longer.as_bytes(), "wiki").is_err());
        }

        #[test]
        fn rule_2_any_bytes_give_a_session_or_an_error(bytes in any::<Vec<u8>>()) {
            prop_assert!(keys().open(&bytes, "wiki").is_err());
            let _ = Sealed::read(&bytes);
        }

        #[test]
        fn opening_undoes_sealing(
            endpoint in any::<u32>(), expires in any::<u64>(), upstream in "[!-~]{0,200}",
            principal in proptest::option::of("\\PC{0,40}"), params in proptest::option::of("\\PC{0,80}"),
            revision in proptest::option::of(prop::sample::select(&Revision::ALL[..])),
        ) {
            let sealed = Sealed {
                endpoint, expires, revision,
                upstream: upstream.into(),
                principal: principal.map(Into::into),
                params: params.map(Into::into),
                ..sealed()
            };
            let (id, handle) = keys().seal(&sealed, "wiki").unwrap();
            prop_assert_eq!(keys().open(id.as_bytes(), "wiki"), Ok((sealed, handle)));
        }
    }
}
