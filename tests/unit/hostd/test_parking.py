"""Wiring that outlives its container: who takes it over, who does not, and when it goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from libs.common.errors import Unavailable
from services.hostd.answers import AttachmentView
from services.hostd.core import link_name
from services.hostd.model import Attachment, Phase
from services.hostd.service import HostdService
from tests.simulation.loop import World, run, virtual
from tests.unit.hostd.world import CLUSTER, HostdWorld, retry, settled

KEY = "acme/db/0"


@dataclass
class Scene:
    """A hostd at work, and what its container had when it went."""

    it: HostdWorld
    group: asyncio.TaskGroup

    @property
    def service(self) -> HostdService:
        assert self.it.service is not None
        return self.it.service

    async def run_one(self, name: str, **more: object) -> AttachmentView:
        """ADD, leave, start."""
        await self.it.add(name, sticky_key=KEY, **more)  # type: ignore[arg-type]
        await self.it.register(name)
        assert self.it.start_container(name) == ""
        return self.service.get(name, "eth0")

    async def end_one(self, name: str) -> None:
        """The executor's way of an end."""
        await self.it.revoke(name)
        self.it.remove_container(name)
        await self.it.delete(name)
        self.it.check()

    async def kept(self, before: AttachmentView, name: str, **more: object) -> bool:
        """Does a new container of the same key get address and namespace of the one before?"""
        after = await self.run_one(name, **more)
        assert [each.container for each in self.it.host.ports.values()] == [name]
        assert after.ready
        self.it.check()
        addresses = [[part.address for part in each.addresses] for each in (before, after)]
        return addresses[0] == addresses[1] and before.inode == after.inode

    @property
    def phases(self) -> list[Phase]:
        return sorted(each.phase for each in self.it.host.attachments.values())


@asynccontextmanager
async def scene(world: World, **settings: object) -> AsyncIterator[Scene]:
    it = HostdWorld(world, **settings)
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        yield Scene(it, group)
        await it.crash()


@virtual
async def test_the_next_one_finds_all_as_it_was(world: World) -> None:
    async with scene(world) as on:
        it = on.it
        it.ipam.add_ip6("red", "fd00::/120")
        before = await on.run_one("old")
        rules = dict(it.host.rules)
        (port,) = it.host.ports.values()
        await on.end_one("old")
        assert on.phases == [Phase.PARKED]
        assert it.host.down == {port.name}
        assert not it.ipam.addresses(), "ipam is told at once"
        assert it.start_container("old") != ""
        steps: list[str] = []
        it.host.fault = steps.append
        assert await on.kept(before, "heir")
        it.host.fault = lambda _step: None
        assert "switch.remove" not in steps
        assert it.host.rules == rules
        assert not it.host.down
        assert on.service.get("heir", "eth0").address_generation > before.address_generation
        assert await it.delete("old") is False
        await settled(world, 100)
        assert on.phases == [Phase.ADDRESSED]
        await on.end_one("heir")
        await settled(world, 70)
        it.check_clean()


@virtual
async def test_a_look_in_the_middle_of_the_end_takes_no_flow(world: World) -> None:
    """As after a restart of hostd or of the switch, when the executor's calls and the first look meet."""
    async with scene(world) as on:
        before = await on.run_one("old")
        rules = dict(on.it.host.rules)

        def no_revoke(step: str) -> None:
            if step == "registry.revoke":
                raise Unavailable("not now")

        on.it.host.fault = no_revoke
        with pytest.raises(Unavailable):
            await on.service.delete("old", "eth0")
        assert on.phases == [Phase.RELEASING]
        on.it.host.restart_switch()
        await settled(world, 0.1)
        assert on.it.host.rules == rules
        on.it.host.fault = lambda _step: None
        await on.end_one("old")
        assert on.phases == [Phase.PARKED]
        assert await on.kept(before, "heir")


@virtual
async def test_it_waits_for_a_while_only(world: World) -> None:
    async with scene(world, park_s=10) as on:
        before = await on.run_one("old")
        await on.end_one("old")
        await settled(world, 9)
        assert on.phases == [Phase.PARKED]
        await settled(world, 2)
        on.it.check_clean()
        assert not await on.kept(before, "heir")
        assert on.service.get("heir", "eth0").ip == before.ip, "ipam holds it for longer"


@virtual
async def test_what_is_not_parked(world: World) -> None:
    async with scene(world) as on:
        await on.it.add("plain")
        await on.it.delete("plain")
        await settled(world, 1)
        on.it.check_clean()
    async with scene(world, park_s=0) as off:
        await off.run_one("old")
        await off.end_one("old")
        await settled(world, 1)
        off.it.check_clean()


@virtual
async def test_limits_and_mtu_may_change(world: World) -> None:
    async with scene(world) as on:
        before = await on.run_one("old", mtu=1400)
        await on.end_one("old")
        limits = {"egress_kbit": 8000, "ingress_kbit": 4000}
        assert await on.kept(before, "heir", bandwidth=limits)
        view = on.service.get("heir", "eth0")
        (port,), (wire,) = on.it.host.ports.values(), on.it.host.wires.values()
        assert (view.mtu, wire.mtu, wire.egress_kbit) == (1500, 1500, 8000)
        assert port.bandwidth.ingress_kbit == 4000


