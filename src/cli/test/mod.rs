//! `outrigger test URL`: what a live MCP server speaks, what it wants, and what to do next.
//!
//! Contract:
//!
//! 1. Steps in the order in which a call takes them: name, TLS, `server/discover`, then `initialize` where that says
//!    legacy, then what the answer means. The first that fails ends the test, with the reason that calls would have.
//! 2. Exit codes: 0 fine, 1 broken, 2 used wrongly, 3 wants a credential, 4 cannot be reached.
//! 3. No tool is called. A session that was opened is ended.
//! 4. A credential goes to the URL's own origin and is never printed; what the server says is printed in short, without
//!    control characters.
//! 5. Metadata is read from the URL's own origin, or by https; from private addresses only if the URL leads to such
//!    itself. The URL's credential does not go there.
//!
//! | Module | Holds |
//! | --- | --- |
//! | `probe` | the steps |
//! | `era` | what the answer to `server/discover` says |
//! | `refusal` | what a 401 means, and where it leads |
//! | `metadata` | the documents of the authorization server |
//! | `challenge`, `certificate` | readers of what stands in the answers |
//! | `page` | what is printed |

mod certificate;
mod challenge;
mod era;
mod metadata;
mod page;
mod probe;
mod refusal;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use crate::cli::Failed;
use crate::config::model::{Auth, AuthKind, SecretSource, Value};
use crate::config::{Overrides, ProcessEnvironment, Server, Source, UrlOptions};
use crate::secret::Secret;
use crate::transport::connector::{ConnectorParams, Endpoint, PlaintextPolicy, TlsParams};

const EXAMPLES: &str = "\
Examples:
  outrigger test https://mcp.example.com/mcp
  outrigger test https://mcp.example.com/mcp --bearer-env MCP_TOKEN
  outrigger test http://127.0.0.1:3000/mcp --header 'X-Tenant: ${TENANT}'

Exit code: 0 fine, 1 broken, 2 used wrongly, 3 wants a credential, 4 cannot be reached.";

/// What was typed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The MCP server
    url: String,
    /// Take the bearer token from this environment variable
    #[arg(long, value_name = "NAME", conflicts_with = "bearer_file")]
    bearer_env: Option<String>,
    /// Take the bearer token from this file
    #[arg(long, value_name = "PATH")]
    bearer_file: Option<PathBuf>,
    /// A header for each request; ${NAME} is that environment variable. May be given several times
    #[arg(long = "header", value_name = "K: V")]
    headers: Vec<String>,
    /// Take http:// beyond loopback, too: anybody on the way sees what is sent, and the credential
    #[arg(long)]
    allow_plaintext: bool,
    /// How long each step may take
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = span)]
    timeout: Duration,
    /// Trust the authorities in this PEM file instead of the system's
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca_file: Option<PathBuf>,
    /// Trust any certificate; with a credential, this shows it to anybody on the way
    #[arg(long)]
    insecure: bool,
}

/// `10s`, `500ms`, `1m`, or seconds.
fn span(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: u32 = digits.parse().map_err(|_| "say it as 10s".to_owned())?;
    let unit = match text.get(digits.len()..) {
        Some("" | "s") => Duration::from_secs(1),
        Some("ms") => Duration::from_millis(1),
        Some("m") => Duration::from_mins(1),
        _ => return Err("its unit is ms, s or m".to_owned()),
    };
    match unit.saturating_mul(number) {
        Duration::ZERO => Err("it must be longer than nothing".to_owned()),
        span => Ok(span),
    }
}

/// What is tested, and how.
#[derive(Debug)]
struct Subject {
    /// As it was typed.
    url: String,
    endpoint: Endpoint,
    params: ConnectorParams,
    /// Credentials and other headers.
    headers: HeaderMap,
    /// What follows the URL in a command that sends the same; values of headers left out.
    options: String,
    /// Further keys of a configuration that does the same, each after a comma.
    keys: String,
    timeout: Duration,
}

impl Subject {
    /// The URL as it may be shown: a query can hold a secret.
    fn shown_url(&self) -> String {
        let (path, rest) = match self.url.split_once(['?', '#']) {
            Some((path, _)) => (path, "?…"),
            None => (self.url.as_str(), ""),
        };
        format!("{}{rest}", page::shown(path))
    }

