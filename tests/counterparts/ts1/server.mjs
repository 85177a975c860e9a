import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import * as types from '@modelcontextprotocol/sdk/types.js';
import { z } from 'zod';

// What all sessions share.
let cancelled = 0;
const calls = {}; // executions by tool
const added = []; // names of tools that `add_tool` made
const live = new Set(); // the McpServer of each open session

const text = (value) => ({ content: [{ type: 'text', text: value }] });
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** One McpServer per session, as the SDK wants it. */
function newServer() {
  const server = new McpServer(
    { name: 'ts1-counterpart', version: '1' },
    {
      capabilities: {
        logging: {},
        prompts: {},
        resources: { subscribe: true, listChanged: true },
        tools: { listChanged: true },
      },
    },
  );
  const tool = registrar(server);
  addPlainTools(tool);
  addInteractiveTools(tool);
  addNotifyingTools(tool);
  for (const name of added) tool(name, {}, () => name);
  addResourceAndPrompt(server);
  return server;
}

/** Registers tools that give a text and are counted by name. */
function registrar(server) {
  return (name, inputSchema, run) =>
    server.registerTool(name, { description: name, inputSchema }, async (args, extra) => {
      calls[name] = (calls[name] ?? 0) + 1;
      return text(await run(args, extra));
    });
}

function addPlainTools(tool) {
  tool('echo', { text: z.string() }, (args) => 'echo:' + args.text);
  tool('slow', { seconds: z.number().default(15) }, ({ seconds }, { signal }) =>
    new Promise((resolve, reject) => {
      const timer = setTimeout(() => resolve('slow done'), seconds * 1000);
      signal.addEventListener('abort', () => {
        clearTimeout(timer);
        cancelled += 1;
        reject(new Error('cancelled'));
      });
    }));
  tool('stats', {}, () => JSON.stringify({ cancelled }));
  tool('count_calls', {}, () => JSON.stringify(calls));
}

/** Each pushes a request to the client and waits for its answer. */
function addInteractiveTools(tool) {
  tool('elicit', {}, async (_args, { sendRequest }) => {
    const requestedSchema = { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] };
    const params = { mode: 'form', message: 'name?', requestedSchema };
    const answer = await sendRequest({ method: 'elicitation/create', params }, types.ElicitResultSchema);
    return `elicit:${answer.action}:${answer.content?.name}`;
  });
  tool('sample', {}, async (_args, { sendRequest }) => {
    const params = { maxTokens: 10, messages: [{ role: 'user', content: { type: 'text', text: 'hi' } }] };
    const answer = await sendRequest({ method: 'sampling/createMessage', params }, types.CreateMessageResultSchema);
    return 'sample:' + answer.content.text;
  });
  tool('roots', {}, async (_args, { sendRequest }) => {
    const answer = await sendRequest({ method: 'roots/list' }, types.ListRootsResultSchema);
    return 'roots:' + answer.roots[0].uri;
  });
}

function addNotifyingTools(tool) {
  tool('progress', {}, async (_args, { _meta, sendNotification }) => {
    const progressToken = _meta?.progressToken;
    for (let progress = 1; progressToken !== undefined && progress <= 5; progress += 1) {
      await sendNotification({ method: 'notifications/progress', params: { progressToken, progress, total: 5 } });
      await sleep(20);
    }
    return 'progressed';
  });
  tool('log', {}, async (_args, { sendNotification }) => {
    const params = { level: 'warning', logger: 'counterpart', data: 'logged' };
    await sendNotification({ method: 'notifications/message', params });
    return 'logged';
  });
  tool('add_tool', {}, () => {
    const name = `added${added.length + 1}`;
    added.push(name);
    for (const server of live) registrar(server)(name, {}, () => name);
    return 'added:' + name;
  });
  tool('touch', {}, () => {
    setTimeout(() => {
      for (const { server } of live) server.sendResourceUpdated({ uri: 'test://res' }).catch(() => {});
    }, 50);
    return 'touched';
  });
}

function addResourceAndPrompt(server) {
  server.registerResource('res', 'test://res', { mimeType: 'text/plain' }, () => ({
    contents: [{ uri: 'test://res', mimeType: 'text/plain', text: 'res-text' }],
  }));
  server.registerPrompt('hello', { argsSchema: { name: z.string() } }, ({ name }) => ({
    messages: [{ role: 'user', content: { type: 'text', text: 'hello ' + name } }],
  }));
  server.server.setRequestHandler(types.SubscribeRequestSchema, () => ({}));
  server.server.setRequestHandler(types.UnsubscribeRequestSchema, () => ({}));
}

/** A server and a transport for one request. */
async function serveStateless(request, response) {
  if (request.method !== 'POST') {
    response.writeHead(405, { allow: 'POST' }).end();
    return;
  }
  const server = newServer();
  const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: undefined });
  response.on('close', () => server.close());
  await server.connect(transport);
  await transport.handleRequest(request, response);
}

const sessions = new Map();

async function serveStateful(request, response) {
  const id = request.headers['mcp-session-id'];
  if (id) {
    const session = sessions.get(id);
    if (session) {
      await session.handleRequest(request, response);
    } else {
      response.writeHead(404, { 'content-type': 'application/json' });
      response.end('{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}');
    }
    return;
  }
  const server = newServer();
  const transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: () => randomUUID(),
    onsessioninitialized: (id) => {
      sessions.set(id, transport);
      live.add(server);
    },
  });
  transport.onclose = () => {
    sessions.delete(transport.sessionId);
    live.delete(server);
  };
  await server.connect(transport);
  await transport.handleRequest(request, response);
}

export function runServer({ port, mode }) {
  const serve = mode === 'stateless' ? serveStateless : serveStateful;
  const listener = createServer(async (request, response) => {
    try {
      await serve(request, response);
    } catch (error) {
      console.error(error);
      if (!response.headersSent) response.writeHead(500).end();
    }
  });
  listener.listen(Number(port), '127.0.0.1', () => {
    console.log(`LISTENING http://127.0.0.1:${listener.address().port}/mcp`);
  });
}
