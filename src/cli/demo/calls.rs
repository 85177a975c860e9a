//! Makes the calls of the demo, and holds each to what is expected of it.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Setting;
use super::line::{Call, Line};
use crate::cli::client::{self, Client, Posted, milliseconds, modern, set};
use crate::error::BoxError;
use crate::mcp::{Revision, fault, headers};
use crate::transport::connector::{ConnectorParams, Endpoint, PlaintextPolicy};

/// How long a call may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was seen, or why that was not as expected.
type Seen = Result<String, Unexpected>;

/// Why a call was not as expected, in a few words.
struct Unexpected(String);

impl From<BoxError> for Unexpected {
    fn from(error: BoxError) -> Self {
        Self(error.to_string())
    }
}

impl From<&str> for Unexpected {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Who makes the calls: an agent with no credential.
pub(super) struct Calls {
    setting: Setting,
    modern: Client,
    legacy: Client,
    /// What a legacy request needs once there is a session.
    session: HeaderMap,
    next_id: u32,
    began: Instant,
    took: Option<Duration>,
}

impl Calls {
    pub(super) fn new(setting: Setting) -> Result<Self, BoxError> {
        let client = |url: &str| -> Result<Client, BoxError> {
            let endpoint = Endpoint::new(url, PlaintextPolicy::LoopbackOnly)?;
            Client::new(endpoint, ConnectorParams::default(), HeaderMap::new())
        };
        Ok(Self {
            modern: client(&setting.modern_url)?,
            legacy: client(&setting.legacy_url)?,
            setting,
            session: HeaderMap::new(),
            next_id: 0,
            began: Instant::now(),
            took: None,
        })
    }

    /// Makes one call.
    pub(super) async fn make(&mut self, call: Call) -> Line {
        if call == Call::Flaky {
            self.take_first_down().await;
        }
        (self.began, self.took) = (Instant::now(), None);
        let seen = tokio::time::timeout(PATIENCE, Box::pin(self.dispatch(call)))
            .await
            .unwrap_or_else(|_| Err("no end within 10 s".into()));
        let line = Line {
            call,
            took: self.took.unwrap_or_else(|| self.began.elapsed()),
            seen: seen.map_err(|Unexpected(why)| why),
        };
        if call == Call::Flaky {
            // If another process has taken the port meanwhile, the second endpoint serves alone.
            let _ = self.setting.first.up().await;
        }
        line
    }

    async fn dispatch(&mut self, call: Call) -> Seen {
        match call {
            Call::Discover => self.discover().await,
            Call::List => self.list().await,
            Call::Echo => self.echo().await,
            Call::Count => self.count().await,
            Call::Ask => self.ask().await,
            Call::Flaky => self.flaky().await,
            Call::Slow => self.slow().await,
            Call::DeleteAll => self.delete_all().await,
            Call::Initialize => self.initialize().await,
            Call::LegacyAsk => self.legacy_ask().await,
        }
    }

    async fn discover(&mut self) -> Seen {
        let found = self.result("server/discover", json!({})).await?;
        let revision = Revision::LATEST.as_str();
        let versions = found.get("supportedVersions").and_then(Value::as_array);
        let is_served =
            versions.is_some_and(|all| all.iter().any(|it| it.as_str() == Some(revision)));
        if is_served {
            Ok(format!("revision {revision}"))
        } else {
            Err("the modern revision is not among supportedVersions".into())
        }
    }

    async fn list(&mut self) -> Seen {
        let found = self.result("tools/list", json!({})).await?;
        let tools = found.get("tools").and_then(Value::as_array);
        let names: Vec<_> = tools
            .into_iter()
            .flatten()
            .filter_map(|tool| tool.get("name")?.as_str())
            .collect();
        if names.contains(&"delete_all") {
            return Err("delete_all is in the list, though the policy excludes it".into());
        }
        if names.contains(&"echo") {
            Ok(format!(
                "{} tools; delete_all hidden by policy",
                names.len()
            ))
        } else {
            Err("echo is not in the list".into())
        }
    }

