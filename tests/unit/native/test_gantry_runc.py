"""The runtime shim as Docker runs it, in front of a runc that only tells what it was given.

Namespaces, ownership and modes are real, so these tests run as root, as all of hostd does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ID = "3f" * 32
BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
FAKE_RUNC = '#!/bin/sh\nprintf "%s\\n" "$0" "$@" > "$(dirname "$0")/called"\n'


@dataclass
class World:
    """A registry, a bundle and one network namespace, all under one directory."""

    home: Path
    shim: Path
    registry: Path
    named: bool = True

    @property
    def namespace(self) -> Path:
        return self.home / "netns/n1"

    @property
    def host_path(self) -> Path:
        return self.home / "docker/netns/default"

    def register(self, name: str = ID, **change: str) -> None:
        fields = {
            "boot_id": BOOT_ID,
            "container": ID,
            "generation": "7",
            "inode": str(self.namespace.stat().st_ino),
            "namespace": "n1",
            "path": str(self.namespace),
        }
        fields.update(change)
        lines = [
            "gantry-registration 1",
            *(f"{key}={value}" for key, value in fields.items()),
        ]
        write_private(self.registry / name, "\n".join(lines) + "\n")

    def set_generation(self, generation: str) -> None:
        write_private(self.registry / "n1.generation", generation + "\n")

    def write_spec(self, *namespaces: dict[str, str]) -> None:
        document = {"linux": {"namespaces": list(namespaces)}}
        (self.home / "bundle/config.json").write_text(json.dumps(document))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        options = [f"--gantry-runc={self.home}/runc"]
        if self.named:
            options.insert(0, f"--gantry-registry={self.registry}")
        command = [str(self.shim), *options, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20)

    def create(self) -> subprocess.CompletedProcess[str]:
        log = (
            "--root",
            "/r",
            "--log",
            str(self.home / "log.json"),
            "--log-format",
            "json",
        )
        bundle = ("--bundle", str(self.home / "bundle"), "--pid-file", "/p")
        return self.run(*log, "--systemd-cgroup", "create", *bundle, ID)

    def called(self) -> list[str]:
        try:
            return (self.home / "called").read_text().splitlines()
        except FileNotFoundError:
            return []

    def assert_refused(self, reason: str) -> None:
        before = (self.home / "bundle/config.json").read_bytes()
        done = self.create()
        assert done.returncode == 1
        assert reason in done.stderr
        assert self.called() == []
        assert (self.home / "bundle/config.json").read_bytes() == before
        told = json.loads((self.home / "log.json").read_text().splitlines()[-1])
        assert told["level"] == "error"
        assert reason in told["msg"]


def write_private(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


@pytest.fixture
def world(tmp_path: Path, native: Path) -> Iterator[World]:
    made = World(tmp_path, native / "gantry-runc", tmp_path / "reg")
    for directory in ("reg", "bundle", "netns", "docker/netns"):
        (tmp_path / directory).mkdir(parents=True, mode=0o700)
    (tmp_path / "runc").write_text(FAKE_RUNC)
    (tmp_path / "runc").chmod(0o755)
    made.namespace.touch()
    made.host_path.touch()
    subprocess.run(["unshare", f"--net={made.namespace}", "true"], check=True, timeout=10)
    mount_host_namespace(made.host_path)
    made.write_spec({"type": "pid"}, {"type": "network", "path": str(made.host_path)})
    made.register()
    made.set_generation("7")
    yield made
    for path in (made.namespace, made.host_path):
        subprocess.run(["umount", "-l", str(path)], capture_output=True, timeout=10)


def mount_host_namespace(path: Path) -> None:
    subprocess.run(["mount", "--bind", "/proc/self/ns/net", str(path)], check=True, timeout=10)


def network_of(world: World) -> list[dict[str, str]]:
    document = json.loads((world.home / "bundle/config.json").read_text())
    return [n for n in document["linux"]["namespaces"] if n["type"] == "network"]


def test_create_enters_the_registered_namespace_once(world: World) -> None:
    done = world.create()
    assert done.returncode == 0, done.stderr
    assert network_of(world) == [{"type": "network", "path": str(world.namespace)}]
    log = ["--root", "/r", "--log", f"{world.home}/log.json", "--log-format", "json"]
    bundle = ["--bundle", f"{world.home}/bundle", "--pid-file", "/p"]
    expected = [*log, "--systemd-cgroup", "create", *bundle, ID]
    assert world.called() == [str(world.home / "runc"), *expected]
    assert not (world.registry / ID).exists()
    (world.home / "called").unlink()
    world.assert_refused("no network namespace is registered")


@pytest.fixture
def clusters() -> Iterator[list[Path]]:
    """The registries of two clusters where the shim looks by itself."""
    base = Path("/run/gantry")
    names = [f"t{os.getpid()}-{n}" for n in range(2)]
    registries = [base / name / "netns-reg" for name in names]
    for registry in registries:
        registry.mkdir(parents=True)
        registry.chmod(0o700)
    yield registries
    for name in names:
        shutil.rmtree(base / name)


def test_finds_the_cluster_that_registered_the_container(
    world: World, clusters: list[Path]
) -> None:
    world.named = False
    world.assert_refused("no network namespace is registered")
    world.registry = clusters[1]
    world.register()
    world.set_generation("7")
    assert world.create().returncode == 0
    for registry in clusters:
        world.registry = registry
        world.register()
        world.set_generation("7")
    (world.home / "called").unlink()
    world.assert_refused("two clusters")


def test_an_engine_that_leaves_the_entry_out(world: World) -> None:
    world.write_spec({"type": "pid"})
    assert world.create().returncode == 0
    assert network_of(world) == [{"type": "network", "path": str(world.namespace)}]


@pytest.mark.parametrize(
    "arguments",
    [
        ("start", ID),
        ("--root", "create", "state", ID),
        ("--log", "/dev/null", "--log-format=json", "delete", "--force", ID),
        ("exec", "--process", "/x", "create"),
        ("--version",),
        ("features",),
        (),
    ],
)
def test_other_verbs_pass_through_untouched(world: World, arguments: tuple[str, ...]) -> None:
    assert world.run(*arguments).returncode == 0
    assert world.called() == [str(world.home / "runc"), *arguments]
    assert (world.registry / ID).exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("run", ID), "not allowed"),
        (("restore", ID), "not allowed"),
        (("--strange", "create", ID), "unknown option"),
        (("create", "--strange", ID), "unknown option"),
        (("create", "--bundle"), "needs a value"),
        (("create",), "exactly one"),
        (("create", ID, ID), "exactly one"),
        (("create", "../x"), "impossible container id"),
        (("create", "n1.generation"), "impossible container id"),
    ],
)
def test_what_it_does_not_understand_is_refused(
    world: World, arguments: tuple[str, ...], reason: str
) -> None:
    done = world.run(*arguments)
    assert done.returncode == 1
    assert reason in done.stderr
    assert world.called() == []


def test_no_registration(world: World) -> None:
    (world.registry / ID).unlink()
    world.assert_refused("no network namespace is registered")


def test_no_registry(world: World) -> None:
    world.registry.rename(world.home / "elsewhere")
    world.assert_refused("no network namespace is registered")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"boot_id": "0" * 36}, "another boot"),
        ({"container": "ab" * 32}, "another container"),
        ({"generation": "6"}, "generation 6"),
        ({"generation": "-7"}, "no number"),
        ({"generation": "99999999999999999999"}, "no number"),
        ({"inode": "1"}, "another namespace"),
        ({"path": "/proc/1/ns/net"}, "cannot be opened"),
        ({"path": "/proc/version"}, "not a network namespace"),
        ({"path": "netns/n1"}, "impossible"),
        ({"path": '/x","y":"'}, "impossible"),
        ({"namespace": "../n1"}, "impossible"),
        ({"namespace": "n2"}, "no generation"),
        ({"path": "/x\nextra=1"}, "more lines"),
        ({"boot_id": "x" * 100}, "too long"),
    ],
)
def test_a_registration_that_is_wrong(world: World, change: dict[str, str], reason: str) -> None:
    world.register(**change)
    world.assert_refused(reason)


def test_a_generation_that_moved_on(world: World) -> None:
    world.set_generation("8")
    world.assert_refused("generation 7, the namespace of 8")


def test_the_host_namespace_mounted_over_the_path(world: World) -> None:
    mount_host_namespace(world.namespace)
    try:
        world.assert_refused("the host's own network namespace")
        world.register()  # even when the registration names the host's inode
        world.assert_refused("the host's own network namespace")
    finally:
        subprocess.run(["umount", str(world.namespace)], check=True, timeout=10)


def test_another_kind_of_namespace(world: World) -> None:
    other = world.home / "netns/uts"
    other.touch()
    subprocess.run(["mount", "--bind", "/proc/self/ns/uts", str(other)], check=True, timeout=10)
    try:
        world.register(path=str(other), inode=str(other.stat().st_ino))
        world.assert_refused("not a network namespace")
    finally:
        subprocess.run(["umount", str(other)], check=True, timeout=10)


def test_a_namespace_that_is_gone(world: World) -> None:
    subprocess.run(["umount", str(world.namespace)], check=True, timeout=10)
    world.assert_refused("not a network namespace")
    world.namespace.unlink()
    world.assert_refused("cannot be opened")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_files_that_others_may_touch(world: World, mode: int) -> None:
    (world.registry / ID).chmod(mode)
    world.assert_refused("not a file of root's alone")
    world.register()
    (world.registry / "n1.generation").chmod(mode)
    world.assert_refused("not a file of root's alone")


def test_a_registration_of_someone_else(world: World) -> None:
    os.chown(world.registry / ID, 65534, 65534)
    world.assert_refused("not a file of root's alone")


def test_a_registry_that_others_may_touch(world: World) -> None:
    world.registry.chmod(0o711)
    world.assert_refused("not root's alone")


def test_links_in_the_registry(world: World) -> None:
    (world.registry / ID).rename(world.home / "real")
    (world.registry / ID).symlink_to(world.home / "real")
    world.assert_refused("cannot read")
    (world.registry / ID).unlink()
    (world.registry / ID).hardlink_to(world.home / "real")
    world.assert_refused("not a file of root's alone")


@pytest.mark.parametrize("text", [b"", b"gantry-registration 2\n", b"\0" * 10, b"x" * 5000])
def test_a_registration_that_is_no_registration(world: World, text: bytes) -> None:
    (world.registry / ID).write_bytes(text)
    world.assert_refused("registration" if len(text) < 4096 and b"\0" not in text else "registry")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"type": "network"}, "not created with network mode host"),
        ({"type": "network", "path": ""}, "not created with network mode host"),
        ({"type": "network", "path": "/proc/1/ns/net"}, "another network namespace"),
        ({"type": "network", "path": "/nowhere/netns/default"}, "not the host's"),
    ],
)
def test_a_container_made_for_another_network(
    world: World, entry: dict[str, str], reason: str
) -> None:
    world.write_spec({"type": "pid"}, entry)
    world.assert_refused(reason)
    assert (world.registry / ID).exists()


def test_a_default_path_that_is_not_the_hosts(world: World) -> None:
    subprocess.run(["umount", str(world.host_path)], check=True, timeout=10)
    subprocess.run(["unshare", f"--net={world.host_path}", "true"], check=True, timeout=10)
    world.assert_refused("not the host's")


def test_a_spec_that_is_broken_or_too_large(world: World) -> None:
    config = world.home / "bundle/config.json"
    config.write_text("{")
    world.assert_refused("config.json is refused")
    config.write_text(" " * (16 * 1024 * 1024 + 1))
    world.assert_refused("larger than")


def test_a_missing_runc_is_said(world: World) -> None:
    (world.home / "runc").unlink()
    done = world.create()
    assert done.returncode == 1
    assert "cannot execute" in done.stderr
