"""The world's load balancer: the fake, with failures before and after the deed."""

from __future__ import annotations

from dataclasses import dataclass, field

from libs.common.clock import Clock
from libs.common.errors import TimedOut, Unavailable
from services.deployer.loadbalancer.base import Answer, Change
from tests.fakes.loadbalancer import FakeLoadBalancer
from tests.simulation.faults import Faults, Point


@dataclass
class Balancer:
    """See LoadBalancerDriver."""

    clock: Clock
    faults: Faults
    inner: FakeLoadBalancer = field(init=False)

    def __post_init__(self) -> None:
        self.inner = FakeLoadBalancer(self.clock)

    async def submit(self, change: Change) -> Answer:
        """See LoadBalancerDriver."""
        return self._after(await self.inner.submit(self._before(change)))

    async def poll(self, change: Change) -> Answer:
        """See LoadBalancerDriver."""
        return self._after(await self.inner.poll(self._before(change)))

    async def cancel(self, change: Change) -> Answer:
        """See LoadBalancerDriver."""
        return self._after(await self.inner.cancel(self._before(change)))

    async def present(self, backend: str) -> frozenset[tuple[str, int]] | None:
        """See LoadBalancerDriver."""
        return await self.inner.present(backend)

    async def close(self) -> None:
        """Nothing is open."""

    def _before(self, change: Change) -> Change:
        if self.faults.strike(Point.BALANCER_FAILS):
            raise Unavailable("the load balancer can't be reached")
        return change

    def _after(self, answer: Answer) -> Answer:
        if self.faults.strike(Point.BALANCER_FAILS):
            raise TimedOut("the load balancer does not answer")
        return answer
