"""Mesos in the world: minimesos' real master and agents, and the wire between them and their clients."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import urlsplit

import orjson

from libs.common.waiting import set_or_due
from libs.mesos import recordio
from libs.mesos.errors import CallTimeout, MesosError, TransportError
from libs.mesos.http import each_alone
from libs.mesos.ports import ByteStream, Request, Response
from libs.minimesos.local import LocalCluster
from libs.minimesos.local import Response as Answer
from tests.simulation.faults import Faults, Point
from tests.simulation.life import Life
from tests.simulation.loop import EPOCH_S, VirtualLoop
from tests.simulation.trace import Trace

LATENCY_S = 0.0005
MASTERS = ("127.0.0.1:5050", "127.0.0.1:5049")
FIRST_AGENT_PORT = 5051

_UPDATE = b'{"type":"UPDATE"'


def agent_of(authority: str) -> int | None:
    """The index of the agent that listens there; None: a master."""
    port = int(authority.rpartition(":")[2])
    return None if authority in MASTERS else port - FIRST_AGENT_PORT


@dataclass
class MesosNet:
    """Keeps the cluster's clock going."""

    cluster: LocalCluster
    loop: VirtualLoop
    faults: Faults
    trace: Trace
    master_up: bool = True
    leader: str = MASTERS[0]  # where the leading master listens; the other address is its standby's
    agents_down: set[int] = field(default_factory=set)
    agents_cut: set[int] = field(default_factory=set)
    on_acknowledge: Callable[[str, str], None] | None = None
    unanswered: list[tuple[str, float, float]] = field(default_factory=list)
    """Which call got no answer, from when to when."""
    cuts: list[tuple[str, float]] = field(default_factory=list)  # whose stream was cut, and when
    lost_launches: set[str] = field(default_factory=set)  # tasks of which the master was not told
    _updates: dict[str, tuple[str, str]] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def now(self) -> float:
        """Mesos' own clock."""
        return EPOCH_S + self.loop.time()

    async def run(self) -> None:
        """Tick whenever something is due."""
        while True:
            self._wake.clear()
            deadline = self.cluster.next_deadline()
            wait_s = None if deadline is None else max(0.0, deadline - self.now())
            await set_or_due(self._wake, wait_s)
            if deadline is not None and self.now() >= deadline:
                self.cluster.tick(self.now())

    def poke(self) -> None:
        """Something was done to the cluster: its next deadline may be another."""
        self._wake.set()

    def call(self, request: Request, sink: SinkStream | None = None) -> Answer:
        """Carry one request out, whole. Raises TransportError when nobody listens."""
        parts = urlsplit(request.url)
        index = agent_of(parts.netloc)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        body, now = request.body or b"", self.now()
        if b'"type":"ACKNOWLEDGE"' in body and parts.path.endswith("/scheduler"):
            self._note_acknowledge(body)
        headers = dict(request.headers)
        if index is None and parts.netloc != self.leader:
            answer = self._standby(target)
        elif index is None:
            answer = self.cluster.master(
                now, request.method, target, body, headers=headers, sink=sink
            )
        else:
            answer = self.cluster.agent(
                index, now, request.method, target, body, headers=headers, sink=sink
            )
        self.poke()
        if answer.status == 0:
            raise TransportError(f"{parts.netloc} refuses the connection")
        return answer

    def _standby(self, target: str) -> Answer:
        """As a master answers that does not lead."""
        if not self.master_up:
            return Answer(503, {}, b"No leader elected", None)
        return Answer(307, {"Location": f"//{self.leader}{target}"}, b"", None)

    def told(self, data: bytes) -> None:
        """An event leaves for a framework: its updates are remembered until they are acknowledged."""
        if data.startswith(_UPDATE):
            status = orjson.loads(data)["update"]["status"]
            if "uuid" in status:
                self._updates[status["uuid"]] = (status["task_id"]["value"], status["state"])

    def _note_acknowledge(self, body: bytes) -> None:
        known = self._updates.get(orjson.loads(body)["acknowledge"]["uuid"])
        if known is not None and self.on_acknowledge is not None:
            self.on_acknowledge(*known)

    def exited(self, index: int, pid: int, status: int) -> None:
        """A process that an agent started has ended."""
        self.cluster.exited(index, pid, status, self.now())
        self.poke()

    def lost(self, request: Request) -> None:
        """A call did not arrive."""
        body = request.body or b""
        if b'"type":"ACCEPT"' in body:
            for operation in orjson.loads(body)["accept"]["operations"]:
                tasks = operation.get("launch", {}).get("task_infos", ())
                self.lost_launches.update(each["task_id"]["value"] for each in tasks)

    def crash_master(self) -> None:
        """kill -9 of the master."""
        self.master_up = False
        self.cluster.crash_master(self.now())
        self.poke()

    def take_over(self) -> None:
        """The standby leads, with what the replicated log has; who died is back as its standby."""
        self.leader = next(each for each in MASTERS if each != self.leader)
        self.start_master()

    def start_master(self) -> None:
        """It is back, with its disk."""
        self.cluster.start_master(self.now())
        self.master_up = True
        self.poke()

    def crash_agent(self, index: int) -> None:
        """kill -9 of an agent; executors live on."""
        self.agents_down.add(index)
        self.cluster.crash_agent(index, self.now())
        self.poke()

    def start_agent(self, index: int) -> None:
        """It is back, with its disk."""
        self.cluster.start_agent(index, self.now())
        self.agents_down.discard(index)
        self.poke()

    def partition(self, index: int, cut: bool) -> None:
        """Break or mend the wire between an agent and the master."""
        (self.agents_cut.add if cut else self.agents_cut.discard)(index)
        self.cluster.partition(index, cut, self.now())
        self.poke()

    def disconnect(self, stream: str) -> None:
        """A client has closed its stream."""
        self.cluster.disconnect(stream, self.now())
        self.poke()