@virtual
async def test_with_another_address_all_is_made_afresh(world: World) -> None:
    """Its address is somewhere else by now."""
    async with scene(world) as on:
        before = await on.run_one("old")
        await on.end_one("old")
        on.it.ipam.networks["red"].sticky.clear()
        on.it.ipam.networks["red"].reserved["elsewhere"] = before.ip
        assert not await on.kept(before, "heir")
        assert on.service.get("heir", "eth0").ip != before.ip
        assert on.phases == [Phase.ADDRESSED]


@virtual
async def test_whoever_gets_its_address_ends_it(world: World) -> None:
    async with scene(world) as on:
        before = await on.run_one("old")
        await on.end_one("old")
        await on.it.add("other", ip=before.ip)
        assert [each.container for each in on.it.host.attachments.values()] == ["other"]
        on.it.check()
        assert len(on.it.host.links) == 1


@virtual
async def test_another_station_has_its_address(world: World) -> None:
    async with scene(world, conflict_probe="always") as on:
        before = await on.run_one("old")
        await on.end_one("old")
        on.it.host.strangers[before.ip] = "02:00:00:00:00:01"
        await on.it.add("heir", sticky_key=KEY)
        with pytest.raises(Exception, match="ADD it again"):
            await on.it.register("heir")
        assert (on.it.host.ports, on.it.host.namespaces) == ({}, {})
        await on.it.add("heir", sticky_key=KEY)
        assert on.service.get("heir", "eth0").ip != before.ip


@virtual
async def test_only_so_many_wait(world: World) -> None:
    async with scene(world) as on:
        for n in range(3):
            await on.it.add(f"db-{n}", sticky_key=f"acme/db/{n}")
            await on.it.delete(f"db-{n}")
            await settled(world, 1)
        on.service.parking.most = 1
        await on.it.add("last", sticky_key="acme/last/0")
        await on.it.delete("last")
        await settled(world, 2)
        (left,) = on.it.host.attachments.values()
        assert left.spec.sticky_key == "acme/last/0"


@virtual
async def test_reconcile_keeps_what_is_whole_and_drops_what_is_not(world: World) -> None:
    async with scene(world) as on:
        before = await on.run_one("old")
        await on.end_one("old")
        on.it.host.restart_switch()
        await settled(world, 45)  # a reconcile, and looks at the containers
        assert on.phases == [Phase.PARKED]
        assert on.it.host.down
        assert await on.kept(before, "heir")
        await on.end_one("heir")
        on.it.host.links.clear()
        on.it.host.down.clear()
        await settled(world, 31)
        on.it.check_clean()


@virtual
async def test_hostd_dies_while_it_is_parked(world: World) -> None:
    async with scene(world) as on:
        before = await on.run_one("old")
        await on.end_one("old")
        await on.it.crash()
        await on.it.start(on.group)
        assert await on.kept(before, "heir")
        await on.end_one("heir")
        await on.it.crash()
        await on.it.start(on.group)
        await settled(world, 61)
        on.it.check_clean()


@virtual
async def test_a_release_that_ipam_has_yet_to_hear_of_comes_first(world: World) -> None:
    async with scene(world) as on:
        before = await on.run_one("old")
        on.it.ipam.away = True
        await on.end_one("old")
        adding = on.group.create_task(on.it.add("heir", sticky_key=KEY))
        await settled(world, 1)
        on.it.ipam.away = False
        assert await adding == before.ip
        assert on.service.get("heir", "eth0").inode == before.inode


@virtual
async def test_after_a_boot_the_next_attempt_has_the_address(world: World) -> None:
    """Its predecessor's DEL comes late, or never."""
    for swept in (False, True):
        async with scene(world) as on:
            before = await on.run_one("old")
            await on.it.crash()
            on.it.host.reboot()
            await on.it.start(on.group)
            if swept:
                await settled(world, 1)
            assert not await on.kept(before, "heir")
            assert on.service.get("heir", "eth0").ip == before.ip
            assert await on.it.delete("old") is False
            await on.end_one("heir")
            await on.it.crash()
            on.it.host.reboot()
            await on.it.start(on.group)
            await settled(world, 1)
            on.it.check_clean()


@virtual
async def test_an_add_before_the_del_of_its_predecessor(world: World) -> None:
    async with scene(world) as on:
        before = await on.run_one("old")
        await on.it.add("twin", sticky_key=KEY)
        assert on.service.get("twin", "eth0").ip != before.ip, "the old one runs"
        await on.it.delete("twin")
        on.it.remove_container("old")
        assert await on.kept(before, "heir")


@virtual
async def test_who_is_still_to_be_started_is_not_superseded(world: World) -> None:
    async with scene(world) as on:
        first = await on.it.add("first", sticky_key=KEY)
        assert await on.it.add("second", sticky_key=KEY) != first
        # Of the same instance only the last attempt counts.
        assert await on.it.add("again", sticky_key=KEY, instance="second", generation=2) != first
        assert sorted(a.container for a in on.it.host.attachments.values()) == ["again", "first"]


