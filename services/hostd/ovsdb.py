"""An asyncio client of OVSDB (RFC 7047): a codec and a replica without I/O, and a thin connection around them.

The replica follows the tables that hostd needs by one `monitor`; so reading costs nothing, and waiting for the
switch to take a change up is waiting for `cur_cfg` to arrive in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from libs.common.errors import TimedOut, Unavailable

DATABASE = "Open_vSwitch"
COLUMNS: dict[str, tuple[str, ...]] = {
    "Open_vSwitch": ("cur_cfg", "next_cfg"),
    "Bridge": ("name", "ports", "datapath_type", "fail_mode", "external_ids"),
    "Port": ("name", "tag", "interfaces", "external_ids", "qos"),
    "Interface": ("name", "ofport", "ofport_request", "error", "ingress_policing_rate"),
    "QoS": ("type", "other_config", "external_ids"),
}
CALL_TIMEOUT_S = 15.0
MAX_MESSAGE_BYTES = 64 * 1024 * 1024

Row = Mapping[str, Any]
Operation = dict[str, Any]
_STRUCTURE = re.compile(rb'["{}]')
_STRING_END = re.compile(rb'["\\]')


class JsonSplitter:
    """Cuts a stream of JSON objects, which nothing separates, into objects. Each byte is looked at once."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0  # everything before has been looked at
        self._depth = 0
        self._in_string = False

    def feed(self, data: bytes) -> list[Any]:
        """Objects that are complete with `data`. Raises ValueError when one is broken or too large."""
        self._buffer += data
        found = []
        while (end := self._scan()) is not None:
            found.append(orjson.loads(bytes(self._buffer[:end])))
            del self._buffer[:end]
            self._at = 0
        if len(self._buffer) > MAX_MESSAGE_BYTES:
            raise ValueError("an OVSDB message is too large")
        return found

    def _scan(self) -> int | None:
        while True:
            pattern = _STRING_END if self._in_string else _STRUCTURE
            match = pattern.search(self._buffer, self._at)
            if match is None:
                self._at = len(self._buffer)
                return None
            byte = match.group()
            if byte == b"\\" and match.end() == len(self._buffer):
                self._at = match.start()  # the escaped character is still to come
                return None
            self._at = match.end() + (byte == b"\\")
            if byte == b'"':
                self._in_string = not self._in_string
            elif byte == b"{":
                self._depth += 1
            elif byte == b"}":
                self._depth -= 1
                if self._depth <= 0:
                    self._depth = 0
                    return self._at


class Replica:
    """The monitored tables as of the last update."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, Row]] = {table: {} for table in COLUMNS}

    def apply(self, updates: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Take a <table-updates> in (RFC 7047, 4.1.6)."""
        for table, rows in updates.items():
            for uuid, change in rows.items():
                if "new" in change:
                    self.tables[table][uuid] = change["new"]
                else:
                    self.tables[table].pop(uuid, None)

    def by_name(self, table: str) -> dict[str, tuple[str, Row]]:
        """Rows of a table as name -> (uuid, row)."""
        return {row["name"]: (uuid, row) for uuid, row in self.tables[table].items()}

    def config(self, column: str) -> int:
        """`cur_cfg` or `next_cfg`."""
        for row in self.tables["Open_vSwitch"].values():
            return int(row[column])
        return 0


def as_set(value: Any) -> list[Any]:
    """A column that may be empty, one value or many, as a list; uuids as plain strings."""
    if isinstance(value, list) and len(value) == 2 and value[0] == "set":
        return [_atom(each) for each in value[1]]
    return [_atom(value)]


