"""Gateway and deployer, both real, over one bus: what one writes the other reads, and the client reads both.

The scheduler is played by a subscriber that starts and stops instances as they are asked for.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from libs.cli.apps_cmd import changes
from libs.client import GantryClient
from libs.common.bus.base import Bus
from libs.common.clock import Clock
from libs.common.consume import Handlers
from libs.common.errors import Conflict, NotFound, Stale
from libs.common.events import Envelope, Event, seal, to_record
from libs.common.events import model as ev
from libs.common.runtime import Shared, open_runtime
from libs.common.serve import serve
from libs.common.spec import AppSpec
from libs.common.telemetry import Telemetry, make_log
from services.deployer.model import DeployerConfig
from services.deployer.service import run as run_deployer
from services.gateway.console.view import Word, word_of
from services.gateway.model import GatewayConfig
from services.gateway.service import KEY_FILE
from tests.fakes.gateway import ShiftedClock, make_shared, running

DIGEST = "registry.test/web@sha256:" + "a" * 64
OTHER = "registry.test/web@sha256:" + "b" * 64
WEB = AppSpec(image=DIGEST, instances=3, network="blue")


@dataclass
class PlayedScheduler:
    """Starts what is requested and stops what is no longer wanted, unless held."""

    bus: Bus
    clock: Clock
    held: bool = False
    sequence: int = 0
    running: dict[str, ev.InstanceRequested] = field(default_factory=dict)

    async def on_requested(self, event: ev.InstanceRequested, _envelope: Envelope) -> None:
        """Start it."""
        if self.held:
            delayed = ev.PlacementDelayed(
                instance=event.instance,
                app=event.app,
                agents=2,
                failed={"mem": 2},
                message="no mem",
            )
            await self.tell(delayed)
            return
        self.running[event.instance] = event
        of = {"instance": event.instance, "app": event.app, "attempt": f"{event.instance}.1"}
        host = {"agent": "agent-1", "hostname": "host-1"}
        address = f"10.1.0.{len(self.running)}"
        await self.tell(ev.OfferAccepted(offer="o", cpus=0.1, mem_mib=64, **of, **host))
        await self.tell(ev.ContainerStarted(container="c", address=address, **of, **host))
        await self.tell(ev.ContainerHealthy(container="c", address=address, **of, **host))

    async def on_stop(self, event: ev.InstanceStopRequested, _envelope: Envelope) -> None:
        """Stop it."""
        self.running.pop(event.instance, None)
        await self.tell(
            ev.ContainerExited(
                instance=event.instance,
                app=event.app,
                attempt=f"{event.instance}.1",
                agent="agent-1",
                state="TASK_KILLED",
                wanted=True,
                final=True,
            )
        )

    async def tell(self, event: Event) -> None:
        """Publish."""
        self.sequence += 1
        sealed = seal([event], source="scheduler", sequence=self.sequence, now=self.clock.now())
        await self.bus.publish([to_record(each) for each in sealed])


@dataclass
class Parts:
    """Both services, and what they stand on."""

    client: GantryClient
    scheduler: PlayedScheduler
    shared: Shared
    clock: ShiftedClock
    log: io.StringIO  # of the deployer


@asynccontextmanager
async def parts(data_dir: Path, bus: Bus | None = None) -> AsyncIterator[Parts]:
    """Both services at work, on the memory bus unless another is given."""
    clock, log = ShiftedClock(), io.StringIO()
    shared = make_shared(data_dir, GatewayConfig(), clock)
    shared.bus = bus or shared.bus
    shared.settings["deployer"] = DeployerConfig(resolve_images=False)
    scheduler = PlayedScheduler(shared.bus, clock)
    handlers: Handlers = {
        ev.InstanceRequested: scheduler.on_requested,
        ev.InstanceStopRequested: scheduler.on_stop,
    }
    async with (
        open_runtime(shared, "deployer") as deployer,
        open_runtime(shared, "scheduler") as rt_scheduler,
        running(shared),
        asyncio.TaskGroup() as group,
        serve(shared.local.apps["gateway"], "127.0.0.1:0") as url,
    ):
        deployer.telemetry = Telemetry("deployer", make_log("deployer", stream=log))
        tasks = [
            group.create_task(run_deployer(deployer)),
            group.create_task(rt_scheduler.subscription(handlers).run()),
        ]
        key = (data_dir / KEY_FILE).read_text().strip()
        async with asyncio.timeout(60), GantryClient.open(url, key) as client:
            while "deployer" not in shared.local.apps:
                await asyncio.sleep(0.005)
            yield Parts(client, scheduler, shared, clock, log)
        for task in tasks:
            task.cancel()


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[tuple[GantryClient, PlayedScheduler]]:
    """Both services with a client."""
    async with parts(tmp_path) as made:
        yield made.client, made.scheduler


async def test_an_apps_whole_life(cloud: tuple[GantryClient, PlayedScheduler]) -> None:
    client, scheduler = cloud
    made, etag = await client.put_app("acme/web", WEB)
    assert made.version == 1 and changes(made.spec, WEB) == {}
    with pytest.raises(Stale):
        await client.put_app("acme/web", WEB, if_match='"9"')
    first = await client.wait((await client.deploy("acme/web")).deployment, poll_s=0.02)
    assert (first.state, first.release) == ("succeeded", 1), first
    assert first.counts is not None and first.counts["ready"] == 3
    instances = (await client.instances("acme/web")).instances
    assert {(i.state, i.hostname, i.release, i.healthy) for i in instances} == {
        ("healthy", "host-1", 1, True)
    }
    assert word_of((await client.apps()).apps[0], instances) == (Word.RUNNING, "")
    await client.put_app("acme/web", WEB.model_copy(update={"image": OTHER}), if_match=etag)
    second = await client.wait((await client.deploy("acme/web")).deployment, poll_s=0.02)
    assert (second.state, second.release) == ("succeeded", 2), second
    assert [each.image for each in (await client.releases("acme/web")).releases] == [OTHER, DIGEST]
    back = await client.wait((await client.rollback("acme/web")).deployment, poll_s=0.02)
    assert back.state == "succeeded" and (await client.apps()).apps[0].model_dump()["release"] == 1
    scaled = await client.wait((await client.scale("acme/web", 5)).deployment, poll_s=0.02)
    assert scaled.state == "succeeded" and len(scheduler.running) == 5
    stopped = await client.wait((await client.stop("acme/web")).deployment, poll_s=0.02)
    assert stopped.state == "succeeded" and not scheduler.running
    actions = [each.action for each in (await client.deployments("acme/web")).deployments]
    assert actions == ["stop", "scale", "rollback", "release", "release"]
    (app,) = (await client.apps()).apps
    assert word_of(app, (await client.instances("acme/web")).instances)[0] is Word.SUSPENDED


async def test_waiting_is_explained_and_a_roll_can_be_held(
    cloud: tuple[GantryClient, PlayedScheduler],
) -> None:
    client, scheduler = cloud
    scheduler.held = True
    await client.put_app("acme/web", WEB)
    deployment = (await client.deploy("acme/web")).deployment
    while True:
        instances = (await client.instances("acme/web")).instances
        if any("no mem" in each.waiting for each in instances):
            break
        await asyncio.sleep(0.02)
    (app,) = (await client.apps()).apps
    word, why = word_of(app, instances)
    assert word is Word.WAITING and "no mem" in why
    assert (await client.deployment(deployment)).state == "rolling"
    assert (await client.pause(deployment)).state == "paused"
    with pytest.raises(Conflict):
        await client.pause(deployment)
    assert (await client.resume(deployment)).state == "rolling"
    assert (await client.abort(deployment)).deployment == deployment
    ended = await client.wait(deployment, poll_s=0.02)
    assert ended.state == "aborted" and ended.reason


async def test_what_the_deployer_refuses_ends_with_its_reason(
    cloud: tuple[GantryClient, PlayedScheduler],
) -> None:
    client, _ = cloud
    await client.put_app("acme/web", WEB)
    ended = await client.wait((await client.rollback("acme/web", 7)).deployment, poll_s=0.02)
    assert ended.state == "refused" and "7" in ended.reason
    with pytest.raises(NotFound):
        await client.deploy("acme/none")
    with pytest.raises(NotFound):
        await client.deployment("dep-none")


async def test_a_plan_changes_nothing(
    cloud: tuple[GantryClient, PlayedScheduler],
) -> None:
    client, scheduler = cloud
    await client.put_app("acme/web", WEB)
    plan = (await client.plan("acme/web")).model_dump()
    assert plan["release"] == 1 and not plan["refused"]
    assert (await client.plan("acme/web", image=OTHER)).model_dump()["image"] == OTHER
    more = WEB.model_copy(update={"instances": 9})
    assert (await client.plan("acme/web", spec=more)).model_dump()["wanted"] == 9
    assert (await client.plan("acme/new", spec=more)).model_dump()["wanted"] == 9
    with pytest.raises(NotFound):
        await client.app("acme/new")
    assert not scheduler.running and not (await client.releases("acme/web")).releases