class SinkStream:
    """One event stream: minimesos' `Sink` on one side, libs/mesos' `ByteStream` on the other."""

    def __init__(self, net: MesosNet, life: Life) -> None:
        self._net = net
        self._life = life
        self._sent: deque[bytes] = deque()
        self._arrived: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._last_at = 0.0
        self._ended = False
        self._broken = ""
        self.status = 0
        self.headers: Mapping[str, str] = {}

    def record(self, data: bytes) -> None:
        """See Sink: one event leaves the server."""
        faults = self._net.faults
        self._net.told(data)
        update = data.startswith(_UPDATE)
        if update and faults.strike(Point.MESOS_UPDATE_LOST):
            return
        self._send(data)
        if update and faults.strike(Point.MESOS_UPDATE_DOUBLED):
            self._send(data)
        if faults.strike(Point.MESOS_STREAM_CUT):
            self._net.cuts.append((self._life.name, self._net.loop.time()))
            self._break("the connection was reset")

    def _send(self, data: bytes) -> None:
        faults = self._net.faults
        delay_s = LATENCY_S + faults.delay_s(Point.MESOS_STREAM_SLOW, 0.5)
        at = self._last_at = max(self._last_at, self._net.loop.time() + delay_s)
        self._sent.append(recordio.encode(data))
        self._net.loop.call_at(at, self._arrive)  # timers of one moment fire in any order

    def closed(self) -> None:
        """See Sink: the server has ended it, after what it sent before."""
        at = max(self._last_at, self._net.loop.time() + LATENCY_S)
        self._net.loop.call_at(at, self._end)

    def whole(self, body: bytes) -> None:
        """The answer is no stream: this is all of it."""
        self._arrived.append(body)
        self._end()

    def close(self) -> None:
        """See ByteStream."""
        self._break("the stream was closed on this side")

    async def read(self) -> bytes:
        """See ByteStream."""
        while True:
            await self._life.go_on()
            self._news.clear()
            if self._broken:
                raise TransportError(self._broken)
            if self._arrived:
                chunk = b"".join(self._arrived)
                self._arrived.clear()
                return chunk
            if self._ended:
                return b""
            await self._news.wait()

    def _arrive(self) -> None:
        self._arrived.append(self._sent.popleft())
        self._news.set()

    def _end(self) -> None:
        self._ended = not self._sent
        if self._sent:
            self._net.loop.call_soon(self._end)
        self._news.set()

    def _break(self, why: str) -> None:
        self._broken = self._broken or why
        self._news.set()


class MesosTransport:
    """`Transport` of one process into the cluster."""

    def __init__(self, net: MesosNet, life: Life) -> None:
        self._net = net
        self._life = life

    async def request(self, request: Request, *, timeout_s: float) -> Response:
        """See Transport."""
        await self._arrive(request, timeout_s)
        answer = self._net.call(request)
        self._net.trace.add(self._life.name, f"mesos {_kind(request)} → {answer.status}")
        await asyncio.sleep(LATENCY_S)
        if self._net.faults.strike(Point.MESOS_RESPONSE_LOST):
            await self._no_answer(request, timeout_s)
        return Response(answer.status, _lower(answer.headers), answer.body)

    async def request_all(
        self, request: Request, bodies: Sequence[bytes], *, timeout_s: float
    ) -> list[Response | MesosError]:
        """See Pipeline: each on its own, so that each may be lost."""
        return await each_alone(self, request, bodies, timeout_s)

    @asynccontextmanager
    async def stream(self, request: Request, *, timeout_s: float) -> AsyncIterator[ByteStream]:
        """See Transport."""
        await self._arrive(request, timeout_s)
        sink = SinkStream(self._net, self._life)
        answer = self._net.call(request, sink)
        self._net.trace.add(self._life.name, f"mesos {_kind(request)} → {answer.status}")
        sink.status, sink.headers = answer.status, _lower(answer.headers)
        if answer.stream is None:
            sink.whole(answer.body)
        try:
            yield sink
        finally:
            sink.close()
            if answer.stream is not None:
                self._net.disconnect(answer.stream)

    async def _arrive(self, request: Request, timeout_s: float) -> None:
        await asyncio.sleep(LATENCY_S)
        await self._life.go_on()
        if self._life.dead:
            raise TransportError("this process is dead")
        if self._net.faults.strike(Point.MESOS_REQUEST_LOST):
            self._net.lost(request)
            await self._no_answer(request, timeout_s)

    async def _no_answer(self, request: Request, timeout_s: float) -> NoReturn:
        now, call = self._net.loop.time(), _kind(request).rpartition(" ")[2]
        self._net.unanswered.append((call, now, now + timeout_s))
        await asyncio.sleep(timeout_s)
        raise CallTimeout(f"no answer within {timeout_s:g} s")


def _lower(headers: Mapping[str, str]) -> Mapping[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _kind(request: Request) -> str:
    body = request.body or b""
    start = body.find(b'"type":"')
    name = body[start + 8 : body.find(b'"', start + 8)].decode() if start >= 0 else ""
    return f"{request.method} {urlsplit(request.url).path} {name}"
