//! Where a configuration comes from: a file, the environment, or a URL on the command line.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::arguments::{self, UrlOptions};
use super::env::{self, Environment};
use super::model::{Config, LogLevel};
use super::node::{self, MAX_BYTES};
use super::problem::{Code, Draft, Problem, Report};
use super::read::{self, Reader};
use super::text::{Masks, Span, Text};
use super::validate::{Finding, Origin, validate};

/// The most problems that one report tells: nobody reads more, and a hostile file has millions.
const MOST_PROBLEMS: usize = 100;

/// A configuration that can be used.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What a person should know all the same: warnings only.
    pub report: Report,
    /// A fingerprint of the source's text, the same in every process and version; 0 where there
    /// is no text. It tells two texts apart, and is no protection against one made to collide.
    pub digest: u64,
}

/// What the command line says over any source.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Overrides {
    /// Where the (first) listener listens.
    pub listen: Option<SocketAddr>,
    /// Where metrics, health and status are served.
    pub admin: Option<SocketAddr>,
    /// What is logged.
    pub log_level: Option<LogLevel>,
}

impl Overrides {
    /// Listens there instead.
    #[must_use]
    pub fn listen(mut self, listen: SocketAddr) -> Self {
        self.listen = Some(listen);
        self
    }

    /// Serves metrics, health and status there instead.
    #[must_use]
    pub fn admin(mut self, admin: SocketAddr) -> Self {
        self.admin = Some(admin);
        self
    }

    /// Logs at that level instead.
    #[must_use]
    pub fn log_level(mut self, level: LogLevel) -> Self {
        self.log_level = Some(level);
        self
    }

    pub(crate) fn apply(&self, config: &mut Config) {
        if let Some(level) = self.log_level {
            config.observability.log.level = level;
        }
        if let Some(admin) = self.admin {
            config.observability.metrics.listen = admin;
        }
        if let (Some(listen), Some(first)) = (self.listen, config.listeners.first_mut()) {
            first.listen = listen;
        }
    }
}

/// Where a configuration comes from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Source {
    /// A YAML or JSON file.
    File(PathBuf),
    /// The variables `MCP_REMOTE_*`.
    Environment,
    /// One server, named on the command line.
    Url {
        /// Its URL.
        url: String,
        /// What else the command line says.
        options: UrlOptions,
    },
}

impl Source {
    /// The environment, if it names a remote server or anything about one.
    #[must_use]
    pub fn from_environment(environment: &dyn Environment) -> Option<Self> {
        env::is_meant(environment).then_some(Self::Environment)
    }

    /// Reads, checks and hands out the configuration. Files are read at once, blocking.
    ///
    /// # Errors
    ///
    /// Every problem there is, if one of them is an error.
    pub fn load(
        &self,
        environment: &dyn Environment,
        overrides: &Overrides,
    ) -> Result<Loaded, Report> {
        match self {
            Self::File(path) => from_file(path, overrides),
            Self::Environment => env::load(environment, overrides),
            Self::Url { url, options } => arguments::load(url, options, environment, overrides),
        }
    }
}

impl Config {
    /// Reads a YAML or JSON file.
    ///
    /// # Errors
    ///
    /// Every problem there is, if one of them is an error.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Loaded, Report> {
        from_file(path.as_ref(), &Overrides::default())
    }

    /// Reads a text; `subject` is its name in problems.
    ///
    /// ```
    /// let text = "servers: [{name: github, endpoints: [{url: https://mcp.example.com/mcp}]}]";
    /// let loaded = outrigger::config::Config::from_text("example.yaml", text.as_bytes()).unwrap();
    /// assert_eq!(loaded.config.servers[0].name, "github");
    ///
    /// let report = outrigger::config::Config::from_text("bad.yaml", b"server: []").unwrap_err();
    /// assert!(report.to_string().contains("did you mean \"servers\"?"));
    /// ```
    ///
    /// # Errors
    ///
    /// Every problem there is, if one of them is an error.
    pub fn from_text(subject: &str, text: &[u8]) -> Result<Loaded, Report> {
        from_text(subject, text, &Overrides::default())
    }

    /// Reads the variables `MCP_REMOTE_*` and their kin.
    ///
    /// # Errors
    ///
    /// Every problem there is, if one of them is an error.
    pub fn from_environment(environment: &dyn Environment) -> Result<Loaded, Report> {
        env::load(environment, &Overrides::default())
    }

    /// A sidecar with defaults in front of one server, on `127.0.0.1:8000`.
    ///
    /// # Errors
    ///
    /// Every problem there is, if one of them is an error.
    pub fn from_url(
        url: &str,
        options: &UrlOptions,
        environment: &dyn Environment,
    ) -> Result<Loaded, Report> {
        arguments::load(url, options, environment, &Overrides::default())
    }
}

