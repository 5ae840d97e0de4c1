"""Who may start: no container of ours without its registration, nor into a namespace that is not its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import aiodocker
import pytest

from libs.common.errors import Conflict, NotFound, Stale
from tests.integration.hostd_host import HOST_INODE, Host, run


async def assert_refused(container: aiodocker.containers.DockerContainer, reason: str) -> None:
    with pytest.raises(aiodocker.DockerError, match=reason):
        await container.start()
    state = (await container.show())["State"]
    assert (state["Running"], state["Pid"]) == (False, 0)
    assert state["StartedAt"].startswith("0001")


async def test_no_start_without_registration(host: Host) -> None:
    name = host.name("one")
    container = await host.create(name)
    await assert_refused(container, "no network namespace is registered")
    await host.add(name)
    await assert_refused(container, "no network namespace is registered")
    await host.register(name, container.id)
    await host.revoke(name)
    await assert_refused(container, "no network namespace is registered")
    await host.register(name, container.id)
    await container.start()


async def test_no_start_by_hand(host: Host) -> None:
    one = await host.start("one")
    await one.container.kill()
    await one.container.wait()
    with pytest.raises(aiodocker.DockerError, match="no network namespace is registered"):
        await one.container.start()
    await host.register(one.name, one.container.id)
    await one.container.start()
    pid = (await one.container.show())["State"]["Pid"]
    assert os.stat(f"/proc/{pid}/ns/net").st_ino == one.inode


def _other_boot(host: Host, registration: Path, _namespace: Path) -> None:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    registration.write_text(registration.read_text().replace(boot_id, "0" * 36))


def _other_generation(host: Host, _registration: Path, namespace: Path) -> None:
    (host.registry / f"{namespace.name}.generation").write_text("77\n")


def _host_namespace(host: Host, registration: Path, namespace: Path) -> None:
    run("umount", str(namespace))
    run("mount", "--bind", "/proc/self/ns/net", str(namespace))


def _host_namespace_registered(host: Host, registration: Path, namespace: Path) -> None:
    inode = str(namespace.stat().st_ino)
    _host_namespace(host, registration, namespace)
    registration.write_text(registration.read_text().replace(inode, str(HOST_INODE)))


def _no_namespace(host: Host, _registration: Path, namespace: Path) -> None:
    run("umount", str(namespace))


def _open_registry(host: Host, _registration: Path, _namespace: Path) -> None:
    host.registry.chmod(0o755)


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (_other_boot, "another boot"),
        (_other_generation, "generation"),
        (_host_namespace, "the host's own network namespace"),
        (_host_namespace_registered, "the host's own network namespace"),
        (_no_namespace, "not a network namespace"),
        (_open_registry, "not root's alone"),
    ],
)
async def test_no_start_when_a_step_is_broken(
    bare_host: Host, break_it: Callable[[Host, Path, Path], None], reason: str
) -> None:
    async with bare_host.ipam():
        # Nothing may mend what is broken before the start.
        await bare_host.start_hostd(reconcile_s=3600)
        name = bare_host.name("one")
        container, view = await asyncio.gather(bare_host.create(name), bare_host.add(name))
        await bare_host.register(name, container.id)
        break_it(bare_host, bare_host.registry / container.id, Path(view["namespace"]))
        await assert_refused(container, reason)


async def test_no_start_with_a_registration_kept_from_before_the_del(host: Host) -> None:
    name = host.name("one")
    container = await host.create(name)
    await host.add(name)
    await host.register(name, container.id)
    kept = (host.registry / container.id).read_text()
    await host.delete(name)
    stale = host.registry / container.id
    assert not stale.exists()
    stale.write_text(kept)
    stale.chmod(0o600)
    await assert_refused(container, "generation|no network namespace is registered")


@pytest.mark.parametrize("mode", ["none", "bridge", "container:{}"])
async def test_no_start_in_another_network_mode(host: Host, mode: str) -> None:
    other = await host.start("other")
    name = host.name("one")
    container = await host.create(name, NetworkMode=mode.format(other.container.id))
    await host.add(name)
    await host.register(name, container.id)
    await assert_refused(container, "network mode host|another network namespace|bridge")


async def test_stale_and_unknown_registrations_are_refused(host: Host) -> None:
    name = host.name("one")
    container = await host.create(name)
    with pytest.raises(NotFound):
        await host.register(name, container.id)
    await host.add(name, generation=3)
    with pytest.raises(Stale):
        await host.register(name, container.id, generation=2)
    with pytest.raises(Stale):
        await host.add(name, generation=2)
    with pytest.raises(Conflict):
        await host.add(name, "blue", generation=3)
    with pytest.raises(NotFound, match="no network"):
        await host.add(host.name("two"), "green")
    assert list(await host.attachments()) == [name]


async def test_an_intruder_is_killed(host: Host) -> None:
    """A container of ours that some other way put into the host's namespace does not live long."""
    name = host.name("intruder")
    container = await host.create(name, Runtime="runc")
    await container.start()

    async def dead() -> bool:
        return not (await container.show())["State"]["Running"]

    await host.until(dead, "the intruder lives")
    assert "intruder" in (host.home / "hostd.log").read_text()
