"""The client: one function a scenario, which gives a detail or raises."""

import argparse
import asyncio
import json
import time
from collections.abc import Callable

import anyio
import mcp_types as types
from mcp import Client

MODERN = "2026-07-28"
ALL = "connect,list,call,prompt,resource,progress,elicit,sample,roots,log,list_changed,subscribe,cancel"


def expect(got: str, prefix: str) -> str:
    if not got.startswith(prefix):
        raise ValueError(f"expected {prefix}, got {got}")
    return got


async def arrived(count: Callable[[], int], number: int) -> None:
    """Waits up to three seconds for `count()` to reach a number."""
    for _ in range(60):
        if count() >= number:
            return
        await asyncio.sleep(0.05)
    raise ValueError(f"{count()} of {number} notifications")


class Peer:
    """One client and what it has been told so far."""

    def __init__(self, url: str, era: str, seconds: float) -> None:
        self.seconds = seconds
        self.version = ""
        self.logs = self.list_changes = self.updates = 0
        self.client = Client(
            url,
            mode={"modern": MODERN}.get(era, era),
            elicitation_callback=self.on_elicit,
            sampling_callback=self.on_sample,
            list_roots_callback=self.on_roots,
            logging_callback=self.on_log,
            log_level="info",
            message_handler=self.on_message,
        )

    async def on_elicit(self, _ctx, _params):
        return types.ElicitResult(action="accept", content={"name": "bob"})

    async def on_sample(self, _ctx, _params):
        content = types.TextContent(type="text", text="sampled")
        return types.CreateMessageResult(role="assistant", model="m", content=content)

    async def on_roots(self, _ctx):
        return types.ListRootsResult(roots=[types.Root(uri="file:///r", name="r")])

    async def on_log(self, _params):
        self.logs += 1

    async def on_message(self, message):
        if isinstance(message, types.ToolListChangedNotification):
            self.list_changes += 1
        elif isinstance(message, types.ResourceUpdatedNotification):
            self.updates += 1

    @property
    def modern(self) -> bool:
        return self.version >= MODERN

    async def call(self, tool: str, arguments: dict | None = None, limit: float = 8, **options) -> str:
        result = await self.client.call_tool(tool, arguments or {}, read_timeout_seconds=limit, **options)
        text = result.content[0].text
        if result.is_error:
            raise ValueError("isError: " + text)
        return text

    async def connect(self) -> str:
        # The modern pin adopts the era without a probe: there is no server info then.
        return getattr(self.client.server_info, "name", "")

    async def list(self) -> str:
        number = len((await self.client.list_tools()).tools)
        if number < 11:
            raise ValueError(f"expected 11 tools or more, got {number}")
        return str(number)

    async def echo(self) -> str:
        return expect(await self.call("echo", {"text": "hi"}), "echo:hi")

    async def prompt(self) -> str:
        result = await self.client.get_prompt("hello", {"name": "x"})
        return expect(result.messages[0].content.text, "hello x")

    async def resource(self) -> str:
        result = await self.client.read_resource("test://res")
        return expect(result.contents[0].text, "res-text")

    async def progress(self) -> str:
        seen = []

        async def on_progress(progress, _total, _message):
            seen.append(progress)

        answer = await self.call("progress", progress_callback=on_progress)
        await arrived(lambda: len(seen), 5)
        return expect(answer, "progressed")

    async def elicit(self) -> str:
        return expect(await self.call("elicit"), "elicit:accept:bob")

    async def sample(self) -> str:
        return expect(await self.call("sample"), "sample:sampled")

    async def roots(self) -> str:
        return expect(await self.call("roots"), "roots:file:///r")

    async def log(self) -> str:
        before = self.logs
        if not self.modern:
            await self.client.set_logging_level("info")
        answer = await self.call("log")
        await arrived(lambda: self.logs, before + 1)
        return answer

    async def list_changed(self) -> str:
        if self.modern:
            return await self.listen_for("add_tool", tools_list_changed=True)
        before = self.list_changes
        await asyncio.sleep(0.2)  # for the stream that brings it
        answer = await self.call("add_tool")
        await arrived(lambda: self.list_changes, before + 1)
        return answer

    async def subscribe(self) -> str:
        if self.modern:
            return await self.listen_for("touch", resource_subscriptions=["test://res"])
        before = self.updates
        await self.client.subscribe_resource("test://res")
        await asyncio.sleep(0.2)
        answer = await self.call("touch")
        await arrived(lambda: self.updates, before + 1)
        await self.client.unsubscribe_resource("test://res")
        return answer

    async def listen_for(self, tool: str, **filters) -> str:
        async with self.client.listen(**filters) as subscription:
            answer = await self.call(tool)
            event = await asyncio.wait_for(anext(subscription), 4)
            return f"{answer} {type(event).__name__}"

    async def cancel(self) -> str:
        """Abandons a slow call and waits until the server says that it noticed."""
        before = await self.call("stats")
        with anyio.move_on_after(0.5) as scope:
            await self.call("slow")
        if not scope.cancelled_caught:
            raise ValueError("the call was not cancelled")
        for _ in range(20):
            await asyncio.sleep(0.1)
            after = await self.call("stats")
            if after != before:
                return f"{before}->{after}"
        raise ValueError(f"the server did not notice: {before}")

    async def slow(self) -> str:
        answer = await self.call("slow", {"seconds": self.seconds}, limit=self.seconds + 8)
        return expect(answer, "slow done")

    async def count(self) -> str:
        return expect(await self.call("count_calls"), "{")


SCENARIOS = {name: getattr(Peer, {"call": "echo"}.get(name, name)) for name in [*ALL.split(","), "slow", "count"]}


async def run_client(options: argparse.Namespace) -> int:
    peer = Peer(options.url, options.era, options.seconds)
    failed = 0

    def report(scenario: str, ok: bool, detail: str, started: float) -> None:
        line = {
            "client": "py2",
            "scenario": scenario,
            "ok": ok,
            "detail": detail[:300],
            "version": peer.version,
            "ms": int((time.monotonic() - started) * 1000),
        }
        print(json.dumps(line), flush=True)

    started = time.monotonic()
    try:
        async with asyncio.timeout(20):
            await peer.client.__aenter__()
    except BaseException as error:
        report("connect", False, repr(error), started)
        return 1
    peer.version = peer.client.protocol_version

    for name in (ALL if options.scenarios == "all" else options.scenarios).split(","):
        started = time.monotonic()
        try:
            if name not in SCENARIOS:
                raise ValueError("unknown scenario")
            report(name, True, await SCENARIOS[name](peer), started)
        except BaseException as error:
            failed = 1
            report(name, False, "ERR " + repr(error), started)

    started = time.monotonic()
    try:
        async with asyncio.timeout(5):
            await peer.client.__aexit__(None, None, None)
    except BaseException as error:
        report("close", False, repr(error), started)
    return failed
