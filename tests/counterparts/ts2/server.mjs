import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import {
  localhostHostValidation,
  localhostOriginValidation,
  NodeStreamableHTTPServerTransport,
  toNodeHandler,
  toWebRequest,
} from '@modelcontextprotocol/node';
import { createMcpHandler, inputRequired, isLegacyRequest, McpServer } from '@modelcontextprotocol/server';
import * as z from 'zod';

// What all sessions and calls share.
let cancelled = 0;
const calls = {}; // executions by tool
const added = []; // names of tools that `add_tool` made
const live = new Set(); // the McpServer of each open legacy session
let modern; // the handler of modern calls; tells its listeners of changes

const nothing = z.object({});
const text = (value) => ({ content: [{ type: 'text', text: value }] });
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** One McpServer per legacy session or modern call, as the SDK wants it. */
function newServer() {
  const server = new McpServer(
    { name: 'ts2-counterpart', version: '1' },
    {
      capabilities: {
        logging: {},
        prompts: { listChanged: true },
        resources: { subscribe: true, listChanged: true },
        tools: { listChanged: true },
      },
    },
  );
  const tool = registrar(server);
  addPlainTools(tool);
  addInteractiveTools(tool);
  addNotifyingTools(tool);
  for (const name of added) tool(name, nothing, () => name);
  addResourceAndPrompt(server);
  return server;
}

/** Registers tools that give a text or a whole result and are counted by name. */
function registrar(server) {
  return (name, inputSchema, run) =>
    server.registerTool(name, { description: name, inputSchema }, async (args, context) => {
      calls[name] = (calls[name] ?? 0) + 1;
      const answer = await run(args, context.mcpReq);
      return typeof answer === 'string' ? text(answer) : answer;
    });
}

function addPlainTools(tool) {
  tool('echo', z.object({ text: z.string() }), (args) => 'echo:' + args.text);
  // Silent: in the modern era a JSON answer, so not a byte before the end.
  tool('slow', z.object({ seconds: z.number().default(15) }), ({ seconds }, { signal }) =>
    new Promise((resolve, reject) => {
      const timer = setTimeout(() => resolve('slow done'), seconds * 1000);
      signal.addEventListener('abort', () => {
        clearTimeout(timer);
        cancelled += 1;
        reject(new Error('cancelled'));
      });
    }));
  tool('stats', nothing, () => JSON.stringify({ cancelled }));
  tool('count_calls', nothing, () => JSON.stringify(calls));
}

/** Each answers `input_required`; for a legacy session the SDK turns that into a pushed request. */
function addInteractiveTools(tool) {
  const ask = (question) => inputRequired({ inputRequests: { q: question }, requestState: 'asked' });
  tool('elicit', nothing, (_args, { inputResponses }) => {
    const answer = inputResponses?.q;
    if (answer) return `elicit:${answer.action}:${answer.content?.name}`;
    return ask(inputRequired.elicit({ message: 'name?', requestedSchema: z.object({ name: z.string() }) }));
  });
  tool('sample', nothing, (_args, { inputResponses }) => {
    const answer = inputResponses?.q;
    if (answer) return 'sample:' + [answer.content].flat()[0].text;
    const messages = [{ role: 'user', content: { type: 'text', text: 'hi' } }];
    return ask(inputRequired.createMessage({ maxTokens: 10, messages }));
  });
  tool('roots', nothing, (_args, { inputResponses }) => {
    const answer = inputResponses?.q;
    return answer ? 'roots:' + answer.roots[0].uri : ask(inputRequired.listRoots());
  });
}

function addNotifyingTools(tool) {
  tool('progress', nothing, async (_args, { _meta, notify }) => {
    const progressToken = _meta?.progressToken;
    for (let progress = 1; progressToken !== undefined && progress <= 5; progress += 1) {
      await notify({ method: 'notifications/progress', params: { progressToken, progress, total: 5 } });
      await sleep(20);
    }
    return 'progressed';
  });
  tool('log', nothing, async (_args, { log }) => {
    await log('warning', 'logged', 'counterpart');
    return 'logged';
  });
  tool('add_tool', nothing, () => {
    const name = `added${added.length + 1}`;
    added.push(name);
    for (const server of live) registrar(server)(name, nothing, () => name);
    modern.notify.toolsChanged();
    return 'added:' + name;
  });
  tool('touch', nothing, () => {
    setTimeout(() => {
      modern.notify.resourceUpdated('test://res');
      for (const { server } of live) server.sendResourceUpdated({ uri: 'test://res' }).catch(() => {});
    }, 50);
    return 'touched';
  });
}

function addResourceAndPrompt(server) {
  server.registerResource('res', 'test://res', { mimeType: 'text/plain' }, () => ({
    contents: [{ uri: 'test://res', mimeType: 'text/plain', text: 'res-text' }],
  }));
  server.registerPrompt('hello', { argsSchema: z.object({ name: z.string() }) }, ({ name }) => ({
    messages: [{ role: 'user', content: { type: 'text', text: 'hello ' + name } }],
  }));
  server.server.setRequestHandler('resources/subscribe', () => ({}));
  server.server.setRequestHandler('resources/unsubscribe', () => ({}));
}

const sessions = new Map();

async function serveLegacy(request, response, body) {
  const id = request.headers['mcp-session-id'];
  if (id) {
    const session = sessions.get(id);
    if (session) {
      await session.handleRequest(request, response, body);
    } else {
      response.writeHead(404, { 'content-type': 'application/json' });
      response.end('{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}');
    }
    return;
  }
  const server = newServer();
  const transport = new NodeStreamableHTTPServerTransport({
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
  await transport.handleRequest(request, response, body);
}

/** The body as JSON; undefined where there is none, or none that parses. */
async function readJson(request) {
  if (request.method !== 'POST') return undefined;
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  try {
    return JSON.parse(Buffer.concat(chunks).toString());
  } catch {
    return undefined;
  }
}

export function runServer({ port, mode }) {
  modern = createMcpHandler(newServer, { legacy: mode === 'stateless' ? 'stateless' : 'reject' });
  const serveModern = toNodeHandler(modern);
  const validHost = localhostHostValidation();
  const validOrigin = localhostOriginValidation();

  const isLegacy = async (request, body) => {
    if (mode === 'modern' || mode === 'stateless') return false;
    return mode === 'legacy' || isLegacyRequest(await toWebRequest(request, body), body);
  };
  const listener = createServer(async (request, response) => {
    if (!validHost(request, response) || !validOrigin(request, response)) return;
    try {
      const body = await readJson(request);
      const serve = (await isLegacy(request, body)) ? serveLegacy : serveModern;
      await serve(request, response, body);
    } catch (error) {
      console.error(error);
      if (!response.headersSent) response.writeHead(500).end();
    }
  });
  listener.listen(Number(port), '127.0.0.1', () => {
    console.log(`LISTENING http://127.0.0.1:${listener.address().port}/mcp`);
  });
}
