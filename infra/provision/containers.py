"""Servers as containers of their upstream images, by testcontainers.

They use the host's network on loopback ports chosen beforehand: Kafka must know its address
before it starts, and a published port would change with every restart.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

import aiodocker
from aiodocker.containers import DockerContainer as Started
from aiodocker.exceptions import DockerError
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from infra.kafka.provisioner import CLUSTER_ID, broker_answers
from infra.kafka.provisioner import HERE as KAFKA_HERE
from infra.mongo.provisioner import mongo_answers
from infra.provision import process
from infra.provision.server import Server
from infra.zookeeper.provisioner import serves

DEFAULT_SOCKET = "unix:///var/run/docker.sock"
PING_TIMEOUT_S = 3
PULL_TIMEOUT_S = 180
READY_S = 90
STOP_GRACE_S = 15
CALL_TIMEOUT_S = 30
ALREADY_SO = (304, 404, 409)


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """How to run one server as a container of the host's network."""

    kind: str
    image: str
    scheme: str
    ports: int
    environment: Callable[[list[int]], Mapping[str, str]]
    command: Callable[[list[int]], str]
    answers: Callable[[int], Awaitable[bool]]


def _kafka_environment(ports: list[int]) -> dict[str, str]:
    """The image turns KAFKA_A_B into the property a.b: the same file serves both ways."""
    text = Template((KAFKA_HERE / "server.properties.in").read_text()).substitute(
        port=ports[0], controller_port=ports[1], data="/tmp/kraft-logs"
    )
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")
    named = {f"KAFKA_{key.upper().replace('.', '_')}": value for key, value in pairs}
    # The image's own heap is a GiB from the start.
    return {"CLUSTER_ID": CLUSTER_ID, "KAFKA_HEAP_OPTS": "-Xms128m -Xmx512m", **named}


def _zookeeper_environment(ports: list[int]) -> dict[str, str]:
    return {
        "ZOO_SERVERS": f"server.1=localhost:2888:3888;127.0.0.1:{ports[0]}",
        "ZOO_4LW_COMMANDS_WHITELIST": "srvr,ruok,mntr",
        "ZOO_ADMINSERVER_ENABLED": "false",
        "ZOO_TICK_TIME": "500",
        # The image lets an address connect 60 times, and all of a test's clients have the same.
        "ZOO_MAX_CLIENT_CNXNS": "0",
        "ZOO_CFG_EXTRA": "maxSessionTimeout=60000",
    }


def _registry_environment(ports: list[int]) -> dict[str, str]:
    return {
        "REGISTRY_HTTP_ADDR": f"127.0.0.1:{ports[0]}",
        "REGISTRY_STORAGE_DELETE_ENABLED": "true",
    }


async def _mongo_answers(port: int) -> bool:
    return await mongo_answers(f"mongodb://127.0.0.1:{port}")


