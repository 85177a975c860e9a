//! What is wrong with a configuration, and how a person reads it.
//!
//! 1. A [`Report`] holds every problem of one load, in the order of the text.
//! 2. A problem names its place (line and column, or the variable or argument), a code from the
//!    closed list [`Code`], what is wrong, and mostly what to write instead.
//! 3. No secret gets in: excerpts are masked when the report is made, and messages repeat key
//!    names and words from our own vocabulary only.

use std::error::Error;
use std::fmt::{self, Write as _};

use super::text::{Excerpt, Masks, Span, Text};

macro_rules! codes {
    ($($(#[$doc:meta])+ $name:ident = $text:literal,)+) => {
        /// What kind of problem it is; the words stand in brackets behind `error`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])+ $name,)+
        }

        impl Code {
            /// The word as it is printed.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

codes! {
    /// An address that is not IP and port, or a network that is not an address and a length.
    Address = "address",
    /// A word that is not one of those allowed here.
    Choice = "choice",
    /// Two settings that exclude each other.
    Conflict = "conflict",
    /// A key that is written twice in one map.
    DuplicateKey = "duplicate-key",
    /// Two servers or listeners of one name, or two of one address or path.
    DuplicateName = "duplicate-name",
    /// A duration that is not a whole number above zero, or too long.
    Duration = "duration",
    /// A duration without its unit.
    DurationUnit = "duration-unit",
    /// A variable that is named, and not set.
    EnvironmentUnset = "env-unset",
    /// Two sources for one header.
    HeaderConflict = "header-conflict",
    /// A name or value that no HTTP header can have.
    Header = "header",
    /// A header that only Outrigger itself may set.
    HeaderReserved = "header-reserved",
    /// A certificate check is off: everyone on the way can read and change everything.
    InsecureTls = "insecure-tls",
    /// A key that must be there.
    MissingKey = "missing-key",
    /// A name that is not a DNS label, or refers to nothing.
    Name = "name",
    /// A key or value of a later version.
    NotSupported = "not-supported",
    /// A number out of its range.
    Number = "number",
    /// Whoever reaches the listener could use our credential.
    OpenProxy = "open-proxy",
    /// A path that is not one.
    Path = "path",
    /// An unencrypted upstream beyond loopback.
    PlaintextUrl = "plaintext-url",
    /// A secret in the text itself.
    SecretLiteral = "secret-literal",
    /// A template with an unknown placeholder, or without the one it needs.
    Template = "template",
    /// A text that is too large or nested too deep.
    TooLarge = "too-large",
    /// A list where a map is wanted, and the like.
    Type = "type",
    /// A key that nobody knows.
    UnknownKey = "unknown-key",
    /// A variable that looks like ours, and is none.
    UnknownVariable = "unknown-variable",
    /// A file that cannot be read.
    Unreadable = "unreadable",
    /// A URL that cannot be used.
    Url = "url",
    /// A URL that carries a secret.
    UrlSecret = "url-secret",
    /// A text that is not YAML, or uses what we do not take (aliases, tags, several documents).
    Yaml = "yaml",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a problem stops the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Error,
    Warning,
}

/// A problem before its place is known to anyone but the loader.
#[derive(Clone, Debug)]
pub(crate) struct Draft<P> {
    place: P,
    severity: Severity,
    code: Code,
    message: String,
    help: String,
}

impl<P> Draft<P> {
    /// An error; `help` says what to write instead and may be empty.
    pub(crate) fn error(
        place: P,
        code: Code,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        let (message, help) = (message.into(), help.into());
        Self {
            place,
            severity: Severity::Error,
            code,
            message,
            help,
        }
    }

    /// A warning: said at every load, and the load goes on.
    pub(crate) fn warning(
        place: P,
        code: Code,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(place, code, message, help)
        }
    }

    /// Where it is.
    pub(crate) fn place(&self) -> P
    where
        P: Clone,
    {
        self.place.clone()
    }

    /// The same problem, its help in the words of another surface than the file.
    pub(crate) fn in_words_of(mut self, surface: &[(&str, &str)]) -> Self {
        for (file, other) in surface {
            self.help = self.help.replace(file, other);
        }
        self
    }

    /// The same problem, its place told in another way.
    pub(crate) fn map<Q>(self, place: impl FnOnce(P) -> Q) -> Draft<Q> {
        let Self {
            place: old,
            severity,
            code,
            message,
            help,
        } = self;
        Draft {
            place: place(old),
            severity,
            code,
            message,
            help,
        }
    }
}

impl Draft<Span> {
    /// The problem with its line of the text, in which `masks` are hidden.
    pub(crate) fn in_text(self, text: &Text<'_>, masks: &Masks) -> Problem {
        let (line, column) = text.position(self.place.start);
        let excerpt = text.excerpt(self.place, masks);
        Problem(self.map(|_| Place::Text {
            line,
            column,
            excerpt,
        }))
    }
}

impl Draft<String> {
    /// The problem of a variable or an argument; of the whole source if the name is empty.
    pub(crate) fn named(self) -> Problem {
        Problem(self.map(|name| {
            if name.is_empty() {
                Place::Whole
            } else {
                Place::Name(name)
            }
        }))
    }
}

#[derive(Clone, Debug)]
enum Place {
    Whole,
    Name(String),
    Text {
        line: usize,
        column: usize,
        excerpt: Excerpt,
    },
}

/// One thing that is wrong, or that a person should know.
#[derive(Clone, Debug)]
pub struct Problem(Draft<Place>);

impl Problem {
    /// Whether it stops the load; a warning does not.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.0.severity == Severity::Error
    }

    /// What kind it is.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What is wrong, in one line.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to write instead; may be empty.
    #[must_use]
    pub fn help(&self) -> &str {
        &self.0.help
    }

    /// Line and column, from 1, if it has a place in a text.
    #[must_use]
    pub fn position(&self) -> Option<(usize, usize)> {
        match self.0.place {
            Place::Text { line, column, .. } => Some((line, column)),
            Place::Whole | Place::Name(_) => None,
        }
    }

    /// The variable or argument it is about, if it came from there.
    #[must_use]
    pub fn variable(&self) -> Option<&str> {
        match &self.0.place {
            Place::Name(name) => Some(name),
            Place::Whole | Place::Text { .. } => None,
        }
    }

    /// Where it is and of what kind, without a word of the source.
    fn outline(&self, subject: &str) -> String {
        let code = self.code();
        match &self.0.place {
            Place::Text { line, column, .. } => format!("{subject}:{line}:{column} {code}"),
            Place::Name(name) => format!("{name} {code}"),
            Place::Whole => format!("{subject} {code}"),
        }
    }

    fn write(&self, subject: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Draft {
            place,
            severity,
            code,
            message,
            help,
        } = &self.0;
        let severity = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let what = format_args!("{severity}[{code}]: {message}");
        let Place::Text {
            line,
            column,
            excerpt,
        } = place
        else {
            match place {
                Place::Name(name) => writeln!(f, "{name}: {what}")?,
                _ => writeln!(f, "{subject}: {what}")?,
            }
            return if help.is_empty() {
                Ok(())
            } else {
                writeln!(f, "     | help: {help}")
            };
        };
        writeln!(f, "{subject}:{line}:{column}: {what}")?;
        let gutter = line.to_string().len().max(4);
        writeln!(f, "{line:>gutter$} | {}", excerpt.text)?;
        write!(
            f,
            "{:gutter$} | {:before$}",
            "",
            "",
            before = excerpt.before
        )?;
        (0..excerpt.marked).try_for_each(|_| f.write_char('^'))?;
        if !help.is_empty() {
            write!(f, " help: {help}")?;
        }
        f.write_char('\n')
    }
}

/// Everything that one load has to say.
///
/// [`Display`](fmt::Display) is the text of `outrigger check`: the problems, then one line that
/// sums up.
#[derive(Clone, Debug)]
pub struct Report {
    subject: String,
    problems: Vec<Problem>,
    /// Servers and listeners, where the load succeeded.
    loaded: Option<(usize, usize)>,
}

impl Report {
    pub(crate) fn new(subject: impl Into<String>, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(Problem::position);
        Self {
            subject: subject.into(),
            problems,
            loaded: None,
        }
    }

    /// A report of one problem that concerns the whole source.
    pub(crate) fn whole(
        subject: impl Into<String>,
        code: Code,
        message: impl Into<String>,
        help: &str,
    ) -> Self {
        Self::new(
            subject,
            vec![Draft::error(String::new(), code, message, help).named()],
        )
    }

    pub(crate) fn loaded(mut self, servers: usize, listeners: usize) -> Self {
        self.loaded = Some((servers, listeners));
        self
    }

    /// What was loaded: the path of the file, or `environment`, or the URL's origin.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// All problems, warnings among them, in the order of the text.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Where the problems are and of what kinds, a line each, and how many stop the load. No word of the source is in it,
    /// so it may be shown to those who may not read the source.
    #[must_use]
    pub fn outline(&self) -> String {
        let mut lines: Vec<_> = self
            .problems
            .iter()
            .map(|problem| problem.outline(&self.subject))
            .collect();
        lines.push(counted(self.errors(), "error"));
        lines.join("\n")
    }

    /// How many of them stop the load.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.problems
            .iter()
            .filter(|problem| problem.is_error())
            .count()
    }

    /// Whether the configuration can be used.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.errors() == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = &self.subject;
        self.problems
            .iter()
            .try_for_each(|problem| problem.write(subject, f))?;
        match (self.errors(), self.loaded) {
            (0, Some((servers, listeners))) => {
                let (servers, listeners) =
                    (counted(servers, "server"), counted(listeners, "listener"));
                write!(f, "{subject}: ok, {servers}, {listeners}")
            }
            (0, None) => write!(f, "{subject}: ok"),
            (errors, _) => {
                let errors = counted(errors, "error");
                write!(f, "{subject}: {errors}. Nothing was sent or changed.")
            }
        }
    }
}

impl Error for Report {}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
