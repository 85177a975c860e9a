//! The steps of a test.

use std::fmt::Write as _;
use std::future::Future;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::era::{Discovered, discovered};
use super::page::{Ended, Verdict, print, shown, step};
use super::{Subject, certificate, refusal};
use crate::cli::client::{self, Answer, Client, Posted, milliseconds, modern, set};
use crate::error::{BoxError, Cause, Failure};
use crate::mcp::headers;

/// How often the latency is measured; the best counts.
const ROUNDS: usize = 3;
/// How many addresses are shown.
const ADDRESSES: usize = 4;

/// Runs the test, and prints each step as it ends.
pub(super) async fn run(subject: &Subject) -> Ended {
    print(&subject.shown_url())?;
    let mut client = Client::new(
        subject.endpoint.clone(),
        subject.params.clone(),
        subject.headers.clone(),
    )?;
    if let Some(ended) = connect(&client).await? {
        return Ok(ended);
    }
    let probe = modern(1, "server/discover", json!({}));
    let mut answer = match within(subject, client.post(probe)).await {
        Ok(answer) => answer,
        Err(failure) => return broken_off("mcp", &failure),
    };
    if answer.status == StatusCode::UNAUTHORIZED || answer.status == StatusCode::FORBIDDEN {
        return refusal::explain(subject, &client, &answer).await;
    }
    let reply = match within(subject, answer.reply()).await {
        Ok(reply) => reply,
        Err(failure) => return broken_off("mcp", &failure),
    };
    match discovered(answer.status, reply.as_ref()) {
        Discovered::Modern(result) => speaks_modern(subject, &mut client, &result).await,
        Discovered::ModernRefusal(why) => {
            let text = format!("server/discover refused: {}", shown(&why));
            step("FAIL", "mcp", &text)?;
            end(
                Verdict::Broken,
                "The server speaks 2026-07-28, and refuses a request that is as it should be.",
            )
        }
        Discovered::Legacy => Box::pin(legacy(subject, &mut client, &answer)).await,
    }
}

/// Name, TCP and TLS. Says how the test ends, if it does.
async fn connect(client: &Client) -> Result<Option<Verdict>, BoxError> {
    let connector = client.connector();
    let is_local;
    match connector.addresses().await {
        Ok(addresses) => {
            is_local = addresses.iter().all(|it| it.ip().is_loopback());
            let mut list: Vec<_> = addresses.iter().map(|it| it.ip().to_string()).collect();
            list.dedup();
            list.truncate(ADDRESSES);
            step("ok", "dns", &list.join(", "))?;
        }
        Err(failure) => return broken_off("dns", &failure).map(Some),
    }
    match connector.tls_session().await {
        Ok(None) if is_local => step(
            "skip",
            "tls",
            &"plain http, which does not leave this machine",
        )?,
        Ok(None) => step(
            "info",
            "tls",
            &"plain http: anybody on the way sees the calls, and the credential",
        )?,
        Ok(Some(session)) => {
            let day = session
                .certificate
                .and_then(|der| certificate::last_day(&der));
            let until = day.map_or_else(String::new, |day| format!(" until {day}"));
            let judged = if client.is_insecure() {
                "NOT verified, valid"
            } else {
                "valid"
            };
            let version = session.version;
            step(
                "ok",
                "tls",
                &format!("TLS {version}, certificate {judged}{until}"),
            )?;
        }
        Err(failure) => {
            let is_tls = matches!(failure.cause(), Cause::TlsCertificate | Cause::TlsHandshake);
            let name = if is_tls { "tls" } else { "connect" };
            return broken_off(name, &failure).map(Some);
        }
    }
    Ok(None)
}

/// Waits no longer than a step may take.
async fn within<T>(
    subject: &Subject,
    step: impl Future<Output = Result<T, BoxError>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(subject.timeout, step).await {
        Ok(result) => result.map_err(|error| match Failure::of(&error) {
            Some(_) => Failure::from_error(error),
            // An answer that is too large, or no JSON where an event must be.
            None => Failure::unsent(Cause::BadResponse)
                .at(subject.endpoint.origin().clone())
                .with_source(error),
        }),
        Err(_) => Err(Failure::unsent(Cause::RequestTimeout).at(subject.endpoint.origin().clone())),
    }
}

