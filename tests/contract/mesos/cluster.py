"""A Mesos to test against: a freshly started minimesos, or one that runs elsewhere.

`Power` says what a scenario needs beyond talking HTTP; an external Mesos has none of the powers, so
scenarios that need one are deselected there (conftest.py prints which and why).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.contract.mesos.machine import Machine
from tests.contract.mesos.wire import Connection

ROOT = Path(__file__).resolve().parents[3]
START_TIMEOUT_S = 60.0


class Power(StrEnum):
    """What a scenario may do to the cluster besides calling it."""

    AGENT = "kill, stop and start the agent"
    MASTER = "kill and start the master"
    FLAGS = "start master and agents with flags of its own"
    EXECUTOR = "run executors that connect back to this machine"


MASTER_FLAGS: Mapping[str, str] = {
    "agent_ping_timeout": "3secs",
    "max_agent_ping_timeouts": "3",
    "registry": "in_memory",
    "cluster": "ref",
    "hostname": "127.0.0.1",
}
"""As the recordings were made."""
AGENT_FLAGS: Mapping[str, str] = {
    "executor_registration_timeout": "20secs",
    "executor_reregistration_timeout": "20secs",  # recovery is over as soon as all are back
    "resources": "cpus:4;mem:4096;disk:10000;ports:[31000-32000]",
    "attributes": "rack:r1;class:fat",
    "hostname": "127.0.0.1",
}


@dataclass(slots=True)
class Process:
    """One minimesos process and how to start it again."""

    args: list[str]
    env: dict[str, str]
    log: Path
    process: asyncio.subprocess.Process | None = None
    ready: dict[str, Any] = field(default_factory=dict)

    async def start(self) -> None:
        """Start it and wait for its line of JSON."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.args, stdout=asyncio.subprocess.PIPE, stderr=log, env=self.env, cwd=ROOT
            )
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                line = await self.process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(self.args)} did not start: {tail}")
        self.ready = json.loads(line)

    def signal(self, number: int) -> None:
        """Send a signal to it, if it lives."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        if self.process is None:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        await self.process.wait()


@dataclass(slots=True)
class Mesos:
    """Where a Mesos is and what may be done to it."""

    master_url: str
    agent_url: str
    powers: frozenset[Power]
    agent_urls: list[str] = field(default_factory=list)
    master: Process | None = None
    agents: list[Process] = field(default_factory=list)
    machine: Machine | None = None
    standby: Process | None = None
    standby_url: str = ""

    async def fail_over(self) -> None:
        """The leading master dies, and the standby leads: as Mesos' do, with what the replicated log has.

        The standby's process gives way to one on its port that has the log, which stands for its election.
        """
        assert self.master is not None and self.standby is not None
        await self.master.kill()
        await self.standby.kill()
        port = f"--port={urlsplit(self.standby_url).port}"
        log = next(word for word in self.master.args if word.startswith("--work_dir="))
        kept = [w for w in self.master.args if not w.startswith(("--port=", "--work_dir="))]
        self.standby.args = [*kept, port, log]
        await self.standby.start()
        self.master, self.standby = self.standby, self.master
        self.master_url, self.standby_url = self.standby_url, self.master_url

    async def look(self) -> None:
        """Learn what the agent of an external Mesos is like; it must be the only one."""
        _, body = await self.get("master", "/slaves")
        slaves = [slave for slave in (body or {}).get("slaves", []) if slave.get("active")]
        if len(slaves) != 1:
            raise RuntimeError(
                f"{self.master_url} needs exactly one active agent, has {len(slaves)}"
            )
        self.machine = Machine.of_slave(slaves[0])
        if not self.agent_url:
            self.agent_url = f"http://{slaves[0]['hostname']}:{slaves[0]['port']}"

    def host_port(self, peer: str) -> tuple[str, int]:
        """Where `peer` (`master`, `agent`, `agent2`) listens."""
        url = {"master": self.master_url, "agent": self.agent_url}.get(peer) or self.agent_urls[1]
        parts = urlsplit(url)
        return parts.hostname or "127.0.0.1", parts.port or 80

    async def get(self, peer: str, path: str) -> tuple[int, Any]:
        """Status and JSON (None when it is none) of a GET."""
        host, port = self.host_port(peer)
        connection = await Connection.open(host, port)
        try:
            await connection.send(f"GET {path} HTTP/1.1", [("Host", f"{host}:{port}")], None)
            async with asyncio.timeout(5.0):
                answer = await connection.answer()
        finally:
            connection.close()
        with contextlib.suppress(ValueError):
            return int(answer.status.split()[1]), json.loads(answer.body)
        return int(answer.status.split()[1]), None

    async def await_agents(self, count: int, timeout_s: float = 60.0) -> None:
        """Until `count` agents are registered and active."""
        active: list[Any] = []
        async with asyncio.timeout(timeout_s):
            while len(active) < count:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    _, body = await self.get("master", "/slaves")
                    slaves = (body or {}).get("slaves", [])
                    active = [slave for slave in slaves if slave.get("active")]
                await asyncio.sleep(0.05)


def _env() -> dict[str, str]:
    # The suite's own variables must not leak into what the agent gives its executors.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MESOS_")}
    return {**env, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def _args(role: str, flags: Mapping[str, str]) -> list[str]:
    words = [sys.executable, "-m", "libs.minimesos", role]
    for name, text in flags.items():
        words += [f"--{name}={text}"]
    return words


@asynccontextmanager
async def minimesos(
    directory: Path,
    *,
    master_flags: Mapping[str, str] | None = None,
    agent_flags: Mapping[str, str] | None = None,
    second_agent_flags: Mapping[str, str] | None = None,
    agents: int = 1,
    standby: bool = False,
) -> AsyncIterator[Mesos]:
    """A master and agents of our own, with every power; gone at the end. `standby`: a second master beside it."""
    master_dir = directory / "master"
    (directory / "credentials").write_text("pr se\n")
    placed = {"{credentials}": str(directory / "credentials")}
    master_flags = {name: placed.get(text, text) for name, text in (master_flags or {}).items()}
    flags = {**MASTER_FLAGS, **master_flags, "port": "0", "work_dir": str(master_dir)}
    master = Process(_args("master", flags), _env(), directory / "master.log")
    processes = [master]
    try:
        await master.start()
        url = str(master.ready["master"])
        # A restart has to come back on the same port.
        master.args = _args("master", {**flags, "port": str(urlsplit(url).port)})
        mesos = Mesos(url, "", frozenset(Power), master=master)
        masters = url
        if standby:
            mesos.standby = Process(
                _args("master", {**MASTER_FLAGS, "port": "0", "leader": urlsplit(url).netloc}),
                _env(),
                directory / "standby.log",
            )
            processes.append(mesos.standby)
            await mesos.standby.start()
            mesos.standby_url = str(mesos.standby.ready["master"])
            masters = f"{url},{mesos.standby_url}"
        for number in range(agents):
            extra = second_agent_flags if number == 1 and second_agent_flags else agent_flags
            agent = await _agent(directory / f"agent-{number}", masters, extra or {})
            processes.append(agent)
            mesos.agents.append(agent)
            mesos.agent_urls.append(str(agent.ready["agents"][0]))
        mesos.agent_url = mesos.agent_urls[0] if mesos.agent_urls else ""
        if agents:
            await mesos.await_agents(agents)
        yield mesos
    finally:
        for process in reversed(processes):
            await process.kill()
        _kill_orphans(directory)


async def _agent(work_dir: Path, masters: str, flags: Mapping[str, str]) -> Process:
    every = {
        **AGENT_FLAGS,
        **flags,
        "master": ",".join(urlsplit(each).netloc for each in masters.split(",")),
        "port": "0",
        "work_dir": str(work_dir),
    }
    agent = Process(_args("agent", every), _env(), work_dir.with_suffix(".log"))
    await agent.start()
    port = urlsplit(str(agent.ready["agents"][0])).port
    agent.args = _args("agent", {**every, "port": str(port)})
    return agent


def _kill_orphans(directory: Path) -> None:
    """End executors that outlived their agent: they have its work directory as theirs."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if str((entry / "cwd").readlink()).startswith(str(directory)):
                os.kill(int(entry.name), signal.SIGKILL)


def external(environ: Mapping[str, str]) -> Mesos | None:
    """The Mesos named by GANTRY_TEST_MESOS and GANTRY_TEST_MESOS_AGENT, if any."""
    master = environ.get("GANTRY_TEST_MESOS")
    if not master:
        return None
    agent = environ.get("GANTRY_TEST_MESOS_AGENT", "")
    local = urlsplit(agent).hostname in ("127.0.0.1", "localhost")
    powers = frozenset({Power.EXECUTOR}) if local else frozenset[Power]()
    return Mesos(master, agent, powers, agent_urls=[agent] if agent else [])


def wipe_agent(agent: Process) -> None:
    """Throw its work directory away: it will register as a new agent."""
    flag = next(word for word in agent.args if word.startswith("--work_dir="))
    shutil.rmtree(flag.partition("=")[2], ignore_errors=True)
