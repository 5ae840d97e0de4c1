"""Runs a `Subscription` over a `Transport`: the loop between the machine and the wire."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urljoin, urlsplit

import orjson

from libs.common.clock import Clock
from libs.mesos import events
from libs.mesos.credentials import ANONYMOUS, UNAUTHENTICATED, Login
from libs.mesos.errors import MesosError, TransportError, refusal
from libs.mesos.ports import ByteStream, Pipeline, Request, Response, Transport
from libs.mesos.recordio import Decoder
from libs.mesos.subscription import Close, Connect, Fail, Lost, Output, Phase, Subscription

JSON_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}
_MAX_REFUSAL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Link:
    """A live subscription: the base URL calls go to, and the stream id they must carry."""

    url: str
    stream_id: str | None


def base_url(url: str) -> str:
    """Scheme and authority of `url`, which may also be a bare `host:port`."""
    parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
    return f"{parts.scheme}://{parts.netloc}"


def json_body(body: Mapping[str, Any]) -> bytes:
    """Compact JSON."""
    return orjson.dumps(body)


def location(headers: Mapping[str, str], asked: str) -> str | None:
    """The base URL a redirect points at, `asked` being the URL that was asked."""
    # A master says `//host:port/…` without a scheme: the one we came by holds.
    return base_url(urljoin(asked, headers["location"])) if "location" in headers else None


async def post(
    transport: Transport,
    url: str,
    headers: Mapping[str, str],
    body: Mapping[str, Any],
    timeout_s: float,
    login: Login = ANONYMOUS,
) -> Response:
    """POST a call as JSON. Raises `TransportError`, `CallTimeout` or a `CallRefused`."""
    request = Request("POST", url, {**JSON_HEADERS, **headers}, json_body(body))
    response = await ask(transport, request, login, timeout_s)
    if 200 <= response.status < 300:
        return response
    raise refusal(response.status, response.text(), location(response.headers, url))


async def ask(transport: Transport, request: Request, login: Login, timeout_s: float) -> Response:
    """The answer; once more with other credentials when these are refused and there are others now."""
    used = login.headers
    response = await transport.request(_as(request, used), timeout_s=timeout_s)
    if response.status == UNAUTHENTICATED and login.is_other_than(used):
        return await transport.request(_as(request, login.headers), timeout_s=timeout_s)
    return response


def _as(request: Request, headers: Mapping[str, str]) -> Request:
    return replace(request, headers={**request.headers, **headers})


async def post_all(
    transport: Pipeline,
    url: str,
    headers: Mapping[str, str],
    bodies: Iterable[Mapping[str, Any]],
    timeout_s: float,
    login: Login = ANONYMOUS,
) -> None:
    """POST calls as JSON, all at once. Raises what the first failed with, of those that did, after the last."""
    request = Request("POST", url, {**JSON_HEADERS, **headers})
    data = [json_body(body) for body in bodies]
    used = login.headers
    answers = await transport.request_all(_as(request, used), data, timeout_s=timeout_s)
    refused = [n for n, each in enumerate(answers) if _is_unauthenticated(each)]
    if refused and login.is_other_than(used):
        again = [data[n] for n in refused]
        renewed = _as(request, login.headers)
        later = await transport.request_all(renewed, again, timeout_s=timeout_s)
        for n, answer in zip(refused, later, strict=True):
            answers[n] = answer
    for answer in answers:
        if isinstance(answer, MesosError):
            raise answer
        if not 200 <= answer.status < 300:
            raise refusal(answer.status, answer.text(), location(answer.headers, url))


def _is_unauthenticated(answer: Response | MesosError) -> bool:
    return isinstance(answer, Response) and answer.status == UNAUTHENTICATED


class EventStream:
    """One subscription's events, as an async iterator that reconnects inside.

    Yields events as JSON objects, and `Lost` between two connections. Ends after an ERROR event;
    raises what the machine fails with. `subscribe_body` is called for each attempt. A 401 is tried
    again, as a peer that is away is, when `login` may change. One consumer only; call `aclose` at the end.
    """

    def __init__(
        self,
        machine: Subscription,
        transport: Transport,
        clock: Clock,
        *,
        path: str,
        headers: Mapping[str, str],
        subscribe_body: Callable[[], Mapping[str, Any]],
        connect_timeout_s: float,
        login: Login = ANONYMOUS,
    ) -> None:
        self._machine = machine
        self._transport = transport
        self._clock = clock
        self._path = path
        self._headers = {**JSON_HEADERS, **headers}
        self._subscribe_body = subscribe_body
        self._connect_timeout_s = connect_timeout_s
        self._login = login
        self._started = False
        self._pending: deque[events.Json | Lost] = deque()
        self._error: MesosError | None = None
        self._url = ""
        self._exit = AsyncExitStack()
        self._stream: ByteStream | None = None
        self._decoder = Decoder()
        self._drop_reason: str | None = None

    @property
    def link(self) -> Link | None:
        """Where calls may go now; None while not subscribed."""
        if self._stream is None or self._machine.phase is not Phase.SUBSCRIBED:
            return None
        return Link(self._url, self._stream.headers.get("mesos-stream-id"))

    def drop(self, reason: str) -> None:
        """Cut the present connection; the machine will subscribe again."""
        if self._stream is not None:
            self._drop_reason = reason
            self._stream.close()

    async def aclose(self) -> None:
        """Cut the connection for good."""
        self._stream = None
        await self._exit.aclose()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> events.Json | Lost:
        if not self._started:
            self._started = True
            await self._apply(self._machine.start(self._clock.monotonic()))
        if not self._pending:
            self._machine.resumed(self._clock.monotonic())
        while not self._pending:
            if self._error is not None:
                raise self._error
            if self._machine.phase is Phase.ENDED:
                raise StopAsyncIteration
            await self._apply(await self._advance())
        return self._pending.popleft()

    async def _apply(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            match output:
                case Connect(url):
                    self._url = url
                case Close():
                    await self.aclose()
                case Lost():
                    self._pending.append(output)
                case Fail(error):
                    self._error = error

    async def _advance(self) -> Sequence[Output]:
        """Do what the machine's phase asks for, until its next input is known."""
        if self._machine.phase is Phase.WAITING:
            deadline = self._machine.deadline or 0.0
            await self._clock.sleep(max(0.0, deadline - self._clock.monotonic()))
            # A sleep may end a hair early: the machine then says nothing and we sleep again.
            return self._machine.tick(self._clock.monotonic())
        try:
            if self._machine.phase is Phase.CONNECTING:
                return await self._connect()
            return await self._receive()
        except MesosError as error:
            reason, self._drop_reason = self._drop_reason or str(error), None
            return self._machine.closed(self._clock.monotonic(), reason)

    async def _connect(self) -> Sequence[Output]:
        body = json_body(self._subscribe_body())
        used = self._login.headers
        request = Request("POST", self._url + self._path, {**self._headers, **used}, body)
        opening = self._transport.stream(request, timeout_s=self._connect_timeout_s)
        stream = await self._exit.enter_async_context(opening)
        if stream.status != 200:
            error = refusal(
                stream.status, await self._text(stream), location(stream.headers, request.url)
            )
            if error.status == UNAUTHENTICATED and self._login.may_change:
                self._login.is_other_than(used)  # what there is now is for the next attempt
                return self._machine.closed(self._clock.monotonic(), str(error))
            return self._machine.refused(self._clock.monotonic(), error)
        self._decoder = Decoder()
        self._stream = stream
        return self._machine.opened(self._clock.monotonic())

    async def _text(self, stream: ByteStream) -> str:
        text = b""
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                while len(text) < _MAX_REFUSAL_BYTES and (chunk := await stream.read()):
                    text += chunk
        except TimeoutError as error:
            raise TransportError("the text of a refusal did not end in time") from error
        return text.decode("utf-8", "replace")

    async def _receive(self) -> Sequence[Output]:
        assert self._stream is not None, "an opened subscription has a stream"
        deadline = self._machine.deadline
        wait_s = None if deadline is None else max(0.0, deadline - self._clock.monotonic())
        try:
            async with asyncio.timeout(wait_s):
                chunk = await self._stream.read()
        except TimeoutError:
            return self._machine.tick(self._clock.monotonic())
        if not chunk:
            self._decoder.end()
            raise TransportError("the peer closed the stream")
        now = self._clock.monotonic()
        for record in self._decoder.feed(chunk):
            event = events.decode(record)
            self._pending.append(event)
            if outputs := self._machine.record(now, event["type"], _heartbeat_s(event)):
                return outputs
        return []


def _heartbeat_s(event: events.Json) -> float | None:
    if event["type"] != "SUBSCRIBED":
        return None
    interval = event.get("subscribed", {}).get("heartbeat_interval_seconds")
    return float(interval) if isinstance(interval, int | float) else None
