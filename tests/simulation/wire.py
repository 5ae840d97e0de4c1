"""HTTP between processes: serialised bytes from one `HttpApp` to another, over a network that loses and delays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from libs.common.errors import TimedOut, Unavailable
from libs.common.http import Dispatcher, Response
from libs.common.runtime import Server
from tests.simulation.faults import Faults, Point
from tests.simulation.life import Life
from tests.simulation.trace import Trace

LATENCY_S = 0.0005


@dataclass(frozen=True)
class _Server:
    app: Dispatcher
    life: Life


class Net:
    """Who serves what, and who can't reach whom. A place is a process' or a host's name."""

    def __init__(self, faults: Faults, trace: Trace) -> None:
        self.faults = faults
        self.trace = trace
        self.cut_off: dict[str, int] = {}  # place → how many partitions it is in
        self.unanswered: list[
            tuple[str, float, float]
        ] = []  # whose calls got no answer, from when to when
        self._servers: dict[str, dict[str, _Server]] = {}

    def server(self, life: Life) -> Server:
        """The `Server` of one process' life."""

        @asynccontextmanager
        async def serve(service: str, app: Dispatcher) -> AsyncIterator[str]:
            replicas = self._servers.setdefault(service, {})
            replicas[life.name] = _Server(app, life)
            try:
                yield ""
            finally:
                if replicas.get(life.name, None) and replicas[life.name].life is life:
                    del replicas[life.name]

        return serve

    def replicas(self, service: str) -> list[tuple[Dispatcher, Life]]:
        """Those that listen."""
        return [(each.app, each.life) for _, each in sorted(self._servers.get(service, {}).items())]

    def pick(self, service: str) -> _Server | None:
        """Any live replica."""
        replicas = [
            each for _, each in sorted(self._servers.get(service, {}).items()) if not each.life.dead
        ]
        return self.faults.rng.choice(replicas) if replicas else None

    def reachable(self, one: str, other: str) -> bool:
        """Does a packet get from one place to the other. What shares a host is never cut off from it."""
        here, there = one.partition("@")[2] or one, other.partition("@")[2] or other
        return here == there or not (self.cut_off.get(here) or self.cut_off.get(there))


class NetClient:
    """The `ServiceClient` of one process."""

    def __init__(self, net: Net, life: Life, credentials: Callable[[], Mapping[str, str]]) -> None:
        self._net = net
        self._life = life
        self._credentials = credentials

    async def call(
        self,
        service: str,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Response:
        """See ServiceClient."""
        sent = {**self._credentials(), **(headers or {})}
        await self._life.go_on()
        if self._life.dead:
            raise Unavailable("this process is dead")
        began = self._life.loop.time()
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._carry(service, method, path, bytes(body), sent)
        except TimeoutError:
            self._net.unanswered.append((self._life.name, began, self._life.loop.time()))
            self._tell(method, service, path, "timed out")
            raise TimedOut(f"{service} did not answer within {timeout_s:g} s") from None
        await self._life.go_on()
        self._tell(method, service, path, str(response.status))
        return response

    async def _carry(
        self, service: str, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> Response:
        faults = self._net.faults
        await asyncio.sleep(LATENCY_S + faults.delay_s(Point.HTTP_DELAY, 0.05))
        server = self._net.pick(service)
        if server is None:
            raise Unavailable(f"nobody serves {service}")
        cut = not self._net.reachable(self._life.name, server.life.name)
        if cut or faults.strike(Point.HTTP_REQUEST_LOST):
            await self._no_answer()
        answer = server.life.spawn(
            server.app.dispatch(method, path, headers, body), f"{server.life.name}<{method} {path}"
        )
        await asyncio.wait([answer])
        if answer.cancelled() or server.life.dead:
            raise Unavailable(f"{service} closed the connection")
        response: Response = answer.result()
        cut = not self._net.reachable(self._life.name, server.life.name)
        if cut or faults.strike(Point.HTTP_RESPONSE_LOST):
            await self._no_answer()
        await asyncio.sleep(LATENCY_S)
        return response

    async def _no_answer(self) -> None:
        """Wait for what never comes; who waited is known also when it dies before its time-out."""
        began = self._life.loop.time()
        try:
            await asyncio.Event().wait()
        finally:
            self._net.unanswered.append((self._life.name, began, self._life.loop.time()))

    def _tell(self, method: str, service: str, path: str, outcome: str) -> None:
        self._net.trace.add(self._life.name, f"{method} {service} {path} → {outcome}")
