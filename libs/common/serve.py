"""Sockets around `HttpApp`: the aiohttp server, and the client that calls peers by name.

A peer that lives in this process is called directly with the same bytes (`LocalServices`); one elsewhere by HTTP
over TCP or a unix socket. Both carry the trace, and the caller's token if it has one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

from aiohttp import web

from libs.common.http import MAX_BODY_BYTES, Dispatcher, Response

# For requests in hand when we stop, and as long again for them to notice that they are given up.
SHUTDOWN_S = 2.0
READER_LOOK_S = 0.5


@asynccontextmanager
async def serve(app: Dispatcher, address: str) -> AsyncIterator[str]:
    """Serve `app` at `host:port` (port 0: a free one) or `unix:/path` (mode 0600); yields the base URL."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = await app.dispatch(
            request.method, request.raw_path, request.headers, await request.read()
        )
        return await _send(request, response, readers)

    readers: set[_Reader] = set()

    async def dismiss(_server: web.Application) -> None:
        for reader in tuple(readers):
            reader.dismiss()

    server = web.Application(client_max_size=MAX_BODY_BYTES)
    server.router.add_route("*", r"/{tail:[\s\S]*}", handle)
    server.on_shutdown.append(dismiss)
    runner = web.AppRunner(server, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        if address.startswith("unix:"):
            path = address.removeprefix("unix:")
            yield await _listen_unix(runner, path)
        else:
            host, _, port = address.rpartition(":")
            site = web.TCPSite(runner, host, int(port), reuse_address=True)
            await site.start()
            bound = runner.addresses[0]
            yield f"http://{bound[0]}:{bound[1]}"
    finally:
        await runner.cleanup()


async def _listen_unix(runner: web.AppRunner, path: str) -> str:
    if os.path.exists(path):
        os.unlink(path)
    # Closed to everybody else from its first moment on, not only after a chmod.
    mask = os.umask(0o177)
    try:
        await web.UnixSite(runner, path).start()
    finally:
        os.umask(mask)
    return f"unix:{path}"


class _Reader:
    """Whoever reads an answer that goes on: noticed when gone though nothing is written, dismissed at shutdown.

    Otherwise an idle stream would be kept for a reader who left, and a stop would wait for readers that stay.
    """

    def __init__(self, request: web.Request) -> None:
        self.gone = False
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._look = self._loop.call_later(READER_LOOK_S, self._check)

    def _check(self) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            self.dismiss()
        else:
            self._look = self._loop.call_later(READER_LOOK_S, self._check)

    def dismiss(self) -> None:
        """End the answer: by cancelling the task that sends it, which `gone` tells from being cancelled."""
        if not self.gone and self._task is not None:
            self.gone = True
            self._task.cancel()

    def close(self) -> None:
        """Look no more; take the cancellation back if it was ours."""
        self._look.cancel()
        if self.gone and self._task is not None:
            self._task.uncancel()


async def _send(
    request: web.Request, response: Response, readers: set[_Reader]
) -> web.StreamResponse:
    headers = {"Content-Type": response.content_type, **response.headers}
    if response.stream is None:
        return web.Response(status=response.status, body=response.body, headers=headers)
    answer = web.StreamResponse(status=response.status, headers=headers)
    await answer.prepare(request)
    reader = _Reader(request)
    readers.add(reader)
    try:
        async for chunk in response.stream:
            await answer.write(chunk)
    except ConnectionResetError:
        pass  # the reader left
    except asyncio.CancelledError:
        if not reader.gone:
            raise
    finally:
        readers.discard(reader)
        reader.close()
        close = getattr(response.stream, "aclose", None)
        if close is not None:
            await close()
    return answer


def segment(value: str) -> str:
    """`value` as one path segment."""
    return quote(value, safe="")
