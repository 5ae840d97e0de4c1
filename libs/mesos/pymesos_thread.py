"""pymesos with its faults contained: one connection to one master, in a thread of its own.

What is overridden here is private to pymesos 0.3.15, which is pinned. docs/adr/0024 names the faults. In short:

- It connects once. When the stream ends, for whatever reason, so does the thread, and says why; pymesos itself would
  connect again at once and for ever, or die unnoticed.
- It never sends a TEARDOWN by itself, which pymesos does whenever its thread ends in an unforeseen way.
- Calls are the ones of `libs.mesos.calls`, whole, and fail aloud; pymesos' own leave agent ids out and are dropped
  silently while it is not connected.
- An exception in the thread stays there; pymesos raises it as a SIGINT in the main thread.

Importing this module imports pymesos, in the main thread only. Nothing else may import it before it is wanted.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

from libs.mesos.errors import (
    CallTimeout,
    MesosError,
    NotConnected,
    NotLeader,
    TransportError,
    refusal,
)
from libs.mesos.events import Error, SchedulerEvent, checked, scheduler_event
from libs.mesos.framework import PATH
from libs.mesos.stream import JSON_HEADERS, base_url, json_body, location

READ_BYTES = 32_768
IDLE_S = 30.0
"""A call's connection that has been idle for longer is not used again: servers close such (aiohttp after 75 s)."""
MAX_REFUSAL_BYTES = 4096


