"""The whole control plane with its data on a disk that fills: one process, real files, and no restart."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from infra.provision.process import free_ports
from tests.disks import SmallDisk, small_disk
from tests.fakes.gateway import SPEC

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Plane:
    """`python -m services` on a small disk; its log is there, too."""

    disk: SmallDisk
    config: Path
    url: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.disk.root / "gantry.log").open("ab") as log:
            command = [sys.executable, "-m", "services", "--config", str(self.config)]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    async def call(
        self, session: aiohttp.ClientSession, method: str, path: str, content: Any = None
    ) -> tuple[int, Any]:
        key = (self.disk.root / "admin.key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        async with session.request(
            method, f"{self.url}{path}", json=content, headers=headers
        ) as answer:
            return answer.status, await answer.json()

    async def ready(self, session: aiohttp.ClientSession) -> None:
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            assert self.process is not None and self.process.poll() is None, self.log()
            try:
                async with session.get(f"{self.url}/readyz") as answer:
                    if answer.status == 200 and (self.disk.root / "admin.key").exists():
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
        raise AssertionError(self.log())

    def log(self) -> str:
        return (self.disk.root / "gantry.log").read_text()


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    gateway, master, agent = free_ports(3)
    with small_disk(tmp_path / "data", mib=48) as disk, on(disk, gateway, master, agent) as plane:
        yield plane


@contextmanager
def on(disk: SmallDisk, gateway: int, master: int, agent: int) -> Iterator[Plane]:
    config = disk.root.parent / "gantry.yaml"
    content = {
        "common": {
            "data_dir": str(disk.root),
            "instance": "one",
            "trace_file": str(disk.root / "spans.jsonl"),
            "listen": {"gateway": f"127.0.0.1:{gateway}"},
        },
        "minimesos": {"master_port": master, "agents": [{"port": agent}]},
        "scheduler": {
            "masters": [f"127.0.0.1:{master}"],
            "principal": "gantry",
            "credential_file": str(disk.root / "mesos.secret"),
            "executor_command": "exec sleep 1000",  # it never subscribes: what is placed stays staged
        },
        "monitor": {
            "masters": [f"127.0.0.1:{master}"],
            "principal": "gantry",
            "credential_file": str(disk.root / "mesos.secret"),
            "disk_s": 1,
        },
        "ipam": {
            "networks": [{"name": "red", "cidr": "10.9.0.0/24", "vlan": 9, "gateway": "10.9.0.1"}]
        },
        "deployer": {"resolve_images": False},
    }
    config.write_text(yaml.safe_dump(content))
    plane = Plane(disk, config, f"http://127.0.0.1:{gateway}")
    plane.start()
    try:
        yield plane
    finally:
        plane.kill()
        for each in Path("/proc").iterdir():
            if each.name.isdigit() and _is_executor(each, disk.root):
                os.kill(int(each.name), signal.SIGKILL)


def _is_executor(process: Path, root: Path) -> bool:
    try:
        return f"MESOS_DIRECTORY={root}/".encode() in (process / "environ").read_bytes()
    except OSError:
        return False


def app(number: int) -> dict[str, Any]:
    image = "registry/web@sha256:" + "0" * 64
    return {**SPEC, "image": image, "network": "red", "labels": {"n": f"{number}" + "x" * 50}}


async def test_a_control_plane_survives_a_full_disk(plane: Plane) -> None:
    kept: set[str] = set()
    async with aiohttp.ClientSession() as session:
        await plane.ready(session)
        for number in range(3):
            status, said = await plane.call(session, "PUT", f"/v1/apps/acme/a{number}", app(number))
            assert status in (200, 201), said
            kept.add(f"acme/a{number}")
        plane.disk.fill()
        refused: list[tuple[int, Any]] = []
        deadline = time.monotonic() + 30
        number = 100
        while len(refused) < 5 and time.monotonic() < deadline:
            number += 1
            status, said = await plane.call(session, "PUT", f"/v1/apps/acme/a{number}", app(number))
            if status in (200, 201):
                kept.add(f"acme/a{number}")
            else:
                refused.append((status, said))
        assert len(refused) == 5
        assert {status for status, _ in refused} == {503}, refused
        assert "the disk is full" in refused[0][1]["detail"]
        await asyncio.sleep(3)  # loops of all services meet it, too
        status, said = await plane.call(session, "GET", "/v1/apps")
        assert status == 200  # what is there can be read
        assert plane.process is not None and plane.process.poll() is None
        assert "service failed" not in plane.log()
        plane.disk.free()
        deadline = time.monotonic() + 30
        while True:
            status, said = await plane.call(session, "PUT", "/v1/apps/acme/after", app(1))
            if status in (200, 201) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        assert status in (200, 201), said
        kept.add("acme/after")
        status, said = await plane.call(
            session, "POST", "/v1/apps/acme/after/deploys", {"image": app(1)["image"]}
        )
        assert status == 202, said
        deadline = time.monotonic() + 40
        placed: list[Any] = []
        while not placed and time.monotonic() < deadline:
            status, said = await plane.call(session, "GET", "/v1/apps/acme/after/instances")
            placed = [each for each in said["instances"] if each.get("agent")]
            await asyncio.sleep(0.2)
        assert placed, (said, plane.log())
        await check(plane, session, kept)
    plane.kill()
    plane.start()
    async with aiohttp.ClientSession() as session:
        await plane.ready(session)
        await check(plane, session, kept)


async def check(plane: Plane, session: aiohttp.ClientSession, kept: set[str]) -> None:
    status, said = await plane.call(session, "GET", "/v1/apps")
    assert status == 200
    assert kept <= {each["id"] if "id" in each else each["app"] for each in said["apps"]}, said
