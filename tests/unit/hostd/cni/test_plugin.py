"""The commands on a host of fakes in virtual time: what is made, what goes, what an error leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.errors import Unavailable
from services.hostd.cni.api import replaying
from services.hostd.cni.model import VERSIONS, Code, Command
from services.hostd.cni.plugin import CniPlugin
from services.hostd.model import AttachmentSpec, Probe
from tests.fakes.cni import FakeIpamPlugins, FakeQueue
from tests.fakes.network import HOST_INODE
from tests.simulation.loop import World, run, virtual
from tests.unit.hostd.cni.test_request import conf, frame
from tests.unit.hostd.world import HostdWorld, settled

NETNS = "/var/run/netns/c1"
LOCAL = {"ipam": {"type": "host-local"}, "vlan": 300}


class CniWorld:
    """A HostdWorld whose hostd speaks CNI."""

    def __init__(self, world: World, **settings: object) -> None:
        self.it = HostdWorld(world, ipam_wait_s=0.5, **settings)
        self.queue, self.plugins = FakeQueue(), FakeIpamPlugins()
        self.group = asyncio.TaskGroup()
        self.plugin: CniPlugin | None = None

    async def start(self) -> None:
        """Begin the next life of hostd."""
        service = await self.it.start(self.group)
        self.plugin = CniPlugin(service, self.plugins, self.queue)

    async def call(
        self, command: str, said: object = None, plugin: str = "gantry", **env: str
    ) -> Any:
        """The result, or the error."""
        assert self.plugin is not None
        body = frame(conf() if said is None else said, plugin, CNI_COMMAND=command, **env)
        answer = await self.plugin.handle(body)
        content = orjson.loads(answer.stdout) if answer.stdout else None
        assert answer.ok is not (isinstance(content, dict) and "code" in content)
        return content

    async def code(
        self, command: str, said: object = None, plugin: str = "gantry", **env: str
    ) -> int:
        """The number of the error, 0 for none."""
        content = await self.call(command, said, plugin, **env)
        return int(content["code"]) if content and "code" in content else 0

    @property
    def names(self) -> list[str]:
        return sorted(each.container for each in self.it.host.attachments.values())

    @property
    def addresses(self) -> list[str]:
        return sorted(self.it.ipam.addresses().values())


@asynccontextmanager
async def at_work(world: World, **settings: object) -> AsyncIterator[CniWorld]:
    """A host with a namespace of a caller's at NETNS."""
    cni = CniWorld(world, **settings)
    async with cni.group:
        await cni.start()
        cni.it.host.bring_namespace(NETNS)
        yield cni
        await cni.it.crash()


# -- the main plugin ---------------------------------------------------------------------------------


@virtual
async def test_the_whole_life(world: World) -> None:
    async with at_work(world) as cni:
        result = await cni.call("ADD")
        (ip,) = cni.addresses
        gateway = "10.0.0.14"
        assert result["ips"] == [{"address": f"{ip}/28", "gateway": gateway, "interface": 1}]
        assert result["routes"] == [{"dst": "0.0.0.0/0", "gw": gateway}]
        assert result["interfaces"][1]["sandbox"] == NETNS
        host = cni.it.host
        assert not host.namespaces and len(host.ports) == len(host.links) == 1
        assert await cni.call("ADD") == result
        checked = conf(prevResult=result)
        assert await cni.code("CHECK", checked) == 0
        for _ in range(2):
            assert await cni.code("DEL", checked, CNI_NETNS="") == 0
        assert host.callers.keys() == {NETNS}
        await settled(world, 1)
        cni.it.check_clean()


