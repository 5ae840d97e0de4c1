"""Without faults, a roll gives users nothing to notice: after every step all capacity is there and behind it runs."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulation import loop
from tests.simulation.cloud import Cloud
from tests.simulation.invariants import Invariants
from tests.simulation.promises import Acked
from tests.simulation.workload import APPS, User, begin

APP = "acme/web"
WANTED = int(APPS[APP]["instances"])


class Capacity(Invariants):
    """Besides: the load balancer has at least the wanted number, each of them a container that runs."""

    smallest = 1 << 30
    largest = 0

    def after_step(self) -> None:
        """See Invariants."""
        serving = self.cloud.balancer.inner.serving.get(APP.replace("/", "-"), {})
        running = {
            attachment.address.ip
            for host in self.cloud.hosts
            for attachment in host.kernel.attachments.values()
            if attachment.address is not None
            and (container := host.docker.by_name(attachment.container)) is not None
            and container.running
        }
        self.smallest = min(self.smallest, len(serving))
        self.largest = max(self.largest, len(serving))
        dead = sorted(ip for ip, _ in serving if ip not in running)
        if dead:
            self.fail(f"traffic goes to {dead}, where nothing runs")
        super().after_step()


async def until_ended(user: User, deployment: str | None) -> str:
    """The state that a deployment ends in."""
    assert deployment is not None, user.refused
    while True:
        state = await user.state(deployment)
        if state["state"] not in ("accepted", "rolling", "rolling_back", "paused"):
            return str(state["state"])
        await asyncio.sleep(1.0)


@pytest.mark.timeout(600)
def test_rolls_and_a_bad_release_never_take_capacity_away() -> None:
    async def main(world: loop.World) -> None:
        cloud = Cloud(world)
        await begin(cloud)
        user = User(cloud, APP, Acked())
        await user.put()
        assert await until_ended(user, await user.ask("deploys")) == "succeeded"
        capacity = Capacity(cloud)
        cloud.loop.after_step = capacity.after_step
        user.good = "2"
        await user.put()
        assert await until_ended(user, await user.ask("deploys")) == "succeeded"
        bad = await user.ask("deploys", {"image": user.image("unhealthy")})
        assert await until_ended(user, bad) == "rolled_back"
        assert await until_ended(user, await user.ask("rollback")) == "succeeded"
        assert await until_ended(user, await user.ask("restart")) == "succeeded"
        cloud.loop.after_step = None
        cloud.check()
        assert capacity.smallest >= WANTED
        assert capacity.largest > WANTED  # old and new ones side by side: it did roll

    loop.run(main, 11)
