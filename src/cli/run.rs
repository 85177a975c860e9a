//! `outrigger run`: the sidecar, until SIGTERM or Ctrl-C.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::Command;
use crate::cli::closed;
use crate::cli::logging::{self, Levels};
use crate::cli::{Failed, say};
use crate::config::model::LogLevel;
use crate::config::{
    ConfigWatch, Loaded, Overrides, ProcessEnvironment, Reload, Report, Source, UrlOptions,
};
use crate::sidecar::{AdminPorts, Bound, Sidecar};

const EXAMPLES: &str = "\
Examples:
  No credential:
    outrigger run https://mcp.example.com/mcp
  A token from the environment:
    outrigger run https://mcp.example.com/mcp --bearer-env MCP_TOKEN
  A token from a file, read again when it changes:
    outrigger run https://mcp.example.com/mcp --bearer-file /run/token
  A header out of a variable:
    outrigger run https://mcp.example.com/mcp --header 'X-Tenant: ${TENANT}'
  Several servers, policy, limits:
    outrigger run --config outrigger.yaml
  Everything from variables (it then listens on 0.0.0.0:8000):
    MCP_REMOTE_SERVER=https://mcp.example.com/mcp outrigger run
  docs/environment.md names the variables.

SIGTERM or Ctrl-C drains: open calls have shutdown.grace (5 s), then get an error.
A second one exits at once. SIGHUP reads the configuration again.

Exit codes: 0 drained, 1 could not run (configuration, ports), 2 used wrongly.";

/// What was typed.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The MCP server to stand in front of; the sidecar then listens on 127.0.0.1:8000, at /mcp
    #[arg(conflicts_with = "config")]
    url: Option<String>,
    /// Where to listen, instead of what the configuration says (port 0: any free one)
    #[arg(long, value_name = "ADDR", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Threads that serve calls; more than one pays only on a machine with cores to spare
    #[arg(long, value_name = "N", default_value = "1")]
    workers: Option<NonZeroUsize>,
    /// A configuration file (see `outrigger check`)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Take the bearer token from this environment variable
    #[arg(
        long,
        value_name = "NAME",
        requires = "url",
        conflicts_with_all = ["bearer_file", "config"]
    )]
    bearer_env: Option<String>,
    /// Take the bearer token from this file; it is read again when it changes
    #[arg(long, value_name = "PATH", requires = "url", conflicts_with = "config")]
    bearer_file: Option<PathBuf>,
    /// A header for each request; ${NAME} is that environment variable. May be given several times
    #[arg(
        long = "header",
        value_name = "K: V",
        requires = "url",
        conflicts_with = "config"
    )]
    headers: Vec<String>,
    /// Take http:// beyond loopback, too: anybody on the way sees the calls, and the credential
    #[arg(long, requires = "url", conflicts_with = "config")]
    allow_plaintext: bool,
    /// Serve metrics, health and status here, instead of what the configuration says
    #[arg(long, value_name = "ADDR", value_parser = address)]
    admin: Option<SocketAddr>,
    /// What is logged, instead of what the configuration says: trace, debug (with a line per call), info, warn or error
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    log_level: Option<LogLevel>,
    /// Refused, to say why
    #[arg(
        long,
        alias = "token",
        alias = "bearer-token",
        hide = true,
        value_name = "TOKEN"
    )]
    bearer: Option<String>,
}

fn address(word: &str) -> Result<SocketAddr, &'static str> {
    word.parse()
        .map_err(|_| "an address is IP and port, such as 127.0.0.1:8000")
}

fn level(word: &str) -> Result<LogLevel, &'static str> {
    LogLevel::parse(word).ok_or("a level is one of trace, debug, info, warn, error")
}

