"""A Prober that asks a FakeDocker how its containers are."""

from __future__ import annotations

from libs.common.spec import HealthCheck
from services.executor.model import ProbeResult, ProbeTarget
from tests.fakes.docker import FakeContainer, FakeDocker


class FakeProber:
    """See Prober. A container answers from its image's `healthy_after_s` on, unless a test says otherwise."""

    def __init__(self, docker: FakeDocker) -> None:
        self._docker = docker
        self.probes = 0

    async def probe(self, target: ProbeTarget, check: HealthCheck) -> ProbeResult:
        """See Prober."""
        self.probes += 1
        container = self._docker.containers.get(target.container_id)
        if container is None or not container.running:
            return ProbeResult(False, f"{check.type} {target.ip}: connection refused")
        if not self._healthy(container):
            return ProbeResult(False, f"{check.type} {target.ip}: status 500")
        return ProbeResult(True)

    def _healthy(self, container: FakeContainer) -> bool:
        if container.healthy is not None:
            return container.healthy
        after_s = container.image.healthy_after_s
        if after_s is None:
            return False
        return self._docker.clock.now() - container.started_at >= after_s