/// The end of a test at a step that failed beneath MCP.
fn broken_off(name: &str, failure: &Failure) -> Ended {
    let mut text = failure.message();
    // Of TLS the reason beneath says which of many it is, and it is rustls's own text.
    if matches!(failure.cause(), Cause::TlsCertificate | Cause::TlsHandshake)
        && let Some(source) = std::error::Error::source(failure)
    {
        let _ = write!(text, ": {}", shown(&source.to_string()));
    }
    step("FAIL", name, &text)?;
    let help = failure.cause().help();
    let (verdict, what) = match failure.cause() {
        Cause::TlsCertificate => (
            Verdict::Broken,
            format!("The server cannot be trusted: {help} (here: --ca-file)."),
        ),
        Cause::TlsHandshake
        | Cause::ConnectionLost
        | Cause::BadResponse
        | Cause::Redirected => (
            Verdict::Broken,
            format!("The server does not answer as it should: {help}."),
        ),
        Cause::RequestTimeout => (
            Verdict::Unreachable,
            "The server takes connections and does not answer: look at its log, or give it more --timeout.".to_owned(),
        ),
        _ => (
            Verdict::Unreachable,
            format!("The server cannot be reached: {help}."),
        ),
    };
    end(verdict, &what)
}

/// The last lines.
pub(super) fn end(verdict: Verdict, text: &str) -> Ended {
    print(&format_args!("\n{text}"))?;
    Ok(verdict)
}

async fn speaks_modern(subject: &Subject, client: &mut Client, result: &Value) -> Ended {
    step("ok", "mcp", &"server/discover answered")?;
    let versions = result.get("supportedVersions").and_then(Value::as_array);
    let versions: Vec<_> = versions
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(shown)
        .collect();
    let server = result.pointer("/_meta/io.modelcontextprotocol~1serverInfo");
    let what = describe(server, result.get("capabilities"));
    step(
        "ok",
        "era",
        &format!("modern, {}{what}", versions.join(", ")),
    )?;
    let has_tools = result.pointer("/capabilities/tools").is_some();
    let method = if has_tools {
        "tools/list"
    } else {
        "server/discover"
    };
    latency(subject, client, method, |id| modern(id, method, json!({}))).await?;
    works(subject)
}

/// `; server "x" 1.2; tools, prompts`.
fn describe(server: Option<&Value>, capabilities: Option<&Value>) -> String {
    let field = |name: &str| server.and_then(|server| server.get(name)?.as_str());
    let mut out = String::new();
    if let Some(name) = field("name") {
        let _ = write!(out, "; server \"{}\"", shown(name));
        if let Some(version) = field("version") {
            let _ = write!(out, " {}", shown(version));
        }
    }
    let names = capabilities.and_then(Value::as_object).map(|it| it.keys());
    let names: Vec<_> = names
        .into_iter()
        .flatten()
        .map(|name| shown(name))
        .collect();
    let names = match names.as_slice() {
        [] => "no capabilities".to_owned(),
        names => names.join(", "),
    };
    let _ = write!(out, "; {}", shown(&names));
    out
}

async fn legacy(subject: &Subject, client: &mut Client, probed: &Answer) -> Ended {
    let mut answer = match within(subject, client.post(client::initialize(2))).await {
        Ok(answer) => answer,
        Err(failure) => return broken_off("mcp", &failure),
    };
    if answer.status == StatusCode::UNAUTHORIZED || answer.status == StatusCode::FORBIDDEN {
        return refusal::explain(subject, client, &answer).await;
    }
    let reply = match within(subject, answer.reply()).await {
        Ok(reply) => reply.unwrap_or_default(),
        Err(failure) => return broken_off("mcp", &failure),
    };
    let revision = reply
        .pointer("/result/protocolVersion")
        .and_then(Value::as_str);
    let (true, Some(revision)) = (answer.status.is_success(), revision) else {
        return no_mcp(subject, client, &answer, &reply).await;
    };
    let probed = probed.status.as_u16();
    step(
        "ok",
        "mcp",
        &format!("server/discover is unknown ({probed}), initialize answered"),
    )?;
    let session = answer.headers.get(headers::SESSION_ID).cloned();
    let kept = if session.is_some() {
        "with a session"
    } else {
        "without a session"
    };
    let what = describe(
        reply.pointer("/result/serverInfo"),
        reply.pointer("/result/capabilities"),
    );
    step(
        "ok",
        "era",
        &format!("legacy, {}, {kept}{what}", shown(revision)),
    )?;
    in_session(subject, client, revision, session).await
}