SPECS = {
    spec.kind: spec
    for spec in (
        ContainerSpec(
            kind="kafka",
            image="apache/kafka:3.9.2",
            scheme="kafka",
            ports=2,
            environment=_kafka_environment,
            command=lambda _: "",
            answers=broker_answers,
        ),
        ContainerSpec(
            kind="mongo",
            image="mongo:7.0",
            scheme="mongodb",
            ports=1,
            environment=lambda _: {},
            command=lambda ports: f"mongod --bind_ip 127.0.0.1 --port {ports[0]}",
            answers=_mongo_answers,
        ),
        ContainerSpec(
            kind="zookeeper",
            image="zookeeper:3.9",
            scheme="zk",
            ports=1,
            environment=_zookeeper_environment,
            command=lambda _: "",
            answers=serves,
        ),
        ContainerSpec(
            kind="registry",
            image="registry:2.8.3",
            scheme="http",
            ports=1,
            environment=_registry_environment,
            command=lambda _: "",
            answers=process.listens,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Available:
    """A spec whose image this engine has."""

    spec: ContainerSpec
    image: str
    engine_url: str


async def available(kind: str) -> Available | None:
    """The container for a kind, or None when no engine answers or the image can't be had.

    Pulls the image when it is missing. GANTRY_TEST_<KIND>_IMAGE names another image.
    """
    spec = SPECS.get(kind)
    if spec is None or os.environ.get("GANTRY_TEST_CONTAINERS") == "0":
        return None
    url = os.environ.get("DOCKER_HOST", DEFAULT_SOCKET)
    if not _may_answer(url):
        return None
    image = os.environ.get(f"GANTRY_TEST_{kind.upper()}_IMAGE", spec.image)
    async with aiodocker.Docker(url=url) as docker:
        has = await _has_image(docker, image)
    return Available(spec, image, url) if has else None


def _may_answer(url: str) -> bool:
    return not url.startswith("unix://") or Path(url.removeprefix("unix://")).exists()


async def _has_image(docker: aiodocker.Docker, image: str) -> bool:
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            await docker.version()
        with suppress(DockerError):
            await docker.images.inspect(image)
            return True
        async with asyncio.timeout(PULL_TIMEOUT_S):
            await docker.images.pull(image)
        return True
    except (DockerError, OSError, TimeoutError):
        return False


@dataclass(frozen=True, slots=True)
class ContainerControl:
    """One container: testcontainers makes it, the engine's API makes it suffer."""

    container: DockerContainer
    engine_url: str
    answers: Callable[[], Awaitable[bool]]
    _ids: list[str] = field(default_factory=list)

    def pids(self) -> tuple[int, ...]:
        return ()

    async def start(self) -> None:
        if self._ids:
            await self._each(lambda it: it.start())
        else:
            self._ids.append(await asyncio.to_thread(self._create_and_start))
        await process.wait_until(self.answers, timeout_s=READY_S, what="answer from the container")

    def _create_and_start(self) -> str:
        self.container.start()
        return str(self.container.get_wrapped_container().id)

    async def stop(self) -> None:
        await self.resume()
        await self._each(lambda it: it.stop(t=STOP_GRACE_S))

    async def kill9(self) -> None:
        await self._each(lambda it: it.kill())
        await self._each(lambda it: it.wait())

    async def pause(self) -> None:
        await self._each(lambda it: it.pause())

    async def resume(self) -> None:
        await self._each(lambda it: it.unpause())

    async def purge(self) -> None:
        await self._each(lambda it: it.delete(force=True, v=True))

    async def _each(self, act: Callable[[Started], Awaitable[object]]) -> None:
        async with aiodocker.Docker(url=self.engine_url) as docker, asyncio.timeout(CALL_TIMEOUT_S):
            for each in self._ids:
                try:
                    await act(docker.containers.container(each))
                except DockerError as error:
                    # Every verb is idempotent; the engine also says 500 to a needless unpause.
                    if error.status not in ALREADY_SO and "is not paused" not in error.message:
                        raise


@asynccontextmanager
async def running(found: Available, directory: Path) -> AsyncIterator[Server]:
    """Runs the container for as long as the context lasts, then removes it with its data."""
    spec = found.spec
    ports = process.free_ports(spec.ports)
    # Ryuk, testcontainers' reaper, is an image of its own that may not be had.
    testcontainers_config.ryuk_disabled = True
    # It finds the engine as `available` did: DOCKER_HOST, else the usual socket.
    container = DockerContainer(found.image)
    container.with_kwargs(network_mode="host")
    for name, value in spec.environment(ports).items():
        container.with_env(name, value)
    if command := spec.command(ports):
        container.with_command(command)

    async def answers() -> bool:
        return await spec.answers(ports[0])

    control = ContainerControl(container, found.engine_url, answers)
    server = Server(spec.kind, f"{spec.scheme}://127.0.0.1:{ports[0]}", directory, control)
    try:
        await server.start()
        yield server
    finally:
        await control.purge()
