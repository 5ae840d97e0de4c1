"""Replays every recorded scenario against a live master and agent, and compares field by field.

Scenarios mostly wait, so with minimesos each has a cluster of its own and several run at a time;
on an external Mesos they run one after another on the only cluster there is.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.contract.mesos import steps
from tests.contract.mesos.actions import ACTIONS
from tests.contract.mesos.cluster import Mesos, external, minimesos
from tests.contract.mesos.compare import Mismatch
from tests.contract.mesos.executors import executor_hub
from tests.contract.mesos.replay import SLACK_S, Replay
from tests.contract.mesos.scenarios import SCENARIOS, Scenario
from tests.contract.mesos.steps import Step

# Long, as one fixture plays them all.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]
AT_A_TIME = 4
SCENARIO_TIMEOUT_S = 400.0
MAX_SHOWN = 25


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a replay found, or why it broke."""

    found: list[Mismatch]
    error: BaseException | None = None


@asynccontextmanager
async def mesos_for(scenario: Scenario, directory: Path) -> AsyncIterator[Mesos]:
    """The external Mesos, or a minimesos with the scenario's flags."""
    mesos = external(os.environ)
    if mesos is not None:
        await mesos.look()
        yield mesos
        return
    async with minimesos(
        directory,
        master_flags=scenario.master_flags,
        agent_flags=scenario.agent_flags,
        second_agent_flags=scenario.second_agent_flags,
        agents=scenario.agents,
    ) as mesos:
        yield mesos


async def replay(
    recorded: list[Step], scenario: Scenario, directory: Path, slack_s: float = SLACK_S
) -> list[Mismatch]:
    """Play `recorded` to the scenario's cluster."""
    async with mesos_for(scenario, directory) as mesos, executor_hub() as hub:
        fitted = recorded if mesos.machine is None else mesos.machine.fit(recorded)
        return await Replay(fitted, mesos, hub, ACTIONS, slack_s).run()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Outcome]:
    """The outcome of every scenario that was selected."""
    chosen = _chosen(request.session.items)
    turns = asyncio.Semaphore(1 if external(os.environ) else AT_A_TIME)

    async def play(scenario: Scenario) -> Outcome:
        async with turns:
            try:
                async with asyncio.timeout(SCENARIO_TIMEOUT_S):
                    recorded = steps.load(scenario.name, scenario.edits)
                    directory = tmp_path_factory.mktemp(scenario.name)
                    return Outcome(await replay(recorded, scenario, directory))
            except Exception as error:
                return Outcome([], error)

    # The longest first: the others fit beside it.
    chosen.sort(key=lambda scenario: -len(steps.load(scenario.name)))
    found = await asyncio.gather(*(play(scenario) for scenario in chosen))
    return {scenario.name: outcome for scenario, outcome in zip(chosen, found, strict=True)}


def _chosen(items: list[pytest.Item]) -> list[Scenario]:
    """The scenarios of the tests that were selected."""
    found = []
    for item in items:
        if isinstance(item, pytest.Function) and item.originalname == "test_behaves_as_recorded":
            scenario = item.callspec.params["scenario"]
            assert isinstance(scenario, Scenario)
            found.append(scenario)
    return found


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(s, marks=[pytest.mark.mesos_power(*sorted(s.powers))] if s.powers else [])
        for s in SCENARIOS
    ],
    ids=lambda scenario: scenario.name,
)
async def test_behaves_as_recorded(scenario: Scenario, outcomes: Mapping[str, Outcome]) -> None:
    """What comes back is what a real Mesos answered, up to the differences in allowed.py."""
    outcome = outcomes[scenario.name]
    if outcome.error is not None:
        raise outcome.error
    distinct = list(dict.fromkeys(str(mismatch) for mismatch in outcome.found))
    shown = "\n".join(f"  {mismatch}" for mismatch in distinct[:MAX_SHOWN])
    assert not distinct, f"{len(distinct)} differences from the recording:\n{shown}"


async def test_every_fixture_is_replayed() -> None:
    """No fixture lies there unused."""
    assert sorted(scenario.name for scenario in SCENARIOS) == steps.names()


SHORT = Scenario("bad_launches_partition_aware")


def _without_event(recorded: list[Step]) -> list[Step]:
    """An event less: what comes for it is then not in the recording."""
    lost = next(s for s in recorded if s["step"] == "event" and s["event"]["type"] == "UPDATE")
    return [step for step in recorded if step is not lost]


def _with_event(recorded: list[Step]) -> list[Step]:
    """An event more: it never comes."""
    index, event = next(
        (i, s) for i, s in enumerate(recorded) if s["step"] == "event" and "update" in s["event"]
    )
    return [*recorded[: index + 1], event, *recorded[index + 1 :]]


def _with_other_answer(recorded: list[Step]) -> list[Step]:
    """Another status line for the last call."""
    *head, last = recorded
    assert last["step"] == "response"
    return [*head, {**last, "status": "HTTP/1.1 200 OK"}]


def _with_more_free(recorded: list[Step]) -> list[Step]:
    """An offer of half a CPU more than there is."""
    index = next(i for i, s in enumerate(recorded) if s.get("event", {}).get("type") == "OFFERS")
    (recorded[index]["event"]["offers"]["offers"][0]["resources"][1]["scalar"])["value"] += 0.5
    return recorded


@pytest.mark.parametrize(
    "spoil", [_without_event, _with_event, _with_other_answer, _with_more_free]
)
async def test_a_spoilt_recording_fails(spoil: object, tmp_path: Path) -> None:
    """The replay notices an event too many, one too few, another answer, another amount."""
    assert callable(spoil)
    spoilt = spoil(steps.load(SHORT.name))
    assert await replay(spoilt, SHORT, tmp_path, slack_s=2.5)
