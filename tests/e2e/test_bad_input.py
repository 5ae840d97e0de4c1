"""Bad input and full networks: a clear reason within seconds, and the old release goes on."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import aiohttp
import pytest

from libs.client.api import GantryClient
from libs.client.model import NewKey, Role
from libs.common.errors import Forbidden, NotFound, Unauthenticated
from libs.common.spec import AppSpec
from tests.e2e.conftest import Cloud
from tests.unit.common.test_spec import leaves_without

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(200)]

WRONG: tuple[tuple[str, Any], ...] = (
    ("image", "no such reference"),
    ("instances", -1),
    ("instances", "many"),
    ("network", "Not A Name"),
    ("resources.cpus", 0),
    ("resources.mem_mib", 1),
    ("resources.pids", 0),
    ("class", "enormous"),
    ("command", "a string"),
    ("user", "bad user"),
    ("env", {"1X": "y"}),
    ("health.0.port", 70_000),
    ("health.0.type", "icmp"),
    ("health.0.interval_s", 0),
    ("strategy.max_surge", "x%"),
    ("strategy.max_unavailable", -2),
    ("strategy.deadline_s", 0),
    ("constraints.0.operator", "NEAR"),
    ("load_balancer.driver", "f5"),
    ("load_balancer.port", 0),
    ("stop_grace_s", -1),
    ("max_surge", 1),  # belongs under `strategy`
    ("network_options.mtu", 100),
    ("network_options.bandwidth.egress_kbit", 1),
    ("network_options.bandwidth.ingress_kbit", 1),
    ("resources.disk_mib", -1),
    ("secrets.0.name", "No Name"),
    ("secrets.0.env", "1A"),
    ("secrets.0.file", "/etc/hosts"),
    ("labels", 7),
    ("constraints.0.attribute", ""),
    ("constraints.0.value", 7),
    ("spread", "zone"),
    ("apart_from", ["No Name"]),
    ("priority", 101),
    ("environment", "No Name"),
    ("health.0.path", "health"),
    ("health.0.command", "check"),
    ("health.0.grace_s", -1),
    ("health.0.timeout_s", 0),
    ("health.0.max_consecutive_failures", 0),
    ("strategy.type", "big-bang"),
    ("strategy.min_ready_s", -1),
    ("strategy.max_failures", -1),
    ("strategy.auto_rollback", "perhaps"),
    ("disruption_budget", "101%"),
    ("unreachable.replace_after_s", -1),
    ("unreachable.keep", "both"),
    ("load_balancer.backend", "x" * 201),
    ("load_balancer.drain_s", -1),
    ("load_balancer.deadline_s", 0),
    ("keep_address", "perhaps"),
    ("address.reservation", "No Name"),
    ("address.requested", "10.0.0"),
)


def good(cloud: Cloud, image: str = "sample-web:v1", **changes: Any) -> dict[str, Any]:
    """A spec that is right, small, and without a load balancer."""
    spec = cloud.story.spec(image, 2)
    spec["load_balancer"] = {"driver": "none"}
    spec["constraints"] = [{"attribute": "zone", "operator": "IS", "value": "a"}]
    return {**spec, **changes}


def broken(spec: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The spec with one field set to a wrong value."""
    result = copy.deepcopy(spec)
    *parents, last = path.split(".")
    place: Any = result
    for each in parents:
        place = place[int(each)] if each.isdigit() else place.setdefault(each, {})
    place[last] = value
    return result


async def raw_put(cloud: Cloud, app: str, spec: dict[str, Any], key: str = "") -> tuple[int, Any]:
    """PUT without the client's own checks."""
    headers = {"Authorization": f"Bearer {key or cloud.stack.admin_key()}"}
    url = f"{cloud.stack.layout.url}/v1/apps/{app}"
    async with (
        aiohttp.ClientSession() as session,
        session.put(url, json=spec, headers=headers) as answer,
    ):
        return answer.status, await answer.json(content_type=None)


@pytest.mark.parametrize(("field", "value"), WRONG, ids=[f"{f}={v}" for f, v in WRONG])
async def test_each_wrong_field_is_named(cloud: Cloud, field: str, value: Any) -> None:
    spec = good(cloud, secrets=[{"name": "db", "env": "DB"}])
    status, problem = await raw_put(cloud, "acme/bad", broken(spec, field, value))
    assert status == 422, problem
    assert any(each["field"].startswith(field) for each in problem["errors"]), problem
    assert all(each["problem"] and each["expected"] for each in problem["errors"]), problem
    with pytest.raises(NotFound):
        await cloud.client.app("acme/bad")


async def test_no_field_is_left_out() -> None:
    assert leaves_without(field for field, _ in WRONG) == set()


async def test_wrong_keys_are_refused(cloud: Cloud) -> None:
    async with GantryClient.open(cloud.stack.layout.url, "gk_nobody_" + "0" * 40) as stranger:
        with pytest.raises(Unauthenticated):
            await stranger.apps()
    made = await cloud.client.create_key(NewKey(bu="acme", role=Role.VIEWER))
    async with GantryClient.open(cloud.stack.layout.url, made.key) as viewer:
        with pytest.raises(Forbidden):
            await viewer.put_app("acme/web2", AppSpec.model_validate(good(cloud)))
    other = await cloud.client.create_key(NewKey(bu="other", role=Role.DEPLOYER))
    async with GantryClient.open(cloud.stack.layout.url, other.key) as foreigner:
        with pytest.raises(NotFound):
            await foreigner.put_app("acme/web2", AppSpec.model_validate(good(cloud)))


async def test_an_image_that_does_not_exist_leaves_the_old_release_running(cloud: Cloud) -> None:
    app = "acme/image"
    await cloud.client.put_app(app, AppSpec.model_validate(good(cloud)))
    first = await cloud.client.wait((await cloud.client.deploy(app)).deployment)
    assert first.state == "succeeded", first
    before = {each.instance for each in (await cloud.client.instances(app)).instances}
    registry = f"127.0.0.1:{cloud.stack.layout.ports['registry']}"
    async with asyncio.timeout(15):
        asked = await cloud.client.deploy(app, image=f"{registry}/sample-web:nowhere")
        failed = await cloud.client.wait(asked.deployment)
    assert failed.state == "failed", failed
    assert "nowhere" in failed.reason, failed
    after = (await cloud.client.instances(app)).instances
    assert {each.instance for each in after} == before
    assert all(each.healthy for each in after)
    await cloud.client.wait((await cloud.client.stop(app)).deployment)


async def test_a_full_network_says_so(cloud: Cloud) -> None:
    app = "acme/crowd"
    spec = good(cloud, network="tiny", instances=8)
    spec["strategy"] = {"max_surge": 8, "deadline_s": 10, "max_failures": 0}
    await cloud.client.put_app(app, AppSpec.model_validate(spec))
    asked = await cloud.client.deploy(app)
    failed = await cloud.client.wait(asked.deployment)
    assert failed.state in ("failed", "rolled_back"), failed
    # By the scheduler, which knows of free addresses, or by ipam, which has the last word.
    assert "network tiny has no free address" in failed.reason or "is full" in failed.reason, failed
    await cloud.client.wait((await cloud.client.stop(app, force=True)).deployment)
