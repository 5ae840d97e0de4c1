"""The worker's signs of life, given to hostd's real service and to hosts where nobody hears them."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from libs.common.http import Response
from libs.common.pids import is_gone, pid_space
from libs.common.waiting import TaskGroup
from services.executor.beats import Beats
from services.executor.model import Identity
from services.executor.signs import LATER_S, Signs
from services.executor.supervisor import BEATS, Silence
from tests.fakes.hostd import HostdClient, fake_hostd
from tests.fakes.ipam import FakeIpam
from tests.fakes.network import FakeHost
from tests.simulation.loop import World, virtual

SILENT = "the executor of rack/1 has given no sign of life for "


@dataclass
class Deaf:
    """A hostd that answers this status to everything."""

    status: int
    asked: list[str] = field(default_factory=list)

    async def call(
        self,
        service: str,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Response:
        """See ServiceClient."""
        self.asked.append(method)
        return Response(self.status)


@asynccontextmanager
async def hostd_of(world: World) -> AsyncIterator[HostdClient]:
    ipam = FakeIpam(red=(100, "10.0.0.0/28"))
    async with fake_hostd(FakeHost(), ipam, world.clock, world.rng) as client:
        yield client


def signs_of(
    client: HostdClient | Deaf, world: World, worker: str, run: str = "r1", supervisor: int = 0
) -> Signs:
    identity = Identity("test", "rack/1", run)
    return Signs(client, identity, worker, lambda: 0.0, world.clock, supervisor)


@asynccontextmanager
async def alive(signs: Signs) -> AsyncIterator[None]:
    """A worker that lives in the block, and dies at its end."""
    async with TaskGroup() as group:
        given = group.create_task(signs.give())
        yield
        given.cancel()


async def said(client: HostdClient) -> tuple[str, str]:
    answer = await client.call("hostd", "GET", "/readyz")
    assert answer.status == 200, "it is hostd's own work that it is ready for"
    return answer.json()["executor_silent"], answer.json()["executor_restarted"]


@virtual
async def test_a_worker_that_gives_no_signs_any_more_is_told_of_until_it_does(world: World) -> None:
    async with hostd_of(world) as client:
        signs = signs_of(client, world, "w1")
        async with alive(signs):
            await world.clock.sleep(60)
            assert await said(client) == ("", "")
        await world.clock.sleep(10)
        assert await said(client) == ("", "")
        await world.clock.sleep(8)
        silent, restarted = await said(client)
        assert silent.startswith(SILENT) and not restarted
        async with alive(signs):
            await world.clock.sleep(1)
            assert await said(client) == ("", ""), "the same one went on"


@virtual
async def test_one_that_is_gone_for_good_is_forgotten(world: World) -> None:
    async with hostd_of(world) as client:
        async with alive(signs_of(client, world, "w1")):
            await world.clock.sleep(1)
        await world.clock.sleep(800)
        assert (await said(client))[0]
        await world.clock.sleep(200)
        assert await said(client) == ("", "")


@virtual
async def test_an_executor_that_has_ended_is_not_silent_and_the_next_is_told_of(
    world: World,
) -> None:
    supervisor = subprocess.Popen(["sleep", "600"])
    async with hostd_of(world) as client:
        async with alive(signs_of(client, world, "w1", supervisor=supervisor.pid)):
            await world.clock.sleep(1)
        try:
            await world.clock.sleep(20)
            assert (await said(client))[0].startswith(SILENT), "it is there, and stands still"
        finally:
            supervisor.kill()
            supervisor.wait()
        await world.clock.sleep(2)
        assert await said(client) == ("", "")
        async with alive(signs_of(client, world, "w2", run="r2")):
            await world.clock.sleep(1)
            assert "the supervisor of rack/1" in (await said(client))[1]


def test_numbers_of_processes_hold_in_their_namespace_alone() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert is_gone(ended.pid, pid_space())
    assert not is_gone(os.getpid(), pid_space())
    assert not is_gone(ended.pid, "pid:[1]") and not is_gone(ended.pid, "")
    assert not is_gone(0, pid_space())


@virtual
async def test_who_was_killed_and_is_back_at_once_is_told_of_for_a_while(world: World) -> None:
    async with hostd_of(world) as client:
        for worker, run in (("w1", "r1"), ("w2", "r1"), ("w3", "r2")):
            async with alive(signs_of(client, world, worker, run)):
                await world.clock.sleep(3)
                told = (await said(client))[1]
            if worker == "w2":
                assert told == (
                    "the worker of rack/1 had ended without being asked to and was started anew"
                )
        assert told == (
            "the supervisor of rack/1 had ended without being asked to and was started anew, "
            "and 2 were within 300 s"
        )
        async with alive(signs_of(client, world, "w3", "r2")):
            await world.clock.sleep(60)
            assert await said(client) == ("", "")


@virtual
async def test_a_worker_that_ends_in_order_is_nobodys_loss(world: World) -> None:
    async with hostd_of(world) as client:
        first, second = signs_of(client, world, "w1"), signs_of(client, world, "w2")
        async with alive(first):
            await world.clock.sleep(10)
        await first.take_back()
        # A sign that was under way comes late.
        path = "/v1/executors/rack%2F1"
        late = await client.call("hostd", "PUT", path, body=b'{"run":"r1","worker":"w1"}')
        assert late.status == 200
        await world.clock.sleep(100)
        assert await said(client) == ("", "")
        async with alive(second):
            await world.clock.sleep(10)
            await first.take_back()
            assert await said(client) == ("", "")
        await world.clock.sleep(20)
        assert (await said(client))[0].startswith(SILENT), "only who ends takes itself back"


@virtual
async def test_where_hostd_is_away_or_knows_no_signs_the_worker_goes_on(world: World) -> None:
    async with hostd_of(world) as client:
        client.down = True
        signs = signs_of(client, world, "w1")
        async with alive(signs):
            await world.clock.sleep(60)
            client.down = False
            await world.clock.sleep(3)
        client.down = True
        await signs.take_back()
        client.down = False
        await world.clock.sleep(20)
        assert (await said(client))[0].startswith(SILENT), "it was heard when hostd was back"
    older = Deaf(404)
    signs = signs_of(older, world, "w1")
    async with alive(signs):
        await world.clock.sleep(2 * LATER_S + 1)
    await signs.take_back()
    assert older.asked == ["PUT", "PUT", "PUT", "DELETE"]
    busy = Deaf(503)
    async with alive(signs_of(busy, world, "w1")):
        await world.clock.sleep(LATER_S + 1)
    assert len(busy.asked) == 16


@contextmanager
def pipe_of(environ: dict[str, str]) -> Iterator[int]:
    """The supervisor's end of the pipe; the other one is told as a supervisor tells it."""
    reads, writes = os.pipe()
    os.set_blocking(reads, False)
    environ[BEATS] = str(writes)
    try:
        yield reads
    finally:
        os.close(reads)


