"""A live gateway in a thread of its own, since the command runs its own event loop."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest

from libs.cli.main import Streams, run
from tests.fakes.gateway import World, live_gateway

T = TypeVar("T")


@dataclass
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its output, decoded."""
        return orjson.loads(self.out)


@dataclass
class Live:
    """The gateway, its world and the command against it."""

    world: World
    url: str
    loop: asyncio.AbstractEventLoop
    home: Path
    environ: dict[str, str] = field(default_factory=dict)

    def gantry(self, *argv: str, **environ: str) -> Result:
        """Run the command."""
        out, err = io.StringIO(), io.StringIO()
        known = {"GANTRY_URL": self.url, "GANTRY_KEY": self.world.admin_key, "HOME": str(self.home)}
        code = run(argv, Streams(out, err, {**known, **self.environ, **environ}))
        return Result(int(code), out.getvalue(), err.getvalue())

    def do(self, what: Coroutine[Any, Any, T]) -> T:
        """Run something on the gateway's loop."""
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(60)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """A live gateway."""
    up: list[Live] = []
    failed: list[BaseException] = []
    started = threading.Event()
    done: list[asyncio.Event] = []

    async def serve() -> None:
        async with live_gateway(tmp_path / "data") as (world, url):
            done.append(asyncio.Event())
            up.append(Live(world, url, asyncio.get_running_loop(), tmp_path))
            started.set()
            await done[0].wait()

    def thread() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
        finally:
            started.set()

    (tmp_path / "data").mkdir()
    worker = threading.Thread(target=thread)
    worker.start()
    started.wait(60)
    assert up, failed
    try:
        yield up[0]
    finally:
        up[0].loop.call_soon_threadsafe(done[0].set)
        worker.join(60)
    assert not worker.is_alive() and not failed, failed