@virtual
async def test_an_address_that_another_station_has_is_never_in_an_answer(world: World) -> None:
    for plugin in ("gantry", "gantry-ipam"):
        async with at_work(world, conflict_probe="always") as cni:
            host = cni.it.host
            for n in (1, 2):
                host.strangers[f"10.0.0.{n}"] = "02:00:00:00:00:09"
            seen: list[str] = []
            host.fault = seen.append
            said = conf(type="bridge", ipam={"type": "gantry-ipam"}) if "-" in plugin else conf()
            result = await cni.call("ADD", said, plugin)
            assert result["ips"][0]["address"] == "10.0.0.3/28"
            assert cni.addresses == ["10.0.0.1", "10.0.0.2", "10.0.0.3"], "two are quarantined"
            assert {each.ip for each in host.wires.values()} <= {"10.0.0.3"}
            if plugin == "gantry":  # the container is not even wired before that is known
                steps = [each for each in seen if each in ("switch.probe", "switch.ensure")]
                assert steps == ["switch.probe"] * 3 + ["switch.ensure"]
            assert await cni.call("ADD", said, plugin) == result
            assert seen.count("switch.probe") == 3, "the same again asks nothing"
            assert await cni.code("DEL", said, plugin) == 0


@virtual
async def test_an_add_whose_address_cannot_be_had_leaves_nothing(world: World) -> None:
    async with at_work(world, conflict_probe="always") as cni:
        host = cni.it.host
        host.strangers = {f"10.0.0.{n}": "02:00:00:00:00:09" for n in range(1, 15)}
        wanted = await cni.call("ADD", CNI_ARGS="IP=10.0.0.7")
        assert wanted["code"] == Code.REFUSED and "02:00:00:00:00:09" in wanted["details"]
        failed = await cni.call("ADD")
        assert failed["code"] == Code.REFUSED and "others have the 4 addresses" in failed["details"]
        host.strangers["10.90.0.2"] = "02:00:00:00:00:09"
        local = await cni.call("ADD", conf(**LOCAL))
        assert local["code"] == Code.REFUSED and "is used by" in local["details"]
        assert not cni.plugins.held
        await settled(world, 1)
        held = cni.it.ipam.networks["red"].held
        assert all(key.startswith("quarantine ") for key in held if held[key].ip != "10.0.0.7")
        assert not cni.it.service or not cni.it.service.table.all()
        assert not host.ports and not host.links
        host.strangers.clear()
        assert (await cni.call("ADD"))["ips"]


@virtual
async def test_a_crash_before_the_wire_has_answered_asks_it_again(world: World) -> None:
    async with at_work(world) as cni:
        host = cni.it.host
        host.strangers["10.0.0.1"] = "02:00:00:00:00:09"

        async def silent(probes: Sequence[Probe]) -> Mapping[Probe, str]:
            await asyncio.Event().wait()
            return dict.fromkeys(probes, "")

        assert cni.it.service is not None
        cni.it.service.ports.switch.probe = silent  # type: ignore[method-assign]
        adding = asyncio.create_task(cni.call("ADD"))
        await world.clock.sleep(0.2)
        assert not adding.done() and cni.addresses == ["10.0.0.1"]
        await cni.it.crash()
        adding.cancel()
        await cni.start()
        assert (await cni.call("ADD"))["ips"][0]["address"] == "10.0.0.2/28"


@virtual
async def test_every_version_of_a_result(world: World) -> None:
    async with at_work(world) as cni:
        for version in VERSIONS:
            result = await cni.call("ADD", conf(cniVersion=version))
            assert result["cniVersion"] == version
            assert ("ip4" in result) is (version in ("0.1.0", "0.2.0"))
            assert await cni.code("DEL", conf(cniVersion=version)) == 0
        version = await cni.call("VERSION", {"cniVersion": "0.3.1"})
        assert version == {"cniVersion": "0.3.1", "supportedVersions": list(VERSIONS)}


@virtual
async def test_what_is_not_a_namespace_of_the_callers(world: World) -> None:
    async with at_work(world) as cni:
        cni.it.host.callers["/host"] = HOST_INODE
        for path in ("/nowhere", "/host"):
            assert await cni.code("ADD", CNI_NETNS=path) == Code.ENVIRONMENT
        cni.it.host.interfaces.add((NETNS, "eth0"))
        assert await cni.code("ADD") == Code.REFUSED
        await settled(world, 1)
        cni.it.check_clean()


