//! One server out of the command line alone: `outrigger run URL`.
//!
//! 1. One server, `default`, with defaults, behind one listener on `127.0.0.1:8000`, the admin port on loopback too.
//! 2. Secrets come from variables and files. A credential that is written into an argument is
//!    refused, as everyone on the machine can read arguments.
//! 3. `LOG_LEVEL` is honoured.
//! 4. A variable that is not set, or empty, is an error that names it.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use http::header::AUTHORIZATION;

use super::env::{Environment, LOG_LEVEL, LOG_LEVELS};
use super::model::{
    Auth, AuthKind, Config, Endpoint, Listener, LogLevel, SecretSource, Server, StaticHeader, Value,
};
use super::problem::{Code, Draft, Report};
use super::read::{
    header_name_from, is_credential_header, is_variable, plain_value_from, reserved, url_from,
};
use super::source::{Loaded, Overrides, finish, named};
use super::validate::{Finding, Origin, validate};
use crate::secret::Secret;

/// What the command line says about the one server that it names.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct UrlOptions {
    /// `--bearer-env NAME`: the variable that holds a bearer token.
    pub bearer_env: Option<String>,
    /// `--bearer-file PATH`: the file that holds one, read anew when it changes.
    pub bearer_file: Option<PathBuf>,
    /// `--header 'K: V'`, any number of them; `${NAME}` in a value is that variable's.
    pub headers: Vec<String>,
    /// `--allow-plaintext`: `http://` beyond loopback, which shows calls and credentials to anybody on the way.
    pub allow_plaintext: bool,
}

impl UrlOptions {
    /// Takes a bearer token from that variable.
    #[must_use]
    pub fn bearer_env(mut self, name: impl Into<String>) -> Self {
        self.bearer_env = Some(name.into());
        self
    }

    /// Takes a bearer token from that file.
    #[must_use]
    pub fn bearer_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.bearer_file = Some(path.into());
        self
    }

    /// Sets a header on each request.
    #[must_use]
    pub fn header(mut self, header: impl Into<String>) -> Self {
        self.headers.push(header.into());
        self
    }

    /// Takes `http://` beyond loopback, too.
    #[must_use]
    pub fn allow_plaintext(mut self, allowed: bool) -> Self {
        self.allow_plaintext = allowed;
        self
    }
}

/// The arguments are where things come from.
struct Arguments;

impl Origin for Arguments {
    fn origin(&self, path: &str) -> String {
        let argument = match path {
            _ if path.contains(".headers.") => "--header",
            _ if path.contains(".auth") => "--bearer-env or --bearer-file",
            _ if path.starts_with("listeners") => "--listen",
            _ => "URL",
        };
        argument.to_owned()
    }
}

/// What rules advise for a file, and what that is here.
const WORDS: &[(&str, &str)] = &[
    (
        "use https://, or say allowPlaintext: true",
        "use https://, or say --allow-plaintext",
    ),
    (
        "listen on 127.0.0.1, or set inboundAuth, or say allowUnauthenticated: true",
        "listen on 127.0.0.1; only a file can let in others: inboundAuth",
    ),
];

pub(crate) fn load(
    url: &str,
    options: &UrlOptions,
    environment: &dyn Environment,
    overrides: &Overrides,
) -> Result<Loaded, Report> {
    const SUBJECT: &str = "command line";
    let mut found = Vec::new();
    let mut server = Server::new("default");
    match url_from(url) {
        Ok(uri) => server.endpoints.push(Endpoint::new(uri)),
        Err((code, message, help)) => {
            let help = if code == Code::UrlSecret {
                "use --bearer-env or --header"
            } else {
                help
            };
            found.push(Draft::error("URL".to_owned(), code, message, help));
        }
    }
    server.allow_plaintext = options.allow_plaintext;
    server.auth = bearer(options, environment, &mut found);
    for header in &options.headers {
        match argument_header(header, environment) {
            Ok(header) => server.headers.set.push(header),
            Err(finding) => found.push(finding),
        }
    }
    let mut config = Config::new(vec![Listener::default()], vec![server]);
    // Nobody else has to see it: a sidecar that is started by hand is all on loopback.
    config
        .observability
        .metrics
        .listen
        .set_ip(Ipv4Addr::LOCALHOST.into());
    if let Some(word) = environment.filled(LOG_LEVEL) {
        match LogLevel::parse(&word) {
            Some(level) => config.observability.log.level = level,
            None => found.push(Draft::error(
                LOG_LEVEL.to_owned(),
                Code::Choice,
                "no such level",
                LOG_LEVELS,
            )),
        }
    }
    overrides.apply(&mut config);
    let rules = validate(&config, &Arguments);
    found.extend(rules.into_iter().map(|finding| {
        finding
            .in_words_of(WORDS)
            .map(|path| Arguments.origin(&path))
    }));
    finish(config, named(SUBJECT, found), 0)
}

