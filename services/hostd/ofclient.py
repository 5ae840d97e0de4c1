"""A client of a bridge's management socket: OpenFlow 1.3 over asyncio streams.

Open vSwitch serves any number of clients there and keeps no controller session, so losing it costs the switch nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable, Iterable, Sequence

from libs.common.errors import TimedOut, Unavailable
from services.hostd.flows import Rule
from services.hostd.openflow import (
    BARRIER_REPLY,
    BARRIER_REQUEST,
    ECHO_REPLY,
    ECHO_REQUEST,
    ERROR,
    FLOW_MOD,
    HELLO,
    MULTIPART_REPLY,
    MULTIPART_REQUEST,
    PACKET_IN,
    PACKET_OUT,
    SET_CONFIG,
    Flow,
    Frame,
    FrameReader,
    add_rule,
    delete_flow,
    delete_rules,
    encode,
    flow_request,
    flow_stats,
    has_more,
    packet_out,
    tagged_out,
    told_frame,
    whole_frames,
)

CALL_TIMEOUT_S = 10.0


class OpenFlowClient:
    """One connection. When it breaks, every call raises Unavailable and `closed` is set."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._xid = 0
        self._waiting: dict[int, asyncio.Future[list[Frame]]] = {}
        self._partial: dict[int, list[Frame]] = {}
        self._errors: list[str] = []
        self._told: Callable[[bytes], None] = lambda _frame: None
        self.closed = asyncio.Event()

    @classmethod
    async def connect(cls, path: str, timeout_s: float = CALL_TIMEOUT_S) -> OpenFlowClient:
        """Connect and exchange versions. Raises Unavailable. `read_forever` must run for calls to be answered."""
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_unix_connection(path)
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"no OpenFlow switch at {path}: {error}") from error
        client = cls(reader, writer)
        client._send(HELLO)
        return client

    async def read_forever(self) -> None:
        """Take in what the switch sends until the connection ends; never raises for that."""
        frames = FrameReader()
        try:
            while data := await self._reader.read(65536):
                for frame in frames.feed(data):
                    self._take(frame)
        except (OSError, ValueError):
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Close; whoever waits gets Unavailable."""
        self.closed.set()
        self._writer.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable("the OpenFlow connection was lost"))
        self._waiting.clear()

    async def apply(
        self,
        deletes: Iterable[int | Flow],
        adds: Iterable[Rule],
        frames: Sequence[tuple[int, bytes]] = (),
    ) -> None:
        """Delete (all of a cookie, or one flow), then add, then send frames; done when the switch has done it.

        Raises Unavailable, also when the switch refused any of it.
        """
        self._errors.clear()
        for each in deletes:
            body = delete_flow(each) if isinstance(each, Flow) else delete_rules(each)
            self._send(FLOW_MOD, body)
        for rule in adds:
            self._send(FLOW_MOD, add_rule(rule))
        for in_port, frame in frames:
            self._send(PACKET_OUT, packet_out(in_port, frame))
        await self.barrier()
        if self._errors:
            raise Unavailable(f"the switch refused a rule: {self._errors[0]}")

    async def barrier(self) -> None:
        """Returns when the switch has done all that it was asked for. Raises Unavailable."""
        await self._call(BARRIER_REQUEST)

    async def flows(self, cookie: int | None = None) -> list[Flow]:
        """All flows there are, or those with this cookie. Raises Unavailable."""
        found: list[Flow] = []
        try:
            for frame in await self._call(MULTIPART_REQUEST, flow_request(cookie)):
                found += flow_stats(frame.body)
        except ValueError as error:
            raise Unavailable(f"the switch's flows can't be read: {error}") from error
        return found

    def listen(self, told: Callable[[bytes], None]) -> None:
        """From now on, hand every frame that a rule tells of to `told`."""
        self._told = told
        self._send(SET_CONFIG, whole_frames())

    def send_tagged(self, vlan: int, ports: Iterable[int], frame: bytes) -> None:
        """Send a frame by these ports. Raises Unavailable when the connection is lost."""
        self._send(PACKET_OUT, tagged_out(vlan, ports, frame))

    def _send(self, kind: int, body: bytes = b"", xid: int | None = None) -> int:
        if self.closed.is_set():
            raise Unavailable("the OpenFlow connection was lost")
        if xid is None:
            self._xid = xid = (self._xid + 1) & 0x7FFFFFFF
        self._writer.write(encode(kind, xid, body))
        return xid

    async def _call(self, kind: int, body: bytes = b"") -> list[Frame]:
        future: asyncio.Future[list[Frame]] = asyncio.get_running_loop().create_future()
        xid = self._send(kind, body)
        self._waiting[xid] = future
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._writer.drain()
                return await future
        except TimeoutError:
            raise TimedOut("the switch did not answer in time") from None
        except OSError as error:
            raise Unavailable(f"the OpenFlow connection was lost: {error}") from error
        finally:
            self._waiting.pop(xid, None)
            self._partial.pop(xid, None)

    def _take(self, frame: Frame) -> None:
        if frame.kind == ECHO_REQUEST:
            with contextlib.suppress(Unavailable):
                self._send(ECHO_REPLY, frame.body, frame.xid)
            return
        if frame.kind == PACKET_IN:
            self._told(told_frame(frame.body))
            return
        if frame.kind == ERROR and len(frame.body) >= 4:
            kind, code = struct.unpack_from("!HH", frame.body)
            self._errors.append(f"error type {kind} code {code}")
        # The switch numbers its own messages (its HELLO, notifications) as it likes.
        answers = (BARRIER_REPLY, MULTIPART_REPLY, ERROR)
        future = self._waiting.get(frame.xid) if frame.kind in answers else None
        if future is None or future.done():
            return
        if frame.kind == ERROR:
            future.set_exception(Unavailable(f"the switch refused: {self._errors[-1]}"))
            return
        partial = self._partial.setdefault(frame.xid, [])
        partial.append(frame)
        if frame.kind != MULTIPART_REPLY or not has_more(frame.body):
            future.set_result(partial)