@contextmanager
def _sigint_kept() -> Iterator[None]:
    """pymesos takes SIGINT for itself when it is imported."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        # None: somebody's that is not Python's, and lost by now.
        signal.signal(signal.SIGINT, signal.SIG_DFL if handler is None else handler)


with _sigint_kept():
    from pymesos import process
    from pymesos.scheduler import MesosSchedulerDriver


class _Deaths(threading.local):
    """Stands in for `_thread` in pymesos.process, whose `interrupt_main` it calls when its thread dies."""

    error: BaseException | None = None

    def interrupt_main(self) -> None:
        """Note what it died of, instead of interrupting anybody."""
        self.error = sys.exc_info()[1]
        process._exc_info = None  # it would keep the dead thread's frames


class _Polling:
    """Stands in for `select` in pymesos.process: select(2) fails on descriptors from 1024 on."""

    @staticmethod
    def select(
        readers: Iterable[int], writers: Iterable[int], _errors: object, timeout_s: float
    ) -> tuple[list[int], list[int], list[int]]:
        """As select.select, by poll(2); a broken descriptor is ready for everything."""
        wanted = dict.fromkeys(readers, select.POLLIN)
        for fd in writers:
            wanted[fd] = wanted.get(fd, 0) | select.POLLOUT
        poller = select.poll()
        for fd, events in wanted.items():
            poller.register(fd, events)
        ready = {
            fd: found | wanted[fd] if found & ~(select.POLLIN | select.POLLOUT) else found
            for fd, found in poller.poll(timeout_s * 1000)
        }
        readable = [fd for fd, found in ready.items() if found & select.POLLIN]
        return readable, [fd for fd, found in ready.items() if found & select.POLLOUT], []


_deaths = _Deaths()
process.thread = _deaths
process.select = _Polling
process.PIPE_BUF = READ_BYTES
# What goes wrong is told as an event; pymesos' lines on stderr would tell it again, with whole events in them.
logging.getLogger("pymesos").handlers.clear()
logging.getLogger("pymesos").setLevel(logging.CRITICAL + 1)


class _CallConnection(HTTPConnection):
    """Refusals are raised as what they are, without the call that pymesos would put into their text."""

    def getresponse(self) -> HTTPResponse:
        """The answer. Raises a `CallRefused` for one that is not a success."""
        answer = super().getresponse()
        if 200 <= answer.status < 300:
            return answer
        text = answer.read(MAX_REFUSAL_BYTES).decode("utf-8", "replace")
        headers = {name.lower(): value for name, value in answer.getheaders()}
        url = f"http://{self.host}:{self.port}{PATH}"
        raise refusal(answer.status, text, location(headers, url))


class NoStream(TransportError):
    """The master has answered with no events, or broken ones. pymesos does not tell a refusal apart."""


class PymesosThread(MesosSchedulerDriver):  # type: ignore[misc]  # pymesos has no types
    """One subscription at one master, `address` being `host:port`.

    `hear` gets each event, in the thread, and may block it; `ended` gets why it is over, once. `headers` authenticate
    the SUBSCRIBE and each call, and may be replaced.
    """

    def __init__(
        self,
        address: str,
        subscribe_call: Mapping[str, Any],
        headers: Mapping[str, str],
        *,
        call_timeout_s: float,
        monotonic: Callable[[], float],
        hear: Callable[[SchedulerEvent], None],
        ended: Callable[[MesosError], None],
    ) -> None:
        # Of each step of a call; who waits for the whole gives up before, and cuts it. pymesos' own is 86,400 s.
        super().__init__(None, {}, address, failover=True, timeout=call_timeout_s + 1.0)
        self._address = address
        self._master: str | None = address
        self._new_master: str | None = address
        self._conn: HTTPConnection | None = None
        self._subscribe_body = json_body(subscribe_call)
        self.headers = headers
        self._monotonic = monotonic
        self._hear = hear
        self._tell_end = ended
        self._over = False
        self._redirect: str | None = None
        self._failure = "the peer closed the stream"
        self._used_at = 0.0
        self._pipe = threading.Lock()  # pymesos' own lock is held during calls
        self._pipe_closed = False

    # -- from the event loop, without waiting for anything

    def open(self) -> None:
        """Start the thread. Once."""
        process.Process.start(self)

    def halt(self) -> None:
        """End the thread and a call under way, soon; nothing is heard any more."""
        self._over = True
        self._started = False
        self.cut()
        self._wake()

    def cut(self) -> None:
        """Break a call under way: it fails at once."""
        sock = getattr(self._conn, "sock", None)
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    # -- from a thread for calls

    def call(self, body: Mapping[str, Any], until: float) -> None:
        """Send a whole call, after those before it, unless it is past `until` by then. Raises a `MesosError`."""
        if self._monotonic() >= until:
            raise NotConnected(f"{body['type']}: not sent in time")
        try:
            # Its default for `headers` is one dict for all drivers: credentials of one would go with another's calls.
            self._send(dict(body), path=PATH, headers=dict(self.headers))
        except MesosError:
            raise
        except TimeoutError as error:
            raise CallTimeout(f"no answer within {self._timeout} s") from error
        # A connection that is cut under http.client's hands fails in other ways too.
        except (OSError, HTTPException, AttributeError, ValueError) as error:
            raise TransportError(f"{body['type']} failed: {error!r}") from error

    def _get_conn(self) -> HTTPConnection:
        if self._over or not self.connected:
            raise NotConnected("not subscribed")
        now = self._monotonic()
        if self._conn is not None and now - self._used_at > IDLE_S:
            self._close()
        self._used_at = now
        if self._conn is None:
            host, _, port = self._address.rpartition(":")
            self._conn = _CallConnection(host, int(port), timeout=self._timeout)
        return self._conn

    # -- in pymesos' thread

    def _run(self) -> None:
        error: BaseException | None
        try:
            super()._run()
            error, _deaths.error = _deaths.error, None
        except Exception as raised:
            error = raised
        self._over = True
        self._tell_end(self._reason(error))
        with self._lock:
            self._close()

    def _reason(self, error: BaseException | None) -> MesosError:
        if self._redirect is not None:
            return NotLeader(307, "", base_url(self._redirect))
        if isinstance(error, MesosError):
            return error
        return TransportError(self._failure) if error is None else NoStream(f"pymesos: {error}")

    def gen_request(self) -> bytes:
        """The SUBSCRIBE: pymesos' knows no suppressed roles, and adds a capability that nobody asked for."""
        headers = {
            "Host": self._address,
            **JSON_HEADERS,
            **self.headers,
            "Connection": "close",
            "Content-Length": str(len(self._subscribe_body)),
        }
        lines = [f"POST {PATH} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self._subscribe_body

    def on_event(self, event: object) -> None:
        """Hand it on, typed; after an ERROR nothing follows."""
        typed = scheduler_event(checked(event))
        self._hear(typed)
        if isinstance(typed, Error):
            self._wind_up()

    def on_close(self) -> None:
        """The connection is gone, or there never was one."""
        self.cut()
        self._wind_up()

    def change_master(self, new_master: str) -> None:
        """A redirect: where to is for others to decide."""
        self._redirect = new_master

    def _backoff(self, _retries: int) -> float:
        # Called when connecting has failed; the pause that follows is not pymesos' business.
        self._failure = "could not connect"
        return 0.0

    def _shutdown(self) -> None:
        """No TEARDOWN; the pipe is closed after this."""
        with self._pipe:
            self._over = True
            self._pipe_closed = True

    def _wind_up(self) -> None:
        self._master = None  # so that pymesos does not connect again
        self._over = True
        self._started = False
        self._wake()

    def _wake(self) -> None:
        with self._pipe:
            if self._wakeup_fds and not self._pipe_closed:
                os.write(self._wakeup_fds[1], b"\0")
