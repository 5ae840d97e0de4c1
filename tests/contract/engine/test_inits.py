"""What `Inits` promises, asked of the fake and of a real `gantry-init` in a container of a real engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from libs.common.errors import NotFound, Unavailable
from libs.common.outputs import OUT, place_of
from services.executor.containers import INIT_CAPABILITIES
from services.executor.model import Limits, Ref
from services.executor.runs.inits import tail
from services.executor.runs.model import Listed, TaskStart, TaskView, Told
from services.executor.runs.wire import PROGRAM
from tests.contract.engine.conftest import BEHAVIOURS, MIB, ROOT, EngineWorld

LIMITS = Limits(cpu_shares=102, nano_cpus=10**9, mem_bytes=32 * MIB, pids=64)


@dataclass
class Followed:
    """A shared container, and what its init has told."""

    it: EngineWorld
    ref: Ref
    behaviour: str
    told: list[Told] = field(default_factory=list)

    async def start(self, task: str, timeout_s: float = 0.0) -> None:
        command = ("/bin/sh", "-c", BEHAVIOURS[self.behaviour][0])
        start = TaskStart(task, command, "", "/", ("PATH=/bin",), LIMITS, timeout_s, 0.2, "SIGTERM")
        await self.it.inits.start(self.ref.name, start)

    def views(self, task: str) -> list[TaskView]:
        return [each for each in self.told if isinstance(each, TaskView) and each.task == task]

    async def running(self, task: str) -> None:
        await self.it.until(lambda: bool(self.views(task)), f"{task} never ran")

    async def ready(self, task: str) -> None:
        """Its shell has set the trap and said so."""
        await self.running(task)
        if (runs := self.it.runs) is not None:
            file = place_of(runs, self.ref.name) / OUT / self.views(task)[0].cell
            await self.it.until(lambda: "ready" in tail(file), f"{task} is not ready")

    async def ended(self, task: str) -> TaskView:
        def is_over() -> bool:
            return any(not each.running for each in self.views(task))

        await self.it.until(is_over, f"{task} did not end")
        return self.views(task)[-1]


async def container(it: EngineWorld, behaviour: str) -> Ref:
    """A shared container that runs."""
    ref = await it.create(
        behaviour,
        limits=Limits(0, 0, 0, 0),
        command=(PROGRAM,),
        user="0:0",
        cap_add=INIT_CAPABILITIES,
        init=ROOT / "build/native/gantry-init",
    )
    await it.around.give_leave(ref.id)
    await it.engine.start(ref, "127.0.0.1 localhost\n")
    return ref


@asynccontextmanager
async def following(it: EngineWorld, ref: Ref, behaviour: str) -> AsyncIterator[Followed]:
    """Follow until the end of the block; its init may take a moment to listen."""
    followed = Followed(it, ref, behaviour)

    async def follow() -> None:
        while True:
            try:
                async for told in it.inits.follow(ref):
                    followed.told.append(told)
            except Unavailable:
                await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(follow())
        try:
            listed = lambda: any(isinstance(each, Listed) for each in followed.told)  # noqa: E731
            await it.until(listed, "nothing was listed")
            yield followed
        finally:
            task.cancel()


async def test_a_task_runs_ends_and_is_kept_until_it_is_forgotten(it: EngineWorld) -> None:
    ref = await container(it, "exits-3")
    async with following(it, ref, "exits-3") as first:
        await first.start("a.1")
        await first.start("a.1")  # once
        view = await first.ended("a.1")
        assert (view.exit_code, view.failed, view.leaked, view.oom_killed) == (3, "", False, False)
        assert 0 < view.began_at <= view.ended_at
    async with following(it, ref, "exits-3") as second:
        assert [each.ended_at for each in second.views("a.1")] == [view.ended_at]
        assert Listed(("a.1",)) in second.told
        await it.inits.forget(ref.name, "a.1")
    async with following(it, ref, "exits-3") as third:
        assert third.told == [Listed(())]


async def test_it_is_killed_with_grace_or_by_its_time_out(it: EngineWorld) -> None:
    ref = await container(it, "ends-on-term")
    async with following(it, ref, "ends-on-term") as followed:
        await followed.start("a.1")
        await followed.ready("a.1")
        await it.inits.kill(ref.name, "a.1", "SIGTERM", 10.0)
        assert (await followed.ended("a.1")).exit_code == 0
        await it.inits.kill(ref.name, "a.1", "SIGTERM", 10.0)
    ref = await container(it, "ignores-term")
    async with following(it, ref, "ignores-term") as followed:
        await followed.start("b.1", timeout_s=0.3)
        view = await followed.ended("b.1")
        assert (view.timed_out, view.exit_code) == (True, 137)
        assert 0.4 < view.ended_at - view.began_at < 5


async def test_one_that_runs_out_of_memory_says_so(it: EngineWorld) -> None:
    ref = await container(it, "eats-memory")
    async with following(it, ref, "eats-memory") as followed:
        await followed.start("a.1")
        view = await followed.ended("a.1")
        assert view.oom_killed
        assert view.exit_code != 0


async def test_nobody_tells_of_a_container_that_is_gone(it: EngineWorld) -> None:
    ref = await container(it, "exits-3")
    await it.engine.remove(ref)
    with pytest.raises(NotFound):
        async for _ in it.inits.follow(ref):
            pass
    with pytest.raises(Unavailable):
        await it.inits.forget(ref.name, "a.1")


async def test_what_an_image_says_of_its_containers(it: EngineWorld) -> None:
    config = await it.engine.image_config(it.images["exits-3"])
    assert config.command
    assert config.stop_signal == "SIGTERM"

    ref = await it.run("exits-3")
    await asyncio.sleep(0)
    assert await it.engine.output(ref) == ""
    with pytest.raises(NotFound):
        await it.engine.output(Ref(ref.name, "0" * 64))
