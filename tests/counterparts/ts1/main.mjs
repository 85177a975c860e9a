// The TypeScript SDK 1.x as a real MCP peer: a server with the tools, and a client with the scenarios, that
// ../README.md describes.
//
//   main.mjs server --port N [--mode both|stateless]
//   main.mjs client URL SCENARIO[,..]|all [--era legacy] [--seconds N]
import { parseArgs } from 'node:util';
import { runClient } from './client.mjs';
import { runServer } from './server.mjs';

const [command, ...args] = process.argv.slice(2);
const { values: options, positionals } = parseArgs({
  args,
  allowPositionals: true,
  options: {
    port: { type: 'string', default: '0' },
    mode: { type: 'string', default: 'both' },
    era: { type: 'string', default: 'auto' },
    seconds: { type: 'string', default: '15' },
  },
});

if (command === 'server') {
  runServer(options);
} else if (command === 'client' && positionals.length === 2) {
  process.exit(await runClient(...positionals, options));
} else {
  console.error('usage: main.mjs server --port N | client URL SCENARIO[,..]|all');
  process.exit(64);
}