    fn of(arguments: Arguments) -> Result<Self, Failed> {
        let mut options = UrlOptions::default().allow_plaintext(arguments.allow_plaintext);
        let (mut typed, mut keys) = (String::new(), String::new());
        if let Some(name) = arguments.bearer_env {
            typed = format!(" --bearer-env {name}");
            keys = format!(", auth: {{type: bearer, token: {{valueFrom: {{env: {name}}}}}}}");
            options = options.bearer_env(name);
        }
        if let Some(path) = arguments.bearer_file {
            let file = path.display();
            typed = format!(" --bearer-file {file}");
            keys = format!(", auth: {{type: bearer, token: {{valueFrom: {{file: {file}}}}}}}");
            options = options.bearer_file(path);
        }
        for header in arguments.headers {
            let name = header.split(':').next().unwrap_or_default();
            typed = format!("{typed} --header '{}: …'", name.trim());
            options = options.header(header);
        }
        let mut plaintext = PlaintextPolicy::LoopbackOnly;
        if arguments.allow_plaintext {
            typed.push_str(" --allow-plaintext");
            keys.push_str(", allowPlaintext: true");
            plaintext = PlaintextPolicy::Allow;
        }
        // As `run` reads it, so that what is refused there is refused here.
        let source = Source::Url {
            url: arguments.url.clone(),
            options,
        };
        let loaded = source
            .load(&ProcessEnvironment, &Overrides::default())
            .map_err(|report| Failed::Usage(report.to_string()))?;
        let server = loaded.config.server("default");
        let server = server.ok_or_else(|| Failed::Usage("there is no URL".to_owned()))?;
        let endpoint = Endpoint::new(&arguments.url, plaintext)
            .map_err(|error| Failed::Usage(error.to_string()))?;
        let mut tls = TlsParams::default().with_insecure_skip_verify(arguments.insecure);
        tls.ca_file = arguments.ca_file;
        let params = ConnectorParams {
            connect: arguments.timeout,
            tls,
            ..ConnectorParams::default()
        };
        Ok(Self {
            url: arguments.url,
            endpoint,
            params,
            headers: headers(server)?,
            options: typed,
            keys,
            timeout: arguments.timeout,
        })
    }
}

/// The headers that a sidecar would add.
fn headers(server: &Server) -> Result<HeaderMap, Failed> {
    let mut headers = HeaderMap::new();
    for header in &server.headers.set {
        let value = match &header.value {
            Value::Plain(text) => HeaderValue::from_str(text).map_err(|_| impossible())?,
            Value::Secret(source) => secret(source)?,
        };
        headers.append(header.name.clone(), value);
    }
    if let Auth {
        kind: AuthKind::Bearer { token },
        ..
    } = &server.auth
    {
        let token = read(token)?;
        let value = Secret::new(format!("Bearer {}", token.expose_secret()));
        headers.insert(
            AUTHORIZATION,
            value.header_value().map_err(|_| impossible())?,
        );
    }
    Ok(headers)
}

fn impossible() -> Failed {
    Failed::Usage("a value holds characters that no header may have".to_owned())
}

fn secret(source: &SecretSource) -> Result<HeaderValue, Failed> {
    read(source)?.header_value().map_err(|_| impossible())
}

fn read(source: &SecretSource) -> Result<Secret, Failed> {
    match source {
        SecretSource::Literal(secret) => Ok(secret.clone()),
        SecretSource::File(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Failed::Usage(format!("cannot read {}: {error}", path.display()))
            })?;
            match Secret::new(text) {
                empty if empty.is_empty() => {
                    Err(Failed::Usage(format!("{} is empty", path.display())))
                }
                secret => Ok(secret),
            }
        }
        SecretSource::Env(name) => Err(Failed::Usage(format!("variable {name} is not set"))),
    }
}

pub(super) fn run(arguments: Arguments) -> Result<ExitCode, Failed> {
    let subject = Subject::of(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failed::Run(format!("no runtime: {error}")))?;
    let ended = runtime.block_on(probe::run(&subject));
    // A name that is still being looked up ends with the process.
    runtime.shutdown_background();
    match ended {
        Ok(verdict) => Ok(verdict.code()),
        Err(error) => Err(Failed::of(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_a_unit_or_is_in_seconds() {
        assert_eq!(span("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(span("10"), Ok(Duration::from_secs(10)));
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "s", "0s", "1h", "-1s", "1.5s"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
