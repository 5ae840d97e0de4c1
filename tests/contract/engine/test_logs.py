"""A container's log on a real engine: bounded, and told once, in order and to its end over its rotations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest

from services.executor.model import Ref
from services.hostd.docker import DockerEngine
from services.hostd.ports import LogQuery
from tests.contract.engine.conftest import CLUSTER, HOSTS, EngineWorld

LINES = 25_000  # with what the drivers add more than is kept
CHATTY = f"""
trap 'exit 0' TERM
trap go=1 USR1
echo "0 ready"
while [ -z "$go" ]; do sleep 0.05; done
i=0
while [ $i -lt {LINES} ]; do
  i=$((i+1))
  echo "$i xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
  [ $((i % 1000)) -ne 0 ] || sleep 0.1
done
echo "{LINES + 1} done"
while :; do sleep 0.05; done
"""


@pytest.fixture(params=["docker"])
def server(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The real engine alone: the fake has no logs."""
    engine = request.getfixturevalue("docker_engine")
    return engine.url, request.getfixturevalue("sample_in_registry")


async def numbers(stream: AsyncIterator[bytes], last: int = 0) -> list[int]:
    """Those of the lines, until the last one (and a little longer, for what might be told twice)."""
    found: list[int] = []
    rest = b""
    try:
        async with asyncio.timeout(60) as limit:
            async for chunk in stream:
                *whole, rest = (rest + chunk).split(b"\n")
                found += [int(orjson.loads(each)["line"].split()[0]) for each in whole]
                if last and found[-1] == last:
                    limit.reschedule(asyncio.get_running_loop().time() + 0.5)
    except TimeoutError:
        assert last
    assert rest == b""
    return found


async def begun(it: EngineWorld, ref: Ref, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The stream. The container goes on when its first line has come: by then it has its trap, and a follower."""
    yield await anext(stream)
    await it.engine.signal(ref, "SIGUSR1")
    async for chunk in stream:
        yield chunk


@pytest.mark.parametrize("driver", ["json-file", "local"])
async def test_a_chatty_container_is_followed_over_rotations(
    it: EngineWorld, server: tuple[str, str], driver: str
) -> None:
    command = ("/bin/sh", "-c", CHATTY)
    ref = await it.create(command=command, log_driver=driver, log_max_mib=1, log_files=2)
    hostd = DockerEngine(CLUSTER, server[0].removeprefix("unix://"))
    try:
        await it.around.give_leave(ref.id)
        await it.engine.start(ref, HOSTS)
        stream = await hostd.logs(ref.name, LogQuery(follow=True))
        followed = await numbers(begun(it, ref, stream), LINES + 1)
        # A follower that is slower than the container misses what was rotated away, but sees nothing twice.
        assert followed == sorted(set(followed))
        assert (followed[:2], followed[-1]) == ([0, 1], LINES + 1)
        assert len(followed) > LINES / 2
        kept = await numbers(await hostd.logs(ref.name, LogQuery()))
        assert kept == list(range(LINES + 2 - len(kept), LINES + 2))
        assert 1000 < len(kept) < LINES
        newest = await numbers(await hostd.logs(ref.name, LogQuery(tail=3)))
        assert newest == [LINES - 1, LINES, LINES + 1]
    finally:
        await hostd.close()
