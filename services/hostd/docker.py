"""Engine on the Docker API: whose containers run where, their logs and numbers.

Six GETs and a POST: aiohttp alone does them, as aiodocker's log call loses which stream a line came from.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

from libs.common.errors import NotFound, TimedOut, Unavailable
from services.hostd.logs import LogReader
from services.hostd.model import ContainerView, Life
from services.hostd.ports import LogQuery

CLUSTER_LABEL = "gantry.cluster"
TIMEOUT_S = 10.0
RESUMES = 3  # of a log that is followed, at one place
API = "http://docker/v1.40"  # of engine 19.03: all that is used here, and newer engines speak it


@dataclass(frozen=True, slots=True)
class _Process:
    """A container's first process. With its start time, a pid names one process for ever."""

    pid: int
    started: str
    runtime: str


class DockerEngine:
    """See Engine."""

    def __init__(self, cluster: str, socket: str) -> None:
        self._cluster = cluster
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(socket, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_S),
        )
        self._processes: dict[str, _Process] = {}

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def containers(self) -> tuple[ContainerView, ...]:
        """See Engine."""
        filters = orjson.dumps({"label": [f"{CLUSTER_LABEL}={self._cluster}"]}).decode()
        listed = await self._json("GET", "containers/json", {"all": "true", "filters": filters})
        views = [await self._view(each) for each in listed]
        alive = {view.id for view in views if view.running}
        self._processes = {key: value for key, value in self._processes.items() if key in alive}
        return tuple(views)

    async def ping(self) -> None:
        """See Engine."""
        async with self._ask("GET", "_ping", {}) as answer:
            _check(answer.status, "a ping")

    async def exists(self, container: str) -> bool:
        """See Engine."""
        try:
            await self._inspect(container)
        except NotFound:
            return False
        return True

    async def life(self, container: str) -> Life:
        """See Engine."""
        try:
            state = (await self._inspect(container))["State"]
        except NotFound:
            return Life.ABSENT
        if state["Running"]:
            return Life.RUNNING
        return Life.CREATED if state["Status"] == "created" else Life.ENDED

    async def root(self) -> Path:
        """See Engine."""
        return Path((await self._json("GET", "info", {}))["DockerRootDir"])

    async def kill(self, container: str) -> None:
        """See Engine."""
        async with (
            asyncio.timeout(TIMEOUT_S),
            self._ask("POST", f"{_path(container)}/kill", {}) as a,
        ):
            if a.status not in (204, 404, 409):  # 409: it does not run
                raise Unavailable(f"Docker could not kill {container[:12]}: {a.status}")

    async def stats(self, container: str) -> Mapping[str, Any]:
        """See Engine."""
        params = {"stream": "false", "one-shot": "true"}
        numbers = await self._json("GET", f"{_path(container)}/stats", params)
        memory = numbers.get("memory_stats", {})
        details = memory.get("stats", {})
        # What the page cache holds can be given back, so it is no use of memory (`docker stats` says the same).
        cache = details.get("total_inactive_file", details.get("inactive_file", 0))
        return {
            "cpu_ns": numbers.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage", 0),
            "mem_bytes": max(0, memory.get("usage", 0) - cache),
            "mem_limit_bytes": memory.get("limit", 0),
            "pids": numbers.get("pids_stats", {}).get("current", 0),
        }

    async def logs(self, container: str, query: LogQuery) -> AsyncIterator[bytes]:
        """See Engine."""
        found = await self._inspect(container)
        params = {
            "stdout": "true",
            "stderr": "true",
            "timestamps": "true",
            "follow": "true" if query.follow else "false",
            "tail": "all" if query.tail is None else str(query.tail),
        }
        if query.since is not None:
            params["since"] = str(query.since)
        reader = LogReader(terminal=bool(found["Config"]["Tty"]), following=query.follow)
        return self._lines(found["Id"], params, reader)

    async def _lines(
        self, container: str, params: Mapping[str, str], reader: LogReader
    ) -> AsyncIterator[bytes]:
        # No time-out here: a container may be silent for days.
        place, tries = 0, 0
        while True:
            async with self._ask("GET", f"{_path(container)}/logs", params) as answer:
                _check(answer.status, container)
                async for chunk in answer.content.iter_any():
                    if lines := reader.feed(chunk):
                        yield b"".join(lines)
            if not reader.lost:
                break
            # A follower goes on where it was, as long as that gets it any further.
            if reader.newest > place:
                place, tries = reader.newest, 0
            if params["follow"] != "true" or tries >= RESUMES:
                raise Unavailable(f"Docker lost its place in the log: {reader.lost}")
            tries += 1
            if reader.newest:
                seconds = reader.newest // 1_000_000_000 - 1  # stdout may be ahead of stderr
                params = {**params, "tail": "all", "since": str(seconds)}
            reader.resume()
        if lines := reader.end():
            yield b"".join(lines)

    # -- the API -------------------------------------------------------------------------------------

    async def _view(self, listed: Mapping[str, Any]) -> ContainerView:
        running = listed["State"] in ("running", "paused", "restarting")
        process = await self._process(listed["Id"]) if running else None
        return ContainerView(
            id=listed["Id"],
            name=listed["Names"][0].lstrip("/") if listed["Names"] else "",
            running=process is not None,
            runtime=process.runtime if process else "",
            pid=process.pid if process else 0,
            netns_inode=_netns_inode(process.pid) if process else None,
            labels=tuple(sorted(listed["Labels"].items())),
        )

    async def _process(self, container: str) -> _Process | None:
        """Inspected once a process: inspecting all containers every few seconds would keep the engine busy."""
        known = self._processes.get(container)
        if known is not None and _start_time(known.pid) == known.started:
            return known
        try:
            found = await self._inspect(container)
        except NotFound:
            return None
        pid = int(found["State"]["Pid"])
        if not found["State"]["Running"] or not pid:
            return None
        process = _Process(pid, _start_time(pid), found["HostConfig"]["Runtime"])
        self._processes[container] = process
        return process

    async def _inspect(self, container: str) -> Any:
        return await self._json("GET", f"{_path(container)}/json", {})

    async def _json(self, method: str, path: str, params: Mapping[str, str]) -> Any:
        try:
            async with asyncio.timeout(TIMEOUT_S), self._ask(method, path, params) as answer:
                body = await answer.read()
                _check(answer.status, path)
                return orjson.loads(body)
        except TimeoutError:
            raise TimedOut("Docker did not answer in time") from None

    @asynccontextmanager
    async def _ask(
        self, method: str, path: str, params: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.request(method, f"{API}/{path}", params=params) as answer:
                yield answer
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"Docker can't be reached: {type(error).__name__}") from error


def _path(container: str) -> str:
    return f"containers/{quote(container, safe='')}"


def _check(status: int, what: str) -> None:
    if status == 404:
        raise NotFound(f"Docker knows no container {what.split('/')[-2] if '/' in what else what}")
    if status >= 400:
        raise Unavailable(f"Docker answered {status}")


def _start_time(pid: int) -> str:
    """Field 22 of /proc/<pid>/stat, "" when there is no such process. The name before it may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _netns_inode(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except OSError:
        return None
