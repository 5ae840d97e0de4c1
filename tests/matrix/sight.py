"""What runs on the hosts while a part is broken, second by second: nothing may be there twice at any moment.

Each look asks all engines twice, one right after the other. What both answers have was there in between, all of it at
once: a container that ends here while its successor starts there is in one of them only. An engine that does not answer
says nothing of its host.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from services.executor.model import LABEL_APP, LABEL_CLUSTER, LABEL_INSTANCE, LABEL_POOL

EACH_S = 1.0
ANSWER_S = 3.0


@dataclass(frozen=True)
class Seen:
    """A running container. One that runs of jobs share has no instance: its labels name the first of many.

    What those carry out is told of elsewhere: see `runs.py`.
    """

    id: str
    host: str
    app: str
    instance: str
    image: str = ""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Silence:
    """A host that Mesos can't reach since a time, and what may be there besides until it is heard of again.

    Instances get a replacement after `replace_after_s`. Those of another image than the `released` one are to be
    stopped, and must not hold up the release (`exists` in services/deployer/model.py says so): they don't count.
    """

    host: str
    since: float
    replace_after_s: float
    released: str

    def replaces(self, now: float) -> bool:
        """May instances there run elsewhere, too."""
        return now - self.since >= self.replace_after_s

    def outdated(self, seen: Seen) -> bool:
        """Is it one that is to be stopped, and can't be told."""
        return seen.host == self.host and seen.image != self.released


def both(first: Collection[Seen], second: Collection[Seen]) -> list[Seen]:
    """What ran between two answers."""
    ids = {each.id for each in second}
    return [each for each in first if each.id in ids]


def doubles(
    running: Sequence[Seen], app: str, most: int, now: float, silence: Silence | None = None
) -> list[str]:
    """What is there more than once of what ran at one moment, and whether there are more of `app` than `most`."""
    moved = _replaced(running, silence, now) if silence is not None else set()
    outdated = {each.id for each in running if silence is not None and silence.outdated(each)}
    by_instance: dict[str, list[Seen]] = defaultdict(list)
    by_address: dict[str, list[Seen]] = defaultdict(list)
    for each in running:
        if each.instance and each.id not in moved:
            by_instance[each.instance].append(each)
        for address in each.addresses:
            by_address[address].append(each)
    found = [
        f"{what} {name} has {len(those)} running containers: {_places(those)}"
        for what, group in (("instance", by_instance), ("address", by_address))
        for name, those in sorted(group.items())
        if len(those) > 1
    ]
    count = sum(each.app == app and each.id not in moved | outdated for each in running)
    if count > most:
        found.append(f"{count} containers of {app} run, which may have {most}")
    return found


def _replaced(running: Sequence[Seen], silence: Silence, now: float) -> set[str]:
    """Containers on a host that is silent for so long that their instances may run elsewhere, and do."""
    if not silence.replaces(now):
        return set()
    elsewhere = {each.instance for each in running if each.host != silence.host} - {""}
    return {each.id for each in running if each.host == silence.host and each.instance in elsewhere}


def _places(those: Sequence[Seen]) -> str:
    return ", ".join(sorted(f"{each.id[:12]} on {each.host}" for each in those))


def local_addresses(trie: str, inet6: str) -> tuple[str, ...]:
    """A namespace's own addresses, by its /proc/…/net/fib_trie and if_inet6; not those of loopback and link."""
    found: dict[str, None] = {}
    place = ""
    for line in trie.splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            place = words[1]
        elif words == ["/32", "host", "LOCAL"] and not place.startswith("127."):
            found[place] = None
    for line in inet6.splitlines():
        words = line.split()
        if words[3] == "00":  # global
            found[words[0]] = None
    return tuple(found)


class Sight:
    """Looks at the engines until cancelled; `errors` has what was wrong, each once."""

    def __init__(self, cluster: str, sockets: Mapping[str, Path], app: str, most: int) -> None:
        self._cluster = cluster
        self._sockets = sockets
        self._app = app
        self._most = most
        self._addresses: dict[str, tuple[str, ...]] = {}
        self.silence: Silence | None = None
        self.errors: dict[str, None] = {}
        self.looks: dict[str, int] = dict.fromkeys(sockets, 0)  # that a host's engine answered

    async def run(self) -> None:
        """A look each second."""
        while True:
            await self.look()
            await asyncio.sleep(EACH_S)

    async def look(self) -> None:
        """One."""
        first = await asyncio.gather(*map(self._running, self._sockets))
        second = await asyncio.gather(*map(self._running, self._sockets))
        between: list[Seen] = []
        for host, one, two in zip(self._sockets, first, second, strict=True):
            if one is not None and two is not None:
                self.looks[host] += 1
                between += [await self._addressed(each) for each in both(one, two)]
        now = time.monotonic()
        found = doubles(between, self._app, self._most, now, self.silence)
        self.errors.update(dict.fromkeys(found))

    async def _running(self, host: str) -> list[Seen] | None:
        """What an engine says, or None."""
        filters = {"label": [f"{LABEL_CLUSTER}={self._cluster}"], "status": ["running"]}
        query = {"filters": orjson.dumps(filters).decode()}
        told = await self._ask(host, "/containers/json", query)
        if told is None:
            return None
        return [
            Seen(
                each["Id"],
                host,
                each["Labels"].get(LABEL_APP, ""),
                "" if LABEL_POOL in each["Labels"] else each["Labels"].get(LABEL_INSTANCE, ""),
                each["Image"],
            )
            for each in told
        ]

    async def _addressed(self, seen: Seen) -> Seen:
        """With its addresses, which it has from its start to its end."""
        if seen.id not in self._addresses:
            pid = await self._pid(seen)
            with suppress(OSError):  # it has just ended
                net = Path(f"/proc/{pid}/net")
                of_both = (net / "fib_trie").read_text(), (net / "if_inet6").read_text()
                if pid == await self._pid(seen):  # else it may have been another process
                    self._addresses[seen.id] = local_addresses(*of_both)
        return replace(seen, addresses=self._addresses.get(seen.id, ()))

    async def _pid(self, seen: Seen) -> int:
        """In the host's numbers; 0 when it does not run."""
        told = await self._ask(seen.host, f"/containers/{seen.id}/json", {})
        return int(told["State"]["Pid"]) if told is not None else 0

    async def _ask(self, host: str, path: str, query: Mapping[str, str]) -> Any:
        connector = aiohttp.UnixConnector(str(self._sockets[host]))
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.get(f"http://engine{path}", params=query) as response,
            ):
                return await response.json() if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
