"""An `Engine` with what a test may do around it: once on the fake, once on a real Docker engine with the shim."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import aiodocker
import pytest

from infra.images.build import SAMPLES, build_images
from infra.provision import Server
from libs.common.clock import SystemClock
from libs.common.telemetry import make_log
from services.executor.docker import DockerEngine
from services.executor.errors import StartRefused
from services.executor.model import (
    LABEL_AGENT,
    LABEL_CLUSTER,
    ContainerName,
    ContainerSpec,
    EngineEvent,
    Identity,
    Limits,
    Ref,
)
from services.executor.ports import Engine, Images, Inits
from services.executor.runs.inits import SocketInits
from services.executor.secret_files import file_system_of
from services.hostd.model import Namespace
from services.hostd.registry import FileRegistry
from tests.fakes.docker import FakeDocker, FakeEngine, FakeImage
from tests.fakes.inits import FakeInits

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = f"ce{os.getpid()}"
AGENT, OTHER_AGENT = "agent-1", "agent-2"
HOSTS = "127.0.0.1\tlocalhost\n10.0.0.7\tweb\n"
MIB = 1024 * 1024

# What a container's process does; the fake's images have these names.
BEHAVIOURS: dict[str, tuple[str, FakeImage]] = {
    "ends-on-term": ("trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done", FakeImage()),
    "ignores-term": (
        "trap '' TERM; while :; do sleep 0.05; done",
        FakeImage(ends_on_term_s=None),
    ),
    "exits-3": ("exit 3", FakeImage(exits_after_s=0, exit_code=3)),
    "eats-memory": (
        "x=aaaaaaaa; while :; do x=$x$x; done",
        FakeImage(exits_after_s=0.1, exit_code=137, out_of_memory=True),
    ),
}
_numbers = itertools.count(1)


class SecretsSeen(NamedTuple):
    """A file on the host."""

    content: bytes
    mode: int
    uid: int


IMAGE_USER = "nobody"
UIDS = {"nobody": 65534, "root": 0, "12345": 12345}  # as the sample image's /etc/passwd has them


class Around(Protocol):
    """The part that differs between the two."""

    namespaces: list[str]  # of /run/netns, made for starts; the fake makes none

    async def give_leave(self, container_id: str) -> int:
        """Register a network namespace for one start; its inode."""
        ...

    async def by_hand(self, what: str, name: str) -> None:
        """Somebody else does `kill`s or `remove`s it."""
        ...

    async def hosts(self, name: str) -> str:
        """/etc/hosts as the container sees it."""
        ...

    def secret_files(self, name: str) -> list[SecretsSeen]:
        """The container's secret files, as they lie on the host."""
        ...


