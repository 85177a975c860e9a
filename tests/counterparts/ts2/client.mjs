import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

const MODERN = '2026-07-28';
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
function newClient(era) {
  const seen = { logs: 0, listChanges: 0, updates: 0 };
  const mode = { auto: 'auto', modern: { pin: MODERN } }[era] ?? 'legacy';
  const options = {
    capabilities: { elicitation: { form: {} }, sampling: {}, roots: { listChanged: true } },
    listChanged: { tools: { onChanged: () => { seen.listChanges += 1; } } },
    versionNegotiation: { mode },
  };
  if (/^\d/.test(era)) options.supportedProtocolVersions = [era];
  const client = new Client({ name: 'ts2-client', version: '1' }, options);
  client.setRequestHandler('elicitation/create', () => ({ action: 'accept', content: { name: 'bob' } }));
  client.setRequestHandler('sampling/createMessage', () => ({
    role: 'assistant',
    model: 'm',
    content: { type: 'text', text: 'sampled' },
  }));
  client.setRequestHandler('roots/list', () => ({ roots: [{ uri: 'file:///r', name: 'r' }] }));
  client.setNotificationHandler('notifications/resources/updated', () => { seen.updates += 1; });
  client.setNotificationHandler('notifications/message', () => { seen.logs += 1; });
  return { client, seen };
}

/** Scenario names to functions that give a detail or throw. */
function scenarios(client, seen, seconds) {
  const modern = client.getProtocolEra() === 'modern';
  const call = async (name, args = {}, options = {}, _meta = undefined) => {
    const params = { name, arguments: args, ...(_meta && { _meta }) };
    const result = await client.callTool(params, { timeout: 8000, ...options });
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
      if (!modern) await client.setLoggingLevel('info');
      const meta = modern ? { 'io.modelcontextprotocol/logLevel': 'info' } : undefined;
      const answer = await call('log', {}, {}, meta);
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
      const uri = 'test://res';
      const listening = modern ? await client.listen({ resourceSubscriptions: [uri] }) : undefined;
      if (!modern) await client.subscribeResource({ uri });
      await sleep(200);
      const answer = await call('touch');
      await arrived(() => seen.updates, before + 1);
      await (modern ? listening.close() : client.unsubscribeResource({ uri }));
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
  const { client, seen } = newClient(options.era);
  const transport = new StreamableHTTPClientTransport(new URL(url));

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
    const version = client.getNegotiatedProtocolVersion() ?? '';
    console.log(JSON.stringify({ client: 'ts2', scenario, ok, detail, version, ms: Date.now() - started }));
    return ok;
  };

  const connected = await report('connect', () => client.connect(transport, { timeout: 15000 }));
  if (!connected) return 1;
  const known = scenarios(client, seen, Number(options.seconds));
  const unknown = async () => { throw new Error('unknown scenario'); };
  for (const name of (names === 'all' ? ALL : names).split(',')) await report(name, known[name] ?? unknown);
  const result = failed;
  await report('close', async () => {
    if (client.getProtocolEra() !== 'modern') await transport.terminateSession();
    await Promise.race([client.close(), sleep(3000)]);
  });
  return result;
}