    async fn echo(&mut self) -> Seen {
        let params = json!({"name": "echo", "arguments": {"text": "hello"}});
        let said = self.result("tools/call", params).await?;
        if text_of(&said) != "hello" {
            return Err("the tool did not say what it was told".into());
        }
        match said.pointer("/structuredContent/credential") {
            Some(_) => Ok("the server saw a bearer token; the agent sent none".to_owned()),
            None => Err("the server saw no bearer token".into()),
        }
    }

    async fn count(&mut self) -> Seen {
        let params = json!({"name": "count", "arguments": {}, "_meta": {"progressToken": "demo"}});
        let (mut first, mut events) = (None, 0);
        let request = self.modern_request("tools/call", params);
        let mut answer = self.modern.post(request).await?;
        while let Some(message) = answer.message().await? {
            if message.get("method").is_none() {
                result_of(message)?;
                break;
            }
            events += 1;
            first.get_or_insert_with(|| self.began.elapsed());
        }
        match first {
            Some(first) if events == 5 => Ok(format!(
                "5 progress events, the first after {:.0} ms",
                milliseconds(first)
            )),
            _ => Err(Unexpected(format!("{events} progress events instead of 5"))),
        }
    }

    async fn ask(&mut self) -> Seen {
        let mut params = json!({"name": "ask", "arguments": {}});
        let asked = self.result("tools/call", params.clone()).await?;
        let is_question = asked.get("resultType").and_then(Value::as_str) == Some("input_required");
        let question = asked.pointer("/inputRequests/colour/params/message");
        let (true, Some(question)) = (is_question, question.and_then(Value::as_str)) else {
            return Err("the server did not ask".into());
        };
        if let Some(params) = params.as_object_mut() {
            params.insert("inputResponses".to_owned(), json!({"colour": blue()}));
            let state = asked.get("requestState").cloned().unwrap_or_default();
            params.insert("requestState".to_owned(), state);
        }
        let said = self.result("tools/call", params).await?;
        answered(question, &said)
    }

