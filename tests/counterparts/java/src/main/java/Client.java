import io.modelcontextprotocol.client.McpAsyncClient;
import io.modelcontextprotocol.client.McpClient;
import io.modelcontextprotocol.client.McpSyncClient;
import io.modelcontextprotocol.client.transport.HttpClientStreamableHttpTransport;
import io.modelcontextprotocol.spec.McpSchema.*;
import java.net.URI;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;

/** The client: one method a scenario, which gives a detail or throws. */
final class Client {
  private static final String ALL =
      "connect,list,call,prompt,resource,progress,elicit,sample,roots,log,list_changed,subscribe,cancel";

  private final AtomicInteger progress = new AtomicInteger();
  private final AtomicInteger logs = new AtomicInteger();
  private final AtomicInteger listChanges = new AtomicInteger();
  private final AtomicInteger updates = new AtomicInteger();
  private final McpSyncClient client;
  private final double seconds;
  private InitializeResult initialized;

  private Client(URI url, String era, double seconds) {
    this.seconds = seconds;
    var transport =
        HttpClientStreamableHttpTransport.builder(url.getScheme() + "://" + url.getAuthority())
            .endpoint(url.getPath());
    if (era.startsWith("20")) {
      transport.supportedProtocolVersions(List.of(era));
    }
    client =
        McpClient.sync(transport.build())
            .clientInfo(new Implementation("java-client", "1"))
            .requestTimeout(Duration.ofMillis((long) (seconds * 1000) + 8000))
            .initializationTimeout(Duration.ofSeconds(15))
            .capabilities(ClientCapabilities.builder().roots(true).sampling().elicitation().build())
            .roots(new Root("file:///r", "r"))
            .elicitation(request -> new ElicitResult(ElicitResult.Action.ACCEPT, Map.of("name", "bob")))
            .sampling(request -> CreateMessageResult.builder(Role.ASSISTANT, "sampled", "m").build())
            .toolsChangeConsumer(tools -> listChanges.incrementAndGet())
            .resourcesUpdateConsumer(contents -> updates.incrementAndGet())
            .loggingConsumer(message -> logs.incrementAndGet())
            .progressConsumer(step -> progress.incrementAndGet())
            .build();
  }

  static int run(String url, String scenarios, Map<String, String> options) {
    double seconds = Double.parseDouble(options.getOrDefault("seconds", "15"));
    var client = new Client(URI.create(url), options.getOrDefault("era", "legacy"), seconds);
    long started = System.currentTimeMillis();
    try {
      client.initialized = client.client.initialize();
    } catch (RuntimeException e) {
      client.report("connect", false, describe(e), started);
      return 1;
    }
    int failed = 0;
    for (String scenario : (scenarios.equals("all") ? ALL : scenarios).split(",")) {
      started = System.currentTimeMillis();
      try {
        client.report(scenario, true, client.play(scenario), started);
      } catch (Exception e) {
        failed = 1;
        client.report(scenario, false, describe(e), started);
      }
    }
    client.client.closeGracefully();
    return failed;
  }

  private static String describe(Throwable e) {
    return "ERR " + e + (e.getCause() == null ? "" : " <- " + e.getCause());
  }

  private void report(String scenario, boolean ok, String detail, long started) {
    var line = new LinkedHashMap<String, Object>();
    line.put("client", "java");
    line.put("scenario", scenario);
    line.put("ok", ok);
    line.put("detail", detail.substring(0, Math.min(detail.length(), 300)));
    line.put("version", initialized == null ? "" : initialized.protocolVersion());
    line.put("ms", System.currentTimeMillis() - started);
    System.out.println(Server.json(line));
  }

  private String play(String scenario) throws Exception {
    return switch (scenario) {
      case "connect" -> initialized.serverInfo().name();
      case "list" -> {
        int number = client.listTools().tools().size();
        if (number < 11) {
          throw new IllegalStateException("expected 11 tools or more, got " + number);
        }
        yield String.valueOf(number);
      }
      case "call" -> expect(call("echo", Map.of("text", "hi")), "echo:hi");
      case "prompt" -> {
        var result = client.getPrompt(new GetPromptRequest("hello", Map.of("name", "x")));
        yield expect(((TextContent) result.messages().get(0).content()).text(), "hello x");
      }
      case "resource" -> {
        var result = client.readResource(new ReadResourceRequest("test://res"));
        yield expect(((TextResourceContents) result.contents().get(0)).text(), "res-text");
      }
      case "progress" -> {
        int before = progress.get();
        var result = client.callTool(CallToolRequest.builder("progress").progressToken("token-1").build());
        arrived(progress, before + 5);
        yield expect(((TextContent) result.content().get(0)).text(), "progressed");
      }
      case "elicit" -> expect(call("elicit", Map.of()), "elicit:accept:bob");
      case "sample" -> expect(call("sample", Map.of()), "sample:sampled");
      case "roots" -> expect(call("roots", Map.of()), "roots:file:///r");
      case "log" -> {
        int before = logs.get();
        client.setLoggingLevel(LoggingLevel.INFO);
        String answer = call("log", Map.of());
        arrived(logs, before + 1);
        yield answer;
      }
      case "list_changed" -> {
        int before = listChanges.get();
        Main.sleep(200); // for the stream that brings it
        String answer = call("add_tool", Map.of());
        arrived(listChanges, before + 1);
        yield answer;
      }
      case "subscribe" -> {
        int before = updates.get();
        client.subscribeResource(new SubscribeRequest("test://res"));
        Main.sleep(200);
        String answer = call("touch", Map.of());
        arrived(updates, before + 1);
        client.unsubscribeResource(new UnsubscribeRequest("test://res"));
        yield answer;
      }
      case "cancel" -> cancel();
      case "slow" -> expect(call("slow", Map.of("seconds", seconds)), "slow done");
      case "count" -> expect(call("count_calls", Map.of()), "{");
      default -> throw new IllegalArgumentException("unknown scenario");
    };
  }

  private String call(String tool, Map<String, Object> arguments) {
    var result = client.callTool(CallToolRequest.builder(tool).arguments(arguments).build());
    String text = ((TextContent) result.content().get(0)).text();
    if (Boolean.TRUE.equals(result.isError())) {
      throw new IllegalStateException("isError: " + text);
    }
    return text;
  }

  /** The sync client has no cancel: this disposes of the async call under it, which sends nothing in 2.1.0. */
  private String cancel() throws Exception {
    String before = call("stats", Map.of());
    var delegate = McpSyncClient.class.getDeclaredField("delegate");
    delegate.setAccessible(true);
    var slow = ((McpAsyncClient) delegate.get(client)).callTool(CallToolRequest.builder("slow").build());
    var running = slow.subscribe(result -> {}, error -> {});
    Main.sleep(500);
    running.dispose();
    for (int i = 0; i < 20; i++) {
      Main.sleep(100);
      String after = call("stats", Map.of());
      if (!after.equals(before)) {
        return before + "->" + after;
      }
    }
    throw new IllegalStateException("the server did not notice: " + before);
  }

  private static String expect(String got, String prefix) {
    if (!got.startsWith(prefix)) {
      throw new IllegalStateException("expected " + prefix + ", got " + got);
    }
    return got;
  }

  /** Waits up to three seconds for a counter to reach a number. */
  private static void arrived(AtomicInteger counter, int number) {
    for (int i = 0; i < 60; i++) {
      if (counter.get() >= number) {
        return;
      }
      Main.sleep(50);
    }
    throw new IllegalStateException(counter.get() + " of " + number + " notifications");
  }
}
