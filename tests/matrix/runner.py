"""One cell of the matrix: a release, an outage in the middle of it, and what must hold when it is over."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from infra.demo.load import TIMEOUT_S
from infra.demo.story import APP
from libs.client.api import ENDED
from libs.client.model import DeploymentView, EventView
from libs.common.events.deployments import DeployFailed, DeploySucceeded
from libs.common.spec import AppSpec
from services.scheduler.settings import SchedulerConfig
from tests.e2e.distributed import Distributed
from tests.matrix.alerts import RAISED, RESOLVED, Turn, of_events, of_mails, untold
from tests.matrix.parts import (
    HOST,
    KEPT_UP,
    SEVERING,
    TOLD,
    UNREACHED,
    UNTOLD,
    names_of,
    part_of,
    replicas_of,
)
from tests.matrix.sight import Sight, Silence
from tests.matrix.writer import POLL_S, Calls, Witness, Writer, patiently

KINDS = ("stop", "kill9", "pause")
DEADLINE_S = 240.0
SETTLED_S = 5.0  # for one look; with the requests before it less than CALL_S, to say what is wrong
BEGUN_S = 60.0
PULLING = "engine-h2"  # the other host's has built the image
KILLED_S = 1.0  # until whoever watches over a process starts the next one
ALERTS_S = 8.0
SERVED = 500  # requests in a row that nothing happens to: then an app serves again
_ENDS = [DeploySucceeded.TOPIC, DeployFailed.TOPIC]
_EVENTS = [RAISED, RESOLVED, *_ENDS]


@dataclass
class Row:
    """What came of one outage. Times in seconds.

    `release_s` is from its beginning until the release ended, by the event of that; `recovery_s` from the outage's end
    until the API said so.
    """

    part: str
    kind: str
    outage_s: float = 0.0
    release_s: float = 0.0
    recovery_s: float = 0.0
    requests: int = 0
    failed: int = 0
    acknowledged: int = 0
    accepted: int = 0  # requests that the API answered by 202
    witnessed: int = 0  # processes of runs that told of themselves
    looks: dict[str, int] = field(default_factory=dict)  # by host, that its engine answered
    alerts: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outage:
    """What is done to a part, for how long, and the alerts that are due then, or must not come."""

    begin: Callable[[], Awaitable[object]]
    end: Callable[[], Awaitable[object]]
    lasts_s: float
    told: list[str]
    untold: list[str]


class Matrix:
    """Breaks parts of one cluster, one after the other; between two cells everything is well again."""

    def __init__(self, cloud: Distributed, *, size: int, outage_s: float) -> None:
        self._cloud = cloud
        self._story = cloud.story
        self._client = cloud.story.client
        self._size = size
        self._outage_s = outage_s
        self._version = "v1"
        self._cells = 0
        self._witness = Witness(cloud.story)
        self._calls = Calls()

    async def begin(self) -> None:
        """The app that is released again and again, under load. Nothing of ours runs when this fails."""
        self._story.size = self._size
        self._witness.start()
        try:
            await self._put()
            accepted = await self._client.deploy(APP)
            await self._ended(accepted.deployment)
            await self._story.expect_versions(self._version, self._size)
            await self._writer().begin(_soon())
        except BaseException:
            await self._witness.stop()
            raise
        self._story.start_load()

    async def end(self) -> None:
        """No load any more, and nobody who is told of runs."""
        await self._story.stop_load()
        await self._witness.stop()

    async def cell(self, name: str, kind: str, outage_s: float | None = None) -> Row:
        """Break a part while a release goes on; what did not hold is in the row's `errors`."""
        self._cells += 1
        row = Row(name, kind)
        outage = await self._outage(name, kind, outage_s or self._outage_s)
        await self._quiet([*outage.told, *outage.untold])
        place = await patiently(lambda: self._client.place(_EVENTS), _soon())
        mails = len(self._cloud.mail.subjects())
        before = self._story.load_counts()
        sight, writer = self._sight(), self._writer()
        await writer.look(_soon())
        async with beside("the sight of the engines", sight.run(), row.errors):
            fresh = name == "registry"
            await self._put_next(fresh=fresh)
            async with beside("the writer", writer.run(), row.errors):
                deployment = await self._begin(outage, fresh=fresh)
                away, away_at = time.monotonic(), time.time()  # it surely is from now on
                if name in UNREACHED:
                    sight.silence = self._silence(away)
                await asyncio.sleep(max(0.0, away + outage.lasts_s - time.monotonic()))
                row.outage_s = time.monotonic() - away
                await outage.end()
                over = time.monotonic()
                ended = await self._ended(deployment)
                row.recovery_s = time.monotonic() - over
                # The first requests may still wait for what was away, and a small release is over soon.
                await writer.taken(time.monotonic() + DEADLINE_S)
            severed = await self._serves(over) if name in SEVERING else before["failed"]
            row.errors += await self._judge(ended, writer)
        row.errors += sight.errors
        row.looks = sight.looks
        row.acknowledged, row.accepted = writer.acknowledged, writer.accepted
        row.witnessed = writer.witnessed
        events = await self._since(place, deployment)
        row.release_s = _end_of(events, deployment) - away_at
        row.errors += missed(row)
        self._count(row, before, severed)
        self._tell(row, outage, of_events(events), self._cloud.mail.subjects()[mails:])
        return row

    async def _outage(self, name: str, kind: str, lasts_s: float) -> Outage:
        stack = self._cloud.stack
        part = await part_of(stack, name, self._cloud.mail)
        if kind == "kill9" or (kind == "stop" and name in KEPT_UP):
            lasts_s = KILLED_S
        begin = {"stop": part.stop, "kill9": part.kill9, "pause": part.pause}[kind]
        end = part.resume if kind == "pause" else part.start
        nodes = (await patiently(self._client.nodes, _soon())).nodes
        agent = next(each.agent for each in nodes if each.hostname == HOST and each.state == "up")
        addresses = [stack.address_of(each) for each in replicas_of(stack, part.name)]
        due = [each for each in TOLD.get(name, ()) if each.due(kind, lasts_s)]
        told = [alert for each in due for alert in each.alerts(agent, addresses)]
        never = UNTOLD.get((name, kind), ())
        quiet = [alert for each in never for alert in names_of(each, agent, addresses)]
        return Outage(begin, end, lasts_s, told, quiet)

    # -- doing

    async def _put(self) -> None:
        image = f"sample-web:{self._version}"
        if image not in self._story.images:
            built = await self._cloud.stack.push_sample(self._version)
            self._story.images = {**self._story.images, image: built}
        await self._client.put_app(APP, self._spec())

    def _spec(self) -> AppSpec:
        image = f"sample-web:{self._version}"
        return AppSpec.model_validate(self._story.spec(image, self._size))

    async def _quiet(self, told: list[str]) -> None:
        """Until none of these alerts fires any more: it could not be raised then."""
        deadline = _soon()
        while True:
            view = await patiently(lambda: self._client.alerts("firing"), deadline)
            firing = [each.alert for each in view.alerts if each.alert in told]
            if not firing:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"still firing: {firing}")
            await asyncio.sleep(POLL_S)

    def _silence(self, since: float) -> Silence:
        spec = self._spec()
        wait_s = spec.unreachable.patience_s(SchedulerConfig().unreachable_after_s)
        return Silence(HOST, since, wait_s, spec.image)

    def _writer(self) -> Writer:
        """Its marks grow from write to write, over all cells."""
        return Writer(self._story, self._cells * 10_000, self._witness, self._calls)

    def _sight(self) -> Sight:
        stack = self._cloud.stack
        sockets = {each.name: each.socket for each in stack.hosts}
        most = self._size + self._spec().strategy.surge(self._size)
        return Sight(stack.layout.cluster, sockets, APP, most)

    async def _put_next(self, *, fresh: bool) -> None:
        """Another version to be released; with `fresh`, one that no host has pulled but the first."""
        self._version = "v2" if self._version == "v1" else "v1"
        if fresh:
            self._version = f"v{self._cells}.{int(time.time())}"
        await self._put()

    async def _begin(self, outage: Outage, *, fresh: bool) -> str:
        """Release what was put, and break the part in the middle of that: some new instances are ready already.

        The release of a fresh image needs a registry twice: to pin it, without which there is no release, and to pull
        it. The part is gone after the one and before the other, as the host that pulls is held up for so long.
        """
        if not fresh:
            deployment = await self._release(ready=2)
            await outage.begin()
            return deployment
        engine = self._cloud.stack.parts[PULLING]
        await engine.pause()
        try:
            deployment = await self._release(ready=0)
            await outage.begin()
        finally:
            await engine.resume()
        return deployment

    async def _release(self, *, ready: int) -> str:
        """Release what was put; returns when that is on its way, with so many new instances already ready."""
        accepted = await self._client.deploy(APP)
        deadline = time.monotonic() + BEGUN_S
        while True:
            view = await self._client.deployment(accepted.deployment)
            if view.state in ENDED or time.monotonic() > deadline:
                raise AssertionError(f"no release is under way: it is {view.state}: {view.reason}")
            if view.release is not None and (view.counts or {}).get("ready", 0) >= ready:
                return accepted.deployment
            await asyncio.sleep(0.05)

    # -- judging

    async def _ended(self, deployment: str) -> DeploymentView:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            view = await patiently(lambda: self._client.deployment(deployment), deadline)
            if view.state in ENDED or time.monotonic() > deadline:
                return view
            await asyncio.sleep(POLL_S)

    async def _judge(self, ended: DeploymentView, writer: Writer) -> list[str]:
        errors = []
        if ended.state != "succeeded":
            errors.append(f"the release is {ended.state}: {ended.reason}")
        deadline = time.monotonic() + DEADLINE_S
        try:
            await patiently(self._settled, deadline)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
        return errors + await writer.broken(deadline)

    async def _serves(self, over: float) -> int:
        """How many requests had failed when the app served again. Those of the outage may have waited for an answer."""
        await asyncio.sleep(max(0.0, over + TIMEOUT_S - time.monotonic()))
        deadline = _soon()
        since = self._story.load_counts()
        while (now := self._story.load_counts())["requests"] < since["requests"] + SERVED:
            if now["failed"] > since["failed"]:
                since = now
            if time.monotonic() > deadline:
                break  # what fails from here on is told as that
            await asyncio.sleep(POLL_S)
        return int(since["failed"])

    def _count(self, row: Row, before: dict[str, Any], severed: int) -> None:
        """Did the apps serve, and were writes taken?"""
        after = self._story.load_counts()
        row.requests = after["requests"] - before["requests"]
        row.failed = after["failed"] - before["failed"]
        if failed := after["failed"] - severed:
            row.errors.append(f"{failed} of {row.requests} requests failed")
        did = row.requests, row.acknowledged, row.accepted, row.witnessed
        if not (all(did) and all(row.looks.values())):
            row.errors.append(
                "no load, write, request or run was there, or an engine never answered"
            )

    def _tell(self, row: Row, outage: Outage, events: list[Turn], mailed: list[str]) -> None:
        """Was the outage told of, once, and nothing that did not happen?"""
        mails = of_mails(mailed)
        row.alerts = [each.alert for each in events if each.raised]
        row.alerts += [
            f"mail: {each}" for each in mailed if any(alert in each for alert in outage.told)
        ]
        for alert in outage.told:
            if wrong := untold(alert, events, mails, once=row.part != "smtp"):
                row.errors.append(wrong)
        row.errors += [
            f"{alert} was told, and nothing of the kind happened"
            for alert in outage.untold
            if Turn(alert, raised=True) in (*events, *mails)
        ]

    async def _settled(self) -> None:
        """As many instances as wanted, of the version wanted, each in one container at an address of its own."""
        await self._story.expect_versions(self._version, self._size)
        deadline = time.monotonic() + SETTLED_S
        while True:
            running = await self._story.containers()
            wanted = {each.container for each in await self._story.instances()}
            if set(running) == wanted and len(running) == self._size:
                return
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"containers: {sorted(set(running) ^ wanted)} are one too many or few"
                )
            await asyncio.sleep(POLL_S)

    async def _since(self, place: str, deployment: str) -> list[EventView]:
        """What has happened: alerts, and the release's end. The monitor may still be about to tell of the last ones."""
        found: list[EventView] = []
        loop, over = asyncio.get_running_loop(), False
        try:
            async with asyncio.timeout(DEADLINE_S) as limit:  # the bus may have been away for long
                async for event in self._client.events(_EVENTS, last_id=place):
                    found.append(event)
                    if not over and _is_end(event, deployment):
                        over = True
                        limit.reschedule(loop.time() + ALERTS_S)
        except TimeoutError:
            pass
        return found


