"""When no run could be started in the simulation, and why: seen from outside, twice a second.

A scheduler is *able* while one of its replicas leads, is subscribed and not paused, Mesos' master is up, the store
answers, and there is a host that is neither closed nor cut off. A host is *well* while its agent, executor, engine,
switch and hostd are there, can be reached, and somebody gives it addresses. An executor that died has no successor
until Mesos' agent has got its last updates acknowledged; those that were lost it repeats ever less often. The hosts are
*crowded* while none that is open and well has room for a run: with one of three away there is not enough for
all apps. Room is what its Mesos agent's books call free, without what containers need that a dead executor has left and
nobody has taken over yet, and without what is kept there, for as long as it may be, for an attempt that waits until it
can adopt a container that there may be.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from libs.common.disk import MIB
from services.executor.model import LABEL_INSTANCE
from services.scheduler.settings import SchedulerConfig
from tests.cron.checker import Outage
from tests.simulation.cloud import ROLES, SETTINGS, SKEW_S, Cloud
from tests.simulation.host import Host
from tests.simulation.jobs.drawing import NEED
from tests.simulation.jobs.ledger import Ledger, Loss
from tests.simulation.loop import EPOCH_S

LOOK_S = 0.5
SHARES = 1024  # of a core
EPSILON = 0.001
ADOPTION_S = SchedulerConfig.model_validate(SETTINGS["scheduler"]).adoption_deadline_s + SKEW_S
HOLD_UP = ("REVIVE", "SUPPRESS", "ACCEPT", "DECLINE")


@dataclass
class Spans:
    """Stretches of time in which something is the case."""

    found: list[Outage] = field(default_factory=list)
    _since: float | None = None

    def note(self, before: float, now: float, is_so: bool) -> None:
        """What a look shows; `before` was the last one, and nobody knows since when it is so."""
        if is_so and self._since is None:
            self._since = before
        elif not is_so and self._since is not None:
            self.found.append(Outage(self._since, now))
            self._since = None

    def until(self, now: float) -> list[Outage]:
        """All of them, with the one that goes on."""
        return self.found if self._since is None else [*self.found, Outage(self._since, now)]


@dataclass
class Observer:
    """Watches a cloud. Times are true ones, Unix seconds."""

    cloud: Cloud
    ledger: Ledger
    unable: Spans = field(default_factory=Spans)
    crowded: Spans = field(default_factory=Spans)
    sick: dict[str, Spans] = field(default_factory=dict)
    broken: dict[str, Spans] = field(default_factory=dict)
    followed: dict[str, Spans] = field(default_factory=dict)  # its executor or hostd, by another
    _parts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _able_since: float = 0.0

    async def watch(self) -> None:
        """For ever."""
        before = EPOCH_S + self.cloud.loop.time()
        while True:
            now = EPOCH_S + self.cloud.loop.time()
            able = await self._able()
            self.unable.note(before, now, not able)
            self._able_since = self._able_since if able else now
            addresses = await self._ready("ipam") == len(self.cloud.service("ipam"))
            wells = {host.name: self._well(host) for host in self.cloud.hosts}
            room = any(
                wells[each.name] and self._has_room(each, now) for each in self._open_hosts()
            )
            self.crowded.note(before, now, not room)
            for host in self.cloud.hosts:
                well, same = wells[host.name], self._same(host)
                sick = not (able and addresses and well and same)
                self.sick.setdefault(host.name, Spans()).note(before, now, sick)
                self.broken.setdefault(host.name, Spans()).note(before, now, not well)
                self.followed.setdefault(host.name, Spans()).note(before, now, not same)
            self._losses(now)
            before = now
            await asyncio.sleep(LOOK_S)

    def troubles(self, host: str, now: float) -> list[Outage]:
        """When a run could not be started on a host, whoever's fault that was; also a call of its own got no answer, or
        what Mesos told its executor was lost with the stream.
        """
        sick = self.sick[host].until(now) if host in self.sick else []
        cut = [_span(at, at) for who, at in self.cloud.mesos.cuts if who.endswith(f"@{host}")]
        unanswered = [
            _span(*when) for who, *when in self.cloud.net.unanswered if who.endswith(f"@{host}")
        ]
        return [*sick, *cut, *unanswered]

    def unheard(self) -> list[Outage]:
        """When a scheduler waited for the answer to a launch, or to a wish for offers: either goes after its like, and
        Mesos may not have heard of it.
        """
        return [_span(*when) for call, *when in self.cloud.mesos.unanswered if call in HOLD_UP]

    def _losses(self, now: float) -> None:
        """A try is given up where its end went unseen: something of its host was not well while it was there.

        Who follows a dead executor or hostd takes over what runs, and tells what its predecessor has written down of
        ends. Of what has not begun, or ended in nobody's sight, it may know nothing.
        """
        while self.ledger.losses:
            loss = self.ledger.losses.pop(0)
            broken = self.broken[loss.host].until(now)
            if not self._runs(loss) and not self._is_written(loss):
                broken = [*broken, *self.followed[loss.host].until(now)]
            if not touching(broken, loss.staged, loss.at):
                self.ledger.fail(f"{loss}: given up, and nothing was wrong with its host: {broken}")

    def _runs(self, loss: Loss) -> bool:
        run = loss.attempt.rpartition(".")[0]
        tries = [each for each in self.ledger.tries if each.run == run]
        return any(each.end is None or each.end >= loss.at for each in tries)

    def _is_written(self, loss: Loss) -> bool:
        """Does an executor's journal say how the try ended? What Mesos is known to have heard is no longer in it."""
        (host,) = (each for each in self.cloud.hosts if each.name == loss.host)
        run, staged = loss.attempt.rpartition(".")[0], self.ledger.staged
        ends = (each.attempt for journal in host.journals for each in journal.load())
        return any(
            a.payload.instance == run
            and staged.get(a.id, -math.inf) >= loss.staged
            and a.outcome is not None
            and a.outcome.exit_code is not None
            for a in ends
        )

    async def _able(self) -> bool:
        cloud = self.cloud
        if cloud.faults.away["store"] or not cloud.mesos.master_up:
            return False
        return bool(self._open_hosts()) and await self._ready("scheduler") > 0

    def _open_hosts(self) -> list[Host]:
        cloud = self.cloud
        away = cloud.mesos.agents_down | cloud.mesos.agents_cut
        doors = cloud.store.bodies("scheduler_nodes")
        closed = {name for name, node in doors.items() if node["door"] != "open"}
        return [h for h in cloud.hosts if h.index not in away and h.name not in closed]

    def _has_room(self, host: Host, now: float) -> bool:
        """For a run, which is of the class and so of the role that is the first."""
        cluster = self.cloud.mesos.cluster
        free = cluster.free(host.index).offerable_to(ROLES[0])
        known = {each.rpartition(".")[0] for each in cluster.tasks(host.index)}
        left = {
            name: each.spec.limits
            for each in host.docker.containers.values()
            if each.running and (name := each.spec.labels[LABEL_INSTANCE]) not in known
        }
        kept = self._kept(host, now, {*known, *left})
        cpus = free.scalar("cpus") - sum(each.cpu_shares for each in left.values()) / SHARES
        mem_mib = free.scalar("mem") - sum(each.mem_bytes for each in left.values()) / MIB
        cpus -= sum(each["cpus"] for each in kept)
        mem_mib -= sum(each["mem_mib"] for each in kept)
        return cpus >= NEED["cpus"] - EPSILON and mem_mib >= NEED["mem_mib"]

    def _kept(self, host: Host, now: float, there: set[str]) -> list[dict[str, float]]:
        """What those need that may have left a container on the host, which then is not among those that are seen."""
        bodies = self.cloud.store.bodies("scheduler_instances")
        return [
            body["spec"]["resources"]
            for name, body in bodies.items()
            if (body["state"], body["hostname"]) == ("orphaned", host.name)
            and name not in there
            and now - max(body["orphaned_at"], self._able_since) <= ADOPTION_S
        ]

    async def _ready(self, service: str) -> int:
        """How many replicas are, and answer."""
        ready = 0
        for app, life in self.cloud.net.replicas(service):
            if life.dead or life.paused_s():
                continue
            if service == "ipam" and self.cloud.net.cut_off.get(life.name):
                continue
            ready += (await app.dispatch("GET", "/readyz", {}, b"")).status == 200
        return ready

    def _same(self, host: Host) -> bool:
        """Who was killed since the last look may be back by now."""
        parts = (id(host.hostd), *(id(s.worker) for _, s in sorted(host.supervisors.items())))
        same = self._parts.get(host.name, parts) == parts
        self._parts[host.name] = parts
        return same

    def _well(self, host: Host) -> bool:
        mesos, hostd = self.cloud.mesos, host.hostd
        return (
            host.index not in mesos.agents_down | mesos.agents_cut
            and not host.barren
            and not mesos.cluster.waits_for_acknowledgements(host.index)
            and not host.docker.down
            and host.kernel.switch_up
            and not self.cloud.net.cut_off.get(host.name)
            and hostd is not None
            and not hostd.dead
            and len(host.workers()) == len(host.supervisors)
        )


def _span(began: float, ended: float) -> Outage:
    return Outage(EPOCH_S + began, EPOCH_S + ended)


def touching(spans: Iterable[Outage], start: float, end: float) -> list[Outage]:
    """Those that share a moment with [start, end]."""
    return [each for each in spans if each.start <= end and each.end >= start]
