//! The calls of the demo by name, and the line that each of them gets.

use std::fmt;
use std::time::Duration;

use crate::cli::client::milliseconds;
use crate::mcp::Era;

/// One call of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Discover,
    List,
    Echo,
    Count,
    Ask,
    Flaky,
    Slow,
    DeleteAll,
    Initialize,
    LegacyAsk,
}

/// All of them, in the order in which they are made.
pub(super) const ALL: &[Call] = &[
    Call::Discover,
    Call::List,
    Call::Echo,
    Call::Count,
    Call::Ask,
    Call::Flaky,
    Call::Slow,
    Call::DeleteAll,
    Call::Initialize,
    Call::LegacyAsk,
];

impl Call {
    fn era(self) -> Era {
        match self {
            Self::Initialize | Self::LegacyAsk => Era::Legacy,
            _ => Era::Modern,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Discover => "server/discover",
            Self::List => "tools/list",
            Self::Echo => "tools/call echo",
            Self::Count => "tools/call count",
            Self::Ask | Self::LegacyAsk => "tools/call ask",
            Self::Flaky => "tools/call flaky",
            Self::Slow => "tools/call slow",
            Self::DeleteAll => "tools/call delete_all",
            Self::Initialize => "initialize",
        }
    }

    /// The word for the way it ends when all is well.
    fn end(self) -> &'static str {
        match self {
            Self::Slow => "cancelled",
            Self::DeleteAll => "denied",
            _ => "ok",
        }
    }
}

/// A call that was made.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) call: Call,
    pub(super) took: Duration,
    /// What was seen; as an error, what was not as expected.
    pub(super) seen: Result<String, String>,
}

impl Line {
    pub(super) fn is_as_expected(&self) -> bool {
        self.seen.is_ok()
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (end, note) = match &self.seen {
            Ok(note) => (self.call.end(), note),
            Err(note) => ("FAIL", note),
        };
        let (era, call, took) = (self.call.era(), self.call.name(), milliseconds(self.took));
        write!(
            f,
            "  {:<8}{call:<24}{end:<9}{took:>6.1} ms  {note}",
            era.as_str()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(call: Call, micros: u64, seen: Result<&str, &str>) -> Line {
        Line {
            call,
            took: Duration::from_micros(micros),
            seen: seen.map(str::to_owned).map_err(str::to_owned),
        }
    }

    #[test]
    fn columns_stay_in_line() {
        assert_eq!(
            line(Call::Discover, 1_200, Ok("a note")).to_string(),
            "  modern  server/discover         ok          1.2 ms  a note"
        );
        assert_eq!(
            line(Call::Slow, 200_300, Ok("a note")).to_string(),
            "  modern  tools/call slow         cancelled 200.3 ms  a note"
        );
        assert_eq!(
            line(Call::DeleteAll, 100, Ok("a note")).to_string(),
            "  modern  tools/call delete_all   denied      0.1 ms  a note"
        );
    }

    #[test]
    fn what_was_not_as_expected_is_marked() {
        let failed = line(Call::Initialize, 1_000, Err("no session"));
        assert_eq!(
            failed.to_string(),
            "  legacy  initialize              FAIL        1.0 ms  no session"
        );
        assert!(!failed.is_as_expected());
    }
}