@virtual
async def test_a_supervisor_that_stands_still_is_told_of_by_its_worker(world: World) -> None:
    environ: dict[str, str] = {}
    async with hostd_of(world) as client:
        with pipe_of(environ) as reads:
            beats, supervisor = Beats(environ, 120.0, world.clock), Silence(reads)
            identity = Identity("test", "rack/1", "r1")
            signs = Signs(client, identity, "w1", beats.unheard_s, world.clock)
            async with TaskGroup() as group:
                given = [group.create_task(each) for each in (beats.give(), signs.give())]
                for _ in range(60):
                    await world.clock.sleep(1)
                    assert not supervisor.too_long(1.0)
                assert await said(client) == ("", "")
                await world.clock.sleep(20)
                silent, _ = await said(client)
                assert silent.startswith("the supervisor of rack/1 has not listened to its worker")
                supervisor.too_long(1.0)
                await world.clock.sleep(3)
                assert await said(client) == ("", "")
                for each in given:
                    each.cancel()
            beats.close()
    assert not environ, "no process that it starts inherits the name"


async def test_without_a_supervisor_there_are_no_beats_and_nobody_is_deaf() -> None:
    class NoClock:
        def now(self) -> float:
            return 0.0

        def monotonic(self) -> float:
            return 0.0

        async def sleep(self, delay_s: float) -> None:
            raise AssertionError("there is nothing to wait for")

    beats = Beats({}, 120.0, NoClock())
    await asyncio.wait_for(beats.give(), 5)
    assert beats.unheard_s() == 0.0
    beats.close()