    /// Waits until the sidecar, too, knows that the connections are closed: a call on one of them might have been
    /// executed, and would not be sent again.
    async fn take_first_down(&mut self) {
        self.setting.first.down().await;
        for _ in 0..100 {
            if self.of_first("/connections/open") == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A number that the sidecar's status has of the modern server's first endpoint.
    fn of_first(&self, pointer: &str) -> u64 {
        let status = self.setting.handle.status();
        let number = status.pointer(&format!("/servers/modern/endpoints/0{pointer}"));
        number.and_then(Value::as_u64).unwrap_or_default()
    }

    async fn flaky(&mut self) -> Seen {
        let before = self.of_first("/failuresInARow");
        let params = json!({"name": "flaky", "arguments": {}});
        let said = self.result("tools/call", params).await?;
        self.took = Some(self.began.elapsed());
        let endpoint = said.pointer("/structuredContent/endpoint");
        if endpoint.and_then(Value::as_str) != Some("second") {
            return Err("the endpoint that is down has answered".into());
        }
        match self.of_first("/failuresInARow").saturating_sub(before) {
            1 => Ok("2 tries: connection refused, then answered".to_owned()),
            other => Err(Unexpected(format!(
                "{other} tries were refused instead of 1"
            ))),
        }
    }

    async fn slow(&mut self) -> Seen {
        let mut dropped = self.setting.modern.slow_dropped();
        let params = json!({"name": "slow", "arguments": {}});
        let request = self.modern_request("tools/call", params);
        let answer = tokio::time::timeout(Duration::from_millis(200), async {
            let mut answer = self.modern.post(request).await?;
            answer.message().await
        })
        .await;
        // The answer went with the timeout: the agent has hung up.
        let hung_up = Instant::now();
        self.took = Some(self.began.elapsed());
        if let Ok(answer) = answer {
            answer?;
            return Err("it answered at once".into());
        }
        let known = tokio::time::timeout(Duration::from_secs(2), dropped.changed()).await;
        let at = *dropped.borrow();
        match (known, at) {
            (Ok(Ok(())), Some(at)) => Ok(format!(
                "agent hung up; the server knew {:.1} ms later",
                milliseconds(at.saturating_duration_since(hung_up))
            )),
            _ => Err("agent hung up; the server did not notice within 2 s".into()),
        }
    }

    async fn delete_all(&mut self) -> Seen {
        let params = json!({"name": "delete_all", "arguments": {}});
        let request = self.modern_request("tools/call", params);
        let mut answer = self.modern.post(request).await?;
        let reply = answer.reply().await?.unwrap_or_default();
        if self.setting.modern.deleted() > 0 {
            return Err("the server executed it, though the policy excludes it".into());
        }
        let code = reply.pointer("/error/code").and_then(Value::as_i64);
        if code == Some(fault::INVALID_PARAMS.into()) {
            Ok("never left the sidecar".to_owned())
        } else {
            Err(Unexpected(format!("answered with {}", brief(&reply))))
        }
    }

    async fn initialize(&mut self) -> Seen {
        self.next_id += 1;
        let mut answer = self.legacy.post(client::initialize(self.next_id)).await?;
        let session = answer.headers.get(headers::SESSION_ID).cloned();
        let opened = result_of(answer.reply().await?.unwrap_or_default())?;
        let revision = opened.get("protocolVersion").and_then(Value::as_str);
        let (Some(session), Some(revision)) = (session, revision) else {
            return Err("no session, or no revision".into());
        };
        self.session.insert(headers::SESSION_ID, session);
        set(&mut self.session, headers::PROTOCOL_VERSION, revision);
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let accepted = self
            .legacy
            .post((self.session.clone(), initialized))
            .await?;
        if accepted.status == StatusCode::ACCEPTED {
            Ok("session opened".to_owned())
        } else {
            Err(Unexpected(format!("initialized: {}", accepted.status)))
        }
    }

    async fn legacy_ask(&mut self) -> Seen {
        self.next_id += 1;
        let call = json!({
            "jsonrpc": "2.0", "id": self.next_id, "method": "tools/call",
            "params": {"name": "ask", "arguments": {}},
        });
        let mut answer = self.legacy.post((self.session.clone(), call)).await?;
        let asked = answer.message().await?.unwrap_or_default();
        let question = asked.pointer("/params/message").and_then(Value::as_str);
        let (Some(id), Some(question)) = (asked.get("id"), question) else {
            return Err(Unexpected(format!(
                "the server did not ask: {}",
                brief(&asked)
            )));
        };
        let said = json!({"jsonrpc": "2.0", "id": id, "result": blue()});
        let accepted = self.legacy.post((self.session.clone(), said)).await?;
        if accepted.status != StatusCode::ACCEPTED {
            return Err(Unexpected(format!(
                "the answer was not taken: {}",
                accepted.status
            )));
        }
        let said = result_of(answer.reply().await?.unwrap_or_default())?;
        answered(question, &said)
    }

    fn modern_request(&mut self, method: &str, params: Value) -> Posted {
        self.next_id += 1;
        modern(self.next_id, method, params)
    }

    async fn result(&mut self, method: &str, params: Value) -> Result<Value, Unexpected> {
        let request = self.modern_request(method, params);
        let mut answer = self.modern.post(request).await?;
        let reply = answer.reply().await?;
        let status = answer.status;
        result_of(reply.ok_or_else(|| Unexpected(format!("{status}, and no message")))?)
    }
}

/// What the user says when asked for a colour.
fn blue() -> Value {
    json!({"action": "accept", "content": {"colour": "blue"}})
}

fn answered(question: &str, said: &Value) -> Seen {
    if text_of(said) == "You said blue." {
        Ok(format!(
            "server asked \"{question}\", agent answered \"blue\""
        ))
    } else {
        Err("the server did not get the answer".into())
    }
}

fn result_of(mut reply: Value) -> Result<Value, Unexpected> {
    match reply.get_mut("result").map(Value::take) {
        Some(result) => Ok(result),
        None => Err(Unexpected(format!("answered with {}", brief(&reply)))),
    }
}

fn text_of(result: &Value) -> &str {
    let text = result.pointer("/content/0/text");
    text.and_then(Value::as_str).unwrap_or_default()
}

/// An answer in a few words: its error, or its first characters.
fn brief(reply: &Value) -> String {
    match reply.pointer("/error/message").and_then(Value::as_str) {
        Some(message) => format!("an error: {message}"),
        None => reply.to_string().chars().take(60).collect(),
    }
}
