"""The app starts only when its network is up: the first thing it does is to use it, and that must never fail.

Not when hostd is down as its start is asked for, and not after the host has booted anew.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable

import aiodocker
import pytest

from infra.provision import Server
from libs.common.spec import HealthCheck
from tests.contract.network.conftest import restart_switch
from tests.integration.executor_host import SUPERVISOR, WORKER, Cloud
from tests.integration.hostd_host import PORT, Host, inside, run

HTTP = HealthCheck(port=PORT, path="/health", interval_s=0.5, timeout_s=2, grace_s=20)
NO_ADDRESS, NO_PEER = 41, 42
TOGETHER = 6
KEY = "bu/web/peer"


def first_thing(peer: str) -> tuple[str, ...]:
    """A command that looks at its interface and calls a peer, once; only then it becomes the app."""
    address = "$(ip -4 -o addr show dev eth0)"
    answer = f"$(printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {peer} {PORT})"
    checks = ((address, "*' inet 10.'*", NO_ADDRESS), (answer, "*' 200 '*", NO_PEER))
    script = [f'case "{told}" in {good}) ;; *) exit {code};; esac' for told, good, code in checks]
    return ("/bin/sh", "-c", "; ".join((*script, "exec /app")))


async def test_while_hostd_is_down_nothing_starts_and_then_all_is_up(cloud: Cloud) -> None:
    await cloud.launch("peer.1", health=(HTTP,))
    peer = await cloud.healthy("peer.1")
    await cloud.host.kill_hostd()
    names = [f"web-{n}.1" for n in range(TOGETHER)]
    await cloud.launch(*names, health=(HTTP,), command=first_thing(peer.address))
    await _nothing_starts(cloud, names)
    await cloud.host.start_hostd()
    for each in names:
        await cloud.healthy(each)
        assert "TASK_FAILED" not in cloud.states(each)


async def test_after_a_boot_apps_start_when_their_network_is_up(cloud: Cloud) -> None:
    await cloud.launch("peer.1", health=(HTTP,), sticky_key=KEY)
    await cloud.launch("web-0.1", health=(HTTP,))
    address = (await cloud.healthy("peer.1")).address
    await cloud.healthy("web-0.1")

    async def executor_down() -> None:
        await cloud.stop_mesos()
        for module in (SUPERVISOR, WORKER):
            if pid := cloud.pid_of(module):
                os.kill(pid, signal.SIGKILL)

    await boot(cloud.host, executor_down)
    await cloud.start_mesos()
    await cloud.reaches("web-0.1", "TASK_FAILED")
    names = ["peer.2", *(f"web-{n}.2" for n in range(TOGETHER))]
    await cloud.launch(names[0], health=(HTTP,), sticky_key=KEY)
    await _nothing_starts(cloud, names[:1])
    await cloud.host.start_hostd()
    peer = await cloud.healthy(names[0])
    assert peer.address == address
    await cloud.launch(*names[1:], health=(HTTP,), command=first_thing(peer.address))
    for each in names:
        await cloud.healthy(each)
        assert "TASK_FAILED" not in cloud.states(each)
    await cloud.gone("web-0.1")
    assert set(await cloud.host.attachments()) == {cloud.name(each) for each in names}


async def test_a_restart_and_a_release_keep_namespace_port_and_flows(cloud: Cloud) -> None:
    """Each attempt is placed the moment that its predecessor is said to be over."""
    host = cloud.host

    async def facts(attempt: str) -> tuple[object, ...]:
        """What must stay, and how old the youngest of its flows is."""
        name = cloud.name(attempt)
        view = (await host.attachments())[name]
        number = host.vsctl("get", "interface", host.port_of(name), "ofport")
        flows = await host.flows_of(name)
        ages.append(min(flow.age_s for flow in flows.values()))
        return view["ip"], view["mac"], view["inode"], number, frozenset(flows)

    async def end(attempt: str) -> None:
        await host.docker.containers.container(cloud.name(attempt)).kill()

    async def takes_over(attempt: str, state: str, heir: str) -> None:
        await cloud.reaches(attempt, state)
        await cloud.launch(heir, health=(HTTP,), sticky_key=KEY)

    ages: list[float] = []
    await cloud.launch("peer.1", health=(HTTP,), sticky_key=KEY)
    await cloud.healthy("peer.1")
    before = await facts("peer.1")
    # A restart.
    await end("peer.1")
    await takes_over("peer.1", "TASK_FAILED", "peer.2")
    await cloud.healthy("peer.2")
    assert await facts("peer.2") == before
    # A new release.
    await cloud.kill("peer.2")
    await takes_over("peer.2", "TASK_KILLED", "next.1")
    await cloud.healthy("next.1")
    assert await facts("next.1") == before
    # Neither the DEL nor the ADD finds hostd.
    await host.kill_hostd()
    await end("next.1")
    await takes_over("next.1", "TASK_FAILED", "next.2")
    await _nothing_starts(cloud, ["next.2"])
    await host.start_hostd()
    await cloud.healthy("next.2")
    assert await facts("next.2") == before
    assert ages == sorted(ages)
    assert ages[0] < ages[-1]


async def test_after_a_boot_an_attachment_is_as_it_was(host: Host) -> None:
    """Its container, started again, has the address it had, and others reach it there."""
    peer, web = await asyncio.gather(host.start("peer"), host.start("web"))
    before = await host.attachments()

    async def nothing() -> None:
        pass

    await boot(host, nothing)
    for each in (peer, web):
        with pytest.raises(aiodocker.DockerError, match="no network namespace is registered"):
            await each.container.start()
    await host.start_hostd()
    after = await host.attachments()
    for name, view in after.items():
        same = ("ip", "mac", "vlan", "address_generation", "attachment", "namespace")
        assert [view[key] for key in same] == [before[name][key] for key in same]
        assert (view["ready"], view["registered"]) == (True, False)
    with pytest.raises(aiodocker.DockerError, match="no network namespace is registered"):
        await web.container.start()
    for each in (peer, web):
        await host.register(each.name, each.container.id)
        await each.container.start()
    namespace = after[web.name]["namespace"]
    await host.wait_served(namespace, peer.ip)
    await host.wait_served(after[peer.name]["namespace"], web.ip)
    assert f"inet {web.ip}/24" in inside(namespace, "ip", "-4", "-o", "addr", "show", "eth0")


async def _nothing_starts(cloud: Cloud, names: list[str]) -> None:
    """All containers are there, only their network is missing; none has ever run."""
    created = {cloud.name(each) for each in names}

    async def there() -> bool:
        return created <= set(await _started(cloud.host))

    await cloud.host.until(there, "containers are not made")
    for _ in range(20):
        started = await _started(cloud.host)
        assert all(started[each].startswith("0001") for each in created), started
        await asyncio.sleep(0.05)


async def _started(host: Host) -> dict[str, str]:
    """When this cluster's containers were started, by name; the year 1: never."""
    filters = {"label": [f"gantry.cluster={host.cluster}"]}
    found = {}
    for each in await host.docker.containers.list(all=True, filters=filters):
        try:
            view = await each.show()
        except aiodocker.DockerError as error:
            if error.status != 404:
                raise
            continue  # one of a start that is tried again
        found[view["Name"].removeprefix("/")] = view["State"]["StartedAt"]
    return found


async def boot(host: Host, stop: Callable[[], Awaitable[None]]) -> None:
    """The host goes down without a warning and comes up: processes, /run, namespaces and links are gone, disks are not.

    hostd is not started yet. `stop` ends what else runs there.
    """
    await host.kill_hostd()
    await stop()
    await asyncio.to_thread(_end_containers, host.engine, host.cluster)
    for path in sorted((host.run_dir / "netns").glob("*")):
        run("umount", "-l", str(path))
    shutil.rmtree(host.run_dir)
    await restart_switch(host.ovs)


def _end_containers(engine: Server, cluster: str) -> None:
    """SIGKILL for all containers while no engine looks; the engine finds them ended when it comes back."""

    async def work() -> None:
        async with aiodocker.Docker(url=engine.url) as docker:
            filters = {"label": [f"gantry.cluster={cluster}"]}
            running = await docker.containers.list(filters=filters)
            pids = [(await each.show())["State"]["Pid"] for each in running]
        await engine.kill9()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        await engine.start()

    asyncio.run(work())
