"""Where a server comes from, in this order:

1. `GANTRY_TEST_<KIND>_URL` names one that runs already (KIND as in `KINDS`, upper case), as do KAFKA_URL and
   MONGODB_URL, with or without a scheme; who must break a server asks for one of its own;
2. a container of the upstream image, by testcontainers, where an engine answers and has the image
   or can pull it (not for the engine and Open vSwitch; `GANTRY_TEST_CONTAINERS=0` forbids it);
3. a process of this host, in the directory given.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from infra.kafka.provisioner import KafkaProvisioner
from infra.mongo.provisioner import MongoProvisioner
from infra.provision import containers
from infra.provision.errors import PortTakenError
from infra.provision.scripts import engine_server, ovs_server, registry_server
from infra.provision.server import ExternalControl, OvsServer, Server
from infra.zookeeper.provisioner import ZooKeeperProvisioner

PORT_TRIES = 3

Maker = Callable[[Path], Awaitable[Server]]


async def _kafka(directory: Path) -> Server:
    return await KafkaProvisioner(directory).server()


async def _secure_kafka(directory: Path) -> Server:
    return await KafkaProvisioner(directory, secure=True).server()


async def _mongo(directory: Path) -> Server:
    return await MongoProvisioner(directory).server()


async def _secure_mongo(directory: Path) -> Server:
    return await MongoProvisioner(directory, secure=True).server()


async def _zookeeper(directory: Path) -> Server:
    return await ZooKeeperProvisioner(directory).server()


async def _secure_zookeeper(directory: Path) -> Server:
    return await ZooKeeperProvisioner(directory, secure=True).server()


async def _registry(directory: Path) -> Server:
    return registry_server(directory)


async def _engine(directory: Path) -> Server:
    return engine_server(directory)


async def _ovs(directory: Path) -> Server:
    return ovs_server(directory)


# The order is that of stopping them all: clients before what they stand on.
KINDS: dict[str, Maker] = {
    "kafka": _kafka,
    "mongo": _mongo,
    "zookeeper": _zookeeper,
    "engine": _engine,
    "registry": _registry,
    "ovs": _ovs,
}

_PLAIN = {"kafka": ("KAFKA_URL", "kafka"), "mongo": ("MONGODB_URL", "mongodb")}


def lent_url(kind: str) -> str | None:
    """The URL of a server that runs already, by environment variable."""
    url = os.environ.get(_variable(kind))
    if not url:
        return None
    _, scheme = _PLAIN.get(kind, ("", ""))
    return url if not scheme or "://" in url else f"{scheme}://{url}"


def _variable(kind: str) -> str:
    """The variable that names a server of the kind, or would."""
    ours = f"GANTRY_TEST_{kind.upper()}_URL"
    plain, _ = _PLAIN.get(kind, (ours, ""))
    return ours if os.environ.get(ours) or not os.environ.get(plain) else plain


def _lent(kind: str, url: str) -> Server:
    control = ExternalControl(_variable(kind))
    if kind == "ovs":
        socket = Path(url.removeprefix("unix:"))
        return OvsServer(kind, url, socket.parent, control)
    return Server(kind, url, Path(), control)


def _absolute(directory: Path) -> Path:
    return directory.resolve()


@asynccontextmanager
async def local(kind: str, directory: Path, make: Maker, keep: bool) -> AsyncIterator[Server]:
    """The server as processes of this host.

    keep: on leaving, stop it in good order and leave its directory for another start.
    Raises NotReadyError, CommandError, MissingToolError.
    """
    server = await make(directory)
    try:
        for tries_left in reversed(range(PORT_TRIES)):
            try:
                await server.start()
                break
            except PortTakenError:
                # Between choosing a free port and listening on it, another took it.
                if not tries_left:
                    raise
                (directory / "ports.json").unlink()
                server = await make(directory)
        yield server
    finally:
        await (server.stop() if keep else server.control.purge())


@asynccontextmanager
async def provided(
    kind: str,
    directory: Path,
    *,
    keep: bool = False,
    make: Maker | None = None,
    own: bool = False,
) -> AsyncIterator[Server]:
    """The server of a kind, from the first source that has it. `own`: never one that somebody lent."""
    directory = _absolute(directory)
    url = None if own else lent_url(kind)
    if url:
        yield _lent(kind, url)
    elif container := await containers.available(kind):
        async with containers.running(container, directory) as server:
            yield server
    else:
        async with local(kind, directory, make or KINDS[kind], keep) as server:
            yield server


def kafka(
    directory: Path, *, keep: bool = False, secure: bool = False, own: bool = False
) -> AbstractAsyncContextManager[Server]:
    """A Kafka broker; topics must be created before use. One with SASL and TLS is always a process of this host."""
    if secure:
        return local("kafka", _absolute(directory), _secure_kafka, keep)
    return provided("kafka", directory, keep=keep, own=own)


def mongo(
    directory: Path, *, keep: bool = False, own: bool = False, secure: bool = False
) -> AbstractAsyncContextManager[Server]:
    """A MongoDB-wire server. One with TLS is always a process of this host."""
    if secure:
        return local("mongo", _absolute(directory), _secure_mongo, keep)
    return provided("mongo", directory, keep=keep, own=own)


def zookeeper(
    directory: Path, *, keep: bool = False, secure: bool = False
) -> AbstractAsyncContextManager[Server]:
    """A standalone ZooKeeper. One with TLS is always a process of this host."""
    if secure:
        return local("zookeeper", _absolute(directory), _secure_zookeeper, keep)
    return provided("zookeeper", directory, keep=keep)


@asynccontextmanager
async def registry(
    directory: Path, *, keep: bool = False, notify_url: str | None = None
) -> AsyncIterator[Server]:
    """An image registry. One that must notify a URL is always a process of this host."""

    async def make(directory: Path) -> Server:
        return registry_server(directory, notify_url=notify_url)

    if notify_url is None:
        async with provided("registry", directory, keep=keep) as server:
            yield server
    else:
        async with local("registry", _absolute(directory), make, keep) as server:
            yield server


@asynccontextmanager
async def engine(
    directory: Path,
    *,
    keep: bool = False,
    runtime_path: Path | None = None,
    registries: Sequence[str] = (),
) -> AsyncIterator[Server]:
    """A Docker engine with live-restore; keep leaves its containers running.

    A lent engine keeps its own runtimes and registries.
    """

    async def make(directory: Path) -> Server:
        return engine_server(directory, runtime_path=runtime_path, registries=registries)

    async with provided("engine", directory, keep=keep, make=make) as server:
        yield server


@asynccontextmanager
async def ovs(directory: Path, *, keep: bool = False) -> AsyncIterator[OvsServer]:
    """An Open vSwitch; on leaving its bridges go too."""
    async with provided("ovs", directory, keep=keep) as server:
        assert isinstance(server, OvsServer)
        yield server