@asynccontextmanager
async def beside(
    name: str, work: Coroutine[Any, Any, None], errors: list[str]
) -> AsyncIterator[None]:
    """`work` goes on during the block and is cancelled after it. That it ended by itself, however, is an error."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            errors.append(f"{name} ended before its time: {task.exception()!r}")


def missed(row: Row) -> list[str]:
    """Did the outage come too late for the release?"""
    if row.release_s < 0:
        return [f"the release had ended {-row.release_s:.1f} s before {row.part} was away"]
    return [] if row.release_s < math.inf else ["no event told of the release's end"]


def _is_end(event: EventView, deployment: str) -> bool:
    return event.topic in _ENDS and event.data.get("deployment") == deployment


def _end_of(events: Iterable[EventView], deployment: str) -> float:
    """When a deployment ended, Unix seconds; infinity when nothing tells."""
    return min((each.time for each in events if _is_end(each, deployment)), default=math.inf)


def _soon() -> float:
    return time.monotonic() + DEADLINE_S


def describe(row: Row) -> list[Any]:
    """The cells of a row of the printed table."""
    good = "ok" if not row.errors else "; ".join(row.errors)
    served = f"{row.failed}/{row.requests}"
    took = f"{row.release_s:.1f}", f"{row.recovery_s:.1f}"
    return [row.part, row.kind, f"{row.outage_s:.0f}", *took, served,
            str(row.acknowledged), str(row.accepted), ", ".join(row.alerts) or "-", good]  # fmt: skip
