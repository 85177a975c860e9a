//! The day on which a certificate ends, and nothing else of it.
//!
//! A reader of the whole format would be a large dependency for one line of output. TLS has judged the certificate
//! already; this walks over the few fields that stand before the date (RFC 5280, section 4.1), and gives nothing where it
//! meets anything else.

/// The last day, as `2027-01-14`.
pub(super) fn last_day(der: &[u8]) -> Option<String> {
    let (certificate, _) = field(der, SEQUENCE)?;
    let (mut signed, _) = field(certificate, SEQUENCE)?;
    if let Some((_, rest)) = field(signed, VERSION) {
        signed = rest;
    }
    for kind in [INTEGER, SEQUENCE, SEQUENCE] {
        (_, signed) = field(signed, kind)?;
    }
    let (validity, _) = field(signed, SEQUENCE)?;
    let (_, _, after_first) = any_field(validity)?;
    let (kind, time, _) = any_field(after_first)?;
    let digits = std::str::from_utf8(time).ok()?;
    let (year, rest) = match kind {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            // Two digits of a year mean 1950 to 2049.
            let century = if year < "50" { "20" } else { "19" };
            (format!("{century}{year}"), rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (year.to_owned(), rest)
        }
        _ => return None,
    };
    let (month, rest) = rest.split_at_checked(2)?;
    let (day, _) = rest.split_at_checked(2)?;
    let is_date = [year.as_str(), month, day]
        .iter()
        .all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    is_date.then(|| format!("{year}-{month}-{day}"))
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// The version of the certificate, which may be left out.
const VERSION: u8 = 0xa0;

/// The contents of the field at the start, if it is of that kind, and what stands behind it.
fn field(der: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    let (found, contents, rest) = any_field(der)?;
    (found == kind).then_some((contents, rest))
}

fn any_field(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (kind, rest) = der.split_first()?;
    let (first, mut rest) = rest.split_first()?;
    let mut length = usize::from(*first);
    if *first >= 0x80 {
        let count = usize::from(*first & 0x7f);
        if count == 0 || count > 4 {
            return None;
        }
        let (bytes, behind) = rest.split_at_checked(count)?;
        length = bytes
            .iter()
            .fold(0, |length, byte| (length << 8) | usize::from(*byte));
        rest = behind;
    }
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((*kind, contents, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn certificate(year: i32) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 14);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_last_day_is_read_in_both_spellings() {
        assert_eq!(last_day(&certificate(2027)).unwrap(), "2027-01-14");
        assert_eq!(last_day(&certificate(2061)).unwrap(), "2061-01-14");
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_day_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = last_day(&bytes);
        }

        #[test]
        fn a_broken_certificate_gives_a_day_or_nothing(at in 0_usize..300, byte: u8, cut in 0_usize..400) {
            let mut der = certificate(2027);
            if let Some(place) = der.get_mut(at) {
                *place = byte;
            }
            der.truncate(cut);
            let _ = last_day(&der);
        }
    }
}
