"""Pytest fixtures for real servers: each is started when first asked for, once a session.

They are plain synchronous fixtures, so that tests of any event loop share them; `Server`'s methods
(kill9, pause, restart, …) belong to no loop either. A test that disturbs a shared server must
leave it answering. Should pytest die without its clean-up, a watcher ends the servers.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import OperationFailure

from infra import provision
from infra.provision import OvsServer, Server
from infra.provision.sources import lent_url
from libs.common.bus.kafka_url import parse_url
from libs.common.store.mongo_url import parse_url as parse_mongo_url

REPOSITORY = Path(__file__).parent.parent
T = TypeVar("T")
S = TypeVar("S", bound=Server)

MARK = f"t{secrets.token_hex(4)}"
"""What names of this session begin with on servers that others may use too."""

# Waits for the session's process to end, in good order or not, then removes what it left.
_WATCH = 'while kill -0 "$1" 2>/dev/null; do sleep 1; done; [ -d "$2" ] || exit 0; \
exec "$3" -m infra.provision reap --root "$2"'


class ServerPark:
    """The session's servers: starts one at its first use, stops all at the end.

    One loop in one thread for all of them: a context manager must be left where it was entered,
    and whoever asks for a fixture may be inside a running loop.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="servers")
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()

    def start(self, kind: str, context: Callable[[Path], AbstractAsyncContextManager[S]]) -> S:
        return self.run(self._stack.enter_async_context(context(self.root / kind)))

    def close(self) -> None:
        try:
            self.run(self._stack.aclose())
        finally:
            self._thread.submit(self._runner.close).result()
            self._thread.shutdown()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._thread.submit(self._runner.run, coroutine).result()


@pytest.fixture(scope="session")
def server_park() -> Iterator[ServerPark]:
    # Not under pytest's own directory: unix sockets need short paths.
    root = Path(tempfile.mkdtemp(prefix="gantry-"))
    watch = ["setsid", "--fork", "sh", "-c", _WATCH, "gantry-watch"]
    arguments = [str(os.getpid()), str(root), sys.executable]
    subprocess.run(
        [*watch, *arguments],
        check=True,
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    park = ServerPark(root)
    try:
        yield park
    finally:
        park.close()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka_server(server_park: ServerPark) -> Server:
    return server_park.start("kafka", provision.kafka)


@pytest.fixture(scope="session")
def kafka_url(kafka_server: Server, server_park: ServerPark) -> Iterator[str]:
    """`kafka://127.0.0.1:PORT`; topics are not made by themselves, and begin with MARK: a lent server is cleared."""
    yield kafka_server.url
    if lent_url("kafka"):
        server_park.run(_forget_topics(kafka_server.url))


async def _forget_topics(url: str) -> None:
    admin = AIOKafkaAdminClient(**parse_url(url).connection())
    await admin.start()
    try:
        ours = [name for name in await admin.list_topics() if name.startswith(MARK)]
        for name in ours:
            answer = await admin.delete_topics([name])
            assert all(code == 0 for _, code in answer.topic_error_codes), answer
    finally:
        await admin.close()


@pytest.fixture(scope="session")
def own_kafka(server_park: ServerPark, request: pytest.FixtureRequest) -> Server:
    """A broker to be broken, which a lent one may not be."""
    if lent_url("kafka") is None:
        server: Server = request.getfixturevalue("kafka_server")
        return server
    return server_park.start("kafka-own", lambda directory: provision.kafka(directory, own=True))


@pytest.fixture(scope="session")
def mongo_server(server_park: ServerPark) -> Server:
    return server_park.start("mongo", provision.mongo)


@pytest.fixture(scope="session")
def mongo_url(mongo_server: Server, server_park: ServerPark) -> Iterator[str]:
    """`mongodb://127.0.0.1:PORT`; databases begin with MARK: a lent server is cleared."""
    yield mongo_server.url
    if lent_url("mongo"):
        server_park.run(_forget_databases(mongo_server.url))


async def _forget_databases(url: str) -> None:
    settings = parse_mongo_url(url)
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(
        settings.url, **settings.arguments()
    )
    for name in await client.list_database_names():
        if name.startswith(MARK):
            # The MongoDB-wire server of this host drops it, and complains.
            with suppress(OperationFailure):
                await client.drop_database(name)
    left = [name for name in await client.list_database_names() if name.startswith(MARK)]
    client.close()
    assert not left


@pytest.fixture(scope="session")
def own_mongo(server_park: ServerPark, request: pytest.FixtureRequest) -> Server:
    """A database to be broken, which a lent one may not be."""
    if lent_url("mongo") is None:
        server: Server = request.getfixturevalue("mongo_server")
        return server
    return server_park.start("mongo-own", lambda directory: provision.mongo(directory, own=True))


@pytest.fixture(scope="session")
def zookeeper_server(server_park: ServerPark) -> Server:
    return server_park.start("zookeeper", provision.zookeeper)


@pytest.fixture(scope="session")
def zookeeper_url(zookeeper_server: Server) -> str:
    """`zk://127.0.0.1:PORT`; use a path of your own."""
    return zookeeper_server.url


@pytest.fixture(scope="session")
def registry_server(server_park: ServerPark) -> Server:
    return server_park.start("registry", provision.registry)


@pytest.fixture(scope="session")
def registry_url(registry_server: Server) -> str:
    """`http://127.0.0.1:PORT`; image names start with its address, without the scheme."""
    return registry_server.url


@pytest.fixture(scope="session")
def docker_engine(server_park: ServerPark) -> Server:
    """An engine without bridge and iptables; `.url` is for aiodocker, `.socket` the path.

    Its runtime "gantry" is build/native/gantry-runc."""
    return server_park.start("engine", provision.engine)


@pytest.fixture(scope="session")
def ovs(server_park: ServerPark) -> OvsServer:
    """An Open vSwitch without bridges; make one with datapath_type=ovs.datapath_type.

    Bridge names are the host's: choose one that no other run has."""
    return server_park.start("ovs", provision.ovs)
