"""The demo's crashes: containers and processes of a cluster on one machine are killed, and must be back."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from infra.demo.story import APP, SETTLE_S, DemoFailed, Story
from infra.local.processes import alive, reap, run
from infra.local.stack import Stack

Told = dict[str, dict[str, str]]
"""By framework, the states of its tasks."""


@dataclass
class Crashes(Story):
    """A story on a cluster whose processes can be killed."""

    stack: Stack

    async def kill_container(self) -> str:
        """Kill one behind Gantry's back and see it replaced."""
        before = await self.instances()
        victim = next(each for each in before if each.container)
        (socket,) = self.stack.engine_sockets()
        await run("docker", "-H", f"unix://{socket}", "kill", victim.container)
        deadline = time.monotonic() + SETTLE_S
        while victim.container in {each.container for each in await self.instances()}:
            if time.monotonic() > deadline:
                raise DemoFailed(f"{victim.container} was killed, and nobody noticed")
            await asyncio.sleep(0.1)
        await self.healthy(self.size, "after a container was killed")
        return f"{victim.instance} was killed and is back in a new container"

    async def kill_process(self, name: str) -> str:
        """kill -9 one of Gantry's processes; containers must not notice."""
        before = await self.containers()
        told = await self._told_by_mesos(before)
        if name == "executor worker":
            await self._kill_worker()
        elif name == "hostd":
            self.stack.hostd.kill9()
            await self.stack.start_hostd()
        else:
            self.stack.control_plane.kill9()
            await self.stack.start_control_plane()
        await self.healthy(self.size, f"after kill -9 of {name}")
        after = await self.containers()
        if after != before:
            raise DemoFailed(f"kill -9 of {name} changed containers: {set(before) ^ set(after)}")
        await self._same_tasks(told, after)
        said = f"{name} is back; all {len(after)} containers and tasks are the same as before"
        if name == "control plane":
            return said
        await self._one_more()
        return f"{said}, and new ones are wired"

    async def _same_tasks(self, before: Told, containers: Iterable[str]) -> None:
        """Wait for the agent to tell the master of its tasks again: none may be another or in another state."""
        deadline = time.monotonic() + SETTLE_S
        while (after := await self._told_by_mesos(containers)) != before:
            if time.monotonic() > deadline:
                raise DemoFailed(f"Mesos told of {before} before, and of {after} now")
            await asyncio.sleep(0.1)

    async def _told_by_mesos(self, containers: Iterable[str]) -> Told:
        """Each framework's tasks of these containers, with their states."""
        layout = self.stack.layout
        secret = (layout.data / "mesos.secret").read_text().strip()
        proof = {"Authorization": aiohttp.encode_basic_auth("gantry", secret)}
        url = f"http://127.0.0.1:{layout.ports['mesos_master']}/state"
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10), headers=proof) as session,
            session.get(url, raise_for_status=True) as answer,
        ):
            frameworks = (await answer.json())["frameworks"]
        wanted = {each.removeprefix(f"gantry-{layout.cluster}-") for each in containers}
        return {
            each["id"]: {
                task["id"]: task["state"] for task in each["tasks"] if task["id"] in wanted
            }
            for each in frameworks
        }

    async def _one_more(self) -> None:
        """Scale by one and back: what the API last knew would look well, an instance that answers at its address is."""
        more = self.size + 1
        await self.gantry("scale", APP, str(more))
        versions = await self.ask_each(await self.healthy(more, f"scaled to {more}"))
        if sum(versions.values()) != more or len(versions) != 1:
            raise DemoFailed(f"scaled to {more}, and found {versions}")
        await self.gantry("scale", APP, str(self.size))
        await self.healthy(self.size, f"scaled back to {self.size}")

    async def _kill_worker(self) -> None:
        workers = self._workers()
        if not workers:
            raise DemoFailed("there is no executor worker")
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
            reap(pid)
        deadline = time.monotonic() + SETTLE_S
        while not set(self._workers()) - set(workers):
            if time.monotonic() > deadline:
                raise DemoFailed("the supervisor did not start a new worker")
            await asyncio.sleep(0.1)

    def _workers(self) -> list[int]:
        found = []
        for pid in self.stack.executors():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if b"services.executor.worker" in command and alive(pid):
                found.append(pid)
        return found