/// Says that the session is open, measures, and ends it.
async fn in_session(
    subject: &Subject,
    client: &mut Client,
    revision: &str,
    session: Option<HeaderValue>,
) -> Ended {
    let mut of_session = HeaderMap::new();
    set(&mut of_session, headers::PROTOCOL_VERSION, revision);
    let is_opened = session.is_some();
    if let Some(session) = session {
        of_session.insert(headers::SESSION_ID, session);
    }
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    match within(subject, client.post((of_session.clone(), initialized))).await {
        Ok(answer) if answer.status.is_success() => {}
        Ok(answer) => {
            let what = format!(
                "notifications/initialized is answered with {}",
                answer.status
            );
            step("warn", "session", &what)?;
        }
        Err(failure) => return broken_off("session", &failure),
    }
    let measured = latency(subject, client, "ping", |id| {
        let ping = json!({"jsonrpc": "2.0", "id": id, "method": "ping"});
        (of_session.clone(), ping)
    })
    .await;
    if is_opened {
        // A server need not let a client end its session.
        let _ = within(subject, client.delete(of_session.clone())).await;
    }
    measured?;
    works(subject)
}

/// Neither era answered: says what did.
async fn no_mcp(subject: &Subject, client: &mut Client, answer: &Answer, reply: &Value) -> Ended {
    let status = answer.status;
    let said = reply.pointer("/error/message").and_then(Value::as_str);
    let said = said.map_or_else(String::new, |said| format!(": {}", shown(said)));
    step(
        "FAIL",
        "mcp",
        &format!("neither server/discover nor initialize: {status}{said}"),
    )?;
    let may_be_older = matches!(status.as_u16(), 400 | 404 | 405);
    if may_be_older
        && let Ok(answer) = within(subject, client.get_events()).await
        && answer.status.is_success()
        && answer.is_stream()
    {
        return end(
            Verdict::Broken,
            "GET gives a stream: this looks like HTTP+SSE of 2024-11-05, which this version does not speak.\n\
             Look for the server's Streamable HTTP endpoint, often /mcp.",
        );
    }
    match status {
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => end(
            Verdict::Broken,
            "The server answers, and has no MCP endpoint at this path: check the path, often /mcp.",
        ),
        status if status.is_server_error() => {
            end(Verdict::Broken, "The server is broken: look at its log.")
        }
        _ => end(
            Verdict::Broken,
            "What answers there is no MCP server, or one that refuses to start a session.",
        ),
    }
}

/// The time of the fastest of a few calls that change nothing (S1.18).
async fn latency(
    subject: &Subject,
    client: &mut Client,
    method: &str,
    request: impl Fn(u32) -> Posted,
) -> Result<(), BoxError> {
    let mut best: Option<Duration> = None;
    for id in 10..10 + u32::try_from(ROUNDS).unwrap_or_default() {
        let began = Instant::now();
        let replied = within(subject, async {
            client.post(request(id)).await?.reply().await
        });
        match replied.await {
            Ok(Some(reply)) if reply.get("result").is_some() => {
                let took = began.elapsed();
                best = Some(best.map_or(took, |best| best.min(took)));
            }
            Ok(_) => return step("warn", "latency", &format!("{method} has no result")),
            Err(failure) => return step("warn", "latency", &format!("{method}: {failure}")),
        }
    }
    let best = best.unwrap_or_default();
    step(
        "ok",
        "latency",
        &format!("{:.1} ms ({method}, best of {ROUNDS})", milliseconds(best)),
    )
}

/// The end of a test that all went well in: how to put a sidecar in front of the server.
fn works(subject: &Subject) -> Ended {
    let (url, options, keys) = (subject.shown_url(), &subject.options, &subject.keys);
    end(
        Verdict::Fine,
        &format!(
            "The server works. A sidecar in front of it:\n  \
             outrigger run {url}{options}\n\
             In a file:  servers: [{{name: remote, endpoints: [{{url: \"{url}\"}}]{keys}}}]"
        ),
    )
}
