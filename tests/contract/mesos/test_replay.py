"""Replays every recorded scenario against a live master and agent, and compares field by field."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.contract.mesos import steps
from tests.contract.mesos.actions import ACTIONS
from tests.contract.mesos.cluster import Mesos, minimesos
from tests.contract.mesos.executors import executor_hub
from tests.contract.mesos.replay import Replay
from tests.contract.mesos.scenarios import SCENARIOS, Scenario

pytestmark = pytest.mark.asyncio(loop_scope="session")
MAX_SHOWN = 25


@asynccontextmanager
async def mesos_for(scenario: Scenario, shared: Mesos, directory: Path) -> AsyncIterator[Mesos]:
    """A cluster of its own for a scenario that kills things or needs flags."""
    if scenario.shared:
        yield shared
        return
    async with minimesos(
        directory,
        master_flags=scenario.master_flags,
        agent_flags=scenario.agent_flags,
        second_agent_flags=scenario.second_agent_flags,
        agents=scenario.agents,
    ) as mesos:
        yield mesos


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(s, marks=[pytest.mark.mesos_power(*sorted(s.powers))] if s.powers else [])
        for s in SCENARIOS
    ],
    ids=lambda scenario: scenario.name,
)
async def test_behaves_as_recorded(scenario: Scenario, shared: Mesos, tmp_path: Path) -> None:
    """What comes back is what a real Mesos answered, up to the differences in allowed.py."""
    async with AsyncExitStack() as stack:
        mesos = await stack.enter_async_context(mesos_for(scenario, shared, tmp_path))
        hub = await stack.enter_async_context(executor_hub())
        recorded = steps.load(scenario.name, scenario.edits)
        if mesos.machine is not None:
            recorded = mesos.machine.fit(recorded)
        replay = Replay(recorded, mesos, hub, ACTIONS)
        found = await replay.run()
    distinct = list(dict.fromkeys(str(mismatch) for mismatch in found))
    shown = "\n".join(f"  {mismatch}" for mismatch in distinct[:MAX_SHOWN])
    assert not found, f"{len(found)} differences from the recording:\n{shown}"


async def test_every_fixture_is_replayed() -> None:
    """No fixture lies there unused."""
    assert sorted(scenario.name for scenario in SCENARIOS) == steps.names()
