"""Master and agent in separate processes: a WebSocket from the agent to the master."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from itertools import count, cycle

import aiohttp
from aiohttp import WSMsgType, web

from libs.common.clock import Clock
from libs.common.waiting import TaskGroup
from libs.minimesos.effects import LinkMessage, Message
from libs.minimesos.nodes import AgentNode, MasterNode
from libs.minimesos.wire import PATH, decode, encode

log = logging.getLogger(__name__)
RETRY_MIN_S = 0.1
MAX_FRAME_BYTES = 256 << 20


class _Outbox:
    """Messages waiting to be written to a WebSocket, in order."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._closed = False

    def put(self, message: Message) -> None:
        """Send later."""
        self._messages.append(message)
        self._wake.set()

    def close(self) -> None:
        """No more messages; `drain` returns when all are written."""
        self._closed = True
        self._wake.set()

    async def drain(self, socket: web.WebSocketResponse | aiohttp.ClientWebSocketResponse) -> None:
        """Write until closed."""
        while True:
            while self._messages:
                await socket.send_bytes(encode(self._messages.popleft()))
            if self._closed:
                await socket.close()
                return
            self._wake.clear()
            await self._wake.wait()


def agent_routes(master: MasterNode) -> list[web.RouteDef]:
    """The master's side: one WebSocket an agent."""
    numbers = count(1)

    async def handle(request: web.Request) -> web.WebSocketResponse:
        if not master.config.leads:
            raise web.HTTPServiceUnavailable(text="another master leads, or none")
        socket = web.WebSocketResponse(max_msg_size=MAX_FRAME_BYTES)
        await socket.prepare(request)
        link = f"agent-{next(numbers)}"
        outbox = _Outbox()
        master.attach(link, send=outbox.put, close=outbox.close)
        try:
            async with TaskGroup() as tasks:
                writer = tasks.create_task(outbox.drain(socket))
                async for frame in socket:
                    if frame.type is WSMsgType.BINARY:
                        master.node.feed(LinkMessage(link, decode(frame.data)))
                writer.cancel()
        except* (ConnectionError, aiohttp.ClientError) as errors:
            log.info("link %s broke: %s", link, errors.exceptions[0])
        finally:
            master.detach(link)
        return socket

    return [web.get(PATH, handle)]


async def follow_master(agent: AgentNode, clock: Clock) -> None:
    """The agent's side: connect to whichever master leads, and again with back-off when it breaks, until cancelled."""
    masters = cycle(agent.config.master.split(","))
    master = next(masters)
    retry_s = RETRY_MIN_S
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for number in count(1):
            try:
                url = f"http://{master}{PATH}"
                async with session.ws_connect(url, max_msg_size=MAX_FRAME_BYTES) as socket:
                    retry_s = RETRY_MIN_S
                    spoke = await _carry(agent, socket, f"master-{number}")
                if spoke and not agent.stopped.is_set():
                    # The master closed the link of an agent it had given up: back at once.
                    continue
            except (aiohttp.ClientError, OSError) as error:
                log.info("master %s: %s", master, error)
                master = next(masters)
            if agent.stopped.is_set():
                return
            await clock.sleep(retry_s)
            retry_s = min(retry_s * 2, agent.config.registration_backoff_factor_s)


async def _carry(agent: AgentNode, socket: aiohttp.ClientWebSocketResponse, link: str) -> bool:
    """One connection; whether the master said anything on it."""
    spoke = False
    outbox = _Outbox()
    agent.attach(link, send=outbox.put, close=outbox.close)
    try:
        async with TaskGroup() as tasks:
            writer = tasks.create_task(outbox.drain(socket))
            async for frame in socket:
                if frame.type is WSMsgType.BINARY:
                    spoke = True
                    agent.node.feed(LinkMessage(link, decode(frame.data)))
            writer.cancel()
    except* (ConnectionError, aiohttp.ClientError) as errors:
        log.info("link to master broke: %s", errors.exceptions[0])
    finally:
        with contextlib.suppress(ConnectionError):
            await socket.close()
        agent.link_down(link)
    return spoke
