"""The service on fakes: what an ADD, a registration and a DEL do, and what the sweeps mend."""

from __future__ import annotations

import asyncio

import pytest

from libs.common.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    Stale,
    TooMany,
    Unavailable,
)
from services.hostd.model import AttachmentSpec
from tests.simulation.loop import World, virtual
from tests.unit.hostd.world import HostdWorld, retry, settled


@virtual
async def test_the_whole_life_of_an_attachment(world: World) -> None:
    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        service = await it.start(group)
        ip = await it.add("web-1")
        assert await it.add("web-1") == ip
        view = service.get("web-1", "eth0")
        assert (view.ip, view.vlan, view.ready, view.registered) == (ip, 100, True, False)
        assert it.start_container("web-1") != ""
        await it.register("web-1")
        assert service.get("web-1", "eth0").registered
        assert it.start_container("web-1") == ""
        assert await it.revoke("web-1") is False
        it.remove_container("web-1")
        assert await it.delete("web-1") is True
        assert await it.delete("web-1") is False
        await settled(world, 1)
        it.check_clean()
        await it.crash()


@virtual
async def test_revoked_leave_is_no_leave(world: World) -> None:
    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        await it.add("web-1")
        await it.register("web-1")
        assert await it.revoke("web-1") is True
        assert await it.revoke("web-1") is False
        assert "no network namespace is registered" in it.start_container("web-1")
        await it.crash()


@virtual
async def test_what_is_refused(world: World) -> None:
    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        service = await it.start(group)
        with pytest.raises(NotFound):
            await it.add("web-1", "green")
        with pytest.raises(NotFound):
            await it.register("web-1")
        await it.add("web-1", generation=2)
        for call in (it.add("web-1", generation=1), it.register("web-1", generation=1)):
            with pytest.raises(Stale):
                await call
        with pytest.raises(Conflict):
            await it.add("web-1", "blue", generation=2)
        for container, ifname in (("../x", "eth0"), ("web-1", "no such"), ("", "eth0")):
            with pytest.raises(InvalidInput):
                await service.add(container, ifname, AttachmentSpec(network="red"))
        with pytest.raises(NotFound):
            service.get("web-2", "eth0")
        assert [each.container for each in it.host.attachments.values()] == ["web-1"]
        await it.crash()


@virtual
async def test_a_full_network_leaves_nothing_behind(world: World) -> None:
    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        results = await asyncio.gather(
            *(it.add(f"web-{n}") for n in range(15)), return_exceptions=True
        )
        assert sum(isinstance(each, TooMany) for each in results) == 2
        assert len({each for each in results if isinstance(each, str)}) == 13
        assert len(it.host.attachments) == 13
        it.check()
        await it.crash()


@virtual
async def test_many_at_once_share_transactions(world: World) -> None:
    it = HostdWorld(world)
    steps: list[str] = []
    it.host.fault = steps.append
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        await asyncio.gather(*(it.add(f"web-{n}") for n in range(10)))
        assert steps.count("netns.ensure") == 10
        assert steps.count("switch.ensure") <= 2
        assert steps.count("state.save") <= 4
        await it.crash()


@virtual
async def test_ipam_that_is_away_is_waited_for(world: World) -> None:
    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        it.ipam.away = True
        adding = group.create_task(it.add("web-1"))
        await world.clock.sleep(1)
        it.ipam.away = False
        await adding
        it.ipam.away = True
        with pytest.raises(Unavailable):
            await it.add("web-2")
        await it.delete("web-1")
        await it.delete("web-2")
        await it.crash()
        await it.start(group)
        await settled(world, 1)
        assert set(it.host.releases) == {"web-1.eth0", "web-2.eth0"}
        it.ipam.away = False
        await settled(world, 15)
        it.check_clean()
        await it.crash()


@virtual
async def test_an_address_whose_answer_was_lost_is_given_back(world: World) -> None:
    it = HostdWorld(world, ipam_wait_s=0)
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        it.ipam.lose_answers = 1
        with pytest.raises(Unavailable):
            await it.add("web-1")
        assert it.ipam.addresses()
        await it.delete("web-1")
        await settled(world, 1)
        it.check_clean()
        await it.crash()


@virtual
async def test_ipam_hears_of_a_sticky_release_before_the_answer_if_it_can(world: World) -> None:
    it = HostdWorld(world, park_s=5)
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        await it.add("db-1", sticky_key="db-1")
        await it.delete("db-1")
        assert not it.ipam.addresses()
        await it.add("db-2", sticky_key="db-1")
        it.ipam.away = True
        began = world.clock.monotonic()
        await it.delete("db-2")
        assert it.ipam.addresses()
        assert world.clock.monotonic() - began < 3
        it.ipam.away = False
        assert await it.delete("db-2") is False
        assert not it.ipam.addresses()
        await settled(world, 15)
        it.check_clean()
        await it.crash()


