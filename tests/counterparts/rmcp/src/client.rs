//! The client: one function a scenario, which gives a detail or fails.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use rmcp::{
    ClientHandler, ClientLifecycleMode, ClientServiceExt, ErrorData, RoleClient,
    model::*,
    service::{NotificationContext, PeerRequestOptions, RequestContext, RunningService},
    transport::{
        StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig,
    },
};
use serde_json::{Value, json};
use tokio::time;

use crate::{BoxError, typed};

const ALL: &str = "connect,list,call,prompt,resource,progress,elicit,sample,roots,log,list_changed,subscribe,cancel";

/// What the server has told so far.
#[derive(Debug, Default)]
struct Seen {
    progress: AtomicU64,
    logs: AtomicU64,
    list_changes: AtomicU64,
    updates: AtomicU64,
}

/// Answers what servers ask, and counts what they tell.
#[derive(Clone, Debug, Default)]
struct Handler {
    offer: Option<ProtocolVersion>,
    seen: Arc<Seen>,
}

impl ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        let capabilities = ClientCapabilities::builder()
            .enable_elicitation()
            .enable_sampling()
            .enable_roots()
            .build();
        let mut config = ClientConfig::new(capabilities, Implementation::new("rmcp-client", "1"));
        // The default would offer 2026-07-28 in `initialize`.
        if let Some(version) = &self.offer {
            config.protocol_version = version.clone();
        }
        config
    }

    async fn create_elicitation(
        &self,
        _: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        Ok(typed(
            json!({"action": "accept", "content": {"name": "bob"}}),
        ))
    }

    async fn create_message(
        &self,
        _: CreateMessageRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        let content = json!({"type": "text", "text": "sampled"});
        Ok(typed(
            json!({"role": "assistant", "model": "m", "content": content}),
        ))
    }

    async fn list_roots(
        &self,
        _: RequestContext<RoleClient>,
    ) -> Result<ListRootsResult, ErrorData> {
        Ok(ListRootsResult::new(vec![Root::new("file:///r")]))
    }

    async fn on_progress(&self, _: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.seen.progress.fetch_add(1, SeqCst);
    }

    async fn on_logging_message(
        &self,
        _: LoggingMessageNotificationParam,
        _: NotificationContext<RoleClient>,
    ) {
        self.seen.logs.fetch_add(1, SeqCst);
    }

    async fn on_resource_updated(
        &self,
        _: ResourceUpdatedNotificationParam,
        _: NotificationContext<RoleClient>,
    ) {
        self.seen.updates.fetch_add(1, SeqCst);
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.seen.list_changes.fetch_add(1, SeqCst);
    }
}

struct Client {
    running: RunningService<RoleClient, Handler>,
    seen: Arc<Seen>,
    server: String,
    version: String,
    seconds: f64,
}

