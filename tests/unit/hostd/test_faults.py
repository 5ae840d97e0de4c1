"""Random calls while everything around fails: what must hold holds, and the checks would see if it did not."""

from __future__ import annotations

import asyncio
import random

import pytest

from libs.common.errors import Unavailable
from services.hostd.model import Attachment
from services.hostd.service import HostdService
from tests.simulation.loop import World, run
from tests.unit.hostd.world import Broken, HostdWorld, retry, settled, tolerate

NAMES = ("a", "b", "c", "d")
STICKY = {"b": "first", "c": "first", "d": "second"}


async def chaos(world: World, it: HostdWorld, moves: int = 60) -> None:
    """Random calls while everything fails at random; then peace, and all is taken down and must be clean."""
    rng = world.rng
    rate = rng.choice((0.0, 0.02, 0.1))

    def fault(step: str) -> None:
        it.check()
        if rng.random() < rate:
            raise Unavailable(f"fault at {step}")

    async with asyncio.TaskGroup() as group:
        await it.start(group)
        it.host.fault = fault
        calls: list[asyncio.Task[None]] = []
        for _ in range(moves):
            calls.append(group.create_task(tolerate(lambda: move(world, it, group, rng))))
            await world.clock.sleep(rng.choice((0.0, 0.001, 0.01, 0.5, 3.0)))
            it.check()
        await asyncio.gather(*calls)
        it.host.fault = lambda _step: None
        it.ipam.away, it.ipam.lose_answers = False, 0
        for name in NAMES:
            it.remove_container(name)
            await retry(world, lambda name=name: it.delete(name))  # type: ignore[misc]
        await settled(world, 90)
        it.check()
        it.check_clean()
        await it.crash()


async def move(world: World, it: HostdWorld, group: asyncio.TaskGroup, rng: random.Random) -> None:
    name = rng.choice(NAMES)
    kind = rng.randrange(15)
    if kind == 0:
        await it.restart(group, rng.choice((0.0, 1.0)))
    elif kind == 1:
        it.host.restart_switch()
    elif kind == 2:
        it.ipam.away = not it.ipam.away
    elif kind == 3:
        it.ipam.lose_answers += 1
    elif kind == 4 and it.host.links:
        del it.host.links[rng.choice(sorted(it.host.links))]
    elif kind in (5, 6, 7):
        await it.add(name, sticky_key=STICKY.get(name, ""))
    elif kind in (8, 9):
        await it.register(name)
    elif kind == 10:
        it.start_container(name)
    elif kind == 11:
        await it.revoke(name)
    elif kind in (12, 13):
        await it.delete(name)
    else:
        it.remove_container(name)


@pytest.mark.parametrize("seed", range(40))
def test_no_fault_breaks_what_must_hold(seed: int) -> None:
    run(lambda world: chaos(world, HostdWorld(world)), seed)


def forget_to_revoke(service: HostdService) -> None:
    async def revoke(attachment: Attachment) -> bool:
        return False

    async def forget(_namespace: str) -> None:
        return None

    service._revoke = revoke  # type: ignore[method-assign]
    service.ports.registry.forget = forget  # type: ignore[method-assign,assignment]


def release_before_the_port_is_gone(service: HostdService) -> None:
    finish = service.finish

    async def early(attachment: Attachment) -> None:
        for network in service.ports.ipam.networks.values():  # type: ignore[attr-defined]
            network.held.pop(attachment.ipam_key, None)
        await finish(attachment)

    service.finish = early  # type: ignore[method-assign]


def park_with_the_link_up(service: HostdService) -> None:
    async def set_down(_link: str) -> bool:
        return True

    service.ports.network.set_down = set_down  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize(
    "mutation", [forget_to_revoke, release_before_the_port_is_gone, park_with_the_link_up]
)
def test_the_checks_see_what_they_are_for(mutation: object) -> None:
    """Deliberately broken, the service must be caught by some seed."""
    for seed in range(40):
        try:
            run(lambda world: chaos(world, broken(world, mutation)), seed)
        except (Broken, BaseExceptionGroup) as error:
            if isinstance(error, Broken) or error.subgroup(Broken) is not None:
                return
            raise
    pytest.fail("no seed saw it")


def broken(world: World, mutation: object) -> HostdWorld:
    it = HostdWorld(world)
    it.break_service = mutation  # type: ignore[assignment]
    return it


def test_the_same_seed_is_the_same_run() -> None:
    def trace(seed: int) -> list[str]:
        steps: list[str] = []

        async def traced(world: World) -> None:
            it = HostdWorld(world)
            check = it.check

            def tell() -> None:
                steps.append(f"{world.clock.monotonic():.6f} {sorted(it.host.ports)}")
                check()

            it.check = tell  # type: ignore[method-assign]
            await chaos(world, it, 30)

        run(traced, seed)
        return steps

    assert trace(3) == trace(3)
