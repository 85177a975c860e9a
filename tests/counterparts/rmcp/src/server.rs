//! The server: legacy sessions and modern calls at one endpoint, which is the SDK's default.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use rmcp::{
    ErrorData, Peer, RoleServer, ServerHandler, ServiceError,
    model::*,
    service::{RequestContext, SubscriptionContext},
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::broadcast, time};

use crate::{BoxError, typed};

const TOOLS: [&str; 11] = [
    "echo",
    "progress",
    "elicit",
    "sample",
    "roots",
    "slow",
    "stats",
    "count_calls",
    "log",
    "add_tool",
    "touch",
];

#[derive(Clone, Copy, Debug)]
enum Change {
    Tools,
    Resource,
}

/// What all sessions and calls share.
#[derive(Clone, Debug)]
struct Counterpart {
    cancelled: Arc<AtomicU64>,
    calls: Arc<Mutex<BTreeMap<String, u64>>>,
    added: Arc<Mutex<Vec<String>>>,
    changes: broadcast::Sender<Change>,
}

fn text(value: impl Into<String>) -> CallToolResponse {
    CallToolResult::success(vec![ContentBlock::text(value.into())]).into()
}

fn internal(error: ServiceError) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}

/// How an interactive tool gets its answer.
enum Answer {
    Given(Value),
    Ask(CallToolResponse),
}

/// One call, in its era: the SDK does not translate `input_required` for a legacy session.
struct Call<'a> {
    peer: &'a Peer<RoleServer>,
    modern: bool,
    answer: Option<Value>,
}

impl Call<'_> {
    fn ask(&self, question: Value) -> Answer {
        match &self.answer {
            Some(answer) => Answer::Given(answer.clone()),
            None => {
                let requests: InputRequests = typed(json!({ "q": question }));
                Answer::Ask(InputRequiredResult::new(Some(requests), Some("asked".into())).into())
            }
        }
    }

    async fn elicit(&self) -> Result<CallToolResponse, ErrorData> {
        let form = json!({
            "mode": "form",
            "message": "name?",
            "requestedSchema": {
                "type": "object",
                "properties": {"name": {"type": "string"}},
                "required": ["name"],
            },
        });
        let answer = if self.modern {
            self.ask(json!({"method": "elicitation/create", "params": form}))
        } else {
            let result = self
                .peer
                .create_elicitation(typed(form))
                .await
                .map_err(internal)?;
            Answer::Given(json!(result))
        };
        Ok(answer.map(|it| {
            format!(
                "elicit:{}:{}",
                string(&it["action"]),
                string(&it["content"]["name"])
            )
        }))
    }

    async fn sample(&self) -> Result<CallToolResponse, ErrorData> {
        let params = json!({
            "maxTokens": 10,
            "messages": [{"role": "user", "content": {"type": "text", "text": "hi"}}],
        });
        let answer = if self.modern {
            self.ask(json!({"method": "sampling/createMessage", "params": params}))
        } else {
            let result = self
                .peer
                .create_message(typed(params))
                .await
                .map_err(internal)?;
            Answer::Given(json!(result))
        };
        Ok(answer.map(|it| {
            let content = &it["content"];
            let first = content.get(0).unwrap_or(content);
            format!("sample:{}", string(&first["text"]))
        }))
    }

    async fn roots(&self) -> Result<CallToolResponse, ErrorData> {
        let answer = if self.modern {
            self.ask(json!({"method": "roots/list"}))
        } else {
            Answer::Given(json!(self.peer.list_roots().await.map_err(internal)?))
        };
        Ok(answer.map(|it| format!("roots:{}", string(&it["roots"][0]["uri"]))))
    }
}

impl Answer {
    fn map(self, show: impl FnOnce(Value) -> String) -> CallToolResponse {
        match self {
            Self::Given(answer) => text(show(answer)),
            Self::Ask(question) => question,
        }
    }
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

impl Counterpart {
    fn new() -> Self {
        Self {
            cancelled: Arc::default(),
            calls: Arc::default(),
            added: Arc::default(),
            changes: broadcast::channel(64).0,
        }
    }

    fn added(&self) -> Vec<String> {
        self.added
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn count(&self, tool: &str) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls.entry(tool.to_owned()).or_default() += 1;
    }

    async fn slow(&self, seconds: f64, context: &RequestContext<RoleServer>) -> CallToolResponse {
        tokio::select! {
            () = context.ct.cancelled() => {
                self.cancelled.fetch_add(1, SeqCst);
                text("cancelled")
            }
            () = time::sleep(Duration::from_secs_f64(seconds)) => text("slow done"),
        }
    }

