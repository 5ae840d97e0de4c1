"""A real engine that is killed in the middle of a container's start, and what it leaves running."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.images.build import SAMPLES, build_images
from infra.provision import Server
from infra.provision.process import run
from infra.provision.scripts import engine_server
from libs.common.errors import Unavailable
from services.executor.docker import DockerEngine
from services.executor.errors import HalfStarted
from services.executor.model import (
    LABEL_AGENT,
    LABEL_CLUSTER,
    ContainerName,
    ContainerSpec,
    Identity,
    Limits,
    Phase,
    Ref,
)

WHO = Identity("half", "agent-1")
SPEC = ContainerSpec(
    name=ContainerName("gantry-half-web.1"),
    image="sample-web:v1",
    hostname="web",
    runtime="gantry",
    limits=Limits(cpu_shares=102, nano_cpus=10**9, mem_bytes=32 * 2**20, pids=64),
    labels={LABEL_CLUSTER: WHO.cluster, LABEL_AGENT: WHO.agent},
    command=("/bin/sh", "-c", "exec sleep 100000"),
)

# Where `runc start` gets stuck.
STUCK = {
    "before the app": "exec -a runc sleep 60",
    "after the app": 'runc "$@"; exec -a runc sleep 60',
}
RUNTIME = """#!/bin/bash
if [[ " $* " == *" start "* && -e {stuck} ]]; then rm {stuck}; touch {reached}; {how}; fi
exec runc "$@"
"""


@dataclass
class Half:
    """An engine whose next start gets stuck, if `stuck` is there. `reached` is there when it does."""

    server: Server
    engine: DockerEngine
    home: Path

    def use(self, how: str) -> None:
        stuck, reached = self.home / "stuck", self.home / "reached"
        runtime = self.home / "runtime"
        runtime.write_text(RUNTIME.format(stuck=stuck, reached=reached, how=how))
        runtime.chmod(0o755)

    async def die_in_start(self, ref: Ref) -> None:
        (self.home / "reached").unlink(missing_ok=True)
        (self.home / "stuck").touch()
        start = asyncio.create_task(self.engine.start(ref, ""))
        await until((self.home / "reached").exists)
        await asyncio.sleep(0.5)  # what comes after it, runs
        await self.server.control.kill9()
        with pytest.raises(Unavailable):
            await start
        await self.server.start()

    async def shims(self) -> list[str]:
        """Of all our containers; not what containerd clears away with after them."""
        found = await run(["ps", "-ww", "-eo", "pid,args"], timeout_s=10)
        ours = str(self.home)
        shims = [x for x in found.splitlines() if "containerd-shim" in x and ours in x]
        return [each for each in shims if not each.endswith(" delete")]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
async def half() -> AsyncIterator[Half]:
    home = Path(tempfile.mkdtemp(prefix="ghs-", dir="/tmp"))
    server = engine_server(home / "engine", runtime_path=home / "runtime")
    try:
        await server.start()
        await build_images(server.url, None, SAMPLES[:1])
        engine = DockerEngine(server.url, WHO, home / "data", home / "secrets")
        yield Half(server, engine, home)
        await engine.close()
    finally:
        await server.control.purge()
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.parametrize("where", STUCK)
async def test_what_was_half_started_is_ended_and_a_fresh_one_starts(
    half: Half, where: str
) -> None:
    half.use(STUCK[where])
    ref = Ref(SPEC.name, await half.engine.create(SPEC))
    await half.die_in_start(ref)
    assert (await half.engine.inspect(ref)).phase is Phase.CREATED
    with pytest.raises(HalfStarted):
        await half.engine.start(ref, "")
    assert len(await half.shims()) == 1
    assert await half.engine.has_leftover(ref)
    assert await half.engine.end_leftover(ref)
    assert await half.shims() == []
    await half.engine.remove(ref)
    fresh = Ref(SPEC.name, await half.engine.create(SPEC))
    await half.engine.start(fresh, "")
    assert (await half.engine.inspect(fresh)).phase is Phase.RUNNING
    assert len(await half.shims()) == 1
    await half.engine.remove(fresh)
    assert not await half.engine.end_leftover(fresh)


async def test_a_removal_alone_would_leave_it_running(half: Half) -> None:
    """Why it is looked for: the day an engine does it itself, this can go."""
    half.use(STUCK["after the app"])
    ref = Ref(SPEC.name, await half.engine.create(SPEC))
    await half.die_in_start(ref)
    await half.engine.remove(ref)
    assert len(await half.shims()) == 1
    assert await half.engine.end_leftover(ref)
    assert await half.shims() == []
