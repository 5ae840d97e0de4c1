"""What a person sees of an app: its containers' logs and numbers, from a real Docker, and why some have none."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from libs.common.spec import AppSpec
from tests.e2e.conftest import Cloud
from tests.e2e.test_bad_input import good

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(120)]

APP = "acme/looking"


async def test_logs_and_numbers_of_an_app_come_from_its_containers(cloud: Cloud) -> None:
    await cloud.client.put_app(APP, AppSpec.model_validate(good(cloud)))
    done = await cloud.client.wait((await cloud.client.deploy(APP)).deployment)
    assert done.state == "succeeded", done
    instances = list((await cloud.client.instances(APP)).instances)
    names = {each.instance for each in instances}
    try:
        assert await cloud.story.ask_each(instances) == {"v1": 2}
        lines = (await cloud.gantry("logs", APP)).splitlines()
        assert {line.split()[0] for line in lines} == names and len(names) == 2
        assert all("sample-web v1 listens on port 8080" in line for line in lines), lines
        told = orjson.loads(await cloud.gantry("stats", APP, "--interval", "0.5", "-o", "json"))
        uses = {each["instance"]: each for each in told["instances"]}
        assert set(uses) == names
        for use in uses.values():
            stats = use["stats"]
            assert 0 < stats["mem_bytes"] <= stats["mem_limit_bytes"] == 32 * 2**20, use
            assert stats["cpu_ns"] > 0 and stats["pids"] >= 1 and 0 <= use["cpus"] < 2, use
            assert stats["network"]["rx_bytes"] > 0 and stats["network"]["tx_bytes"] > 0, use
    finally:
        await cloud.client.wait((await cloud.client.stop(APP)).deployment)


async def test_why_an_instance_is_not_placed_is_said_wherever_one_looks(cloud: Cloud) -> None:
    """The scheduler's own words and counts, by API, CLI, console and a plan before anything is done."""
    app = "acme/too-large"
    await cloud.client.put_app(
        app,
        AppSpec.model_validate(good(cloud, instances=3, resources={"cpus": 200, "mem_mib": 32})),
    )
    planned = await cloud.client.plan(app)
    assert (planned.unplaced, planned.places) == (3, ()) and planned.why is not None, planned
    assert planned.why.agents == 1 and planned.why.failed == {"cpus": 1}, planned.why
    assert "none of them has the CPUs (200): the most is" in planned.why.nearest, planned.why
    words = (await cloud.gantry("plan", app)).splitlines()
    assert words[-2:] == [
        f"3 would wait: {planned.why.nearest}",
        "of 1 agents failed: 1 cpus",
    ], words
    deployment = (await cloud.client.deploy(app)).deployment
    try:
        async with asyncio.timeout(30):
            while True:
                instances = (await cloud.client.instances(app)).instances
                if instances and all(each.why for each in instances):
                    break
                await asyncio.sleep(0.1)
        for each in instances:
            assert each.why is not None and each.waiting.endswith(each.why.nearest), each
            assert each.why.failed == planned.why.failed, each
        row = (await cloud.gantry("ps", app)).splitlines()[1]
        assert instances[0].waiting in row and "1 cpus" in row, row
        assert instances[0].waiting in await cloud.page("/console/state")
    finally:
        await cloud.client.wait((await cloud.client.stop(app, force=True)).deployment)
    assert (await cloud.client.deployment(deployment)).state != "succeeded"