def test_killed_at_any_step_it_ends_well() -> None:
    """kill -9 at each step of an end and of the next beginning, before and after it is done."""

    async def life(world: World, die_at: int) -> bool:
        async with scene(world) as on:
            it, steps, dead = on.it, 0, False
            before = await on.run_one("old")
            it.remove_container("old")

            def fault(step: str) -> None:
                nonlocal steps, dead
                it.check()
                steps += 1
                if steps == die_at:
                    dead = True
                    it.host.fault = lambda _step: None
                    raise asyncio.CancelledError

            async def surely(call: object) -> None:
                try:
                    await call()  # type: ignore[operator]
                except Unavailable:
                    if dead:
                        await it.crash()
                        it.check()
                        await it.start(on.group)
                        it.check()
                    await retry(world, call)  # type: ignore[arg-type]

            it.host.fault = fault
            await surely(lambda: it.delete("old"))
            await surely(lambda: it.add("heir", sticky_key=KEY))
            it.host.fault = lambda _step: None
            await retry(world, lambda: it.register("heir"))
            assert it.start_container("heir") == ""
            await settled(world, 1)
            assert on.service.get("heir", "eth0").ip == before.ip
            assert not it.host.down
            it.check()
            await on.end_one("heir")
            await settled(world, 100)
            it.check_clean()
            return dead

    die_at = 1
    while run_one(life, die_at):
        die_at += 1
    assert die_at > 10


@virtual
async def test_a_takeover_of_which_nobody_knows_whether_it_was_saved(world: World) -> None:
    """It was; the one that takes over goes, its address is released, and hostd dies: nothing comes back to life."""
    async with scene(world) as on:
        it = on.it
        await on.run_one("old")
        await on.end_one("old")

        def fault(step: str) -> None:
            taken = any(
                each.container == "heir" and each.address for each in it.host.attachments.values()
            )
            if step == "state.saved" and taken:
                it.host.fault = lambda _step: it.check()
                raise Unavailable("the disk is slow")

        it.host.fault = fault
        with pytest.raises(Unavailable):
            await it.add("heir", sticky_key=KEY)
        assert await it.delete("heir")
        assert not it.ipam.addresses()
        await it.crash()
        await it.start(on.group)
        await settled(world, 200)
        it.check_clean()


def test_killed_at_any_step_of_another_try_at_such_a_takeover() -> None:
    """It was saved, which nobody knows: what is to take over and what it has taken must never both come back."""

    async def life(world: World, die_at: int) -> bool:
        async with scene(world) as on:
            it, steps, dead = on.it, 0, False
            await on.run_one("old")
            await on.end_one("old")

            def slow(step: str) -> None:
                every = it.host.attachments.values()
                if step == "state.saved" and any(
                    a.container == "heir" and a.address for a in every
                ):
                    it.host.fault = deadly
                    raise Unavailable("the disk is slow")

            def deadly(step: str) -> None:
                nonlocal steps, dead
                steps += 1
                if steps == die_at:
                    dead = True
                    it.host.fault = lambda _step: None
                    raise asyncio.CancelledError

            it.host.fault = slow
            for _ in range(2):
                try:
                    await it.add("heir", sticky_key=KEY)
                except Unavailable:
                    pass
            it.host.fault = lambda _step: None
            if dead:
                await it.crash()
                named = [each.container for each in it.host.attachments.values()]
                assert named.count("heir") <= 1, die_at
                await it.start(on.group)
            await settled(world, 1)
            it.check()
            await on.run_one("heir")
            it.check()
            await on.end_one("heir")
            await settled(world, 200)
            it.check_clean()
            return dead

    die_at = 1
    while run_one(life, die_at):
        die_at += 1
    assert die_at > 10


@virtual
async def test_a_takeover_that_is_tried_again(world: World) -> None:
    async with scene(world) as on:
        before = await on.run_one("old")
        await on.end_one("old")
        for step in ("netns.ensure", "netns.ensured", "switch.ensured"):
            faults = [step]

            def fault(at: str, faults: list[str] = faults) -> None:
                on.it.check()
                if at in faults:
                    faults.remove(at)
                    raise Unavailable("not now")

            on.it.host.fault = fault
            with pytest.raises(Unavailable):
                await on.it.add("heir", sticky_key=KEY)
            await on.it.crash()
            await on.it.start(on.group)
            await settled(world, 1)
            assert await on.kept(before, "heir")
            assert not on.it.host.down
            await on.end_one("heir")


def run_one(life: object, die_at: int) -> bool:
    found: list[bool] = []

    async def once(world: World) -> None:
        found.append(await life(world, die_at))  # type: ignore[operator]

    run(once, 1)
    return found[0]


def test_a_parked_attachment_bears_no_name() -> None:
    parked = Attachment.model_validate(
        {"id": "a1", "container": "old", "ifname": "eth0", "ipam_key": "", "spec": {"network": "red"},
         "phase": "parked", "created_at": 1.0, "parked_at": 2.0}
    )  # fmt: skip
    assert parked.key == ("", "a1")
    assert link_name(CLUSTER, parked.id).endswith("a1")