    async fn progress(
        &self,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        if let Some(token) = context.meta.get_progress_token() {
            for step in 1..=5 {
                let params =
                    ProgressNotificationParam::new(token.clone(), f64::from(step)).with_total(5.0);
                context
                    .peer
                    .notify_progress(params)
                    .await
                    .map_err(internal)?;
                time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(text("progressed"))
    }

    async fn log(&self, peer: &Peer<RoleServer>) -> Result<CallToolResponse, ErrorData> {
        let params = json!({"level": "warning", "logger": "counterpart", "data": "logged"});
        peer.notify_logging_message(typed(params))
            .await
            .map_err(internal)?;
        Ok(text("logged"))
    }

    async fn add_tool(&self, call: &Call<'_>) -> Result<CallToolResponse, ErrorData> {
        let name = {
            let mut added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
            let name = format!("added{}", added.len() + 1);
            added.push(name.clone());
            name
        };
        self.publish(Change::Tools);
        if !call.modern {
            call.peer
                .notify_tool_list_changed()
                .await
                .map_err(internal)?;
        }
        Ok(text(format!("added:{name}")))
    }

    async fn touch(&self, call: &Call<'_>) -> Result<CallToolResponse, ErrorData> {
        self.publish(Change::Resource);
        if !call.modern {
            let params = typed(json!({"uri": "test://res"}));
            call.peer
                .notify_resource_updated(params)
                .await
                .map_err(internal)?;
        }
        Ok(text("touched"))
    }

    fn publish(&self, change: Change) {
        // An error says only that nobody listens.
        let _ = self.changes.send(change);
    }
}

impl ServerHandler for Counterpart {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_tool_list_changed()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_resources_list_changed()
            .enable_prompts()
            .enable_logging()
            .build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("rmcp-counterpart", "1"))
    }

    // Results that are read from JSON name their `resultType`: the SDK adds it in constructors only.
    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let names = TOOLS
            .iter()
            .map(|&name| name.to_owned())
            .chain(self.added());
        let tools: Vec<Value> = names
            .map(|name| json!({"name": name, "inputSchema": {"type": "object"}}))
            .collect();
        Ok(typed(json!({"resultType": "complete", "tools": tools})))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let argument = |name: &str| request.arguments.as_ref().and_then(|all| all.get(name));
        let call = Call {
            peer: &context.peer,
            modern: context
                .protocol_version()
                .is_some_and(|version| version.as_str() >= "2026-07-28"),
            answer: request
                .input_responses
                .as_ref()
                .and_then(|all| all.get("q"))
                .map(|it| json!(it)),
        };
        self.count(&request.name);
        match request.name.as_ref() {
            "echo" => Ok(text(format!(
                "echo:{}",
                argument("text").map_or("", string)
            ))),
            "progress" => self.progress(&context).await,
            "elicit" => call.elicit().await,
            "sample" => call.sample().await,
            "roots" => call.roots().await,
            "slow" => Ok(self
                .slow(
                    argument("seconds").and_then(Value::as_f64).unwrap_or(15.0),
                    &context,
                )
                .await),
            "stats" => Ok(text(
                json!({"cancelled": self.cancelled.load(SeqCst)}).to_string(),
            )),
            "count_calls" => {
                let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(text(json!(*calls).to_string()))
            }
            "log" => self.log(&context.peer).await,
            "add_tool" => self.add_tool(&call).await,
            "touch" => self.touch(&call).await,
            name if self.added().iter().any(|added| added == name) => Ok(text(name)),
            _ => Err(ErrorData::invalid_params("unknown tool", None)),
        }
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(typed(
            json!({"resultType": "complete", "resources": [{"uri": "test://res", "name": "res"}]}),
        ))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        if request.uri != "test://res" {
            return Err(ErrorData::resource_not_found(
                "no such resource",
                Some(json!({"uri": request.uri})),
            ));
        }
        Ok(ReadResourceResult::new(vec![ResourceContents::text("res-text", "test://res")]).into())
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let prompt = json!({"name": "hello", "arguments": [{"name": "name", "required": true}]});
        Ok(typed(
            json!({"resultType": "complete", "prompts": [prompt]}),
        ))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let arguments = json!(request.arguments);
        let content =
            json!({"type": "text", "text": format!("hello {}", string(&arguments["name"]))});
        let result: GetPromptResult = typed(
            json!({"resultType": "complete", "messages": [{"role": "user", "content": content}]}),
        );
        Ok(result.into())
    }

    async fn set_level(
        &self,
        _: SetLevelRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn subscribe(
        &self,
        _: SubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn unsubscribe(
        &self,
        _: UnsubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    fn accepted_subscription_filter(
        &self,
        wanted: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(wanted.supported_by(&self.get_info().capabilities))
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let mut changes = self.changes.subscribe();
        loop {
            let sent = tokio::select! {
                () = context.cancelled() => return Ok(()),
                change = changes.recv() => match change {
                    Ok(Change::Tools) => context.sink().notify_tool_list_changed().await,
                    Ok(Change::Resource) => context.sink().notify_resource_updated("test://res").await,
                    Err(_) => return Ok(()),
                },
            };
            if sent.is_err() {
                return Ok(());
            }
        }
    }
}

pub(crate) async fn run(port: u16, stateless: bool) -> Result<(), BoxError> {
    let counterpart = Counterpart::new();
    let config = StreamableHttpServerConfig::default().with_legacy_session_mode(!stateless);
    let service: StreamableHttpService<Counterpart, LocalSessionManager> =
        StreamableHttpService::new(move || Ok(counterpart.clone()), Arc::default(), config);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("LISTENING http://{}/mcp", listener.local_addr()?);
    axum::serve(listener, axum::Router::new().nest_service("/mcp", service)).await?;
    Ok(())
}