@virtual
async def test_bytes_that_are_no_text_are_no_trouble(world: World) -> None:
    async with at_work(world) as cni:
        assert cni.plugin is not None
        for name in ("CNI_NETNS", "CNI_ARGS", "CNI_CONTAINERID", "CNI_COMMAND"):
            value = {"CNI_NETNS": b"/\xff", "CNI_ARGS": b"GANTRY_INSTANCE=\xff"}.get(name, b"\xff")
            body = f"{name}=".encode() + value + b"\0" + frame(conf(), **{name: ""})
            body = body.replace(f"\0{name}=\0".encode(), b"\0")
            answer = await cni.plugin.handle(body)
            assert not answer.ok and orjson.loads(answer.stdout)["code"] in (4, 7)


@virtual
async def test_what_belongs_to_others_stays_theirs(world: World) -> None:
    async with at_work(world) as cni:
        await cni.it.add("web-1")
        cni.it.host.bring_namespace("/other")
        assert await cni.code("ADD", CNI_CONTAINERID="web-1") == Code.REFUSED
        assert await cni.code("DEL", CNI_CONTAINERID="web-1") == 0
        assert await cni.code("GC", conf(**{"cni.dev/valid-attachments": []})) == 0
        assert cni.names == ["web-1"]
        assert await cni.code("ADD") == 0
        for changed in ({"CNI_NETNS": "/other"}, {"CNI_ARGS": "GANTRY_INSTANCE=shop-web-1"}):
            assert await cni.code("ADD", **changed) == Code.REFUSED
        assert await cni.code("ADD", conf(name="second", network="red")) == Code.REFUSED
        assert await cni.code("DEL", conf(name="second")) == 0
        assert await cni.code("DEL", plugin="gantry-ipam") == 0
        assert cni.names == ["c1", "web-1"]
        service = cni.it.service
        assert service is not None
        for call in (
            service.add("c1", "eth0", AttachmentSpec(network="red", instance="c1")),
            cni.it.register("c1"),
        ):
            with pytest.raises(Exception, match="c1"):
                await call
        cni.it.host.drop_namespace(NETNS)
        cni.it.host.bring_namespace(NETNS)  # another one at the same path
        assert await cni.code("ADD") == Code.REFUSED


@virtual
async def test_an_add_that_fails_leaves_nothing(world: World) -> None:
    async with at_work(world) as cni:
        assert await cni.code("ADD", conf(network="green")) == Code.CONFIG
        cni.it.ipam.away = True
        assert await cni.code("ADD") == Code.TRY_AGAIN
        cni.it.ipam.away = False
        cni.it.host.switch_up = False
        assert await cni.code("ADD") == Code.TRY_AGAIN
        cni.it.host.restart_switch()
        await settled(world)
        cni.it.check_clean()
        for n in range(13):
            path = f"/ns/{n}"
            cni.it.host.bring_namespace(path)
            assert await cni.code("ADD", CNI_CONTAINERID=f"f{n}", CNI_NETNS=path) == 0
        assert await cni.code("ADD") == Code.TRY_AGAIN
        assert await cni.code("STATUS") == Code.UNAVAILABLE
        assert "c1" not in cni.names


@virtual
async def test_a_failed_del_says_so(world: World) -> None:
    async with at_work(world) as cni:
        await cni.call("ADD")
        cni.it.host.switch_up = False
        assert await cni.code("DEL") == Code.TRY_AGAIN
        assert cni.addresses != []
        cni.it.host.restart_switch()
        assert await cni.code("DEL") == 0
        await settled(world, 1)
        cni.it.check_clean()


@virtual
async def test_a_check_says_what_is_missing(world: World) -> None:
    async with at_work(world) as cni:
        result = await cni.call("ADD")
        said, host = conf(prevResult=result), cni.it.host
        assert await cni.code("CHECK") == Code.CONFIG
        assert await cni.code("CHECK", said, CNI_CONTAINERID="c2") == Code.UNKNOWN_CONTAINER
        (link,) = host.links
        (cookie,) = (each for each in host.rules if each & 0xFFFFFFFF)
        (key,) = cni.it.ipam.addresses()

        def without(things: dict[Any, Any], name: Any) -> Callable[[], Callable[[], None]]:
            def take() -> Callable[[], None]:
                thing = things.pop(name)
                return lambda: things.update({name: thing})

            return take

        for take, what in (
            (without(host.links, link), "interface eth0 is missing"),
            (without(host.ports, link), "no port"),
            (without(host.rules, cookie), "no flows"),
            (without(cni.it.ipam.networks["red"].held, key), "ipam"),
            (without(host.callers, NETNS), ""),
            (without(result, "ips"), "prevResult"),
        ):
            give_back = take()
            failure = await cni.call("CHECK", conf(prevResult=result))
            assert failure["code"] == (Code.BROKEN if what else Code.ENVIRONMENT)
            assert what in failure.get("details", "")
            give_back()
            assert await cni.code("CHECK", said) == 0


