"""The runtime is asked for before each start, also of a container that was made a moment ago."""

from __future__ import annotations

import asyncio

from tests.simulation.loop import World, virtual
from tests.unit.executor.world import ExecutorWorld


@virtual
async def test_a_container_just_made_under_another_runtime_is_never_started(world: World) -> None:
    it = ExecutorWorld(world)

    async def other_runtime(what: str, name: str) -> None:
        if what == "after:create":
            it.container("web.1").runtime = "runc"

    it.docker.fault = other_runtime
    async with asyncio.TaskGroup() as group:
        it.start(group)
        name = it.launch("web.1")
        await it.settle(20)
        assert it.agent.states("web.1") == ["TASK_FAILED"]
        assert "runtime 'runc'" in it.agent.last("web.1")["message"]
        assert ("start", name) not in it.docker.log
        it.check_clean()
        await it.crash()
