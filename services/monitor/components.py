"""What the cluster stands on, asked again and again: bus, store, Mesos, services, hosts, and endpoints of one's own.

A probe returns why its component can't do its work, "" when it can; `Watch` counts how often in a row.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from libs.common.errors import GantryError
from libs.common.events import model as ev
from libs.common.http import Response, ServiceClient
from libs.common.runtime import Runtime
from libs.common.waiting import TaskGroup
from services.monitor import core
from services.monitor.mesos import Operator
from services.monitor.model import MonitorConfig, Node
from services.monitor.store import MonitorStore

Probe = Callable[[], Awaitable[str]]
CONSUMERS = ("gateway", "deployer", "scheduler", "monitor")
_TOPICS = (ev.AlertRaised.TOPIC,)


MAX_REASON = 500


@dataclass
class Watch:
    """How often in a row each component has failed its probe."""

    misses: int
    _failed: dict[str, int] = field(default_factory=dict)

    def judge(self, name: str, reason: str) -> bool | None:
        """True: it is down. False: it is well. None: too early to say."""
        if not reason:
            self._failed.pop(name, None)
            return False
        self._failed[name] = self._failed.get(name, 0) + 1
        return True if self._failed[name] >= self.misses else None


_NOBODY = {"authorization": ""}
"""For what anybody may ask, of whoever listens where an agent says that its host's hostd does. Our own token, which
would be sent otherwise, opens the whole control plane."""


async def ask(probe: Probe, timeout_s: float) -> str:
    """Why the component can't do its work, "" when it can; never raises."""
    try:
        async with asyncio.timeout(timeout_s):
            return await probe()
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except (GantryError, aiohttp.ClientError, OSError) as error:
        return str(error) or type(error).__name__


@asynccontextmanager
async def open_probes(
    rt: Runtime,
    config: MonitorConfig,
    store: MonitorStore,
    operator: Operator,
    heard: dict[str, Mapping[str, Any]],
) -> AsyncIterator[Mapping[str, Probe]]:
    """The probes of what is always there; what services say is put into `heard`. Hosts come and go: `host_probes`."""

    async def bus() -> str:
        await rt.bus.end_offsets(_TOPICS)
        return ""

    async def kept() -> str:
        await store.firing()
        return ""

    async def mesos() -> str:
        await operator.nodes()
        return ""

    probes: dict[str, Probe] = {"bus": bus, "store": kept, "mesos": mesos}
    for service, urls in rt.common.peers.items():
        for url in urls.split(","):
            name = f"{service}@{urlsplit(url).netloc or url}"
            probes[name] = _answers(rt.peers, url, "/healthz", partial(heard.__setitem__, name))
    if config.smtp.host:
        probes["smtp"] = speaks(config.smtp.host, config.smtp.port, b"", b"220", b"QUIT\r\n")
    if not config.endpoints:
        yield probes
        return
    async with aiohttp.ClientSession() as session:
        for name, url in config.endpoints.items():
            probes[name] = endpoint(session, url)
        yield probes


async def lags(client: ServiceClient, peers: Mapping[str, str], timeout_s: float) -> dict[str, int]:
    """How many events each service is behind, by its replicas' own word; without those that don't say.

    Without `peers`, the services of this process are asked.
    """
    found: dict[str, int] = {}

    async def of(service: str, place: str) -> None:
        try:
            answer = await client.call(place, "GET", "/healthz", timeout_s=timeout_s)
        except GantryError:
            return  # that it doesn't answer is another alert
        lag = _lag_of(answer)
        if lag is not None:
            found[service] = max(found.get(service, 0), lag)

    places = {name: [url.strip() for url in urls.split(",")] for name, urls in peers.items()}
    async with TaskGroup() as group:
        for service, urls in (places or {name: [name] for name in CONSUMERS}).items():
            for url in urls:
                group.create_task(of(service, url))
    return found


def _lag_of(answer: Response) -> int | None:
    lag = _said(answer).get("lag") if answer.status == 200 else None
    return lag if isinstance(lag, int) else None


def _said(answer: Response) -> Mapping[str, Any]:
    """What it says of itself; nothing, where something else listens there."""
    try:
        said = answer.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


async def low_disks(
    client: ServiceClient, nodes: Iterable[Node], timeout_s: float
) -> dict[str, str]:
    """What each host has little room on, by its hostd's own word; "" for one with enough, none for one that is away."""
    found: dict[str, str] = {}

    async def of(hostname: str, url: str) -> None:
        try:
            answer = await client.call(
                url.strip(), "GET", "/healthz", headers=_NOBODY, timeout_s=timeout_s
            )
        except GantryError:
            return
        low = _said(answer).get("disk_low") if answer.status == 200 else None
        if isinstance(low, str):
            found[hostname] = low

    async with TaskGroup() as group:
        for node in nodes:
            if url := node.attributes.get("hostd", ""):
                group.create_task(of(node.hostname, url))
    return found


def host_probes(
    client: ServiceClient, nodes: Iterable[Node], heard: dict[str, Mapping[str, Any]]
) -> dict[str, Probe]:
    """hostd of each host that is up: it says whether switch and engine answer. All that it says is put into `heard`."""
    found = {}
    for node in nodes:
        url = node.attributes.get("hostd", "")
        if url:
            hear = partial(heard.__setitem__, node.hostname)
            found[core.host_component(node.hostname)] = _answers(client, url, "/readyz", hear)
    return found


def _answers(
    client: ServiceClient,
    url: str,
    path: str,
    hear: Callable[[Mapping[str, Any]], None] = lambda _said: None,
) -> Probe:
    async def probe() -> str:
        answer = await client.call(url.strip(), "GET", path, headers=_NOBODY, timeout_s=60.0)
        said = _said(answer)
        hear(said)
        if answer.status == 200:
            return ""
        return str(said.get("reason") or f"status {answer.status}")[:MAX_REASON]

    return probe


def endpoint(session: aiohttp.ClientSession, url: str) -> Probe:
    """`tcp://host:port` takes a connection, `zookeeper://host:port` serves; anything else answers a GET with less
    than 500."""
    parts = urlsplit(url)
    if parts.scheme in ("tcp", "zookeeper"):
        asked = (b"srvr", b"Zookeeper version") if parts.scheme == "zookeeper" else (b"", b"")
        return speaks(parts.hostname or "", parts.port or 0, *asked)

    async def http() -> str:
        async with session.get(url) as answer:
            return "" if answer.status < 500 else f"status {answer.status}"

    return http


def speaks(host: str, port: int, question: bytes, begins: bytes, farewell: bytes = b"") -> Probe:
    """It takes a connection, and what it says then, to `question` or without being asked, begins so."""

    async def probe() -> str:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(question)
            said = await reader.read(len(begins)) if begins else b""
            while len(said) < len(begins) and (more := await reader.read(len(begins) - len(said))):
                said += more
            writer.write(farewell)
        finally:
            writer.close()
        return "" if said == begins else f"it says {said!r}, not {begins!r}"

    return probe