impl Arguments {
    /// What it means: where the configuration comes from.
    fn source(self) -> Result<(Source, Overrides), Failed> {
        if self.bearer.is_some() {
            return Err(Failed::Usage(
                "a token among the arguments can be read by everybody on this machine (ps) and stays in the shell's \
                 history; export it and name the variable (--bearer-env NAME), or put it into a file (--bearer-file PATH)"
                    .to_owned(),
            ));
        }
        let mut overrides = Overrides::default();
        if let Some(listen) = self.listen {
            overrides = overrides.listen(listen);
        }
        if let Some(admin) = self.admin {
            overrides = overrides.admin(admin);
        }
        if let Some(level) = self.log_level {
            overrides = overrides.log_level(level);
        }
        let source = match (self.url, self.config) {
            (Some(url), _) => {
                let mut options = UrlOptions::default().allow_plaintext(self.allow_plaintext);
                if let Some(name) = self.bearer_env {
                    options = options.bearer_env(name);
                }
                if let Some(path) = self.bearer_file {
                    options = options.bearer_file(path);
                }
                for header in self.headers {
                    options = options.header(header);
                }
                Source::Url { url, options }
            }
            (None, Some(path)) => Source::File(path),
            (None, None) => Source::from_environment(&ProcessEnvironment).ok_or_else(|| {
                Failed::Usage(
                    "nothing to run: give a URL, --config FILE, or set MCP_REMOTE_SERVER (outrigger run --help)".to_owned(),
                )
            })?,
        };
        Ok((source, overrides))
    }
}

/// Runs until it is told to end.
pub(super) fn run(arguments: Arguments) -> Result<ExitCode, Failed> {
    let workers = arguments.workers.map_or(1, NonZeroUsize::get);
    let (source, overrides) = arguments.source()?;
    closed::to_others();
    let runtime = runtime(workers).map_err(|error| Failed::Run(format!("no runtime: {error}")))?;
    let done = runtime.block_on(serve(&source, &overrides));
    // What is left are readers of files; they end with the process.
    runtime.shutdown_background();
    done
}

