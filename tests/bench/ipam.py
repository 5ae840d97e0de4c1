"""ipam over HTTP: allocations a second and their latency, a burst, how little fill and size matter, and host-local.

ipam_alloc_per_s and _4 are 64 attachments at a time on 1 and 4 replicas, ipam_alloc_p50_ms and p99_ms 8 at a time on
one, on an SQLite file; the keys with `mongo` the same on the MongoDB-wire server of this host. Bus and relay are at
work, too. The peer, CNI's host-local plugin, does what it does for a living: a process for each allocation, on its
files, 8 at a time; it has one machine to look after, and neither network, events, generations nor tombstones.

ipam_fill_ratio compares the median of PUTs, each followed by its DELETE, in five networks of one store, in turns: a /26
and a /8 that are empty, a /26 and a /16 of whose addresses 99 % have real documents that say allocated (the rest have
been used and have rested), and a /8 whose frontier is at 99 %. Sixteen million documents can't be written in seconds:
that /8 has 5,000 below its frontier, the /16 stands for the rest. On SQLite only: the MongoDB-wire server here has no
indexes but unique ones, and reads all documents where MongoDB would not.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from infra import provision
from libs.common.runtime import open_store
from libs.common.store.base import Collection, Write
from services.ipam.definition import NetworkConfig
from services.ipam.model import Address, State, to_body
from services.ipam.pools import Network, Pool
from services.ipam.store import ADDRESSES, POOLS
from services.ipam.territory import Territory
from services.ipam.territory import to_body as territory_body
from tests.bench.report import Report
from tests.integration.ipam_processes import IpamProcesses, ipam_processes

HOST_LOCAL = Path("/usr/lib/cni/host-local")
LOAD_S, LATENCY_S, WARM_S = 4.0, 3.0, 1.0
MANY, FEW = 64, 8
BURST, BURSTS = 150, 8
TURNS = 80
FILLED = 0.99
BELOW = 5_000  # documents of the /8 that is nearly full
CHUNK = 2_000


@dataclass(frozen=True)
class Fill:
    """A network of the comparison."""

    name: str
    cidr: str
    filled: bool

    @property
    def pool(self) -> Pool:
        """Its only pool."""
        config = NetworkConfig.model_validate({"name": self.name, "cidr": self.cidr, "vlan": 1})
        return Network.of(config).pools[0]


FILLS = (
    Fill("small-empty", "10.0.0.0/26", False),
    Fill("small-full", "10.0.1.0/26", True),
    Fill("middle-full", "10.1.0.0/16", True),
    Fill("large-empty", "11.0.0.0/8", False),
    Fill("large-full", "12.0.0.0/8", True),
)
NETWORKS = [{"name": "load", "cidr": "10.128.0.0/9", "vlan": 4000}] + [
    {"name": each.name, "cidr": each.cidr, "vlan": 4001 + n} for n, each in enumerate(FILLS)
]
SETTINGS = {"networks": NETWORKS, "cooldown_s": 0}


async def measure(report: Report) -> None:
    """All of it; about a minute."""
    with tempfile.TemporaryDirectory(prefix="gb-", dir="/tmp") as directory:
        root = Path(directory)
        peer = await _host_local(root / "host-local")
        url = f"sqlite://{root / 'store.db'}"
        await _fill(url)
        async with ipam_processes(_made(root / "sqlite"), url, SETTINGS, 4) as processes:
            await processes.start(0)
            await _fill_ratio(report, processes)
            await _latency(report, processes, peer)
            await _bursts(report, processes)
            await _rates(report, processes, "", peer)
        async with (
            provision.mongo(root / "mongo") as server,
            ipam_processes(_made(root / "wire"), f"{server.url}/bench", SETTINGS, 4) as processes,
        ):
            await processes.start(0)
            await _rates(report, processes, "_mongo", peer)
    report.add("host_local_alloc_per_s", peer.per_s, "1/s", note="the peer, 8 at a time")
    report.add("host_local_alloc_p99_ms", peer.ms(0.99), "ms")


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


@dataclass(frozen=True)
class Load:
    """What a load has shown."""

    took_s: Sequence[float]  # sorted
    during_s: float

    @property
    def per_s(self) -> float:
        """Done a second."""
        return len(self.took_s) / self.during_s

    def ms(self, part: float) -> float:
        """The quantile."""
        return self.took_s[min(len(self.took_s) - 1, int(len(self.took_s) * part))] * 1000


async def _loaded(ask: Callable[[int, int], Awaitable[Any]], at_once: int, seconds: float) -> Load:
    """`ask` with the client's number and the request's, so many at once."""
    took: list[float] = []
    numbers = itertools.count()
    began = time.perf_counter()

    async def client(number: int) -> None:
        while time.perf_counter() - began < seconds:
            asked = time.perf_counter()
            await ask(number, next(numbers))
            took.append(time.perf_counter() - asked)

    await asyncio.gather(*(client(n) for n in range(at_once)))
    return Load(sorted(took), time.perf_counter() - began)


async def _puts(
    processes: IpamProcesses, tag: str, at_once: int, seconds: float, replicas: int = 1
) -> Load:
    """New attachments, all over the replicas."""
    hosts = [processes.host(f"h{n}", n) for n in range(replicas)]
    try:
        return await _loaded(
            lambda client, n: hosts[client % replicas].put(f"{tag}{n}.eth0", "load"),
            at_once,
            seconds,
        )
    finally:
        for each in hosts:
            await each.peers.close()


async def _latency(report: Report, processes: IpamProcesses, peer: Load) -> None:
    await _puts(processes, "warm", FEW, WARM_S)
    load = await _puts(processes, "few", FEW, LATENCY_S)
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        report.add(f"ipam_alloc_{name}_ms", load.ms(part), "ms", peer.ms(part), "8 at a time")


async def _rates(report: Report, processes: IpamProcesses, store: str, peer: Load) -> None:
    theirs = peer.per_s
    await _puts(processes, "warmer", MANY, WARM_S)
    one = await _puts(processes, "one", MANY, LOAD_S)
    note = f"p50 {one.ms(0.5):.0f} ms, p99 {one.ms(0.99):.0f} ms at 64 at a time"
    report.add(f"ipam_alloc_per_s{store}", one.per_s, "1/s", theirs, note)
    await processes.start(1, 2, 3)
    await _puts(processes, "warmest", MANY, WARM_S, replicas=4)
    four = await _puts(processes, "four", MANY, LOAD_S, replicas=4)
    note = f"p50 {four.ms(0.5):.0f} ms, p99 {four.ms(0.99):.0f} ms; {os.cpu_count()} cores"
    report.add(f"ipam_alloc_per_s_4{store}", four.per_s, "1/s", theirs, note)


async def _bursts(report: Report, processes: IpamProcesses) -> None:
    host = processes.host("burst")
    took = []
    for n in range(BURSTS):
        names = [f"burst{n}-{k}.eth0" for k in range(BURST)]
        began = time.perf_counter()
        results = await host.burst(names, "load")
        took.append((time.perf_counter() - began) * 1000)
        assert len({each["allocation"]["address"] for each in results}) == BURST
    await host.peers.close()
    note = f"one round trip; {min(took):.0f} to {max(took):.0f}"
    report.add(f"ipam_bulk_{BURST}_ms", statistics.median(took), "ms", note=note)


# -- size and fill


async def _fill(url: str) -> None:
    """Documents of networks that are nearly full, as ipam itself would have left them."""
    store = await open_store(url)
    try:
        addresses = await store.collection(ADDRESSES)
        pools = await store.collection(POOLS)
        for each in FILLS:
            if each.filled:
                await _fill_one(each.pool, addresses, pools)
    finally:
        await store.close()


async def _fill_one(pool: Pool, addresses: Collection, pools: Collection) -> None:
    whole = pool.size <= 2**16
    allocated = int(pool.usable * FILLED)
    used = pool.size if whole else int(pool.size * FILLED)
    offsets = range(1, pool.size - 1) if whole else range(used - BELOW, used)
    for at in range(0, len(offsets), CHUNK):
        writes = []
        for offset in offsets[at : at + CHUNK]:
            free = whole and offset > allocated
            address = _address(pool, offset, free)
            writes.append(Write(address.id, 0, to_body(address)))
        assert all(each.ok for each in await addresses.replace_many(writes))
    territory = replace(Territory.of(pool), frontier=used)
    await pools.replace_many([Write(pool.id, 0, territory_body(territory))])


def _address(pool: Pool, offset: int, free: bool) -> Address:
    address = Address(pool.network, pool.address(offset), offset, generation=1, free_at=1.0)
    if free:
        return address
    name = f"{pool.network}-{offset}"
    return replace(
        address,
        state=State.ALLOCATED,
        attachment=f"{name}.eth0",
        instance=f"acme-{name}",
        host=f"h{offset % 500}",
        bu="acme",
    )


async def _fill_ratio(report: Report, processes: IpamProcesses) -> None:
    host = processes.host("filler")
    took: dict[str, list[float]] = {each.name: [] for each in FILLS}
    for turn in range(TURNS):
        for each in FILLS:
            name = f"fill-{each.name}-{turn}.eth0"
            began = time.perf_counter()
            got = await host.put(name, each.name)
            took[each.name].append((time.perf_counter() - began) * 1000)
            await host.delete(name, got["generation"])
    await host.peers.close()
    medians = {name: statistics.median(each) for name, each in took.items()}
    note = ", ".join(f"{name} {value:.1f} ms" for name, value in medians.items())
    ratio = max(medians.values()) / min(medians.values())
    report.add("ipam_fill_ratio", ratio, "", note=note, most=2.0)


# -- the peer


async def _host_local(directory: Path) -> Load:
    config = orjson.dumps(
        {
            "cniVersion": "1.0.0",
            "name": "bench",
            "ipam": {
                "type": "host-local",
                "dataDir": str(directory),
                "ranges": [[{"subnet": "10.128.0.0/16"}]],
            },
        }
    )

    async def add(_client: int, number: int) -> None:
        process = await asyncio.create_subprocess_exec(
            str(HOST_LOCAL),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={
                "CNI_COMMAND": "ADD",
                "CNI_CONTAINERID": f"c{number}",
                "CNI_IFNAME": "eth0",
                "CNI_NETNS": "/proc/self/ns/net",
                "CNI_PATH": "/usr/lib/cni",
            },
        )
        said, _ = await process.communicate(config)
        assert process.returncode == 0, said.decode()

    return await _loaded(add, FEW, LOAD_S)
