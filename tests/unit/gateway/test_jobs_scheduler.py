"""Jobs through the gateway with the real scheduler behind it, on a Mesos that has no agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from libs.common.runtime import Runtime
from libs.mesos import events as mesos
from libs.mesos.framework import Permit
from libs.mesos.messages import FrameworkInfo
from services.scheduler.mesos import MesosDriver
from services.scheduler.model import Action
from services.scheduler.service import run as run_scheduler
from services.scheduler.settings import SchedulerConfig
from tests.fakes.gateway import World, running

DIGEST = f"registry.test/report@sha256:{7:064x}"
SPEC: dict[str, Any] = {"image": DIGEST, "network": "blue"}
JOB = "/v1/jobs/acme/report"


class Driver:
    """Subscribed to a Mesos that says nothing more."""

    @asynccontextmanager
    async def subscribe(self, permit: Permit) -> AsyncIterator[AsyncIterator[mesos.SchedulerEvent]]:
        """See MesosDriver."""

        async def events() -> AsyncIterator[mesos.SchedulerEvent]:
            permit()
            yield mesos.Subscribed("f1", 15.0, {})
            await asyncio.Event().wait()

        yield events()

    async def do(self, action: Action) -> None:
        """See MesosDriver."""


@asynccontextmanager
async def open_driver(
    _rt: Runtime, _config: SchedulerConfig, _info: FrameworkInfo
) -> AsyncIterator[MesosDriver]:
    yield Driver()


@pytest.fixture
async def real(world: World) -> AsyncIterator[World]:
    """The gateway's world with a real scheduler in the fake one's place."""
    del world.shared.local.apps["scheduler"]
    async with running(world.shared, "scheduler", partial(run_scheduler, open_driver=open_driver)):
        yield world


async def test_a_job_from_its_put_to_its_end(real: World) -> None:
    made = await real.call("PUT", JOB, {**SPEC, "schedule": "0 3 * * *", "timeout_s": 60})
    assert made.status == 200, made.body
    view = made.json()
    assert (view["state"], view["image"], view["version"]) == ("active", DIGEST, 1)
    assert view["changed_by"].startswith("first-admin") and view["next"] % 86_400 == 3 * 3600
    check = {"job": "acme/report", "spec": {**SPEC, "schedule": "@daily", "timeout_s": 60}}
    checked = (await real.call("POST", "/v1/jobs/validate", check)).json()
    assert checked["changes"] == ["schedule"] and len(checked["next"]) == 5

    key = {"Idempotency-Key": "now"}
    begun = await real.call("POST", f"{JOB}/run", headers=key)
    assert begun.status == 200, begun.body
    run = begun.json()
    assert (run["job"], run["cause"], run["state"]) == ("acme/report", "manual", "pending")
    again = await real.call("POST", f"{JOB}/run", headers=key)
    assert again.json()["run"] == run["run"]
    listed = (await real.call("GET", f"{JOB}/runs")).json()["runs"]
    assert [each["run"] for each in listed] == [run["run"]]

    assert (await real.call("POST", f"{JOB}/pause")).json()["state"] == "paused"
    assert (await real.call("POST", f"{JOB}/resume")).json()["state"] == "active"
    killed = await real.call("POST", f"/v1/runs/{run['run']}/kill")
    assert killed.status == 200, killed.body

    async def ended() -> Any:
        view = (await real.call("GET", f"/v1/runs/{run['run']}")).json()
        return view if view["state"] == "killed" else None

    assert "first-admin" in (await real.eventually(ended))["reason"]
    assert (await real.call("GET", f"{JOB}/stats")).json()["runs"] == 1
    theirs = await real.key("other", "admin")
    for path in (JOB, f"{JOB}/stats", f"/v1/runs/{run['run']}"):
        assert (await real.call("GET", path, key=theirs)).status == 404, path
    assert (await real.call("GET", "/v1/jobs", key=theirs)).json()["jobs"] == []
    assert (await real.call("DELETE", JOB)).json()["state"] == "done"
    assert (await real.call("GET", JOB)).status == 404


async def test_what_it_refuses(real: World) -> None:
    for fields, named in (
        ({"schedule": "61 * * * *"}, "schedule"),
        ({"schedule": "@daily", "time_zone": "Mars/Base"}, "time_zone"),
        ({"parents": ["nobody"]}, "parents"),
        ({"parents": ["report"]}, "parents"),
    ):
        refused = await real.call("PUT", JOB, {**SPEC, **fields})
        assert refused.status == 422, refused.body
        assert refused.json()["errors"][0]["field"] == named
    tag = await real.call("PUT", JOB, {**SPEC, "image": "registry.test/report:1"})
    assert tag.status == 409 and "give name@sha256" in tag.json()["detail"]
    secret = {"secrets": [{"name": "db", "env": "DB"}]}
    missing = await real.call("PUT", JOB, {**SPEC, **secret})
    assert missing.status == 409 and "no secret 'db'" in missing.json()["detail"]
    assert (await real.call("PUT", JOB, SPEC)).status == 200
    child = "/v1/jobs/acme/mail"
    assert (await real.call("PUT", child, {**SPEC, "parents": ["report"]})).status == 200
    held = await real.call("DELETE", JOB)
    assert held.status == 409 and "mail" in held.json()["detail"]
    assert (await real.call("GET", JOB)).status == 200