fn bearer(options: &UrlOptions, environment: &dyn Environment, found: &mut Vec<Finding>) -> Auth {
    let token = match (&options.bearer_env, &options.bearer_file) {
        (Some(_), Some(_)) => {
            let at = "--bearer-file".to_owned();
            let message = "the token comes from --bearer-env already";
            found.push(Draft::error(
                at,
                Code::Conflict,
                message,
                "keep one of them",
            ));
            return Auth::default();
        }
        (None, None) => return Auth::default(),
        (None, Some(path)) => SecretSource::File(path.clone()),
        (Some(name), None) => match environment.filled(name) {
            Some(token) if is_variable(name) => SecretSource::Literal(Secret::new(token)),
            _ => {
                let message = if is_variable(name) {
                    format!("the variable {name} is not set, or empty")
                } else {
                    // Whoever put the token itself here must not find it in a log.
                    "this wants the name of a variable, not a token".to_owned()
                };
                let at = "--bearer-env".to_owned();
                found.push(Draft::error(
                    at,
                    Code::EnvironmentUnset,
                    message,
                    "export NAME=…",
                ));
                return Auth::default();
            }
        },
    };
    Auth::new(AuthKind::Bearer { token })
}

/// `K: V`, where `${NAME}` in the value is a variable's.
fn argument_header(argument: &str, environment: &dyn Environment) -> Result<StaticHeader, Finding> {
    let error = |code, message: String, help: &str| {
        Draft::error("--header".to_owned(), code, message, help)
    };
    let shape = || {
        error(
            Code::Header,
            "a header is 'Name: value'".to_owned(),
            "--header 'X-Tenant: a'",
        )
    };
    let (name, value) = argument.split_once(':').ok_or_else(shape)?;
    let name = header_name_from(name.trim()).ok_or_else(shape)?;
    if let Some((message, help)) = reserved(&name) {
        return Err(error(Code::HeaderReserved, message, help));
    }
    let (value, expanded) = expand(value.trim(), environment)
        .map_err(|unset| error(Code::EnvironmentUnset, unset, "export NAME=…"))?;
    if !expanded && is_credential_header(&name) {
        let message =
            format!("\"{name}\" carries a secret, and everyone on this machine can read arguments");
        let help = if name == AUTHORIZATION {
            "--bearer-env NAME, or --header 'Authorization: Bearer ${NAME}'"
        } else {
            "put it into a variable: --header 'Name: ${NAME}'"
        };
        return Err(error(Code::SecretLiteral, message, help));
    }
    let Some(value) = plain_value_from(&value) else {
        return Err(error(
            Code::Header,
            format!("\"{name}\" cannot have this value"),
            "",
        ));
    };
    let value = if expanded {
        Value::Secret(SecretSource::Literal(Secret::new(value)))
    } else {
        Value::Plain(value)
    };
    Ok(StaticHeader::new(name, value))
}

/// Puts variables in, and says whether there was one; the error names the one that is not set.
fn expand(value: &str, environment: &dyn Environment) -> Result<(String, bool), String> {
    let mut out = String::new();
    let mut rest = value;
    let mut expanded = false;
    while let Some((before, behind)) = rest.split_once("${") {
        let (name, after) = behind
            .split_once('}')
            .ok_or_else(|| "a \"${\" in a header has no \"}\"".to_owned())?;
        if !is_variable(name) {
            return Err("\"${…}\" in a header wants the name of a variable".to_owned());
        }
        let found = environment.filled(name);
        let found = found.ok_or_else(|| format!("the variable {name} is not set, or empty"))?;
        out.push_str(before);
        out.push_str(&found);
        rest = after;
        expanded = true;
    }
    out.push_str(rest);
    Ok((out, expanded))
}
