"""One engine a host: the executor's fake Docker, looked at by hostd, with hostd's registry as its runtime shim."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from libs.common.errors import NotFound, Unavailable
from services.executor import errors
from services.executor.model import LABEL_CLUSTER, Phase
from services.hostd.model import ContainerView, Life
from services.hostd.ports import LogQuery
from tests.fakes.docker import FakeContainer, FakeDocker
from tests.fakes.network import FakeHost, StartRefused


def claim_on(kernel: FakeHost, claimed: dict[str, int]) -> Callable[[str], Awaitable[int]]:
    """What the runtime shim does at each start on this host; `claimed` keeps with which generation."""

    async def claim(container_id: str) -> int:
        try:
            namespace = kernel.claim(container_id)
        except StartRefused as error:
            raise errors.StartRefused(str(error)) from None
        claimed[container_id] = kernel.generations[namespace.name]
        return namespace.inode

    return claim


class HostdEngine:
    """hostd's Engine on a FakeDocker."""

    def __init__(self, docker: FakeDocker, cluster: str) -> None:
        self._docker = docker
        self._cluster = cluster

    async def ping(self) -> None:
        """See Engine."""
        self._arrive()

    async def containers(self) -> tuple[ContainerView, ...]:
        """See Engine."""
        self._arrive()
        return tuple(
            _view(each)
            for each in self._docker.containers.values()
            if each.spec.labels.get(LABEL_CLUSTER) == self._cluster
        )

    async def exists(self, container: str) -> bool:
        """See Engine."""
        self._arrive()
        return self._docker.by_name(container) is not None

    async def life(self, container: str) -> Life:
        """See Engine."""
        self._arrive()
        found = self._docker.by_name(container)
        if found is None:
            return Life.ABSENT
        if found.running:
            return Life.RUNNING
        return Life.CREATED if found.phase is Phase.CREATED else Life.ENDED

    async def root(self) -> Path:
        """See Engine."""
        self._arrive()
        return self._docker.root

    async def kill(self, container: str) -> None:
        """See Engine."""
        self._arrive()
        self._docker.kill(container)

    async def stats(self, container: str) -> Mapping[str, Any]:
        """See Engine."""
        self._arrive()
        if self._docker.by_name(container) is None:
            raise NotFound(f"no container {container}")
        return {"cpu_ns": 0, "mem_bytes": 0, "mem_limit_bytes": 0, "pids": 1}

    async def logs(self, container: str, query: LogQuery) -> AsyncIterator[bytes]:
        """See Engine; containers of the simulation say nothing."""
        self._arrive()
        if self._docker.by_name(container) is None:
            raise NotFound(f"no container {container}")
        return _no_lines()

    def _arrive(self) -> None:
        if self._docker.down:
            raise Unavailable("Docker can't be reached")


async def _no_lines() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for line in nothing:
        yield line


def _view(each: FakeContainer) -> ContainerView:
    return ContainerView(
        id=each.id,
        name=each.name,
        running=each.running,
        runtime=each.runtime,
        pid=each.pid,
        netns_inode=each.netns_inode or None,
    )
