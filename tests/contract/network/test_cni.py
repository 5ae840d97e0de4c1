"""What every DelQueue and every IpamPlugins does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
import uvloop

from libs.common.errors import Unavailable
from libs.common.telemetry import make_log
from services.hostd.cni.delegates import ProgramPlugins
from services.hostd.cni.model import CniError, Code, Command
from services.hostd.cni.ports import DelQueue, IpamPlugins
from services.hostd.cni.queue import FileQueue
from tests.contract.network.conftest import BOTH
from tests.fakes.cni import FakeIpamPlugins, FakeQueue

DEBIANS = "/usr/lib/cni"


@dataclass
class QueueWorld:
    """A queue, and the shim that writes to it."""

    driver: DelQueue
    keep: Callable[[str, bytes], None]
    reopen: Callable[[], DelQueue]


@pytest.fixture(params=BOTH)
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> QueueWorld:
    """An empty queue."""
    if request.param == "fake":
        fake = FakeQueue()
        return QueueWorld(fake, fake.kept.__setitem__, lambda: fake)
    directory = tmp_path / "cni"
    directory.mkdir(mode=0o700)

    def keep(name: str, body: bytes) -> None:
        (directory / ".aside").write_bytes(body)
        (directory / ".aside").replace(directory / name)

    return QueueWorld(FileQueue(directory), keep, lambda: FileQueue(directory))


async def test_what_is_kept_is_given_until_it_is_done(queue: QueueWorld) -> None:
    driver = queue.driver
    assert await driver.names() == () and await driver.take("a:b:c") is None
    queue.keep("a:b:c", b"one")
    queue.keep("a:b:d", b"two")
    assert await driver.names() == ("a:b:c", "a:b:d")
    assert await driver.take("a:b:c") == b"one"
    after_a_crash = queue.reopen()
    assert await after_a_crash.names() == ("a:b:c", "a:b:d")
    assert await after_a_crash.take("a:b:c") == b"one"
    await driver.done("a:b:c")
    await driver.done("a:b:c")
    assert await driver.names() == ("a:b:d",) and await driver.take("a:b:c") is None


async def test_one_that_comes_meanwhile_is_not_lost(queue: QueueWorld) -> None:
    queue.keep("a:b:c", b"one")
    assert await queue.driver.take("a:b:c") == b"one"
    queue.keep("a:b:c", b"two")
    await queue.driver.done("a:b:c")
    assert await queue.driver.take("a:b:c") == b"two"
    await queue.driver.refuse("a:b:c")
    assert await queue.driver.names() == ()


async def test_what_others_could_have_written_is_not_obeyed(tmp_path: Path) -> None:
    directory = tmp_path / "cni"
    directory.mkdir(mode=0o700)
    (directory / "a:b:c").write_bytes(b"evil")
    driver = FileQueue(directory)
    for mode in (0o770, 0o707):
        directory.chmod(mode)
        for call in (driver.names(), driver.take("a:b:c")):
            with pytest.raises(Unavailable, match="root's alone"):
                await call
    directory.chmod(0o700)
    os.chown(directory, 12345, 12345)
    with pytest.raises(Unavailable, match="root's alone"):
        await driver.names()


async def test_half_a_file_is_not_there_yet(tmp_path: Path) -> None:
    driver = FileQueue(tmp_path / "made/when/needed")
    assert await driver.names() == ()
    (tmp_path / "made/when/needed/.123.a:b:c").write_bytes(b"half")
    assert await driver.names() == ()


@dataclass
class PluginsWorld:
    """IpamPlugins with a configuration under which `host-local` gives addresses of 10.90.0.0/24."""

    driver: IpamPlugins
    section: Mapping[str, object]
    path: str

    def conf(self, version: str = "1.0.0") -> bytes:
        return orjson.dumps(
            {"cniVersion": version, "name": "lab", "type": "gantry", "ipam": self.section}
        )

    async def run(self, command: Command, container: str = "c1", kind: str = "host-local") -> bytes:
        env = {
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": "/x",
            "CNI_PATH": self.path,
        }
        return await self.driver.run(kind, command, env, self.conf())


@pytest.fixture(params=BOTH)
def plugins(request: pytest.FixtureRequest, tmp_path: Path) -> PluginsWorld:
    """Nothing is given out."""
    if request.param == "fake":
        return PluginsWorld(FakeIpamPlugins(), {}, "/anywhere")
    ranges = [[{"subnet": "10.90.0.0/24", "gateway": "10.90.0.1"}]]
    section = {"type": "host-local", "ranges": ranges, "dataDir": str(tmp_path / "books")}
    driver = ProgramPlugins(make_log("test", level="critical"))
    return PluginsWorld(driver, section, f"/nowhere:{DEBIANS}")


async def test_addresses_come_and_go(plugins: PluginsWorld) -> None:
    given = [orjson.loads(await plugins.run(Command.ADD, f"c{n}"))["ips"] for n in range(2)]
    assert [each[0]["address"] for each in given] == ["10.90.0.2/24", "10.90.0.3/24"]
    await plugins.run(Command.CHECK, "c1")
    for _ in range(2):
        await plugins.run(Command.DEL, "c1")
    with pytest.raises(CniError, match="host-local"):
        await plugins.run(Command.CHECK, "c1")


async def test_versions_and_strangers(plugins: PluginsWorld) -> None:
    known = await plugins.driver.versions("host-local", plugins.path)
    assert "1.0.0" in known and await plugins.driver.versions("host-local", plugins.path) == known
    for call in (
        plugins.driver.versions("nothing", plugins.path),
        plugins.run(Command.ADD, kind="nothing"),
    ):
        with pytest.raises(CniError, match="no plugin nothing") as raised:
            await call
        assert raised.value.code == Code.PLUGIN


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ('echo \'{"code": 7, "msg": "no", "details": "because"}\'; exit 1', 7, "because"),
        ("echo words; exit 3", Code.PLUGIN, "words"),
        ("exec sleep 60", Code.TRY_AGAIN, "did not end"),
    ],
)
async def test_plugins_that_fail(tmp_path: Path, script: str, code: int, said: str) -> None:
    program = tmp_path / "bad"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    timeout_s = 0.5 if "sleep" in script else 30.0
    driver = ProgramPlugins(make_log("test", level="critical"), timeout_s=timeout_s)
    with pytest.raises(CniError, match=said) as raised:
        await driver.run("bad", Command.ADD, {"CNI_PATH": str(tmp_path)}, b"{}")
    assert raised.value.code == code
    (tmp_path / "text").write_text("")
    with pytest.raises(CniError, match="no plugin text"):
        await driver.run("text", Command.ADD, {"CNI_PATH": str(tmp_path)}, b"{}")


async def test_plugins_that_do_not_read_their_configuration(tmp_path: Path) -> None:
    """On uvloop, as in hostd, and often: a pipe to them would be closed before it is written to."""
    program = tmp_path / "deaf"
    program.write_text("#!/bin/sh\necho said\n")
    program.chmod(0o755)
    driver = ProgramPlugins(make_log("test", level="critical"))

    async def often() -> set[bytes]:
        env = {"CNI_PATH": str(tmp_path)}
        calls = (driver.run("deaf", Command.ADD, env, bytes(100_000)) for _ in range(100))
        return set(await asyncio.gather(*calls))

    def on_uvloop() -> set[bytes]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(often())

    assert await asyncio.to_thread(on_uvloop) == {b"said\n"}