@virtual
async def test_the_same_name_again_waits_for_its_release(world: World) -> None:
    """A release of the old incarnation that comes late must not take the new one's address."""
    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        await it.add("web-1")
        it.ipam.away = True
        await it.delete("web-1")
        with pytest.raises(Unavailable):
            await it.add("web-1")
        it.ipam.away = False
        await retry(world, lambda: it.add("web-1"))
        await settled(world)
        it.check()
        assert it.ipam.addresses()
        await it.crash()


@virtual
async def test_a_number_that_is_taken_is_changed(world: World) -> None:
    it = HostdWorld(world)
    it.host.numbers["somebody"] = 1000
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        await it.add("web-1")
        (attachment,) = it.host.attachments.values()
        assert attachment.ofport == 1001
        assert it.host.numbers[next(iter(it.host.ports))] == 1001
        await it.crash()


@virtual
async def test_a_reboot_leaves_addresses_and_no_leave(world: World) -> None:
    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        ip = await it.add("web-1")
        await it.register("web-1")
        await it.crash()
        it.host.reboot()
        await it.start(group)
        await settled(world)
        assert it.start_container("web-1") != ""
        assert await it.add("web-1") == ip
        await it.register("web-1")
        assert it.start_container("web-1") == ""
        await it.crash()


@virtual
async def test_a_restarted_switch_gets_its_rules_back(world: World) -> None:
    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        await it.add("web-1")
        await settled(world, 1)
        before = dict(it.host.rules)
        it.host.restart_switch()
        assert it.host.rules == {}
        await settled(world, 0.1)
        assert it.host.rules == before
        await it.crash()


@virtual
async def test_a_vanished_namespace_voids_the_leave(world: World) -> None:
    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        await it.add("web-1")
        await it.register("web-1")
        it.host.namespaces.clear()
        it.host.links.clear()
        with pytest.raises(Unavailable, match="ADD it again"):
            await it.register("web-1")
        await settled(world)
        assert "another" in it.start_container("web-1")
        await it.register("web-1")
        assert it.start_container("web-1") == ""
        await it.crash()


@virtual
async def test_orphans_are_collected_and_others_are_not(world: World) -> None:
    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        for name in ("kept", "lost"):
            await it.add(name)
            it.create(name)
            await it.register(name)
        it.remove_container("lost")
        await settled(world, 110)
        assert len(it.host.attachments) == 2
        it.host.engine_up = False  # unknown is not gone
        await settled(world, 600)
        assert len(it.host.attachments) == 2
        it.host.engine_up = True
        await settled(world, 150)
        assert [each.container for each in it.host.attachments.values()] == ["kept"]
        await it.crash()


@virtual
async def test_who_waits_for_its_image_keeps_what_it_has(world: World) -> None:
    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        ip = await it.add("slow")
        await settled(world, 700)  # no container: its image is pulled
        assert await it.add("slow") == ip
        await it.register("slow")
        assert it.start_container("slow") == ""
        await it.add("given-up")
        await settled(world, 2000)
        assert [each.container for each in it.host.attachments.values()] == ["slow"]
        await it.crash()


@virtual
async def test_a_state_that_was_lost_ends_nobody(world: World) -> None:
    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        for name in ("web-1", "web-2"):
            await it.add(name)
            await it.register(name)
            assert it.start_container(name) == ""
        await it.crash()
        kept = dict(it.host.attachments)
        it.host.attachments.clear()
        namespaces, ports = set(it.host.namespaces), set(it.host.ports)
        service = await it.start(group)
        await settled(world, 120)
        assert "knows nothing of 2 containers that run here, such as web-" in service.not_ready()
        running = {each.name for each in it.host.containers.values() if each.running}
        assert running == {"web-1", "web-2"}
        assert (set(it.host.namespaces), set(it.host.ports)) == (namespaces, ports)
        await it.crash()
        it.host.attachments.update(kept)
        service = await it.start(group)
        await settled(world, 120)
        assert service.not_ready() == ""
        addresses = {a.container: a.address.ip for a in kept.values() if a.address is not None}
        assert await it.add("web-1") == addresses["web-1"]
        await it.crash()


@virtual
async def test_a_host_may_be_begun_anew(world: World) -> None:
    it = HostdWorld(world, start_empty=True)
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        await it.add("web-1")
        await it.register("web-1")
        assert it.start_container("web-1") == ""
        await it.crash()
        it.host.attachments.clear()
        service = await it.start(group)
        await settled(world, 60)
        assert service.not_ready() == ""
        assert not any(each.running for each in it.host.containers.values())
        await it.crash()


