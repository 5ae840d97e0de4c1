"""The drill of docs/operations.md on a cluster of many processes: the store goes back under a running fleet.

The simulation does it over many seeds (`tests/simulation/restore.py`); here are tool, processes and engines.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from infra.local import edge
from infra.local.processes import run
from libs.common.spec import AppSpec
from libs.common.task import container_name
from tests.e2e.distributed import Distributed

OPENED = "scheduler-breaker-open"
SERVED = 50  # requests, until it is plain that an app serves
PATIENCE_S = 120.0


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Poll."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await holds():
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(what) from None


@dataclass
class Drill:
    """One backup, and its restore some time later. Containers are told by name and id."""

    cloud: Distributed
    file: Path
    known: dict[str, str] = field(default_factory=dict)  # those of instances that the backup has
    unknown: dict[str, str] = field(default_factory=dict)  # and of those that it hasn't

    # -- what a person does

    async def documents(self, *words: str | Path) -> None:
        """`services.documents`, with the configuration of a replica."""
        layout = self.cloud.stack.layout
        config = layout.root / "deployer-1.yaml"
        module = (sys.executable, "-m", "services.documents", "--config", config)
        await run(*module, *words)

    async def deploy(self, app: str, instances: int) -> None:
        """An app that no load balancer sends anything to."""
        story = self.cloud.story
        spec = {**story.spec("sample-web:v1", instances), "load_balancer": {"driver": "none"}}
        await story.client.put_app(app, AppSpec.model_validate(spec))
        ended = await story.client.wait((await story.client.deploy(app)).deployment)
        assert ended.state == "succeeded", ended

    async def crash(self, app: str) -> None:
        """One of its containers dies; its instance goes on with a later attempt."""
        story, prefix = self.cloud.story, self.cloud.prefix(app)
        before = {each for each in await story.containers() if each.startswith(prefix)}
        victim = min(before)
        for socket in self.cloud.stack.engine_sockets():
            await run("docker", "-H", f"unix://{socket}", "kill", victim, check=False)

        async def anew() -> bool:
            rows = (await story.client.instances(app)).instances
            return victim not in {e.container for e in rows} and all(e.healthy for e in rows)

        await until(anew, f"{victim} has no successor")

    async def restore(self) -> None:
        """All services are stopped, one after the other, and started again on the older store."""
        stack = self.cloud.stack
        await asyncio.gather(*(stack.parts[name].stop() for name in reversed(stack.names)))
        await self.documents("restore", "--replace", self.file)
        await asyncio.gather(*(stack.parts[name].start() for name in stack.names))
        await self.cloud.ready()

    async def end_unknown(self) -> None:
        """The person's decision: what nobody knows goes, and out of the load balancer, too."""
        await self.cloud.story.gantry("breaker", "release")
        layout = self.cloud.stack.layout
        await edge.haproxy(layout).stop()
        edge.start_haproxy(layout)

    # -- what is seen

    async def part(self, before: dict[str, str]) -> None:
        """Tell containers of instances that the backup has, whatever their attempt, from the others."""
        instances = {each.rpartition(".")[0] for each in before}
        for name, container in (await self.cloud.story.containers()).items():
            kept = name.rpartition(".")[0] in instances
            (self.known if kept else self.unknown)[name] = container

    async def holds_back(self) -> bool:
        """Does the breaker hold just the unknown ones back?"""
        seen = await self.cloud.story.client.breaker()
        cluster = self.cloud.stack.layout.cluster
        return (
            seen.open
            and {container_name(cluster, each) for each in seen.unknown_tasks}
            == self.unknown.keys()
        )

    async def told(self) -> bool:
        """Has somebody been told of it?"""
        alerts = (await self.cloud.story.client.alerts("firing")).alerts
        return any(each.alert == OPENED for each in alerts)

    async def resolved(self) -> bool:
        """Is it over?"""
        return not await self.told()

    async def as_known(self) -> bool:
        """Is each instance that the API shows healthy, in the container that it had, and none missing?"""
        found = (await self.cloud.story.client.instances()).instances
        return {each.container for each in found if each.healthy} == self.known.keys()

    async def only_known(self) -> bool:
        """Are these all, and the same?"""
        return await self.cloud.story.containers() == self.known

    async def serves(self) -> bool:
        """Do so many new requests through the load balancer all succeed?"""
        story = self.cloud.story
        before = story.load_counts()
        await until(lambda: self._asked(before["requests"]), "there is no load")
        return bool(story.load_counts()["failed"] == before["failed"])

    async def _asked(self, since: int) -> bool:
        return int(self.cloud.story.load_counts()["requests"]) >= since + SERVED
