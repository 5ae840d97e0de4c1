"""The scheduler with `driver: pymesos`, on minimesos' processes: an app runs, the master dies, the app is stopped."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from libs.common.bus.base import TopicSpec
from libs.common.errors import Unavailable
from libs.common.events import model as ev
from libs.common.events.base import Event, seal, to_record
from libs.common.http import call_json
from libs.common.runtime import CommonConfig, Runtime, Shared, open_runtime, open_shared
from libs.common.spec import InstanceSpec, Resources
from services.scheduler.service import run
from services.scheduler.settings import SchedulerConfig
from tests.contract.mesos.cluster import ROOT, Mesos, minimesos

APP = "acme/web"
NAMES = tuple(f"acme-web-{n}" for n in range(3))
SPEC = InstanceSpec(
    image="web@sha256:" + "a" * 64, network="blue", resources=Resources(cpus=0.1, mem_mib=32)
)
EXECUTOR = (
    f"PYTHONPATH={shlex.quote(str(ROOT))} exec {sys.executable} -m tests.integration.plain_executor"
)


async def _publish(shared: Shared, events: Sequence[Event], sequence: int) -> None:
    sealed = seal(events, source="deployer", sequence=sequence, now=shared.clock.now())
    await shared.bus.publish([to_record(each) for each in sealed])


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():
            await asyncio.sleep(0.05)


async def _states(rt: Runtime) -> dict[str, str]:
    found = await call_json(rt.peers, "scheduler", "GET", "/v1/instances")
    return {each["instance"]: each["state"] for each in found["instances"]}


async def _status(rt: Runtime) -> Mapping[str, Any]:
    try:
        return dict(await call_json(rt.peers, "scheduler", "GET", "/v1/status"))
    except Unavailable:  # it does not serve yet
        return {"subscribed": False}


async def _play(rt: Runtime, shared: Shared, mesos: Mesos) -> None:
    wanted = [
        ev.InstanceRequested(instance=each, app=APP, release=1, deployment="d1", spec=SPEC)
        for each in NAMES
    ]
    await _publish(shared, wanted, 1)

    async def subscribed() -> bool:
        return bool((await _status(rt))["subscribed"])

    await _until(subscribed)

    async def all_run() -> bool:
        return await _states(rt) == dict.fromkeys(NAMES, "running")

    await _until(all_run)
    framework = (await _status(rt))["framework"]
    assert mesos.master is not None and framework
    await mesos.master.kill()

    async def away() -> bool:
        return not await subscribed()

    await _until(away)
    await mesos.master.start()

    await _until(subscribed)
    assert (await _status(rt))["framework"] == framework and await all_run()
    stop = [ev.InstanceStopRequested(instance=each, app=APP, reason="enough") for each in NAMES]
    await _publish(shared, stop, 2)

    async def none_is_left() -> bool:
        return await _states(rt) == {}

    await _until(none_is_left)


async def test_an_app_runs_and_outlives_the_master(tmp_path: Path) -> None:
    """Offers, launches, updates, acknowledgements, reconciliation and kills, all through pymesos."""
    common = CommonConfig(
        data_dir=tmp_path / "data", bus="memory:", store="memory:", log_level="error"
    )
    flags = {"registry": "replicated_log"}
    thin = {"attributes": "class:thin"}
    async with minimesos(tmp_path, master_flags=flags, agent_flags=thin) as mesos:
        config = SchedulerConfig(
            driver="pymesos", masters=(mesos.master_url,), executor_command=EXECUTOR
        )
        async with open_shared(common, {"scheduler": config}) as shared:
            topics = (ev.InstanceRequested.TOPIC, ev.InstanceStopRequested.TOPIC)
            await shared.bus.ensure_topics([TopicSpec(each) for each in topics])
            async with open_runtime(shared, "scheduler") as rt, asyncio.TaskGroup() as group:
                service = group.create_task(run(rt))
                try:
                    await _play(rt, shared, mesos)
                finally:
                    service.cancel()
