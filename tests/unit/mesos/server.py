"""A scripted HTTP peer on loopback: a real server, told by each test how to answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from libs.mesos.recordio import encode

Handler = Callable[[web.Request, Any], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Peer:
    """Its address, and every call it got: (path, headers, JSON)."""

    url: str = ""
    handler: Handler | None = None
    calls: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Note the call, then do as the test says."""
        raw = await request.read()
        body = orjson.loads(raw) if raw else None
        self.calls.append((request.path, dict(request.headers), body))
        assert self.handler is not None
        return await self.handler(request, body)

    def types(self) -> list[str]:
        """The types of all calls so far."""
        return [body["type"] for _, _, body in self.calls if body]


@asynccontextmanager
async def peer(handler: Handler | None = None) -> AsyncIterator[Peer]:
    """A peer on a free port."""
    found = Peer(handler=handler)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield found
    finally:
        await runner.cleanup()


async def stream(
    request: web.Request, events: list[Any], *, stream_id: str | None = "s1", hold_s: float = 0.0
) -> web.StreamResponse:
    """Answer with these events, stay open for `hold_s`, then end."""
    headers = {"Content-Type": "application/json"}
    if stream_id:
        headers["Mesos-Stream-Id"] = stream_id
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    for event in events:
        await response.write(encode(orjson.dumps(event)))
    await asyncio.sleep(hold_s)
    return response


def subscribed(interval_s: float = 15.0) -> dict[str, Any]:
    """The first event of a subscription: framework `m-0001`, a heartbeat promised every so many seconds."""
    body = {"framework_id": {"value": "m-0001"}, "heartbeat_interval_seconds": interval_s}
    return {"type": "SUBSCRIBED", "subscribed": body}