@virtual
async def test_gc_removes_what_is_not_listed_and_goes_on_after_errors(world: World) -> None:
    async with at_work(world) as cni:
        for n in range(4):
            cni.it.host.bring_namespace(f"/ns/{n}")
            env = {"CNI_CONTAINERID": f"c{n}", "CNI_NETNS": f"/ns/{n}"}
            assert (
                await cni.code(
                    "ADD", conf() if n < 3 else conf(name="second", network="red"), **env
                )
                == 0
            )
        assert await cni.code("ADD", plugin="gantry-ipam", CNI_IFNAME="eth9") == 0
        assert await cni.code("GC") == 0
        assert len(cni.names) == 5
        listed = [{"containerID": "c1", "ifname": "eth0"}]
        said = conf(**{"cni.dev/valid-attachments": listed})
        failing = ["once"]

        def fault(step: str) -> None:
            if step == "switch.remove" and failing:
                failing.clear()
                raise Unavailable("not now")

        cni.it.host.fault = fault
        failure = await cni.call("GC", said)
        assert failure["code"] == Code.TRY_AGAIN and "not now" in failure["details"]
        assert len(cni.names) == 4  # one of the two is gone in spite of the other's trouble
        assert await cni.code("GC", said) == 0
        left = {(each.container, each.ifname) for each in cni.it.host.attachments.values()}
        assert left == {("c1", "eth0"), ("c1", "eth9"), ("c3", "eth0")}


@virtual
async def test_status_says_why_not(world: World) -> None:
    async with at_work(world) as cni:
        await settled(world, 1)
        assert await cni.code("STATUS") == 0
        assert await cni.code("STATUS", plugin="gantry-ipam") == 0
        assert await cni.code("STATUS", conf(network="green")) == Code.UNAVAILABLE
        cni.it.ipam.away = True
        assert await cni.code("STATUS") == Code.UNAVAILABLE
        assert await cni.code("STATUS", plugin="gantry-ipam") == Code.UNAVAILABLE
        cni.it.host.switch_up = False
        assert await cni.code("STATUS") == Code.LIMITED


# -- as IPAM plugin, and over others -----------------------------------------------------------------


@virtual
async def test_as_ipam_plugin_it_gives_an_address_and_wires_nothing(world: World) -> None:
    async with at_work(world) as cni:
        said = conf(
            cniVersion="1.0.0", type="bridge", ipam={"type": "gantry-ipam", "network": "blue"}
        )
        result = await cni.call("ADD", said, "gantry-ipam", CNI_NETNS="/elsewhere")
        assert (
            set(result) == {"cniVersion", "ips", "routes"} and "interface" not in result["ips"][0]
        )
        assert result["ips"][0]["address"].startswith("10.1.0.")
        await settled(world)
        host = cni.it.host
        assert not host.links and not host.ports and cni.names == ["c1"]
        said["prevResult"] = result
        assert await cni.code("CHECK", said, "gantry-ipam") == 0
        cni.it.ipam.networks["blue"].held.clear()
        assert await cni.code("CHECK", said, "gantry-ipam") == Code.BROKEN
        assert await cni.code("DEL", said, "gantry-ipam", CNI_NETNS="") == 0
        await settled(world, 1)
        cni.it.check_clean()


