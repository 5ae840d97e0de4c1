"""Pytest fixtures for real servers: each is started when first asked for, once a session.

They are plain synchronous fixtures, so that tests of any event loop share them; `Server`'s methods
(kill9, pause, restart, …) belong to no loop either. A test that disturbs a shared server must
leave it answering. Should pytest die without its clean-up, a watcher ends the servers.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

from infra import provision
from infra.provision import OvsServer, Server

REPOSITORY = Path(__file__).parent.parent
T = TypeVar("T")
S = TypeVar("S", bound=Server)

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
        return self._run(self._stack.enter_async_context(context(self.root / kind)))

    def close(self) -> None:
        try:
            self._run(self._stack.aclose())
        finally:
            self._thread.submit(self._runner.close).result()
            self._thread.shutdown()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
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
def kafka_url(kafka_server: Server) -> str:
    """`kafka://127.0.0.1:PORT`; topics are not made by themselves."""
    return kafka_server.url


@pytest.fixture(scope="session")
def mongo_server(server_park: ServerPark) -> Server:
    return server_park.start("mongo", provision.mongo)


@pytest.fixture(scope="session")
def mongo_url(mongo_server: Server) -> str:
    """`mongodb://127.0.0.1:PORT`; use a database of your own name."""
    return mongo_server.url


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