fn runtime(workers: usize) -> std::io::Result<tokio::runtime::Runtime> {
    if workers == 1 {
        return tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
}

async fn serve(source: &Source, overrides: &Overrides) -> Result<ExitCode, Failed> {
    // Before anything else: as the first process of a container, one that does not listen cannot be ended.
    let signals = Signals::listen();
    let (loaded, watch) = load(source, overrides)?;
    let log = &loaded.config.observability.log;
    let levels = logging::start(log.level, log.format);
    warn_of(&loaded.report);
    // Who names a port relies on it. Only a file can name the control port, so otherwise one that is taken must not
    // keep two sidecars from running side by side.
    let ports = match source {
        Source::File(_) => AdminPorts::AsConfigured,
        _ if overrides.admin.is_some() => AdminPorts::ControlOrAnyFree,
        _ => AdminPorts::OrAnyFree,
    };
    let mut bound = Sidecar::build(&loaded)
        .map_err(|error| Failed::Run(error.to_string()))?
        .bind(ports)
        .await
        .map_err(|error| Failed::Run(error.to_string()))?;
    for url in bound.urls() {
        say(&format_args!("outrigger: listening on {url}"));
    }
    if let Some(admin) = bound.admin_address().map(reached_at) {
        say(&format_args!(
            "outrigger: status at http://{admin}/status, metrics at http://{admin}/metrics"
        ));
    }
    if let Some(control) = bound.control_address().map(reached_at) {
        say(&format_args!(
            "outrigger: control at http://{control} (POST /reload, POST /drain, PUT /loglevel)"
        ));
    }
    let commands = bound.take_commands();
    follow(bound, signals, commands, watch, (levels, log.level)).await;
    Ok(ExitCode::SUCCESS)
}

/// Where one on this machine reaches it.
fn reached_at(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

type Watched = (std::sync::Arc<Loaded>, Option<ConfigWatch>);

fn load(source: &Source, overrides: &Overrides) -> Result<Watched, Failed> {
    let failed = |report: Report| match source {
        Source::Url { url, .. } => Failed::Usage(format!("{}\n{report}", unusable(url))),
        _ => Failed::Run(format!("the configuration cannot be used\n{report}")),
    };
    match source {
        Source::File(path) => {
            let (loaded, watch) = ConfigWatch::start(path, overrides.clone()).map_err(failed)?;
            Ok((loaded, Some(watch)))
        }
        _ => source
            .load(&ProcessEnvironment, overrides)
            .map(|loaded| (loaded.into(), None))
            .map_err(failed),
    }
}

fn unusable(url: &str) -> String {
    let is_file = [".yaml", ".yml", ".json"]
        .iter()
        .any(|ending| url.ends_with(ending))
        && !url.contains("://");
    if is_file {
        format!("this is no URL; for a file: outrigger run --config {url}")
    } else {
        "the arguments cannot be used (outrigger run --help)".to_owned()
    }
}

fn warn_of(report: &Report) {
    for problem in report.problems() {
        let place = match (problem.position(), problem.variable()) {
            (Some((line, column)), _) => format!("{}:{line}:{column}", report.subject()),
            (None, Some(name)) => name.to_owned(),
            (None, None) => report.subject().to_owned(),
        };
        tracing::warn!(
            place,
            code = problem.code().as_str(),
            "{}: {}",
            problem.message(),
            problem.help()
        );
    }
}

/// Serves, reloads and obeys signals and the control port until the drain is over.
///
/// A level that the control port set stays until the configuration names another one than before.
async fn follow(
    bound: Bound,
    mut signals: Signals,
    mut commands: Option<mpsc::Receiver<Command>>,
    watch: Option<ConfigWatch>,
    (levels, mut configured): (Levels, LogLevel),
) {
    let handle = bound.handle();
    let reloads = watch.as_ref().map(|watch| {
        let handle = handle.clone();
        let reloaded_levels = levels.clone();
        let mut receiver = watch.receiver();
        tokio::spawn(async move {
            while receiver.changed().await.is_ok() {
                let reload = receiver.borrow_and_update().clone();
                if let (true, Reload::Good(loaded)) = (handle.reload(&reload), &reload) {
                    warn_of(&loaded.report);
                    let level = loaded.config.observability.log.level;
                    if level != configured {
                        reloaded_levels.set(level);
                        configured = level;
                    }
                }
            }
        })
    });
    let obey = async {
        let mut drains = 0;
        loop {
            match signals.next(&mut commands).await {
                Command::Reload => {
                    if let Some(watch) = &watch {
                        watch.reread();
                    } else {
                        tracing::warn!("there is no configuration file to read again");
                    }
                }
                Command::LogLevel(level) => {
                    if let Some(level) = LogLevel::parse(&level) {
                        levels.set(level);
                    }
                }
                Command::Drain => {
                    drains += 1;
                    if drains > 1 {
                        return;
                    }
                    tracing::info!("draining: no new connections");
                    handle.drain();
                }
            }
        }
    };
    tokio::select! {
        () = bound.run() => tracing::info!("drained"),
        () = obey => tracing::warn!("told to end twice: ending at once"),
    }
    if let Some(reloads) = reloads {
        reloads.abort();
    }
}

/// The signals that mean something, as commands. One that cannot be listened to is left to its default.
struct Signals {
    terminate: Option<tokio::signal::unix::Signal>,
    interrupt: Option<tokio::signal::unix::Signal>,
    hang_up: Option<tokio::signal::unix::Signal>,
}

impl Signals {
    fn listen() -> Self {
        Self {
            terminate: signal(SignalKind::terminate()).ok(),
            interrupt: signal(SignalKind::interrupt()).ok(),
            hang_up: signal(SignalKind::hangup()).ok(),
        }
    }

    async fn next(&mut self, commands: &mut Option<mpsc::Receiver<Command>>) -> Command {
        tokio::select! {
            () = received(&mut self.terminate) => Command::Drain,
            () = received(&mut self.interrupt) => Command::Drain,
            () = received(&mut self.hang_up) => Command::Reload,
            command = asked(commands) => command,
        }
    }
}

async fn received(signal: &mut Option<tokio::signal::unix::Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending::<()>().await;
}

async fn asked(commands: &mut Option<mpsc::Receiver<Command>>) -> Command {
    match commands {
        Some(commands) => match commands.recv().await {
            Some(command) => command,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_among_the_arguments_is_refused_and_not_repeated() {
        let arguments = Arguments {
            bearer: Some("hunter2".to_owned()),
            ..Arguments::default()
        };
        let error = arguments.source().unwrap_err().to_string();
        assert!(
            error.contains("--bearer-env") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
