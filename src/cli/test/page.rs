//! What `test` prints, and how it ends.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::error::BoxError;

/// The most characters of a text of the server's that are shown.
const WIDTH: usize = 80;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine,
    Broken,
    WantsCredential,
    Unreachable,
}

impl Verdict {
    pub(super) fn code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Fine => 0,
            Self::Broken => 1,
            Self::WantsCredential => 3,
            Self::Unreachable => 4,
        })
    }
}

/// A test that has come to its end, or the reason why nothing more can be printed.
pub(super) type Ended = Result<Verdict, BoxError>;

/// Prints one line a step.
pub(super) fn step(word: &str, name: &str, what: &dyn Display) -> Result<(), BoxError> {
    print(&format_args!("  {word:<6}{name:<11}{what}"))
}

pub(super) fn print(line: &dyn Display) -> Result<(), BoxError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// A text of the server's that is fit for a terminal: short, in one line, without anything that moves the cursor or
/// turns the direction of writing.
pub(super) fn shown(text: &str) -> String {
    let is_harmless = |letter: &char| {
        let is_direction = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        !letter.is_control() && !is_direction
    };
    let mut out: String = text.chars().filter(is_harmless).take(WIDTH).collect();
    if text.chars().count() > WIDTH {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_the_server_cannot_write_to_the_terminal() {
        assert_eq!(shown("a\u{1b}[2Jb\r\n\u{202e}c"), "a[2Jbc");
        assert_eq!(shown(&"x".repeat(200)).chars().count(), WIDTH + 1);
    }
}
