"""What a person sees of an app's containers: by CLI, gateway and their host's hostd, from a real Docker."""

from __future__ import annotations

import asyncio
import io

import orjson
import pytest

from libs.cli.main import Streams, run
from libs.common.spec import AppSpec
from tests.e2e.conftest import Cloud
from tests.e2e.test_bad_input import good

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(120)]

APP = "acme/looking"


async def gantry(cloud: Cloud, *argv: str) -> str:
    """The output of a command that ends well."""
    out, err = io.StringIO(), io.StringIO()
    environ = {"GANTRY_URL": cloud.stack.layout.url, "GANTRY_KEY": cloud.stack.admin_key()}
    code = await asyncio.to_thread(run, argv, Streams(out, err, environ))
    assert code == 0, err.getvalue()
    return out.getvalue()


async def test_logs_and_numbers_of_an_app_come_from_its_containers(cloud: Cloud) -> None:
    await cloud.client.put_app(APP, AppSpec.model_validate(good(cloud)))
    done = await cloud.client.wait((await cloud.client.deploy(APP)).deployment)
    assert done.state == "succeeded", done
    instances = list((await cloud.client.instances(APP)).instances)
    names = {each.instance for each in instances}
    try:
        assert await cloud.story.ask_each(instances) == {"v1": 2}
        lines = (await gantry(cloud, "logs", APP)).splitlines()
        assert {line.split()[0] for line in lines} == names and len(names) == 2
        assert all("sample-web v1 listens on port 8080" in line for line in lines), lines
        told = orjson.loads(await gantry(cloud, "stats", APP, "--interval", "0.5", "-o", "json"))
        uses = {each["instance"]: each for each in told["instances"]}
        assert set(uses) == names
        for use in uses.values():
            stats = use["stats"]
            assert 0 < stats["mem_bytes"] <= stats["mem_limit_bytes"] == 32 * 2**20, use
            assert stats["cpu_ns"] > 0 and stats["pids"] >= 1 and 0 <= use["cpus"] < 2, use
            assert stats["network"]["rx_bytes"] > 0 and stats["network"]["tx_bytes"] > 0, use
    finally:
        await cloud.client.wait((await cloud.client.stop(APP)).deployment)