@virtual
async def test_another_ipam_plugin_under_ours(world: World) -> None:
    async with at_work(world) as cni:
        said = conf(**LOCAL)
        cni.plugins.result = {
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.168.0.0/16", "gw": "10.90.0.9"}],
            "dns": {"domain": "example.org"},
        }
        result = await cni.call("ADD", said)
        assert (
            result["ips"][0]["address"] == "10.90.0.2/24"
            and result["dns"] == cni.plugins.result["dns"]
        )
        assert result["routes"] == [
            {"dst": "0.0.0.0/0", "gw": "10.90.0.1"}, {"dst": "192.168.0.0/16", "gw": "10.90.0.9"},
        ]  # fmt: skip
        (port,) = cni.it.host.ports.values()
        assert (port.vlan, cni.addresses) == (300, [])
        assert await cni.call("ADD", said) == result
        await settled(world, 70)  # a report to ipam does not name it
        assert cni.it.ipam.live == []
        assert await cni.code("CHECK", conf(**LOCAL, prevResult=result)) == 0
        assert await cni.code("GC", said) == await cni.code("STATUS", said) == 0
        cni.plugins.held.clear()
        assert await cni.code("CHECK", conf(**LOCAL, prevResult=result)) == Code.PLUGIN
        assert await cni.code("DEL", said) == 0
        assert set(cni.plugins.calls) == {Command.ADD, Command.CHECK, Command.DEL}
        cni.plugins.known = ("1.1.0",)
        assert await cni.code("GC", said) == await cni.code("STATUS", said) == 0
        assert cni.plugins.calls[-2:] == [Command.GC, Command.STATUS]
        cni.it.check_clean()


@virtual
async def test_what_another_plugin_gave_is_given_back_when_the_rest_fails(world: World) -> None:
    async with at_work(world) as cni:
        for result, said in (
            ({"ips": [{"address": "fd00::2/64"}]}, conf(**LOCAL)),
            ({"ips": []}, conf(**LOCAL)),
            ({"routes": [{"dst": "fd00::/8"}]}, conf(**LOCAL)),
            ({}, conf(ipam=LOCAL["ipam"])),
        ):
            cni.plugins.result = dict(result)
            assert await cni.code("ADD", said) == Code.CONFIG
            assert cni.plugins.held == {}
        cni.plugins.result = {}
        cni.it.host.interfaces.add((NETNS, "eth0"))
        assert await cni.code("ADD", conf(**LOCAL)) == Code.REFUSED
        assert cni.plugins.held == {} and cni.names == []
        cni.it.host.interfaces.clear()
        cni.plugins.fail = 11
        assert await cni.code("ADD", conf(**LOCAL)) == 11
        cni.plugins.fail = 0
        assert await cni.code("ADD", conf(**LOCAL)) == 0
        cni.plugins.fail = 999
        assert await cni.code("DEL", conf(**LOCAL)) == 999
        assert cni.names == []
        assert await cni.code("ADD", conf(ipam={"type": "dhcp"}, vlan=3)) == Code.PLUGIN
        assert await cni.code("ADD", conf(vlan=3)) == Code.CONFIG
        cni.plugins.known = ("0.2.0",)
        assert await cni.code("ADD", conf(**LOCAL)) == Code.VERSION


# -- kept DELs ---------------------------------------------------------------------------------------


@virtual
async def test_a_kept_del_is_done_before_the_next_add(world: World) -> None:
    async with at_work(world) as cni:
        first = await cni.call("ADD")
        cni.queue.kept["gantry:c1:eth0"] = frame(conf(), CNI_COMMAND="DEL")
        second = await cni.call("ADD")
        assert second["interfaces"][0] != first["interfaces"][0]
        assert cni.queue.kept == cni.queue.taken == {}
        assert cni.names == ["c1"]
        cni.queue.kept["gantry:c1:eth0"] = frame(conf(), CNI_COMMAND="DEL")
        cni.it.host.switch_up = False
        assert await cni.code("ADD") == Code.TRY_AGAIN
        assert cni.queue.taken != {}
        cni.queue.broken = True
        assert await cni.code("ADD") == Code.TRY_AGAIN


