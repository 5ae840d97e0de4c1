"""The run: jobs are put, some deleted, leaders and executors are killed, and at the end everything is read back."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from infra.local.distributed import DistributedStack
from infra.local.processes import Daemon
from infra.local.stack import answers
from infra.provision.process import free_ports
from libs.client.api import GantryClient
from libs.client.jobs import JobRequestView, JobView, RunView
from libs.common.errors import Conflict, GantryError, InvalidInput, NotFound
from libs.common.jobs import CHRONOS_ASYNC, CHRONOS_NAME, JobSpec, Retry
from libs.common.spec import Resources
from tests.cron.checker import Outage
from tests.cron.workload import Drawn, draw
from tests.e2e.distributed import Distributed
from tests.matrix.parts import executor, executor_pids
from tests.soak import witness
from tests.soak.engines import Engines, Started
from tests.soak.judge import AGAIN_S, FOUND_S, TRIES, Asked, Death, longest_told_s
from tests.soak.reporter import Reporter, Word

NETWORK = "web"
LONGEST_S = 10.0  # a run's process
KILL_EVERY_S = 60.0
AFTER_S = 30.0  # so long before the end, nothing is killed any more
BACK_S = 90.0  # so long, a new leader may take, or a new executor
CONCURRENCY = ("forbid", "queue", "allow", "replace")
TOLD_EVERY = 10  # of so many jobs, one is `async`
UNDER_WAY_S = 0.5  # so long at least, what is under way has yet to run
POLL_S = 0.1
PATIENCE_S = 120.0
PAGE = 50
T = TypeVar("T")


@dataclass
class Kill:
    """Of a leader. Unix seconds; `led`: one answered as the leader again."""

    victim: str
    at: float
    led: float = math.inf


@dataclass
class Result:
    """All that was seen."""

    asked: list[Asked]
    kills: list[Kill]
    deaths: list[Death] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    seen: list[witness.Seen] = field(default_factory=list)
    started: list[Started] = field(default_factory=list)
    runs: list[RunView] = field(default_factory=list)
    read_at: float = 0.0

    @property
    def outages(self) -> list[Outage]:
        """When nobody led."""
        return [Outage(kill.at, kill.led) for kill in self.kills]


class Soak:
    """One run on one cluster."""

    def __init__(
        self,
        cloud: Distributed,
        jobs: int,
        lasts_s: float,
        rng: random.Random,
        say: Callable[[str], None],
    ) -> None:
        self._stack: DistributedStack = cloud.stack
        self._client: GantryClient = cloud.story.client
        self._image = cloud.story.images["sample-web:v1"].reference
        self._jobs = jobs
        self._lasts_s = lasts_s
        self._rng = rng
        self._say = say
        layout = self._stack.layout
        self.file = layout.root / "witness.jsonl"
        self._daemon = Daemon("witness", layout.root / "witness.pid", layout.logs / "witness.log")
        self._engines = Engines(self._stack.engine_sockets(), layout.root)
        gateway = next(vlan.gateway for vlan in layout.vlans if vlan.name == NETWORK)
        self._host, (self._port,) = str(gateway), free_ports(1)
        self.result = Result([], [])
        self._told: set[str] = set()
        url, key = layout.url, self._stack.admin_key()
        self._reporter = Reporter(self.file, url, key, self._told, random.Random(rng.random()))
        self.result.words = self._reporter.words

    async def run(self) -> Result:
        """All of it; the cluster is well again when it ends. Raises what can't be part of a good run."""
        self._start_witness()
        self._engines.start()
        try:
            began = time.time()
            async with asyncio.TaskGroup() as group:
                for n in range(self._jobs):
                    at = began + self._rng.random() * self._lasts_s / 3
                    told = n % TOLD_EVERY == TOLD_EVERY - 1
                    group.create_task(self._life(f"acme/soak-{n}", at, began, told))
                group.create_task(self._kill(began))
                group.create_task(self._kill_executors(began))
                group.create_task(self._reporter.run(began + self._lasts_s))
                group.create_task(_until(began + self._lasts_s))
            await self._read_back()
        finally:
            self.result.started = await self._engines.stop()
            await self._daemon.stop()
        self.result.seen = witness.read(self.file.read_text().splitlines())
        return self.result

    def _start_witness(self) -> None:
        layout = self._stack.layout
        enter = ("ip", "netns", "exec", layout.edge, sys.executable, "-m", "tests.soak.witness")
        listen = ("--host", self._host, "--port", str(self._port), "--out", str(self.file))
        self.file.touch()
        self._daemon.start((*enter, *listen), layout.repo)

    # -- jobs

    async def _life(self, name: str, at: float, began: float, told: bool) -> None:
        """A job is put, and some are deleted when their first runs are over."""
        deleted = self._rng.random() < 0.1 and not told
        delete_at = began + self._lasts_s * self._rng.uniform(0.5, 0.95)
        concurrency = self._rng.choice(
            [each for each in CONCURRENCY if not (told and each == "replace")]
        )
        # What is replaced in its first moments has a container, and no process.
        alone = self._rng.random() < 0.1 and concurrency != "replace"
        await _until(at)
        asked = Asked(self._draw(name, concurrency, told), concurrency, alone=alone, told=told)
        self.result.asked.append(asked)
        if told:
            self._told.add(name)
        await self._put(asked)
        if deleted:
            await _until(delete_at)
            await self._delete(asked)

    def _draw(self, name: str, concurrency: str, told: bool) -> Drawn:
        """Between two targets of a job there is room until its executor's heir has told how the run before ended: none
        need be left out for that. Where the next one replaces it, some last for longer.
        """
        drawn = draw(self._rng, name, time.time())
        lasts_s = self._rng.random() * LONGEST_S
        least_s = math.ceil((longest_told_s(lasts_s) if told else lasts_s) + FOUND_S)
        drawn = replace(drawn, interval_s=max(drawn.interval_s, least_s))
        if concurrency == "replace":
            lasts_s = drawn.interval_s * self._rng.uniform(0.4, 1.6)
        return replace(drawn, count=1 + drawn.count // 5, duration_s=round(lasts_s, 2))

    def _spec(self, asked: Asked) -> JobSpec:
        drawn = asked.drawn
        # With Chronos' name, each try knows its host and the id by which its end is told.
        labels = {CHRONOS_NAME: drawn.name.partition("/")[2]}
        return JobSpec(
            labels=labels | ({CHRONOS_ASYNC: "true"} if asked.told else {}),
            schedule=drawn.schedule,
            image=self._image,
            network=NETWORK,
            command=witness.command(self._host, self._port, drawn.name, drawn.duration_s),
            resources=Resources(cpus=0.01, mem_mib=16),
            concurrency=asked.concurrency,
            reuse="never" if asked.alone else "shared",
            retry=Retry(limit=TRIES - 1, delay_s=AGAIN_S),
            stop_grace_s=1.0,
        )

    async def _put(self, asked: Asked) -> None:
        """Until it is acknowledged: while nobody leads, it may be refused, or done without an answer."""

        async def put() -> JobView | JobRequestView:
            return await self._client.jobs.put(asked.drawn.name, self._spec(asked))

        answer = await self._patiently(put)
        if isinstance(answer, JobRequestView):
            await self._done(answer)
        asked.acknowledged = time.time()

    async def _delete(self, asked: Asked) -> None:
        self.result.runs += await self._runs(asked.drawn.name)  # nobody tells them afterwards
        asked.delete_asked = time.time()
        try:
            remove = partial(self._client.jobs.remove, asked.drawn.name)
            await self._done(await self._patiently(remove))
        except NotFound:
            pass  # it was done at a call that had no answer
        asked.delete_acknowledged = time.time()

    async def _done(self, request: JobRequestView) -> None:
        """Wait until a change has come to something. Raises Conflict when that is a refusal."""
        while request.state == "accepted":
            await asyncio.sleep(POLL_S)
            request = await self._patiently(partial(self._client.jobs.request, request.request))
        if request.state != "done":
            raise Conflict(
                f"{request.action} of {request.job} is {request.state}: {request.problem}"
            )

    # -- the leader

    async def _kill(self, began: float) -> None:
        at = began + KILL_EVERY_S
        while at < began + self._lasts_s - KILL_EVERY_S / 2:
            await _until(at)
            await self._kill_leader()
            at += KILL_EVERY_S

    async def _kill_leader(self) -> None:
        names = [each for each in self._stack.names if each.startswith("scheduler-")]
        victim = await self._leader(names)
        kill = Kill(victim, time.time())
        self.result.kills.append(kill)
        await self._stack.parts[victim].kill9()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._start(victim))
            await self._leader(names)
            kill.led = time.time()
            self._say(f"{victim} killed; somebody leads again after {kill.led - kill.at:.1f} s")

    async def _start(self, name: str) -> None:
        await self._stack.parts[name].start()

    async def _leader(self, names: list[str]) -> str:
        """Who leads now. Raises TimeoutError when nobody does for too long."""
        async with asyncio.timeout(BACK_S):
            while True:
                for name in names:
                    if await answers(f"{self._stack.url_of(name)}/readyz"):
                        return name
                await asyncio.sleep(POLL_S)

    # -- executors

    async def _kill_executors(self, began: float) -> None:
        """Between the leaders: the supervisor that Mesos knows, of each host in turn."""
        hosts = itertools.cycle(each.name for each in self._stack.hosts)
        at = began + KILL_EVERY_S / 2
        while at < began + self._lasts_s - AFTER_S:
            await _until(at)
            await self._kill_executor(next(hosts))
            at += KILL_EVERY_S

    async def _kill_executor(self, host: str) -> None:
        """As soon as runs are under way on its host that share containers. Raises TimeoutError: none, or no new one."""
        async with asyncio.timeout(BACK_S):
            while not (under_way := self._under_way(host)):
                await asyncio.sleep(POLL_S)
        death = Death(host, time.time(), under_way)
        self.result.deaths.append(death)
        await executor(self._stack, "executor", host).kill9()
        async with asyncio.timeout(BACK_S):
            while not executor_pids(self._stack, "executor", host):
                await asyncio.sleep(POLL_S)
        death.back = time.time()
        took_s = death.back - death.at
        self._say(
            f"{host}'s executor killed, {len(under_way)} runs under way; new {took_s:.1f} s later"
        )

    def _under_way(self, host: str) -> list[str]:
        """Tokens of those that are in shared containers of a host, and not about to end."""
        lasts_s = {
            each.drawn.name: each.drawn.duration_s for each in self.result.asked if not each.alone
        }
        least = time.time() + UNDER_WAY_S
        return [
            each.token
            for each in witness.read(self.file.read_text().splitlines())
            if each.host == host
            and each.end is None
            and each.begin + lasts_s.get(each.job, 0.0) > least
        ]

    # -- reading back

    async def _read_back(self) -> None:
        self.result.read_at = time.time()
        for asked in self.result.asked:
            if asked.delete_asked < math.inf:
                continue
            self.result.runs += await self._runs(asked.drawn.name)

    async def _runs(self, job: str) -> list[RunView]:
        found: list[RunView] = []
        before = ""
        while True:
            ask = partial(self._client.jobs.runs, job, limit=PAGE, before=before)
            try:
                page = await self._patiently(ask)
            except NotFound:  # deleted, or never taken
                return found
            found += page.runs
            if len(page.runs) < PAGE:
                return found
            before = page.runs[-1].run

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer; errors are an outage's right, for a while."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await ask()
            except (NotFound, InvalidInput):
                raise
            except GantryError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(1.0)


async def _until(at: float) -> None:
    await asyncio.sleep(max(0.0, at - time.time()))
