"""Sandboxes go as Mesos' agent lets them go: after a while, sooner on a full disk, and never one that is in use."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.minimesos import gc
from libs.minimesos.config import AgentConfig, MasterConfig
from libs.minimesos.embedded import EmbeddedConfig, embedded
from tests.unit.minimesos.support import launch_call, scheduler, task
from tests.unit.minimesos.test_embedded import ids

WEEK_S = 604_800.0


@pytest.mark.parametrize(
    ("usage", "expected_s"), [(0.0, 0.9 * WEEK_S), (0.5, 0.4 * WEEK_S), (0.9, 60.0), (1.0, 60.0)]
)
def test_the_fuller_the_disk_the_sooner(usage: float, expected_s: float) -> None:
    assert gc.allowed_age_s(WEEK_S, 0.1, usage) == pytest.approx(expected_s)


def sandbox(root: Path, agent: str, container: str, changed_at: float) -> Path:
    path = root / f"slaves/{agent}/frameworks/f/executors/e/runs/{container}"
    path.mkdir(parents=True)
    (path / "stderr").write_text("x")
    latest = path.parent / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to(path)
    for each in (path / "stderr", path):
        os.utime(each, (changed_at, changed_at))
    return path


def test_what_is_old_and_over_goes_with_its_empty_directories(tmp_path: Path) -> None:
    old, alive = sandbox(tmp_path, "S0", "c1", 100.0), sandbox(tmp_path, "S1", "c2", 100.0)
    fresh = sandbox(tmp_path, "S1", "c3", 300.0)
    written = sandbox(tmp_path, "S1", "c4", 100.0)
    os.utime(written / "stderr", (300.0, 300.0))
    found = gc.sandboxes(tmp_path)
    assert set(found) == {old, alive, fresh, written}
    assert gc.collect(found, {"c2"}, 200.0) == [old]
    assert sorted(each.name for each in (tmp_path / "slaves").iterdir()) == ["S1"]
    assert gc.sandboxes(tmp_path) == [alive, fresh, written]


async def test_an_agent_removes_old_sandboxes_and_no_live_one(tmp_path: Path) -> None:
    agent = AgentConfig(port=0, disk_watch_interval_s=0.2)
    config = EmbeddedConfig(tmp_path, MasterConfig(port=0), (agent,))
    async with (
        embedded(config, clock=SystemClock(), ids=ids()) as cluster,
        scheduler(cluster.master_url) as client,
    ):
        event = await client.wait(lambda e: e["type"] == "OFFERS")
        offer = event["offers"]["offers"][0]
        works = [
            task(name, offer["agent_id"], command)
            for name, command in (("done", "true"), ("lives", "sleep 1000"))
        ]
        await client.call(launch_call(offer, works))
        lives = await client.state("lives", "TASK_RUNNING")
        await client.state("done", "TASK_FINISHED")
        both = gc.sandboxes(tmp_path / "agent-0")
        assert len(both) == 2
        for each in both:  # as if all of it were long ago
            for path in (*each.iterdir(), each):
                os.utime(path, (1000.0, 1000.0))
        async with asyncio.timeout(60):
            while len(gc.sandboxes(tmp_path / "agent-0")) == 2:
                await asyncio.sleep(0.05)
        (left,) = gc.sandboxes(tmp_path / "agent-0")
        assert "lives" in str(left)
        # Or its executor waits for an agent for a quarter of an hour.
        await client.call({"type": "TEARDOWN"})
        process = Path(f"/proc/{lives['container_status']['executor_pid']}")
        async with asyncio.timeout(60):
            while process.exists():
                await asyncio.sleep(0.05)
