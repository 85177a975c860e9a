//! A configuration out of environment variables alone: `MCP_REMOTE_SERVER` and its kin.
//!
//! 1. Started when any `MCP_REMOTE_*` is set and no file is named. One server, `default`, behind
//!    one listener on `0.0.0.0:8000`.
//! 2. Every variable is read before anything fails, so that one start tells all.
//! 3. An empty variable is one that is not set: compose files make empty ones.
//! 4. Numbers of seconds stay numbers of seconds here, as those who wrote them expect.
//! 5. Values never stand in a problem. Tokens and header values become [`Secret`]s at once.
//! 6. The page that promised these variables lets everyone in who can connect. So does this, with a
//!    warning at every start where a credential of ours is at stake.
//! 7. What belongs to a later version is refused by name; unknown `MCP_REMOTE_*` are warned of.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use http::header::AUTHORIZATION;

use self::names::{
    ALLOW_PLAINTEXT, ANONYMOUS_TOKEN, AUTH_HEADER, AUTH_TEMPLATE, BASE_PATH, CA_BUNDLE, COMMAND,
    CONNECT_TIMEOUT, EXCLUDE, FORWARD, HEADER_PREFIX, INCLUDE, KNOWN, LATER, LOG_REQUESTS,
    LOG_RESPONSES, MAX_CONNECTIONS, MAX_IDLE, PREFIX, REQUEST_TIMEOUT, SERVER, TEARDOWN_TIMEOUT,
    TOKEN, TOKEN_FILE, VERIFY_TLS,
};
pub(crate) use self::names::{LOG_LEVEL, LOG_LEVELS};
use super::keys;
use super::model::{
    Auth, AuthKind, Config, Endpoint, Listener, LogLevel, SecretSource, Server, StaticHeader, Value,
};
use super::problem::{Code, Draft, Report};
use super::read::{
    comma_list, header_name_from, path_from, plain_value_from, reserved, template_from, url_from,
};
use super::source::{Loaded, Overrides, finish, named};
use super::validate::{Finding, Origin, validate};
use crate::secret::Secret;

mod environment;
mod names;
mod otlp;

pub use self::environment::{Environment, ProcessEnvironment};
pub use self::otlp::{Collector, Export};

/// What the variables are called together, in reports.
const SUBJECT: &str = "environment";

/// Whether the variables mean to start a sidecar.
pub(crate) fn is_meant(environment: &dyn Environment) -> bool {
    let set = |name: &String| name.starts_with(PREFIX) && environment.filled(name).is_some();
    environment.names().iter().any(set)
}

/// Reads all variables.
pub(crate) fn load(environment: &dyn Environment, overrides: &Overrides) -> Result<Loaded, Report> {
    let mut surface = Surface {
        environment,
        found: Vec::new(),
        headers: Vec::new(),
        forwards_authorization: false,
    };
    surface.refuse_foreign();
    let mut config = Config::new(vec![listener()], vec![surface.server()]);
    surface.observe(&mut config);
    overrides.apply(&mut config);
    let rules = validate(&config, &surface);
    let Surface { mut found, .. } = surface.with_rules(rules);
    found.sort_by_key(Draft::place);
    finish(config, named(SUBJECT, found), 0)
}

/// What rules advise for a file, and what that is here.
const WORDS: &[(&str, &str)] = &[
    (
        "say allowPlaintext: true",
        "set MCP_REMOTE_ALLOW_PLAINTEXT=true",
    ),
    (
        "let in whom you know: inboundAuth, or listen on 127.0.0.1",
        "--listen 127.0.0.1:8000, or let in whom you know: inboundAuth, which takes a file",
    ),
    ("tls: {caFile: PATH}", "MCP_REMOTE_CA_BUNDLE=PATH"),
    ("maxIdle: ", "MCP_REMOTE_MAX_KEEPALIVE_CONNECTIONS="),
];

/// Everyone who can connect is let in: that is what these variables have always meant.
fn listener() -> Listener {
    let mut listener = Listener::new(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8000)));
    listener.allow_unauthenticated = true;
    listener
}