@virtual
async def test_kept_dels_are_done_while_it_runs(world: World) -> None:
    async with at_work(world) as cni:
        cni.it.host.bring_namespace("/ns/2")
        assert await cni.code("ADD") == 0
        assert await cni.code("ADD", CNI_CONTAINERID="c2", CNI_NETNS="/ns/2") == 0
        kept = cni.queue.kept
        kept["gantry:c1:eth0"] = frame(conf(), CNI_COMMAND="DEL", CNI_NETNS="")
        kept["gantry:c8:eth0"] = frame(b"{", CNI_COMMAND="DEL")
        kept["gantry:c2:eth0"] = frame(conf(), CNI_CONTAINERID="c2", CNI_COMMAND="ADD")
        kept["gantry:c9:eth0"] = frame(conf(**LOCAL), CNI_COMMAND="DEL")
        cni.plugins.fail, cni.queue.broken = 11, True
        assert cni.it.service is not None and cni.plugin is not None
        async with replaying(cni.it.service, cni.plugin, cni.queue):
            await settled(world, 12)
            cni.queue.broken = False
            await settled(world, 12)
            assert cni.names == ["c2"]
            assert set(cni.queue.refused) == {"gantry:c2:eth0", "gantry:c8:eth0"}
            assert set(cni.queue.taken) == {"gantry:c9:eth0"}
            cni.plugins.fail = 0
            await settled(world, 6)
        assert await cni.queue.names() == ()


# -- staying true ------------------------------------------------------------------------------------


@virtual
async def test_a_wire_is_mended_while_its_namespace_is_there(world: World) -> None:
    async with at_work(world) as cni:
        result = await cni.call("ADD")
        host = cni.it.host
        (link,) = host.links
        host.links.clear()
        await settled(world)
        assert set(host.links) == {link} and await cni.code("CHECK", conf(prevResult=result)) == 0
        host.interfaces.add((NETNS, "eth0"))
        host.links.clear()
        await settled(world)  # somebody else took the name: one attachment's trouble
        assert cni.it.service is not None and cni.it.service.swept and not host.links
        host.drop_namespace(NETNS)
        await settled(world)
        assert not host.ports and cni.names == ["c1"] and len(cni.addresses) == 1
        assert await cni.code("CHECK", conf(prevResult=result)) == Code.ENVIRONMENT


@virtual
async def test_after_a_boot_its_del_is_all_that_is_left_to_do(world: World) -> None:
    async with at_work(world) as cni:
        assert await cni.code("ADD") == 0
        await cni.it.crash()
        cni.it.host.reboot()
        await cni.start()
        await settled(world)
        host = cni.it.host
        assert not host.ports and not host.links and cni.names == ["c1"]
        assert cni.it.service is not None and cni.it.service.not_ready() == ""
        assert await cni.code("DEL", CNI_NETNS="") == 0
        await settled(world, 1)
        cni.it.check_clean()


STEPS = st.lists(
    st.tuples(st.sampled_from(["ADD", "DEL", "crash", "drop", "keep"]), st.integers(0, 2)),
    max_size=12,
)


@settings(max_examples=12)
@given(STEPS, st.integers(0, 2**32))
def test_whatever_happens_all_goes_in_the_end(steps: list[tuple[str, int]], seed: int) -> None:
    async def story(world: World) -> None:
        async with at_work(world) as cni:
            host = cni.it.host
            for what, n in steps:
                path, env = f"/ns/{n}", {"CNI_CONTAINERID": f"s{n}", "CNI_NETNS": f"/ns/{n}"}
                if path not in host.callers:
                    host.bring_namespace(path)
                if what == "crash":
                    await cni.it.crash()
                    await cni.start()
                elif what == "drop":
                    host.drop_namespace(path)
                elif what == "keep":
                    cni.queue.kept[f"gantry:s{n}:eth0"] = frame(conf(), CNI_COMMAND="DEL", **env)
                else:
                    await cni.call(what, **env)
                cni.it.check()
            assert cni.it.service is not None and cni.plugin is not None
            async with replaying(cni.it.service, cni.plugin, cni.queue):
                await settled(world, 60)
                for n in range(3):
                    assert await cni.code("DEL", CNI_CONTAINERID=f"s{n}", CNI_NETNS="") == 0
                await settled(world)
            cni.it.check_clean()

    run(story, seed)
