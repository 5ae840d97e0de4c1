"""Who looks after the hosts: drains one after the other for maintenance, and opens it again."""

from __future__ import annotations

import asyncio

from tests.simulation.cloud import Cloud, SimulationFailed
from tests.simulation.faults import Point
from tests.simulation.invariants import Invariants
from tests.simulation.promises import Acked
from tests.simulation.workload import User

MEAN_PAUSE_S = 120.0


class Operator(User):
    """Closes a host now and then, and always opens it again; every word is repeated until it is answered."""

    def __init__(self, cloud: Cloud, invariants: Invariants) -> None:
        super().__init__(cloud, "operator", Acked())
        self._invariants = invariants

    async def work(self, until: float) -> None:
        """Drains and cordons, until a time of the loop's; all hosts are open afterwards."""
        while True:
            pause_s = self.rng.expovariate(1 / MEAN_PAUSE_S)
            if self.cloud.loop.time() + pause_s > until:
                return
            await asyncio.sleep(pause_s)
            await self._close(self.rng.choice(self.cloud.hosts).name)

    async def _close(self, host: str) -> None:
        what = self.rng.choice(["drain", "drain", "cordon"])
        wish: dict[str, object] = {"reason": "a new disk"}
        if what == "drain" and self.rng.random() < 0.5:
            wish |= {"deadline_s": self.rng.uniform(20, 90), "force": self.rng.random() < 0.5}
        self.cloud.faults.hit(Point.DRAIN, f"{what} {host}")
        await self._ask(host, what, wish)
        self._invariants.closed.add(host)
        await asyncio.sleep(self.rng.uniform(30, 200))
        self._invariants.closed.discard(host)
        await self._ask(host, "undrain", None)

    async def _ask(self, host: str, what: str, wish: object) -> None:
        response = await self.call("POST", f"/v1/nodes/{host}/{what}", wish)
        # Monitor has yet to see the host; or the same request, whose answer was lost, is still at it.
        while response.status in (404, 409):
            await asyncio.sleep(5.0)
            response = await self.call("POST", f"/v1/nodes/{host}/{what}", wish)
        if response.status != 200:
            raise SimulationFailed(f"{what} of {host}: {response.status} {response.body.decode()}")
