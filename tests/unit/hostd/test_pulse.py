"""A host whose switch or engine does not answer says so, and says when it does again."""

from __future__ import annotations

import asyncio

from tests.simulation.loop import World, virtual
from tests.unit.hostd.world import HostdWorld, settled


@virtual
async def test_who_is_silent_is_named_until_he_answers(world: World) -> None:
    it = HostdWorld(world, watch_s=5.0)
    async with asyncio.TaskGroup() as group:
        service = await it.start(group)
        await settled(world, 6)
        assert service.pulse.missing == ""
        it.host.engine_up = False
        await settled(world, 6)
        assert service.pulse.missing == "the engine: Docker can't be reached"
        it.host.switch_up = False
        await settled(world, 6)
        assert "Open vSwitch: Open vSwitch is not running" in service.pulse.missing
        it.host.engine_up = True
        it.host.restart_switch()
        await settled(world, 6)
        assert service.pulse.missing == ""
        it.host.engine_frozen = True
        await settled(world, 9)
        assert service.pulse.missing == "the engine: no answer within 3 s"
        assert not service.not_ready(), "a caller of CNI needs no engine"
        it.host.engine_frozen = False
        await settled(world, 9)
        assert service.pulse.missing == ""
        await it.crash()
