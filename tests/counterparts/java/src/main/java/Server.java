import io.modelcontextprotocol.json.McpJsonDefaults;
import io.modelcontextprotocol.server.McpServer;
import io.modelcontextprotocol.server.McpServerFeatures;
import io.modelcontextprotocol.server.McpSyncServer;
import io.modelcontextprotocol.server.McpSyncServerExchange;
import io.modelcontextprotocol.server.transport.HttpServletStreamableServerTransportProvider;
import io.modelcontextprotocol.spec.McpSchema.*;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BiFunction;
import org.apache.catalina.connector.Connector;
import org.apache.catalina.startup.Tomcat;

/** The server: legacy sessions on Tomcat. The SDK ignores notifications/cancelled, so `stats` stays at 0. */
final class Server {
  private static final Map<String, Object> NO_ARGUMENTS = Map.of("type", "object", "properties", Map.of());

  private final AtomicInteger cancelled = new AtomicInteger();
  private final AtomicInteger added = new AtomicInteger();
  private final ConcurrentMap<String, Integer> calls = new ConcurrentHashMap<>();
  private McpSyncServer server;

  /** What a tool does: a text out of the session and the arguments. */
  private interface Run extends BiFunction<McpSyncServerExchange, CallToolRequest, String> {}

  static void run(int port) throws Exception {
    var transport = HttpServletStreamableServerTransportProvider.builder().mcpEndpoint("/mcp").build();
    new Server().build(McpServer.sync(transport));

    var tomcat = new Tomcat();
    var connector = new Connector();
    connector.setPort(port);
    connector.setProperty("address", "127.0.0.1");
    connector.setProperty("asyncTimeout", "600000");
    tomcat.setConnector(connector);
    var context = tomcat.addContext("", null);
    Tomcat.addServlet(context, "mcp", transport).setAsyncSupported(true);
    context.addServletMappingDecoded("/mcp", "mcp");
    tomcat.start();
    System.out.println("LISTENING http://127.0.0.1:" + connector.getLocalPort() + "/mcp");
    tomcat.getServer().await();
  }

  private void build(McpServer.SyncSpecification<?> specification) {
    var capabilities =
        ServerCapabilities.builder().tools(true).resources(true, true).prompts(true).logging().build();
    specification
        .serverInfo("java-counterpart", "1")
        .requestTimeout(Duration.ofSeconds(10))
        .capabilities(capabilities);
    addPlainTools(specification);
    addInteractiveTools(specification);
    addNotifyingTools(specification);
    addResourceAndPrompt(specification);
    server = specification.build();
  }

  private McpServerFeatures.SyncToolSpecification tool(String name, Map<String, Object> schema, Run run) {
    return new McpServerFeatures.SyncToolSpecification(
        Tool.builder(name, schema).description(name).build(),
        (exchange, request) -> {
          calls.merge(name, 1, Integer::sum);
          return CallToolResult.builder().addTextContent(run.apply(exchange, request)).build();
        });
  }

  private McpServerFeatures.SyncToolSpecification tool(String name, Run run) {
    return tool(name, NO_ARGUMENTS, run);
  }

  private static Map<String, Object> argument(String name, String type) {
    return Map.of("type", "object", "properties", Map.of(name, Map.of("type", type)));
  }

  private void addPlainTools(McpServer.SyncSpecification<?> specification) {
    specification.tools(
        tool("echo", argument("text", "string"), (exchange, request) -> "echo:" + request.arguments().get("text")),
        tool("slow", argument("seconds", "number"), (exchange, request) -> {
          var seconds = request.arguments() == null ? null : (Number) request.arguments().get("seconds");
          try {
            Thread.sleep((long) ((seconds == null ? 15 : seconds.doubleValue()) * 1000));
          } catch (InterruptedException e) {
            cancelled.incrementAndGet();
            throw new IllegalStateException("interrupted", e);
          }
          return "slow done";
        }),
        tool("stats", (exchange, request) -> "{\"cancelled\":" + cancelled.get() + "}"),
        tool("count_calls", (exchange, request) -> json(new TreeMap<>(calls))));
  }

  /** Each pushes a request to the client and waits for its answer. */
  private void addInteractiveTools(McpServer.SyncSpecification<?> specification) {
    specification.tools(
        tool("elicit", (exchange, request) -> {
          Map<String, Object> schema =
              Map.of(
                  "type", "object",
                  "properties", Map.of("name", Map.of("type", "string")),
                  "required", List.of("name"));
          var answer = exchange.createElicitation(ElicitFormRequest.builder("name?", schema).build());
          var name = answer.content() == null ? null : answer.content().get("name");
          return "elicit:" + answer.action().name().toLowerCase() + ":" + name;
        }),
        tool("sample", (exchange, request) -> {
          var message = new SamplingMessage(Role.USER, new TextContent("hi"));
          var question = new CreateMessageRequest.Builder().messages(List.of(message)).maxTokens(10).build();
          return "sample:" + ((TextContent) exchange.createMessage(question).content()).text();
        }),
        tool("roots", (exchange, request) -> "roots:" + exchange.listRoots().roots().get(0).uri()));
  }

  private void addNotifyingTools(McpServer.SyncSpecification<?> specification) {
    specification.tools(
        tool("progress", (exchange, request) -> {
          Object token = request.meta() == null ? null : request.meta().get("progressToken");
          for (int step = 1; token != null && step <= 5; step++) {
            exchange.progressNotification(new ProgressNotification(token, step, 5.0, null));
            Main.sleep(20);
          }
          return "progressed";
        }),
        tool("log", (exchange, request) -> {
          var message = LoggingMessageNotification.builder(LoggingLevel.WARNING, "logged");
          exchange.loggingNotification(message.logger("counterpart").build());
          return "logged";
        }),
        tool("add_tool", (exchange, request) -> {
          String name = "added" + added.incrementAndGet();
          server.addTool(tool(name, (inner, call) -> name));
          return "added:" + name;
        }),
        tool("touch", (exchange, request) -> {
          CompletableFuture.runAsync(() -> {
            Main.sleep(50);
            server.notifyResourcesUpdated(new ResourcesUpdatedNotification("test://res"));
          });
          return "touched";
        }));
  }

  private static void addResourceAndPrompt(McpServer.SyncSpecification<?> specification) {
    var resource = new Resource.Builder().uri("test://res").name("res").mimeType("text/plain").build();
    var contents = new TextResourceContents("test://res", "text/plain", "res-text");
    specification.resources(
        new McpServerFeatures.SyncResourceSpecification(
            resource, (exchange, request) -> new ReadResourceResult(List.of(contents))));

    var prompt = new Prompt("hello", "hello", List.of(new PromptArgument("name", "whom", true)));
    specification.prompts(
        new McpServerFeatures.SyncPromptSpecification(prompt, (exchange, request) -> {
          var greeting = new TextContent("hello " + request.arguments().get("name"));
          return new GetPromptResult("", List.of(new PromptMessage(Role.USER, greeting)));
        }));
  }

  static String json(Object value) {
    try {
      return McpJsonDefaults.getMapper().writeValueAsString(value);
    } catch (java.io.IOException e) {
      throw new java.io.UncheckedIOException(e);
    }
  }
}
