"""The server: legacy sessions and modern calls at one endpoint, which is the SDK's default."""

import asyncio
import collections
import functools
import json
import socket

import mcp_types as types
import uvicorn
from mcp.server import MCPServer
from mcp.server.lowlevel.server import NotificationOptions
from mcp.server.mcpserver import Context

MODERN = "2026-07-28"

calls: collections.Counter[str] = collections.Counter()  # executions by tool
cancelled = 0
added = 0

FORM = types.ElicitRequestFormParams(
    message="name?",
    requested_schema={"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
)
SAMPLING = types.CreateMessageRequestParams(
    max_tokens=10,
    messages=[types.SamplingMessage(role="user", content=types.TextContent(type="text", text="hi"))],
)


def counted_tool(server: MCPServer, **options):
    """`server.tool()` that counts executions by name."""

    def register(run):
        @functools.wraps(run)
        async def counting(*args, **kwargs):
            calls[run.__name__] += 1
            return await run(*args, **kwargs)

        return server.tool(**options)(counting)

    return register


def add_plain_tools(server: MCPServer) -> None:
    @counted_tool(server)
    async def echo(text: str) -> str:
        return "echo:" + text

    @counted_tool(server)
    async def slow(seconds: float = 15) -> str:
        global cancelled
        try:
            await asyncio.sleep(seconds)
        except BaseException:
            cancelled += 1
            raise
        return "slow done"

    @counted_tool(server, structured_output=False)
    async def stats() -> str:
        return json.dumps({"cancelled": cancelled})

    @counted_tool(server, structured_output=False)
    async def count_calls() -> str:
        return json.dumps(calls)


def add_interactive_tools(server: MCPServer) -> None:
    """The SDK does not translate: a modern call is answered `input_required`, a legacy client is asked."""

    def answer(ctx: Context):
        return (ctx.input_responses or {}).get("q")

    def ask(request):
        return types.InputRequiredResult(input_requests={"q": request}, request_state="asked")

    @counted_tool(server, structured_output=False)
    async def elicit(ctx: Context):
        if ctx.protocol_version < MODERN:
            result = await ctx.session.elicit_form(
                FORM.message, FORM.requested_schema, related_request_id=ctx.request_id
            )
        elif (result := answer(ctx)) is None:
            return ask(types.ElicitRequest(params=FORM))
        return f"elicit:{result.action}:{(result.content or {}).get('name')}"

    @counted_tool(server, structured_output=False)
    async def sample(ctx: Context):
        if ctx.protocol_version < MODERN:
            result = await ctx.session.create_message(
                messages=SAMPLING.messages, max_tokens=10, related_request_id=ctx.request_id
            )
        elif (result := answer(ctx)) is None:
            return ask(types.CreateMessageRequest(params=SAMPLING))
        content = result.content[0] if isinstance(result.content, list) else result.content
        return "sample:" + content.text

    @counted_tool(server, structured_output=False)
    async def roots(ctx: Context):
        if ctx.protocol_version < MODERN:
            result = await ctx.session.list_roots()
        elif (result := answer(ctx)) is None:
            return ask(types.ListRootsRequest())
        return f"roots:{result.roots[0].uri}"


def add_notifying_tools(server: MCPServer) -> None:
    @counted_tool(server)
    async def progress(ctx: Context) -> str:
        for i in range(1, 6):
            await ctx.report_progress(i, 5)
            await asyncio.sleep(0.02)
        return "progressed"

    @counted_tool(server)
    async def log(ctx: Context) -> str:
        await ctx.warning("logged", logger_name="counterpart")
        return "logged"

    @counted_tool(server)
    async def add_tool(ctx: Context) -> str:
        global added
        added += 1
        name = f"added{added}"
        server.add_tool(lambda: name, name=name)
        await ctx.notify_tools_changed()
        if ctx.protocol_version < MODERN:
            await ctx.session.send_tool_list_changed()
        return "added:" + name

    @counted_tool(server)
    async def touch(ctx: Context) -> str:
        await ctx.notify_resource_updated("test://res")
        if ctx.protocol_version < MODERN:
            await ctx.session.send_resource_updated("test://res")
        return "touched"


def add_resource_and_prompt(server: MCPServer) -> None:
    @server.resource("test://res", mime_type="text/plain")
    def res() -> str:
        return "res-text"

    @server.prompt()
    def hello(name: str) -> str:
        return "hello " + name


def serve_legacy_methods(server: MCPServer) -> None:
    """Three legacy methods, and two capabilities, for which MCPServer has no public hook."""

    async def accept(_ctx, _params):
        return types.EmptyResult()

    low = server._lowlevel_server
    low.add_request_handler("resources/subscribe", types.SubscribeRequestParams, accept)
    low.add_request_handler("resources/unsubscribe", types.UnsubscribeRequestParams, accept)
    low.add_request_handler("logging/setLevel", types.SetLevelRequestParams, accept)

    plain_options = low.create_initialization_options
    changes = NotificationOptions(tools_changed=True, resources_changed=True)

    def options_with_changes(_notification_options=None, *args, **kwargs):
        return plain_options(changes, *args, **kwargs)

    low.create_initialization_options = options_with_changes


def run_server(port: int, stateless: bool) -> None:
    server = MCPServer("py2-counterpart", version="1")
    add_plain_tools(server)
    add_interactive_tools(server)
    add_notifying_tools(server)
    add_resource_and_prompt(server)
    serve_legacy_methods(server)

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    # Connections wait in the backlog from here on, so that the line below is true.
    listener.listen(128)
    print(f"LISTENING http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    app = server.streamable_http_app(stateless_http=stateless)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])
