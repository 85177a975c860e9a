//! `Retry-After` (RFC 9110, section 10.2.3): seconds or a date, of a peer that may send anything.

use std::time::Duration;

use http::header::{HeaderMap, RETRY_AFTER};

use crate::clock::Clock;

/// How long to wait, if the header says so. Zero, garbage and dates that have passed say nothing.
pub(crate) fn read(headers: &HeaderMap, clock: &Clock) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => date(text)?.checked_sub(clock.unix_seconds())?,
    };
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`. The two obsolete forms are not read.
fn date(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once(", ")?;
    let mut parts = rest.split(' ');
    let day: u64 = parts.next()?.parse().ok()?;
    let month = month(parts.next()?)?;
    let year: u64 = parts.next()?.parse().ok()?;
    let mut time = parts.next()?.split(':');
    let hour: u64 = time.next()?.parse().ok()?;
    let minute: u64 = time.next()?.parse().ok()?;
    let second: u64 = time.next()?.parse().ok()?;
    let is_sane = parts.next() == Some("GMT")
        && (1..=31).contains(&day)
        && (1970..=9999).contains(&year)
        && hour < 24
        && minute < 60
        && second <= 60;
    is_sane.then(|| days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

fn month(name: &str) -> Option<u64> {
    const NAMES: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    (1..).zip(NAMES).find(|(_, n)| *n == name).map(|(m, _)| m)
}

/// Days since 1970-01-01, with years that begin in March so that the leap day comes last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read_at(now: u64, value: &str) -> Option<Duration> {
        let value = HeaderValue::from_str(value).unwrap();
        read(
            &HeaderMap::from_iter([(RETRY_AFTER, value)]),
            &Clock::manual(now),
        )
    }

    #[test]
    fn seconds_and_dates() {
        assert_eq!(read_at(0, "7"), Some(Duration::from_secs(7)));
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(read_at(784_111_770, date), Some(Duration::from_secs(7)));
        let leap = "Thu, 29 Feb 2024 00:00:00 GMT";
        assert_eq!(read_at(1_709_164_790, leap), Some(Duration::from_secs(10)));
    }

    #[test]
    fn zero_garbage_and_the_past_say_nothing() {
        for value in [
            "0",
            "-1",
            "soon",
            "",
            "1.5",
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sun, 99 Nov 2094 08:49:37 GMT",
            ", 1 1",
        ] {
            assert_eq!(read_at(2_000_000_000, value), None, "{value}");
        }
        assert_eq!(read(&HeaderMap::new(), &Clock::manual(0)), None);
    }
}