@virtual
async def test_intruders_die(world: World) -> None:
    from dataclasses import replace

    from tests.fakes.network import HOST_INODE

    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        await it.add("good")
        await it.register("good")
        assert it.start_container("good") == ""
        for name, inode in (("in-host", HOST_INODE), ("elsewhere", 77)):
            view = it.host.containers[it.create(name)]
            it.host.containers[view.id] = replace(view, running=True, netns_inode=inode)
        await settled(world, 0.1)
        await settled(world, 12)
        running = {each.name for each in it.host.containers.values() if each.running}
        assert running == {"good"}
        await it.crash()


@virtual
async def test_ipam_learns_what_lives_here(world: World) -> None:
    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        await it.add("web-1")
        await settled(world, 61)
        assert it.ipam.live == ["web-1.eth0"]
        await it.crash()


@virtual
async def test_both_families_come_and_go_together(world: World) -> None:
    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        service = await it.start(group)
        it.ipam.add_ip6("red", "fd00::/120")
        await it.add("web-1")
        view = service.get("web-1", "eth0")
        assert [(each.family, each.address) for each in view.addresses] == [
            (4, view.ip),
            (6, f"fd00::{view.ip.rpartition('.')[2]}"),
        ]
        (port,) = it.host.ports.values()
        assert (port.ip, port.ip6) == (view.ip, view.addresses[1].address)
        await it.delete("web-1")
        await settled(world)
        it.check_clean()
        assert it.ipam.stale_releases == []
        await it.crash()


@virtual
async def test_an_ipv6_only_network(world: World) -> None:
    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        await it.start(group)
        it.ipam.add_ip6("red", "fd00::/120", only=True)
        assert (await it.add("web-1")).startswith("fd00::")
        (port,) = it.host.ports.values()
        assert (port.ip, port.ip6[:6]) == ("", "fd00::")
        assert port.mac.startswith("0e:")
        await it.delete("web-1")
        await settled(world)
        it.check_clean()
        await it.crash()


@virtual
async def test_an_mtu_too_small_for_ipv6_is_refused_and_gives_the_address_back(
    world: World,
) -> None:
    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        service = await it.start(group)
        it.ipam.add_ip6("red", "fd00::/120")
        spec = AttachmentSpec(network="red", instance="web-1", mtu=1000)
        with pytest.raises(InvalidInput, match="1280"):
            await service.add("web-1", "eth0", spec)
        await settled(world)
        it.check_clean()
        await it.crash()


@virtual
async def test_an_address_that_another_station_has_is_given_up_before_the_start(
    world: World,
) -> None:
    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        service = await it.start(group)
        it.host.strangers["10.0.0.1"] = "02:00:00:00:00:01"
        assert await it.add("web-1") == "10.0.0.1"
        with pytest.raises(NotFound, match="ADD it again"):
            await it.register("web-1")
        assert (it.host.ports, it.host.namespaces) == ({}, {})
        assert it.start_container("web-1") != ""
        assert await it.add("web-1") == "10.0.0.2"
        await it.register("web-1")
        assert it.start_container("web-1") == ""
        assert ("conflict", service.get("web-1", "eth0").attachment) in it.ipam.calls
        it.check()
        await it.crash()


@virtual
async def test_when_the_wire_is_asked(world: World) -> None:
    """The fake ipam's first address is of generation 1, the next of a later one."""
    for policy, asked in (
        ("off", [False, False]),
        ("first_use", [True, False]),
        ("always", [True, True]),
    ):
        it = HostdWorld(world, conflict_probe=policy)
        steps: list[str] = []
        it.host.fault = steps.append
        async with asyncio.TaskGroup() as group:
            await it.start(group)
            found = []
            for name in ("web-1", "web-2"):
                await it.add(name)
                await it.add(name)  # the same again asks nothing
                await it.register(name)
                found.append(steps.count("switch.probe") == 1)
                steps.clear()
            assert found == asked
            await it.crash()


@virtual
async def test_a_conflict_that_ipam_cannot_mend_is_told(world: World) -> None:
    it = HostdWorld(world)
    async with asyncio.TaskGroup() as group:
        service = await it.start(group)
        it.host.strangers["10.0.0.5"] = "02:00:00:00:00:01"
        spec = AttachmentSpec(network="red", instance="web-1", ip="10.0.0.5")
        await service.add("web-1", "eth0", spec)
        with pytest.raises(Conflict, match="02:00:00:00:00:01"):
            await it.register("web-1", generation=0)
        assert it.start_container("web-1") != ""
        await it.delete("web-1")
        await settled(world)
        it.check_clean()
        await it.crash()
