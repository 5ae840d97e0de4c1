"""What the demo does, step by step, on a real local cluster. A step that doesn't hold raises DemoFailed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from infra.images.build import BuiltImage
from infra.local.layout import Layout
from infra.local.processes import Daemon, run
from libs.client.api import GantryClient
from libs.client.jobs import RunView
from libs.client.model import InstanceView

APP = "acme/web"
JOB = "acme/clock"
RUNS = 2
NETWORK = "web"
PORT = 8080
SETTLE_S = 120.0


class Ground(Protocol):
    """The cluster on which it is told: of one process or of many."""

    @property
    def layout(self) -> Layout: ...

    def engine_sockets(self) -> tuple[Path, ...]:
        """The Docker engines of its hosts."""
        ...


class DemoFailed(Exception):
    """Something did not come out as it must."""


@dataclass
class Step:
    """One line of the table at the end."""

    name: str
    seconds: float = 0.0
    detail: str = ""
    requests: int = 0
    failed: int = 0


@dataclass
class Story:
    """What is done on any cluster; `crashes.py` has what is broken on one of a single machine."""

    stack: Ground
    client: GantryClient
    images: Mapping[str, BuiltImage]
    size: int
    say: Callable[[str], None]
    steps: list[Step] = field(default_factory=list)

    # -- telling

    @asynccontextmanager
    async def step(self, name: str) -> AsyncIterator[Step]:
        """Time a step, and count the load's requests and failures in it."""
        self.say(f"\n[bold cyan]▶ {name}[/]")
        step = Step(name)
        before = self.load_counts()
        started = time.monotonic()
        yield step
        step.seconds = time.monotonic() - started
        after = self.load_counts()
        step.requests = after["requests"] - before["requests"]
        step.failed = after["failed"] - before["failed"]
        self.steps.append(step)
        self.say(f"  [green]✓[/] {step.detail or 'done'} [dim]({step.seconds:.1f} s)[/]")

    async def gantry(self, *arguments: str, expect: int = 0) -> None:
        """Run the CLI as a person would, with its output on this terminal."""
        self.say(f"  [dim]$ gantry {' '.join(arguments)}[/]")
        environ = {
            **os.environ,
            "GANTRY_URL": self.stack.layout.url,
            "GANTRY_KEY_FILE": str(self.stack.layout.admin_key_file),
        }
        command = str(Path(sys.executable).with_name("gantry"))
        process = await asyncio.create_subprocess_exec(command, *arguments, env=environ)
        code = await process.wait()
        if code != expect:
            raise DemoFailed(f"gantry {' '.join(arguments)} ended with {code}, not {expect}")

    # -- looking

    async def instances(self) -> list[InstanceView]:
        """The app's instances."""
        return list((await self.client.instances(APP)).instances)

    async def healthy(self, count: int, what: str) -> list[InstanceView]:
        """Wait until exactly `count` instances exist and all are healthy."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            found = await self.instances()
            if len(found) == count and all(each.healthy for each in found):
                return found
            if time.monotonic() > deadline:
                good = sum(bool(each.healthy) for each in found)
                raise DemoFailed(f"{what}: {good} healthy of {len(found)} instances, not {count}")
            await asyncio.sleep(0.2)

    async def ask_each(self, instances: list[InstanceView]) -> dict[str, int]:
        """Ask every instance at its own address, from inside its VLAN; returns how many run which version."""
        addresses = [each.address for each in instances]
        if len(set(addresses)) != len(addresses) or not all(addresses):
            raise DemoFailed(f"addresses are not unique: {sorted(addresses)}")
        out = await self._inside("-m", "infra.demo.ask", str(PORT), *addresses)
        versions: dict[str, int] = json.loads(out)
        return versions

    async def containers(self) -> dict[str, str]:
        """Running containers of the cluster's apps: name → id. Those that runs of jobs share are not among them."""
        label = f"label=gantry.cluster={self.stack.layout.cluster}"
        found: dict[str, str] = {}
        for socket in self.stack.engine_sockets():
            out = await run(
                *("docker", "-H", f"unix://{socket}", "ps", "--no-trunc", "--filter", label),
                *("--format", '{{.Names}} {{.ID}} {{.Label "gantry.pool"}}'),
            )
            words = [line.split() for line in out.splitlines()]
            found |= {each[0]: each[1] for each in words if len(each) == 2}
        return found

    async def _inside(self, *arguments: str) -> str:
        return await run(
            *("ip", "netns", "exec", self.stack.layout.edge, sys.executable, *arguments)
        )

    # -- load

    @property
    def _load(self) -> Daemon:
        layout = self.stack.layout
        return Daemon("load", layout.root / "load.pid", layout.logs / "load.log")

    @property
    def _load_file(self) -> Path:
        return self.stack.layout.root / "load.json"

    def start_load(self) -> None:
        """Continuous requests through HAProxy, from the edge; the counts begin at nothing."""
        self._load_file.unlink(missing_ok=True)
        layout = self.stack.layout
        gateway = next(vlan.gateway for vlan in layout.vlans if vlan.name == NETWORK)
        url = f"http://{gateway}:{layout.pools[0].port}/"
        enter = ("ip", "netns", "exec", layout.edge, sys.executable, "-m", "infra.demo.load")
        self._load.start((*enter, "--url", url, "--out", str(self._load_file)), layout.repo)

    async def stop_load(self) -> dict[str, Any]:
        """End it; returns what it has seen."""
        await self._load.stop()
        return self.load_counts()

    def load_counts(self) -> dict[str, Any]:
        """What the load has seen so far."""
        try:
            counts: dict[str, Any] = json.loads(self._load_file.read_text())
        except FileNotFoundError:  # it has just been started
            counts = {"requests": 0, "failed": 0, "versions": {}, "errors": []}
        return counts

    # -- the steps

    def spec(self, image: str, instances: int) -> dict[str, Any]:
        """The demo app's spec."""
        return {
            "image": self.images[image].reference,
            "instances": instances,
            "network": NETWORK,
            "resources": {"cpus": 0.05, "mem_mib": 32},
            "health": [
                {"type": "http", "port": PORT, "path": "/health", "interval_s": 1.0, "grace_s": 5.0}
            ],
            "strategy": {
                "max_surge": "50%",
                "max_unavailable": 0,
                "deadline_s": 120,
                "max_failures": 2,
            },
            "load_balancer": {
                "driver": "haproxy",
                "backend": self.stack.layout.pools[0].name,
                "port": PORT,
                "drain_s": 5.0,
            },
            "stop_grace_s": 5.0,
        }

    def write_spec(self, image: str, instances: int) -> Path:
        """The spec as the file a person would have."""
        file = self.stack.layout.root / f"web-{image.partition(':')[2]}.yaml"
        file.write_text(
            yaml.safe_dump({"app": APP, **self.spec(image, instances)}, sort_keys=False)
        )
        return file

    async def release(self, image: str, *, expect: int = 0) -> None:
        """`gantry deploy` of a version."""
        await self.gantry("deploy", str(self.write_spec(image, self.size)), expect=expect)

    async def expect_versions(self, version: str, count: int) -> str:
        """All instances, asked at their own addresses, run this version."""
        versions = await self.ask_each(await self.healthy(count, version))
        if versions != {version: count}:
            raise DemoFailed(f"expected {count} × {version}, found {versions}")
        return f"{count} instances answer {version} at their own VLAN addresses"

    async def job(self, image: str) -> str:
        """A job that runs each second; returns how late RUNS runs in one container were, and its address."""
        spec = {
            "schedule": "* * * * * *",
            "image": self.images[image].reference,
            "network": NETWORK,
            "command": ["/bin/sh", "-c", "ip -4 -o addr show scope global"],
            "resources": {"cpus": 0.05, "mem_mib": 32},
        }
        file = self.stack.layout.root / "clock.yaml"
        file.write_text(yaml.safe_dump({"job": JOB, **spec}, sort_keys=False))
        await self.gantry("job", "put", str(file))
        ran = await self._ran(RUNS)
        await self.gantry("job", "history", JOB)
        await self.client.jobs.remove(JOB)
        late = ", ".join(f"{1000 * ((each.started or 0.0) - each.target):.0f}" for each in ran)
        address = ran[0].output.split()[3].partition("/")[0]
        return f"{len(ran)} runs of a job began {late} ms after their time, all at {address}"

    async def _ran(self, count: int) -> list[RunView]:
        """The job's newest runs that have succeeded, so many, oldest first; all of one container."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            runs = (await self.client.jobs.runs(JOB)).runs
            ran = [each for each in runs if each.state == "succeeded"][:count]
            if len(ran) == count and len({each.output for each in ran}) == 1:
                return ran[::-1]
            if time.monotonic() > deadline:
                raise DemoFailed(f"{JOB} has not had {count} good runs in one container: {runs}")
            await asyncio.sleep(0.2)