/// The variables, while they are read.
struct Surface<'a> {
    environment: &'a dyn Environment,
    found: Vec<Finding>,
    /// The variables behind `headers.static`, in its order.
    headers: Vec<String>,
    /// Whether the caller's own credential is among the headers to let through.
    forwards_authorization: bool,
}

impl Origin for Surface<'_> {
    /// The variable that a path of the model was read from.
    fn origin(&self, path: &str) -> String {
        let fixed = path
            .strip_prefix("servers.0.headers.static.")
            .and_then(|rest| {
                let number: usize = rest.split('.').next()?.parse().ok()?;
                self.headers.get(number)
            });
        let name = match path.strip_prefix("servers.0.").unwrap_or(path) {
            _ if fixed.is_some() => fixed.map_or("", String::as_str),
            rest if rest.starts_with("headers.forward") => FORWARD,
            rest if rest.starts_with("auth") => self.credential(),
            rest if rest.starts_with("pool") => MAX_IDLE,
            rest if rest.starts_with("tls") => VERIFY_TLS,
            rest if rest.starts_with("basePath") => BASE_PATH,
            _ => SERVER,
        };
        name.to_owned()
    }
}

impl Surface<'_> {
    fn with_rules(mut self, rules: Vec<Finding>) -> Self {
        let placed: Vec<_> = rules
            .into_iter()
            .map(|rule| rule.in_words_of(WORDS).map(|path| self.origin(&path)))
            .collect();
        self.found.extend(placed);
        self
    }

    /// The variable that the credential comes from.
    fn credential(&self) -> &'static str {
        let set = |name: &&&str| self.environment.filled(name).is_some();
        [TOKEN, TOKEN_FILE, ANONYMOUS_TOKEN]
            .iter()
            .find(set)
            .copied()
            .unwrap_or(SERVER)
    }

    fn refuse(&mut self, name: &str, code: Code, message: impl Into<String>, help: &str) {
        self.found
            .push(Draft::error(name.to_owned(), code, message, help));
    }

    /// Variables of others: of the local mode, of later versions, of nobody.
    fn refuse_foreign(&mut self) {
        let environment = self.environment;
        if environment.filled(SERVER).is_some() && environment.filled(COMMAND).is_some() {
            let message = format!("{SERVER} cannot be used together with {COMMAND}");
            self.refuse(SERVER, Code::Conflict, message, "unset one of them");
        }
        let mut names = environment.names();
        names.sort_unstable();
        for name in names {
            if environment.filled(&name).is_none() {
                continue;
            }
            if LATER.contains(&name.as_str()) {
                let message = format!("\"{name}\" is not supported by this version");
                self.refuse(&name, Code::NotSupported, message, "");
            } else if name.starts_with(PREFIX)
                && !name.starts_with(HEADER_PREFIX)
                && !KNOWN.contains(&name.as_str())
            {
                let near = keys::nearest(&name, KNOWN);
                let help = near
                    .map(|near| format!("did you mean {near}?"))
                    .unwrap_or_default();
                let message = "no variable of Outrigger has this name";
                self.found
                    .push(Draft::warning(name, Code::UnknownVariable, message, help));
            }
        }
    }

    fn server(&mut self) -> Server {
        let mut server = Server::new("default");
        match self.environment.filled(SERVER).map(|url| url_from(&url)) {
            Some(Ok(uri)) => server.endpoints.push(Endpoint::new(uri)),
            Some(Err((code, message, help))) => self.refuse(SERVER, code, message, help),
            None => {
                let message = format!("{SERVER} is missing");
                self.refuse(
                    SERVER,
                    Code::MissingKey,
                    message,
                    "MCP_REMOTE_SERVER=https://…",
                );
            }
        }
        server.base_path = self.parse(BASE_PATH, |path| {
            path_from(path).map_err(|message| (Code::Path, message, "such as /api/github"))
        });
        server.base_path = server.base_path.filter(|path| !path.is_empty());
        server.headers.forward = self.forward();
        server.headers.set = self.static_headers();
        server.auth = self.auth(&server.headers.set);
        self.limits(&mut server);
        server.allow_plaintext = self.boolean(ALLOW_PLAINTEXT, false);
        server.tls.insecure_skip_verify = !self.boolean(VERIFY_TLS, true);
        server.tls.ca_file = self.environment.filled(CA_BUNDLE).map(PathBuf::from);
        server.tools.include = self.list(INCLUDE);
        server.tools.exclude = self.list(EXCLUDE);
        server
    }

    fn limits(&mut self, server: &mut Server) {
        let timeouts = &mut server.timeouts;
        timeouts.connect = self.seconds(CONNECT_TIMEOUT).unwrap_or(timeouts.connect);
        timeouts.request = self.seconds(REQUEST_TIMEOUT).unwrap_or(timeouts.request);
        timeouts.stretch_tools_call();
        let pool = &mut server.pool;
        pool.max = self.count(MAX_CONNECTIONS, 1).unwrap_or(pool.max);
        let fewer = pool.max_idle.min(pool.max);
        pool.max_idle = self.count(MAX_IDLE, 0).unwrap_or(fewer);
    }

    fn observe(&mut self, config: &mut Config) {
        config.observability.metrics.legacy_names = true;
        let log = &mut config.observability.log;
        log.request_bodies = self.boolean(LOG_REQUESTS, false);
        log.response_bodies = self.boolean(LOG_RESPONSES, false);
        let level = self.parse(LOG_LEVEL, |word| {
            LogLevel::parse(word).ok_or((Code::Choice, "no such level", LOG_LEVELS))
        });
        log.level = level.unwrap_or(log.level);
        config.shutdown.grace = self
            .seconds(TEARDOWN_TIMEOUT)
            .unwrap_or(config.shutdown.grace);
    }

    /// A token of our own, else the caller's.
    fn auth(&mut self, fixed: &[StaticHeader]) -> Auth {
        let header = self.parse(AUTH_HEADER, |name| {
            let name = header_name_from(name).filter(|name| reserved(name).is_none());
            name.ok_or((Code::Header, "no credential can be in this header", ""))
        });
        let template = self.parse(AUTH_TEMPLATE, |word| {
            let help = "such as \"{token_type} {token}\"";
            template_from(word).map_err(|message| (Code::Template, message, help))
        });
        let bearer = |token| {
            let mut auth = Auth::new(AuthKind::Bearer { token });
            auth.header_name = header.clone().unwrap_or(AUTHORIZATION);
            auth.value_template.clone_from(&template);
            auth
        };
        let mut auth = match self.token() {
            Some(token) => bearer(token),
            // A fixed `Authorization` is the credential; the caller's would clash with it.
            None if fixed.iter().any(|header| header.name == AUTHORIZATION) => Auth::default(),
            None => Auth::new(AuthKind::Passthrough),
        };
        if auth.kind == AuthKind::Passthrough {
            let message = "the caller's own token goes out as it came in, in Authorization";
            for name in [AUTH_HEADER, AUTH_TEMPLATE] {
                if self.environment.filled(name).is_some() {
                    self.refuse(
                        name,
                        Code::NotSupported,
                        message,
                        "set a token, or unset this",
                    );
                }
            }
        }
        if self.forwards_authorization && auth.is_own() {
            let own = self.credential();
            let message = format!("the caller's Authorization would be sent beside {own}");
            self.refuse(
                FORWARD,
                Code::HeaderConflict,
                message,
                "leave Authorization out",
            );
        }
        if let Some(token) = self.environment.filled(ANONYMOUS_TOKEN) {
            if auth.kind == AuthKind::Passthrough {
                let token = SecretSource::Literal(token.into());
                auth.anonymous = Some(Box::new(Auth::new(AuthKind::Bearer { token })));
            } else {
                let message = "no call uses it: the credential of the service is always sent";
                self.found.push(Draft::warning(
                    ANONYMOUS_TOKEN.to_owned(),
                    Code::Conflict,
                    message,
                    "unset it",
                ));
            }
        }
        auth
    }

    /// The token that is always sent, from one of two places.
    fn token(&mut self) -> Option<SecretSource> {
        let token = self.environment.filled(TOKEN);
        let file = self.environment.filled(TOKEN_FILE);
        if token.is_some() && file.is_some() {
            let message = format!("{TOKEN} and {TOKEN_FILE} are both set");
            self.refuse(TOKEN_FILE, Code::Conflict, message, "unset one of them");
        }
        let token = token.map(|token| SecretSource::Literal(token.into()));
        token.or_else(|| file.map(|path| SecretSource::File(path.into())))
    }

    /// `MCP_REMOTE_HEADER_X_API_KEY` is `X-API-KEY`; header names have no case on the wire.
    fn static_headers(&mut self) -> Vec<StaticHeader> {
        let mut names = self.environment.names();
        names.retain(|name| name.starts_with(HEADER_PREFIX));
        names.sort_unstable();
        let mut headers = Vec::new();
        for variable in names {
            let Some(value) = self.environment.filled(&variable) else {
                continue;
            };
            let name = variable.trim_start_matches(HEADER_PREFIX).replace('_', "-");
            let Some(name) = header_name_from(&name) else {
                self.refuse(&variable, Code::Header, "no header can have this name", "");
                continue;
            };
            if let Some((message, _)) = reserved(&name) {
                self.refuse(&variable, Code::HeaderReserved, message, "unset it");
                continue;
            }
            let Some(value) = plain_value_from(value.trim()) else {
                self.refuse(&variable, Code::Header, "no header can have this value", "");
                continue;
            };
            let value = Value::Secret(SecretSource::Literal(Secret::new(value)));
            headers.push(StaticHeader::new(name, value));
            self.headers.push(variable);
        }
        headers
    }

    /// Headers to let through. `Authorization` is the credential's business.
    fn forward(&mut self) -> Vec<HeaderName> {
        let mut names = Vec::new();
        for word in self.list(FORWARD) {
            match header_name_from(&word) {
                _ if word == "*" => {
                    let message = "\"*\" would hand cookies and tokens on";
                    self.refuse(FORWARD, Code::HeaderReserved, message, "name the headers");
                }
                None => self.refuse(FORWARD, Code::Header, "no header can have this name", ""),
                Some(name) => match reserved(&name) {
                    Some((message, _)) => {
                        self.refuse(FORWARD, Code::HeaderReserved, message, "leave it out");
                    }
                    None if name == AUTHORIZATION => self.forwards_authorization = true,
                    None if names.contains(&name) => {}
                    None => names.push(name),
                },
            }
        }
        names
    }

    /// Reads one variable, if it is set.
    fn parse<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, (Code, &'static str, &'static str)>,
    ) -> Option<T> {
        let value = self.environment.filled(name)?;
        match read(value.trim()) {
            Ok(value) => Some(value),
            Err((code, message, help)) => {
                self.refuse(name, code, message, help);
                None
            }
        }
    }

    fn boolean(&mut self, name: &str, default: bool) -> bool {
        let read = self.parse(name, |word| match word.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err((Code::Choice, "this wants true or false", "")),
        });
        read.unwrap_or(default)
    }

    /// Seconds, perhaps with a fraction.
    fn seconds(&mut self, name: &str) -> Option<Duration> {
        const YEAR: f64 = 365.0 * 24.0 * 60.0 * 60.0;
        self.parse(name, |word| {
            let seconds = word
                .parse::<f64>()
                .ok()
                .filter(|it| (0.001..=YEAR).contains(it));
            let seconds = seconds.and_then(|it| Duration::try_from_secs_f64(it).ok());
            seconds.ok_or((
                Code::Duration,
                "this wants a number of seconds above zero",
                "such as 30",
            ))
        })
    }

    fn count(&mut self, name: &str, least: usize) -> Option<usize> {
        self.parse(name, |word| {
            let count = word
                .parse::<usize>()
                .ok()
                .filter(|it| (least..=1_000_000).contains(it));
            count.ok_or((Code::Number, "this wants a whole number", "such as 100"))
        })
    }

    fn list(&self, name: &str) -> Vec<String> {
        let value = self.environment.filled(name).unwrap_or_default();
        comma_list(&value).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests;
