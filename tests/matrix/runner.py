"""One cell of the matrix: a release, an outage in the middle of it, and what must hold when it is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from infra.demo.story import APP
from libs.client.api import ENDED
from libs.client.model import DeploymentView
from libs.common.spec import AppSpec
from services.scheduler.settings import SchedulerConfig
from tests.e2e.distributed import Distributed
from tests.matrix.parts import HOST, SEVERING, TOLD, UNREACHED, part_of
from tests.matrix.sight import Sight, Silence
from tests.matrix.writer import POLL_S, Writer, patiently

KINDS = ("stop", "kill9", "pause")
DEADLINE_S = 240.0
BEGUN_S = 60.0
ALERTS_S = 8.0
_ALERTS = ["alert.raised"]


@dataclass
class Row:
    """What came of one outage. Times in seconds; `recovery_s` is from its end until the release had ended."""

    part: str
    kind: str
    outage_s: float = 0.0
    recovery_s: float = 0.0
    requests: int = 0
    failed: int = 0
    acknowledged: int = 0
    accepted: int = 0  # requests that the API answered by 202
    looks: dict[str, int] = field(default_factory=dict)  # by host, that its engine answered
    alerts: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


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

    async def begin(self) -> None:
        """The app that is released again and again, under load."""
        self._story.size = self._size
        await self._put()
        accepted = await self._client.deploy(APP)
        await self._ended(accepted.deployment)
        await self._story.expect_versions(self._version, self._size)
        await self._writer().begin(_soon())
        self._story.start_load()

    async def cell(self, name: str, kind: str, outage_s: float | None = None) -> Row:
        """Break a part while a release goes on; what did not hold is in the row's `errors`."""
        self._cells += 1
        row = Row(name, kind)
        part = await part_of(self._cloud.stack, name, self._cloud.mail)
        await self._quiet(name)
        place = await patiently(lambda: self._client.place(_ALERTS), _soon())
        mails = len(self._cloud.mail.subjects())
        before = self._story.load_counts()
        sight = self._sight()
        async with beside("the sight of the engines", sight.run(), row.errors):
            deployment = await self._release(fresh=name == "registry")
            writer = self._writer()
            async with beside("the writer", writer.run(), row.errors):
                await {"stop": part.stop, "kill9": part.kill9, "pause": part.pause}[kind]()
                away = time.monotonic()  # what is told of depends on how long it surely is
                if name in UNREACHED:
                    sight.silence = self._silence(away)
                await asyncio.sleep(1.0 if kind == "kill9" else outage_s or self._outage_s)
                row.outage_s = time.monotonic() - away
                await (part.resume if kind == "pause" else part.start)()
                over = time.monotonic()
                ended = await self._ended(deployment)
                row.recovery_s = time.monotonic() - over
                # The first requests may still wait for what was away, and a small release is over soon.
                await writer.taken(time.monotonic() + DEADLINE_S)
            row.errors += await self._judge(ended, writer)
        row.errors += sight.errors
        row.looks = sight.looks
        row.acknowledged, row.accepted = writer.acknowledged, writer.accepted
        after = self._story.load_counts()
        row.requests = after["requests"] - before["requests"]
        row.failed = after["failed"] - before["failed"]
        row.alerts = await self._raised_since(place)
        row.errors += self._judge_around(row, self._cloud.mail.subjects()[mails:])
        return row

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

    async def _quiet(self, name: str) -> None:
        """Until nothing of what is to be told of this part fires any more: it could not be raised then."""
        deadline = _soon()
        while True:
            view = await patiently(lambda: self._client.alerts("firing"), deadline)
            due = tuple(each.begins for each in TOLD.get(name, ()))
            firing = [each.alert for each in view.alerts if each.alert.startswith(due)]
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
        return Writer(self._story, self._cells * 10_000)

    def _sight(self) -> Sight:
        stack = self._cloud.stack
        sockets = {each.name: each.socket for each in stack.hosts}
        most = self._size + self._spec().strategy.surge(self._size)
        return Sight(stack.layout.cluster, sockets, APP, most)

    async def _release(self, *, fresh: bool) -> str:
        """A release of another version, on its way: some new instances are healthy already.

        With `fresh`, of one that no host has pulled, and only just begun.
        """
        self._version = "v2" if self._version == "v1" else "v1"
        if fresh:
            self._version = f"v{self._cells}.{int(time.time())}"
        await self._put()
        accepted = await self._client.deploy(APP)
        deadline = time.monotonic() + BEGUN_S
        while True:
            view = await self._client.deployment(accepted.deployment)
            if view.state in ENDED or time.monotonic() > deadline:
                raise AssertionError(f"no release is under way: it is {view.state}: {view.reason}")
            if view.release is not None and (fresh or (view.counts or {}).get("ready", 0) >= 2):
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

    def _judge_around(self, row: Row, mailed: list[str]) -> list[str]:
        """Did the apps serve, were writes taken, and was the outage told of?"""
        errors = []
        if row.failed and row.part not in SEVERING:
            errors.append(f"{row.failed} of {row.requests} requests failed")
        if not (row.requests and row.acknowledged and row.accepted and all(row.looks.values())):
            errors.append("there was no load, no write or request was taken, or no engine answered")
        for due in TOLD.get(row.part, ()):
            if not due.due(row.kind, row.outage_s):
                continue
            told = [each for each in (*row.alerts, *mailed) if due.begins in each]
            if not told:
                errors.append(f"no alert {due.begins}… was raised or mailed")
            row.alerts += [f"mail: {each}" for each in told if each not in row.alerts]
        return errors

    async def _settled(self) -> None:
        """As many instances as wanted, of the version wanted, each in one container at an address of its own."""
        await self._story.expect_versions(self._version, self._size)
        deadline = time.monotonic() + 90.0
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

    async def _raised_since(self, place: str) -> list[str]:
        """Alerts raised, by their events; the monitor may still be about to tell of the last ones."""
        found: list[str] = []
        try:
            async with asyncio.timeout(ALERTS_S):
                async for event in self._client.events(_ALERTS, last_id=place):
                    found.append(event.subject)  # noqa: PERF401 - what came until then is kept
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


def _soon() -> float:
    return time.monotonic() + DEADLINE_S


def describe(row: Row) -> list[Any]:
    """The cells of a row of the printed table."""
    good = "ok" if not row.errors else "; ".join(row.errors)
    served = f"{row.failed}/{row.requests}"
    return [row.part, row.kind, f"{row.outage_s:.0f}", f"{row.recovery_s:.1f}", served,
            str(row.acknowledged), str(row.accepted), ", ".join(row.alerts) or "-", good]  # fmt: skip
