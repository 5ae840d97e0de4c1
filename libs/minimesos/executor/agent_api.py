"""The v1 executor API over plain sockets: one streaming SUBSCRIBE, one connection for calls."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
CALL_TIMEOUT_S = 10.0


class AgentUnreachable(Exception):
    """No connection, or it broke."""


class AgentRefused(Exception):
    """The agent answered with an error; the text is its body."""


class AgentApi:
    """Calls of one executor to its agent at `endpoint` ("ip:port"), with the token that the agent gave it, if any."""

    def __init__(self, endpoint: str, framework_id: str, executor_id: str, token: str = "") -> None:
        host, _, port = endpoint.rpartition(":")
        self._address = (host, int(port))
        self._ids: Json = {
            "framework_id": {"value": framework_id},
            "executor_id": {"value": executor_id},
        }
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._calls: http.client.HTTPConnection | None = None
        self._stream: http.client.HTTPConnection | None = None

    def _body(self, kind: str, fields: Json) -> bytes:
        return json.dumps({"type": kind, **self._ids, **fields}).encode()

    def call(self, kind: str, **fields: Any) -> None:
        """One call. Raises AgentUnreachable or AgentRefused."""
        if self._calls is None:
            self._calls = http.client.HTTPConnection(*self._address, timeout=CALL_TIMEOUT_S)
        try:
            body = self._body(kind, fields)
            self._calls.request("POST", "/api/v1/executor", body, self._headers)
            response = self._calls.getresponse()
            text = response.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            self._calls.close()
            self._calls = None
            raise AgentUnreachable(str(error)) from error
        if response.status not in (200, 202):
            raise AgentRefused(text)

    def subscribe(self, tasks: list[Json], updates: list[Json]) -> Iterator[Json]:
        """Events until the stream breaks. Raises AgentUnreachable or AgentRefused."""
        connection = http.client.HTTPConnection(*self._address, timeout=CALL_TIMEOUT_S)
        self._stream = connection
        try:
            body = self._body(
                "SUBSCRIBE",
                {"subscribe": {"unacknowledged_tasks": tasks, "unacknowledged_updates": updates}},
            )
            connection.request("POST", "/api/v1/executor", body, self._headers)
            response = connection.getresponse()
            if response.status != 200:
                raise AgentRefused(response.read().decode("utf-8", "replace"))
            sock = connection.sock
            if isinstance(sock, socket.socket):
                # Heartbeats come every half an hour; a dead agent closes the connection.
                sock.settimeout(None)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            yield from _records(response)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise AgentUnreachable(str(error)) from error
        finally:
            connection.close()


def _records(response: http.client.HTTPResponse) -> Iterator[Json]:
    while True:
        line = response.readline()
        if not line:
            return
        size = int(line)
        data = b""
        while len(data) < size:
            more = response.read(size - len(data))
            if not more:
                return
            data += more
        yield json.loads(data)
