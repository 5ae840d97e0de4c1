"""The embedded form: in the caller's loop, with the caller's clock and ids."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from libs.common.clock import RngIds, SystemClock
from libs.minimesos.config import AgentConfig, MasterConfig
from libs.minimesos.embedded import EmbeddedConfig, embedded
from libs.minimesos.errors import ConfigError
from tests.unit.minimesos.support import Json, launch_call, scheduler, task


def config(work_dir: Path | None, agents: int = 2) -> EmbeddedConfig:
    """Free ports."""
    return EmbeddedConfig(
        work_dir,
        MasterConfig(port=0, agent_ping_timeout_s=5.0),
        tuple(AgentConfig(port=0, attributes=f"n:{i}") for i in range(agents)),
    )


def ids() -> RngIds:
    """Seeded ids."""
    return RngIds(random.Random(1))


async def test_it_runs_tasks_on_all_agents_and_stops(tmp_path: Path) -> None:
    """Then the port is free again."""
    async with embedded(config(tmp_path), clock=SystemClock(), ids=ids()) as cluster:
        assert len(cluster.agent_urls) == 2
        async with scheduler(cluster.master_url) as client:

            def offered() -> list[Json]:
                events = [e["offers"]["offers"] for e in client.events if e["type"] == "OFFERS"]
                return [offer for offers in events for offer in offers]

            await client.wait(lambda _: len(offered()) == 2)  # in one event or in two
            offers = offered()
            assert len({offer["agent_id"]["value"] for offer in offers}) == 2
            for number, offer in enumerate(offers):
                work = task(f"t{number}", offer["agent_id"], "echo hello")
                await client.call(launch_call(offer, [work]))
            for number in range(2):
                await client.state(f"t{number}", "TASK_FINISHED")
    outputs = [p for p in tmp_path.rglob("stdout") if "latest" not in p.parts]
    assert sorted(p.read_text() for p in outputs) == ["hello\n"] * 2
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(cluster.master_url + "/health")


async def test_a_second_start_finds_the_agents_again(tmp_path: Path) -> None:
    """Agent ids come from the disk."""
    seen: list[set[str]] = []
    for _ in range(2):
        async with embedded(config(tmp_path), clock=SystemClock(), ids=ids()) as cluster:
            async with aiohttp.ClientSession() as session:
                # An agent whose first registration is lost tries again after 1, 2, 4, … seconds.
                async with asyncio.timeout(60):
                    while True:
                        async with session.get(cluster.master_url + "/slaves") as response:
                            slaves = {each["id"] for each in (await response.json())["slaves"]}
                        # The master may know of an agent that has not heard of its id yet.
                        if (
                            len(slaves) == 2
                            and await _ids_of(session, cluster.agent_urls) == slaves
                        ):
                            break
                        await asyncio.sleep(0.02)
            seen.append(slaves)
    assert seen[0] == seen[1]


async def _ids_of(session: aiohttp.ClientSession, agents: Sequence[str]) -> set[str]:
    """What agents call themselves."""
    found = set()
    for url in agents:
        async with session.get(url + "/state") as response:
            found.add((await response.json()).get("id", ""))
    return found


async def test_without_a_directory_nothing_is_kept() -> None:
    """For tests and benchmarks."""
    async with embedded(config(None, 1), clock=SystemClock(), ids=ids()) as cluster:
        assert cluster.master_url.startswith("http://127.0.0.1:")


async def test_bad_resources_are_an_error_at_start(tmp_path: Path) -> None:
    """Not a surprise later."""
    bad = EmbeddedConfig(tmp_path, MasterConfig(port=0), (AgentConfig(port=0, resources="cpus=4"),))
    with pytest.raises(ConfigError):
        async with embedded(bad, clock=SystemClock(), ids=ids()):
            pass
