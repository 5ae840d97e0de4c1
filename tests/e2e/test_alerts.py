"""One alert path from end to end: a crashing app → alert.raised → e-mail → alert.resolved → e-mail."""

from __future__ import annotations

import asyncio

import pytest

from libs.common.spec import AppSpec
from tests.e2e.conftest import Cloud
from tests.e2e.test_bad_input import good

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(500)]

APP = "acme/crashing"


async def test_a_crashing_app_is_mailed_and_resolved(cloud: Cloud) -> None:
    spec = good(cloud, "sample-crash:v1", health=[], instances=2)
    spec["strategy"] = {"max_failures": 10, "deadline_s": 60, "auto_rollback": False}
    await cloud.client.put_app(APP, AppSpec.model_validate(spec))
    place = await cloud.client.place(["alert.raised", "alert.resolved"])
    await cloud.client.deploy(APP)
    async with asyncio.timeout(120):
        async for event in cloud.client.events(["alert.raised", "alert.resolved"], last_id=place):
            if event.subject != f"app-crashing:{APP}":
                continue
            if event.topic == "alert.raised":
                firing = (await cloud.client.alerts("firing")).alerts
                assert f"app-crashing:{APP}" in {each.alert for each in firing}
                await cloud.client.stop(APP, force=True)
            else:
                break
        while not any("RESOLVED" in s and APP in s for s in cloud.mail.subjects()):
            await asyncio.sleep(0.1)
    mine = [subject for subject in cloud.mail.subjects() if APP in subject]
    assert sum("RAISED" in subject for subject in mine) == 1
    assert sum("RESOLVED" in subject for subject in mine) == 1