/// The text of `outrigger check FILE`: print it, and exit 1 unless [`Report::is_ok`].
#[must_use]
pub fn check(path: &Path) -> Report {
    Config::from_file(path).map_or_else(|report| report, |loaded| loaded.report)
}

fn from_file(path: &Path, overrides: &Overrides) -> Result<Loaded, Report> {
    let subject = path.display().to_string();
    match read_bounded(path) {
        Ok(bytes) => from_text(&subject, &bytes, overrides),
        Err(error) => Err(unreadable(&subject, &error)),
    }
}

/// Reads a file, up to one byte more than is taken.
pub(crate) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(MAX_BYTES)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The report of a file that cannot be read.
pub(crate) fn unreadable(subject: &str, error: &io::Error) -> Report {
    Report::whole(
        subject,
        Code::Unreadable,
        format!("this cannot be read: {error}"),
        "",
    )
}

/// The lines of the text are where things come from.
struct Lines<'a> {
    text: &'a Text<'a>,
    root: &'a node::Node,
}

impl Origin for Lines<'_> {
    fn origin(&self, path: &str) -> String {
        format!("line {}", self.text.position(self.root.place(path).start).0)
    }
}

pub(crate) fn from_text(
    subject: &str,
    bytes: &[u8],
    overrides: &Overrides,
) -> Result<Loaded, Report> {
    if bytes.len() > MAX_BYTES {
        let message = format!("larger than {MAX_BYTES} bytes");
        return Err(Report::whole(subject, Code::TooLarge, message, ""));
    }
    let source = std::str::from_utf8(bytes).map_err(|error| {
        let message = format!("not UTF-8 text, at byte {}", error.valid_up_to());
        Report::whole(subject, Code::Yaml, message, "")
    })?;
    // Editors of another system put a mark in front, which is no part of the first key.
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    if source.trim().is_empty() {
        let message = "the file is empty; it needs servers:";
        return Err(Report::whole(subject, Code::MissingKey, message, ""));
    }
    let text = Text::new(source);
    let tree = node::parse(source);
    if !tree.complete {
        return Err(report(subject, &text, tree.problems, &words(source)));
    }
    let reader = Reader::default();
    let mut config = read::file(&reader, &tree.root);
    overrides.apply(&mut config);
    let (mut drafts, mut masks) = reader.into_parts();
    drafts.extend(tree.problems);
    masks.extend(tree.dropped);
    let found = validate(
        &config,
        &Lines {
            text: &text,
            root: &tree.root,
        },
    );
    drafts.extend(
        found
            .into_iter()
            .map(|finding| finding.map(|path| tree.root.place(&path))),
    );
    finish(
        config,
        report(subject, &text, drafts, &masks.into_iter().collect()),
        digest(bytes),
    )
}

/// What to hide in a text that was not understood: every word that is not ours.
fn words(source: &str) -> Masks {
    let mut masks = Vec::new();
    let mut start = 0;
    let edge = |c: char| c.is_whitespace() || "{}[],:\"'#".contains(c);
    for word in source.split_inclusive(edge) {
        let end = start + word.chars().count();
        let bare = word.trim_end_matches(edge);
        if bare.chars().count() > 3 && !super::keys::is_vocabulary(bare) {
            masks.push(Span::new(start, start + bare.chars().count()));
        }
        start = end;
    }
    masks.into_iter().collect()
}

fn report(subject: &str, text: &Text<'_>, mut drafts: Vec<Draft<Span>>, masks: &Masks) -> Report {
    drafts.sort_by_key(Draft::place);
    let problems = drafts.into_iter().take(MOST_PROBLEMS);
    Report::new(
        subject,
        problems.map(|draft| draft.in_text(text, masks)).collect(),
    )
}

/// Hands out the configuration if nothing stands against it.
pub(crate) fn finish(config: Config, report: Report, digest: u64) -> Result<Loaded, Report> {
    if !report.is_ok() {
        return Err(report);
    }
    let report = report.loaded(config.servers.len(), config.listeners.len());
    Ok(Loaded {
        config,
        report,
        digest,
    })
}

/// FNV-1a: short, stable, and enough to tell one text from another.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The report of findings whose places have names of their own, such as variables.
pub(crate) fn named(subject: &str, findings: Vec<Finding>) -> Report {
    Report::new(
        subject,
        findings
            .into_iter()
            .map(Draft::named)
            .collect::<Vec<Problem>>(),
    )
}