@dataclass
class EngineWorld:
    """An engine under test; `other` is another agent's on the same host."""

    engine: Engine
    images_store: Images
    other: Engine
    around: Around
    inits: Inits
    images: dict[str, str]  # behaviour -> image
    pullable: str
    real: bool
    runs: Path | None = None  # the places of shared containers; the fake has none
    seen: list[EngineEvent] = field(default_factory=list)

    def spec(self, behaviour: str = "ends-on-term", **changes: object) -> ContainerSpec:
        name = ContainerName(f"gantry-{CLUSTER}-web-{next(_numbers)}.1")
        script = BEHAVIOURS[behaviour][0]
        fields = {
            "name": name,
            "image": self.images[behaviour],
            "hostname": "web",
            "runtime": "gantry",
            "limits": Limits(cpu_shares=102, nano_cpus=10**9, mem_bytes=32 * MIB, pids=64),
            "labels": {LABEL_CLUSTER: CLUSTER, LABEL_AGENT: AGENT, "mine": "yes"},
            "command": ("/bin/sh", "-c", script),
            "resolv_conf": "nameserver 10.0.0.2\n",
            **changes,
        }
        return ContainerSpec(**fields)  # type: ignore[arg-type]

    async def create(self, behaviour: str = "ends-on-term", **changes: object) -> Ref:
        spec = self.spec(behaviour, **changes)
        return Ref(spec.name, await self.engine.create(spec))

    async def run(self, behaviour: str = "ends-on-term") -> Ref:
        ref = await self.create(behaviour)
        await self.around.give_leave(ref.id)
        await self.engine.start(ref, HOSTS)
        if self.real and behaviour == "ends-on-term":
            # The first process of a container is not sent what it has no trap for.
            async def ready() -> bool:
                return "ready" in await self.engine.output(ref)

            await eventually(ready, f"{ref.name} set no trap")
        return ref

    @asynccontextmanager
    async def following(self, since: float) -> AsyncIterator[None]:
        """Events are put into `seen` meanwhile."""

        async def follow() -> None:
            async for event in self.engine.events(since):
                self.seen.append(event)

        async with asyncio.TaskGroup() as group:
            task = group.create_task(follow())
            try:
                yield
            finally:
                task.cancel()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        async def check() -> bool:
            return condition()

        await eventually(check, what)


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Poll until the condition holds."""
    try:
        async with asyncio.timeout(20):
            while not await condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(what) from None


class _FakeAround:
    def __init__(self) -> None:
        self.docker = FakeDocker(SystemClock(), random.Random(1), claim=self._claim)
        self.namespaces: list[str] = []
        self._leave: dict[str, int] = {}
        self._inodes = itertools.count(5000)

    async def _claim(self, container_id: str) -> int:
        if container_id not in self._leave:
            raise StartRefused("no network namespace is registered")
        return self._leave.pop(container_id)

    async def give_leave(self, container_id: str) -> int:
        self._leave[container_id] = next(self._inodes)
        return self._leave[container_id]

    async def by_hand(self, what: str, name: str) -> None:
        {"kill": self.docker.kill, "remove": self.docker.destroy}[what](name)

    async def hosts(self, name: str) -> str:
        container = self.docker.by_name(name)
        assert container is not None
        return container.hosts

    def secret_files(self, name: str) -> list[SecretsSeen]:
        container = self.docker.by_name(name)
        files = container.spec.secret_files if container is not None else ()
        user = (container.spec.user if container is not None else None) or IMAGE_USER
        return [SecretsSeen(each.content, 0o400, UIDS[user.partition(":")[0]]) for each in files]


class _DockerAround:
    def __init__(self, docker: aiodocker.Docker) -> None:
        self.run_dir = Path("/run/gantry", CLUSTER)
        self.namespaces: list[str] = []
        self._docker = docker
        self._registry = FileRegistry(self.run_dir / "netns-reg")

    async def give_leave(self, container_id: str) -> int:
        name = f"{CLUSTER}-{next(_numbers)}"
        await asyncio.to_thread(subprocess.run, ["ip", "netns", "add", name], check=True)
        self.namespaces.append(name)
        path = f"/run/netns/{name}"
        inode = Path(path).stat().st_ino
        await self._registry.register(container_id, Namespace(name, path, inode))
        return inode

    async def by_hand(self, what: str, name: str) -> None:
        container = self._docker.containers.container(name)
        await (container.kill(signal="KILL") if what == "kill" else container.delete(force=True))

    async def hosts(self, name: str) -> str:
        executed = await self._docker.containers.container(name).exec(["cat", "/etc/hosts"])
        async with executed.start(detach=False) as stream:
            output = b""
            while (message := await stream.read_out()) is not None:
                output += message.data
        return output.decode()

    def secret_files(self, name: str) -> list[SecretsSeen]:
        place = self.run_dir / "secrets" / AGENT
        assert not place.exists() or file_system_of(place) == "tmpfs"
        found = sorted((place / name).glob("*"), key=lambda each: int(each.name))
        stats = [(each, each.stat()) for each in found]
        return [SecretsSeen(p.read_bytes(), s.st_mode & 0o777, s.st_uid) for p, s in stats]

    async def clean(self) -> None:
        filters = f'{{"label": ["{LABEL_CLUSTER}={CLUSTER}"]}}'
        for container in await self._docker.containers.list(all=True, filters=filters):
            with suppress(aiodocker.DockerError):
                await container.delete(force=True)
        for name in self.namespaces:
            subprocess.run(["ip", "netns", "del", name], check=False)
        for mounted in sorted((self.run_dir / "secrets").glob("*")):
            subprocess.run(["umount", mounted], check=False, capture_output=True)
        shutil.rmtree(self.run_dir, ignore_errors=True)


@pytest.fixture(scope="session")
def sample_in_registry(docker_engine: Server, registry_url: str) -> str:
    """A sample image by its digest in the registry; the engine has it by name, and the shim is built."""
    native = ["make", "-s", "-C", str(ROOT / "services/executor/native"), "OUT=build/native"]
    subprocess.run(native, check=True, capture_output=True, timeout=120)
    address = registry_url.removeprefix("http://")
    built = asyncio.run(build_images(docker_engine.url, address, SAMPLES[:1]))[0]
    return built.reference


@asynccontextmanager
async def _fake() -> AsyncIterator[EngineWorld]:
    around = _FakeAround()
    for name, (_, image) in BEHAVIOURS.items():
        around.docker.images[name] = image
    around.docker.registry["registry/web@sha256:1"] = FakeImage()
    engine = FakeEngine(around.docker, cluster=CLUSTER, agent=AGENT)
    yield EngineWorld(
        engine,
        engine,
        FakeEngine(around.docker, cluster=CLUSTER, agent=OTHER_AGENT),
        around,
        FakeInits(around.docker),
        {name: name for name in BEHAVIOURS},
        "registry/web@sha256:1",
        real=False,
    )


@asynccontextmanager
async def _real(url: str, pullable: str, tmp_path: Path) -> AsyncIterator[EngineWorld]:
    async with AsyncExitStack() as stack:
        docker = await stack.enter_async_context(aiodocker.Docker(url=url))
        around = _DockerAround(docker)
        stack.push_async_callback(around.clean)
        engines = []
        for agent in (AGENT, OTHER_AGENT):
            secrets = around.run_dir / "secrets" / agent
            engine = DockerEngine(url, Identity(CLUSTER, agent), tmp_path, secrets)
            stack.push_async_callback(engine.close)
            engines.append(engine)
        images = dict.fromkeys(BEHAVIOURS, "sample-web:v1")
        log = make_log("executor", level="critical")
        runs = tmp_path / CLUSTER / "runs"
        inits = SocketInits(runs, engines[0].pid, log)
        yield EngineWorld(
            engines[0],
            engines[0],
            engines[1],
            around,
            inits,
            images,
            pullable,
            real=True,
            runs=runs,
        )


@pytest.fixture(params=["fake", "docker"])
def server(request: pytest.FixtureRequest) -> tuple[str, str] | None:
    """URL of a real engine and an image to pull, None for the fake."""
    if request.param == "fake":
        return None
    engine: Server = request.getfixturevalue("docker_engine")
    return engine.url, request.getfixturevalue("sample_in_registry")


@pytest.fixture
async def it(server: tuple[str, str] | None, tmp_path: Path) -> AsyncIterator[EngineWorld]:
    """Each of both."""
    async with _fake() if server is None else _real(*server, tmp_path) as world:
        yield world