def _atom(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 2 and value[0] in ("uuid", "named-uuid"):
        return value[1]
    return value


def one(value: Any) -> Any:
    """The only value of an optional column, or None."""
    values = as_set(value)
    return values[0] if values else None


def as_map(value: Any) -> dict[str, str]:
    """A map column."""
    return dict(value[1])


def to_map(values: Mapping[str, str]) -> list[Any]:
    """A map column's value on the wire."""
    return ["map", [[key, value] for key, value in values.items()]]


def uuid_set(uuids: Sequence[str]) -> list[Any]:
    """A set of references to rows."""
    return ["set", [["uuid", each] for each in uuids]]


def first_error(results: Sequence[Any]) -> str | None:
    """Why a transaction was aborted, or None (RFC 7047, 4.1.3: also a result beyond the operations tells)."""
    for result in results:
        if result and "error" in result:
            return f"{result['error']}: {result.get('details', '')}"
    return None


class OvsdbClient:
    """One connection. When it breaks, every call raises Unavailable and `closed` is set."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.replica = Replica()
        self.closed = asyncio.Event()
        self._reader, self._writer = reader, writer
        self._next_id = 0
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._watchers: dict[int, tuple[Callable[[], bool], asyncio.Future[None]]] = {}

    @classmethod
    async def connect(cls, path: str, timeout_s: float = CALL_TIMEOUT_S) -> OvsdbClient:
        """Connect. Raises Unavailable. `read_forever` must run for calls to be answered."""
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_unix_connection(path)
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"no OVSDB server at {path}: {error}") from error
        return cls(reader, writer)

    async def read_forever(self) -> None:
        """Take in what the server sends until the connection ends; never raises for that."""
        splitter = JsonSplitter()
        try:
            while data := await self._reader.read(262_144):
                for message in splitter.feed(data):
                    self._take(message)
        except (OSError, ValueError, LookupError, TypeError):
            pass  # broken off, or not OVSDB: the caller connects anew
        finally:
            self.close()

    def close(self) -> None:
        """Close; whoever waits gets Unavailable."""
        self.closed.set()
        self._writer.close()
        waiting = [*self._calls.values(), *(future for _, future in self._watchers.values())]
        for future in waiting:
            if not future.done():
                future.set_exception(Unavailable("the OVSDB connection was lost"))
        self._calls.clear()
        self._watchers.clear()

    async def follow(self) -> None:
        """Fill the replica, and have it kept up to date."""
        tables = {table: {"columns": list(columns)} for table, columns in COLUMNS.items()}
        self.replica.apply(await self._call("monitor", [DATABASE, None, tables]))

    async def transact(self, operations: Sequence[Operation]) -> list[Any]:
        """Run one transaction; the results, one an operation. Raises Unavailable when it was aborted."""
        results: list[Any] = await self._call("transact", [DATABASE, *operations])
        reason = first_error(results)
        if reason is not None:
            raise Unavailable(f"OVSDB aborted the transaction: {reason}")
        return results

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the replica fulfils the condition. Raises TimedOut, saying `what` did not happen."""
        if condition():
            return
        self._next_id += 1
        key, future = self._next_id, asyncio.get_running_loop().create_future()
        self._watchers[key] = (condition, future)
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await future
        except TimeoutError:
            raise TimedOut(f"{what} in {CALL_TIMEOUT_S:.0f} s") from None
        finally:
            self._watchers.pop(key, None)

    async def _call(self, method: str, params: Sequence[Any]) -> Any:
        if self.closed.is_set():
            raise Unavailable("the OVSDB connection was lost")
        self._next_id += 1
        key, future = self._next_id, asyncio.get_running_loop().create_future()
        self._calls[key] = future
        try:
            self._writer.write(orjson.dumps({"method": method, "params": params, "id": key}))
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._writer.drain()
                return await future
        except TimeoutError:
            raise TimedOut("OVSDB did not answer in time") from None
        except OSError as error:
            raise Unavailable(f"the OVSDB connection was lost: {error}") from error
        finally:
            self._calls.pop(key, None)

    def _take(self, message: Any) -> None:
        method = message.get("method")
        if method == "echo":
            reply = {"result": message["params"], "error": None, "id": message["id"]}
            with contextlib.suppress(OSError):
                self._writer.write(orjson.dumps(reply))
        elif method == "update":
            self.replica.apply(message["params"][1])
            self._tell_watchers()
        elif method is None:
            future = self._calls.get(message["id"])
            if future is None or future.done():
                return
            if message.get("error") is not None:
                future.set_exception(Unavailable(f"OVSDB refused: {message['error']}"))
            else:
                future.set_result(message["result"])

    def _tell_watchers(self) -> None:
        for condition, future in list(self._watchers.values()):
            if not future.done() and condition():
                future.set_result(None)