impl Client {
    async fn connect(url: &str, era: &str, seconds: f64) -> Result<Self, BoxError> {
        let handler = Handler {
            offer: match era {
                "legacy" => Some(ProtocolVersion::V_2025_11_25),
                version if version.starts_with("20") => Some(typed(json!(version))),
                _ => None,
            },
            seen: Arc::default(),
        };
        let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
        let mode = match era {
            "auto" => ClientLifecycleMode::Auto {
                preferred_versions,
                legacy_version: Some(ProtocolVersion::V_2025_11_25),
            },
            "modern" => ClientLifecycleMode::Discover { preferred_versions },
            _ => ClientLifecycleMode::Initialize,
        };
        let config = StreamableHttpClientTransportConfig::with_uri(url.to_owned());
        let transport = StreamableHttpClientTransport::from_config(config);
        let seen = handler.seen.clone();
        let running = handler.serve_with_lifecycle(transport, mode).await?;

        let info = json!(running.peer().peer_info().as_deref());
        let version = info["protocolVersion"]
            .as_str()
            .filter(|version| !version.is_empty());
        Ok(Self {
            server: info["serverInfo"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            version: version.unwrap_or("2026-07-28").to_owned(),
            running,
            seen,
            seconds,
        })
    }

    fn modern(&self) -> bool {
        self.version.as_str() >= "2026-07-28"
    }

    async fn call(&self, tool: &str) -> Result<String, BoxError> {
        self.call_with(json!({"name": tool, "arguments": {}}), 8.0)
            .await
    }

    async fn call_with(&self, params: Value, limit: f64) -> Result<String, BoxError> {
        let answer = self.running.call_tool(typed(params));
        let result = json!(time::timeout(Duration::from_secs_f64(limit), answer).await??);
        let text = result["content"][0]["text"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if result["isError"] == json!(true) {
            return Err(format!("isError: {text}").into());
        }
        Ok(text)
    }

    async fn play(&self, scenario: &str) -> Result<String, BoxError> {
        match scenario {
            "connect" => Ok(self.server.clone()),
            "list" => {
                let number = self.running.list_tools(None).await?.tools.len();
                if number < 11 {
                    return Err(format!("expected 11 tools or more, got {number}").into());
                }
                Ok(number.to_string())
            }
            "call" => {
                let params = json!({"name": "echo", "arguments": {"text": "hi"}});
                expect(self.call_with(params, 8.0).await?, "echo:hi")
            }
            "prompt" => {
                let params = json!({"name": "hello", "arguments": {"name": "x"}});
                let result = json!(self.running.get_prompt(typed(params)).await?);
                expect(
                    result["messages"][0]["content"]["text"]
                        .as_str()
                        .unwrap_or_default(),
                    "hello x",
                )
            }
            "resource" => {
                let result = json!(
                    self.running
                        .read_resource(typed(json!({"uri": "test://res"})))
                        .await?
                );
                expect(
                    result["contents"][0]["text"].as_str().unwrap_or_default(),
                    "res-text",
                )
            }
            "progress" => self.progress().await,
            "elicit" => expect(self.call("elicit").await?, "elicit:accept:bob"),
            "sample" => expect(self.call("sample").await?, "sample:sampled"),
            "roots" => expect(self.call("roots").await?, "roots:file:///r"),
            "log" => self.log().await,
            "list_changed" => self.list_changed().await,
            "subscribe" => self.subscribe().await,
            "cancel" => self.cancel().await,
            "slow" => {
                let params = json!({"name": "slow", "arguments": {"seconds": self.seconds}});
                expect(
                    self.call_with(params, self.seconds + 8.0).await?,
                    "slow done",
                )
            }
            "count" => expect(self.call("count_calls").await?, "{"),
            _ => Err("unknown scenario".into()),
        }
    }

    async fn progress(&self) -> Result<String, BoxError> {
        let before = self.seen.progress.load(SeqCst);
        let params =
            json!({"name": "progress", "arguments": {}, "_meta": {"progressToken": "token-1"}});
        let answer = expect(self.call_with(params, 8.0).await?, "progressed")?;
        arrived(&self.seen.progress, before + 5).await?;
        Ok(answer)
    }

    async fn log(&self) -> Result<String, BoxError> {
        let before = self.seen.logs.load(SeqCst);
        let mut params = json!({"name": "log", "arguments": {}});
        if self.modern() {
            params["_meta"] = json!({"io.modelcontextprotocol/logLevel": "info"});
        } else {
            self.running
                .set_level(typed(json!({"level": "info"})))
                .await?;
        }
        let answer = self.call_with(params, 8.0).await?;
        arrived(&self.seen.logs, before + 1).await?;
        Ok(answer)
    }

    async fn list_changed(&self) -> Result<String, BoxError> {
        if self.modern() {
            return self
                .listen_for("add_tool", json!({"toolsListChanged": true}))
                .await;
        }
        let before = self.seen.list_changes.load(SeqCst);
        time::sleep(Duration::from_millis(200)).await; // for the stream that brings it
        let answer = self.call("add_tool").await?;
        arrived(&self.seen.list_changes, before + 1).await?;
        Ok(answer)
    }

    async fn subscribe(&self) -> Result<String, BoxError> {
        if self.modern() {
            return self
                .listen_for("touch", json!({"resourceSubscriptions": ["test://res"]}))
                .await;
        }
        let before = self.seen.updates.load(SeqCst);
        self.running
            .subscribe(typed(json!({"uri": "test://res"})))
            .await?;
        time::sleep(Duration::from_millis(200)).await;
        let answer = self.call("touch").await?;
        arrived(&self.seen.updates, before + 1).await?;
        self.running
            .unsubscribe(typed(json!({"uri": "test://res"})))
            .await?;
        Ok(answer)
    }

    async fn listen_for(&self, tool: &str, filter: Value) -> Result<String, BoxError> {
        let mut subscription = self.running.listen(typed(filter)).await?;
        let answer = self.call(tool).await?;
        let event = time::timeout(Duration::from_secs(4), subscription.next()).await??;
        subscription.cancel().await?;
        event
            .map(|_| answer)
            .ok_or_else(|| "the stream ended".into())
    }

    /// Abandons a slow call and waits until the server says that it noticed.
    async fn cancel(&self) -> Result<String, BoxError> {
        let before = self.call("stats").await?;
        let request = CallToolRequest::new(typed(json!({"name": "slow", "arguments": {}})));
        let handle = self
            .running
            .send_cancellable_request(
                ClientRequest::CallToolRequest(request),
                PeerRequestOptions::no_options(),
            )
            .await?;
        time::sleep(Duration::from_millis(500)).await;
        handle.cancel(Some("no longer wanted".into())).await?;
        for _ in 0..20 {
            time::sleep(Duration::from_millis(100)).await;
            let after = self.call("stats").await?;
            if after != before {
                return Ok(format!("{before}->{after}"));
            }
        }
        Err(format!("the server did not notice: {before}").into())
    }
}

fn expect(got: impl Into<String>, prefix: &str) -> Result<String, BoxError> {
    let got = got.into();
    if got.starts_with(prefix) {
        Ok(got)
    } else {
        Err(format!("expected {prefix}, got {got}").into())
    }
}

/// Waits up to three seconds for a counter to reach a number.
async fn arrived(counter: &AtomicU64, number: u64) -> Result<(), BoxError> {
    for _ in 0..60 {
        if counter.load(SeqCst) >= number {
            return Ok(());
        }
        time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("{} of {number} notifications", counter.load(SeqCst)).into())
}

fn report(scenario: &str, outcome: &Result<String, BoxError>, version: &str, started: Instant) {
    let detail = match outcome {
        Ok(detail) => detail.clone(),
        Err(error) => format!("ERR {error}").chars().take(300).collect(),
    };
    let line = json!({
        "client": "rmcp", "scenario": scenario, "ok": outcome.is_ok(), "detail": detail,
        "version": version, "ms": started.elapsed().as_millis() as u64,
    });
    println!("{line}");
}

pub(crate) async fn run(
    url: &str,
    scenarios: &str,
    era: &str,
    seconds: f64,
) -> Result<ExitCode, BoxError> {
    let started = Instant::now();
    let client =
        match time::timeout(Duration::from_secs(20), Client::connect(url, era, seconds)).await? {
            Ok(client) => client,
            Err(error) => {
                report("connect", &Err(error), "", started);
                return Ok(ExitCode::FAILURE);
            }
        };
    let mut code = ExitCode::SUCCESS;
    for scenario in if scenarios == "all" { ALL } else { scenarios }.split(',') {
        let started = Instant::now();
        let outcome = client.play(scenario).await;
        if outcome.is_err() {
            code = ExitCode::FAILURE;
        }
        report(scenario, &outcome, &client.version, started);
    }
    // A peer that never answers the DELETE does not hold us.
    let _ = time::timeout(Duration::from_secs(3), client.running.cancel()).await;
    Ok(code)
}
