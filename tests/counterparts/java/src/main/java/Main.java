import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * The Java SDK as a real MCP peer: a server with the tools, and a client with the scenarios, that
 * ../README.md describes. Legacy era only.
 *
 * <pre>
 * Main server --port N
 * Main client URL SCENARIO[,..]|all [--era legacy|VERSION] [--seconds N]
 * </pre>
 */
public final class Main {
  public static void main(String[] words) throws Exception {
    List<String> values = new ArrayList<>();
    Map<String, String> options = new HashMap<>();
    for (int i = 1; i < words.length; i++) {
      if (words[i].startsWith("--") && i + 1 < words.length) {
        options.put(words[i].substring(2), words[++i]);
      } else {
        values.add(words[i]);
      }
    }
    String command = words.length == 0 ? "" : words[0];
    if (command.equals("server")) {
      Server.run(Integer.parseInt(options.getOrDefault("port", "0")));
    } else if (command.equals("client") && values.size() == 2) {
      // The SDK's threads would keep the process alive.
      System.exit(Client.run(values.get(0), values.get(1), options));
    } else {
      System.err.println("usage: Main server --port N | client URL SCENARIO[,..]|all");
      System.exit(64);
    }
  }

  static void sleep(long milliseconds) {
    try {
      Thread.sleep(milliseconds);
    } catch (InterruptedException e) {
      throw new IllegalStateException("interrupted", e);
    }
  }
}
