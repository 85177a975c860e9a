import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import * as types from '@modelcontextprotocol/sdk/types.js';

const ALL = 'connect,list,call,prompt,resource,progress,elicit,sample,roots,log,list_changed,subscribe,cancel';

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function expect(got, wanted) {
  if (!String(got).startsWith(wanted)) throw new Error(`expected ${wanted}, got ${got}`);
  return got;
}

/** Waits up to three seconds for `count()` to reach a number. */
async function arrived(count, number) {
  for (let i = 0; i < 60; i += 1) {
    if (count() >= number) return;
    await sleep(50);
  }
  throw new Error(`${count()} of ${number} notifications`);
}

/** A client that answers what servers ask, and counts what they tell. */
function newClient() {
  const seen = { logs: 0, listChanges: 0, updates: 0 };
  const capabilities = { elicitation: { form: {} }, sampling: {}, roots: { listChanged: true } };
  const client = new Client({ name: 'ts1-client', version: '1' }, { capabilities });
  client.setRequestHandler(types.ElicitRequestSchema, () => ({ action: 'accept', content: { name: 'bob' } }));
  client.setRequestHandler(types.CreateMessageRequestSchema, () => ({
    role: 'assistant',
    model: 'm',
    content: { type: 'text', text: 'sampled' },
  }));
  client.setRequestHandler(types.ListRootsRequestSchema, () => ({ roots: [{ uri: 'file:///r', name: 'r' }] }));
  client.setNotificationHandler(types.ResourceUpdatedNotificationSchema, () => { seen.updates += 1; });
  client.setNotificationHandler(types.ToolListChangedNotificationSchema, () => { seen.listChanges += 1; });
  client.setNotificationHandler(types.LoggingMessageNotificationSchema, () => { seen.logs += 1; });
  return { client, seen };
}

/** Scenario names to functions that give a detail or throw. */
function scenarios(client, seen, seconds) {
  const call = async (name, args = {}, options = {}) => {
    const result = await client.callTool({ name, arguments: args }, undefined, { timeout: 8000, ...options });
    const answer = result.content?.[0]?.text;
    if (result.isError) throw new Error('isError: ' + answer);
    return answer;
  };
  return {
    connect: async () => client.getServerVersion()?.name ?? '',
    list: async () => {
      const { tools } = await client.listTools();
      if (tools.length < 11) throw new Error(`expected 11 tools or more, got ${tools.length}`);
      return String(tools.length);
    },
    call: async () => expect(await call('echo', { text: 'hi' }), 'echo:hi'),
    prompt: async () => {
      const { messages } = await client.getPrompt({ name: 'hello', arguments: { name: 'x' } });
      return expect(messages[0].content.text, 'hello x');
    },
    resource: async () => {
      const { contents } = await client.readResource({ uri: 'test://res' });
      return expect(contents[0].text, 'res-text');
    },
    progress: async () => {
      let count = 0;
      const answer = await call('progress', {}, { onprogress: () => { count += 1; } });
      await arrived(() => count, 5);
      return expect(answer, 'progressed');
    },
    elicit: async () => expect(await call('elicit'), 'elicit:accept:bob'),
    sample: async () => expect(await call('sample'), 'sample:sampled'),
    roots: async () => expect(await call('roots'), 'roots:file:///r'),
    log: async () => {
      const before = seen.logs;
      await client.setLoggingLevel('info');
      const answer = await call('log');
      await arrived(() => seen.logs, before + 1);
      return answer;
    },
    list_changed: async () => {
      const before = seen.listChanges;
      await sleep(200); // for the stream that brings it
      const answer = await call('add_tool');
      await arrived(() => seen.listChanges, before + 1);
      return answer;
    },
    subscribe: async () => {
      const before = seen.updates;
      await client.subscribeResource({ uri: 'test://res' });
      await sleep(200);
      const answer = await call('touch');
      await arrived(() => seen.updates, before + 1);
      await client.unsubscribeResource({ uri: 'test://res' });
      return answer;
    },
    cancel: async () => cancel(call),
    slow: async () => expect(await call('slow', { seconds }, { timeout: seconds * 1000 + 8000 }), 'slow done'),
    count: async () => expect(await call('count_calls'), '{'),
  };
}

/** Abandons a slow call and waits until the server says that it noticed. */
async function cancel(call) {
  const before = await call('stats');
  const controller = new AbortController();
  setTimeout(() => controller.abort('no longer wanted'), 500);
  const finished = await call('slow', {}, { signal: controller.signal }).then(() => true, () => false);
  if (finished) throw new Error('the call was not cancelled');
  for (let i = 0; i < 20; i += 1) {
    await sleep(100);
    const after = await call('stats');
    if (after !== before) return `${before}->${after}`;
  }
  throw new Error(`the server did not notice: ${before}`);
}

export async function runClient(url, names, options) {
  const { client, seen } = newClient();
  const transport = new StreamableHTTPClientTransport(new URL(url));
  let version = '';
  const setProtocolVersion = transport.setProtocolVersion.bind(transport);
  transport.setProtocolVersion = (negotiated) => {
    version = negotiated;
    setProtocolVersion(negotiated);
  };

  let failed = 0;
  const report = async (scenario, run) => {
    const started = Date.now();
    let ok = true;
    let detail;
    try {
      detail = await run();
    } catch (error) {
      ok = false;
      failed = 1;
      detail = 'ERR ' + String(error?.message ?? error).slice(0, 300);
    }
    if (detail === undefined) return ok; // a silent step that went well
    console.log(JSON.stringify({ client: 'ts1', scenario, ok, detail, version, ms: Date.now() - started }));
    return ok;
  };

  const connected = await report('connect', () => client.connect(transport, { timeout: 15000 }));
  if (!connected) return 1;
  const known = scenarios(client, seen, Number(options.seconds));
  const unknown = async () => { throw new Error('unknown scenario'); };
  for (const name of (names === 'all' ? ALL : names).split(',')) await report(name, known[name] ?? unknown);
  const result = failed;
  await report('close', async () => {
    await transport.terminateSession();
    await Promise.race([client.close(), sleep(3000)]);
  });
  return result;
}
