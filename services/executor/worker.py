"""`python -m services.executor.worker --config FILE`: the worker's wiring. The supervisor starts it.

Exit status: 0 after SHUTDOWN, 78 when the configuration or Mesos' environment is wrong, else 1 or a signal's.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import hashlib
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import uvloop

from libs.common.clock import RngIds, SystemClock, system_rng
from libs.common.disk import measure
from libs.common.errors import InvalidInput
from libs.common.peers import PeerClient
from libs.common.spans import open_sinks
from libs.common.telemetry import Telemetry, make_log
from libs.common.waiting import TaskGroup
from libs.mesos.environment import ExecutorEnvironment
from libs.mesos.errors import EnvironmentInvalid
from libs.mesos.http import AiohttpTransport
from services.executor import beats
from services.executor.config import ExecutorConfig, load
from services.executor.docker import DockerEngine
from services.executor.exec import DockerCommands
from services.executor.health import NamespaceProber
from services.executor.hostd import HostdClient
from services.executor.janitor import Janitor
from services.executor.journal import FileJournal
from services.executor.ledger import FileLedger
from services.executor.mesos import MesosDriver
from services.executor.model import Identity
from services.executor.runs.inits import SocketInits
from services.executor.service import ExecutorService
from services.executor.signs import Signs
from services.executor.supervisor import EXIT_CONFIG

_PR_SET_PDEATHSIG = 1
_CLONE_NEWCGROUP = 0x02000000


def run_id(environment: ExecutorEnvironment) -> str:
    """Tells this run of the executor from others: a supervisor has its sandbox to itself."""
    return hashlib.sha256(environment.sandbox.encode()).hexdigest()[:12]


def ends_file(config: ExecutorConfig, agent: str) -> Path:
    """Where this agent's executors, one after the other, keep how runs ended; several agents may be on a host."""
    name = hashlib.sha256(agent.encode()).hexdigest()[:12]
    return config.data_dir / config.cluster / "ends" / f"{name}.journal"


async def work(config: ExecutorConfig, environment: ExecutorEnvironment) -> None:
    """Run the service on the real adapters."""
    clock, rng = SystemClock(), system_rng()
    ids = RngIds(rng)
    agent = config.agent or environment.agent_id
    identity = Identity(config.cluster, agent, run_id(environment))
    log = make_log("executor", level=config.log_level, agent=agent)
    telemetry = Telemetry("executor", log, open_sinks(config.trace_file))
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
            )
        )
        engine = DockerEngine(
            config.docker,
            identity,
            config.data_dir,
            config.secret_files,
            pull_timeout_s=config.pull_timeout_s,
        )
        stack.push_async_callback(engine.close)
        # No token: the mode of hostd's socket says who may call.
        peers = PeerClient(None, {"hostd": f"unix:{config.hostd_socket}"})
        stack.push_async_callback(peers.close)
        hostd = HostdClient(peers)
        prober = NamespaceProber(DockerCommands(engine.docker))
        stack.callback(prober.close)
        inits = SocketInits(config.data_dir / config.cluster / "runs", engine.pid, log)
        ledger = FileLedger(config.data_dir / config.cluster / "images.json")
        service = ExecutorService(
            driver=MesosDriver(
                AiohttpTransport(session), environment, clock=clock, rng=rng, ids=ids
            ),
            engine=engine,
            network=hostd,
            deliveries=hostd,
            prober=prober,
            inits=inits,
            journal=FileJournal(Path(environment.sandbox) / "gantry-executor.journal"),
            ends=FileJournal(ends_file(config, agent)),
            janitor=Janitor(
                engine,
                ledger,
                measure,
                (config.data_dir, Path(environment.sandbox)),
                clock=clock,
                log=log,
                config=config,
            ),
            clock=clock,
            rng=rng,
            telemetry=telemetry,
            config=config,
            identity=identity,
        )
        pulse = beats.Beats(os.environ, config.silent_s, clock)
        stack.callback(pulse.close)
        unheard_s = pulse.unheard_s
        signs = Signs(peers, identity, ids.short(), unheard_s, clock, os.getppid())
        try:
            async with TaskGroup() as group:
                given = [group.create_task(each) for each in (pulse.give(), signs.give())]
                await service.run()
                for each in given:
                    each.cancel()
        except asyncio.CancelledError:
            await signs.take_back()
            raise
        await signs.take_back()


async def _until_terminated(config: ExecutorConfig, environment: ExecutorEnvironment) -> int:
    """SIGTERM ends the worker at once and leaves the containers: the next worker takes them up."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await work(config, environment)
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    return 0


def _die_with(parent: int) -> None:
    """A worker without its supervisor would work for tasks that Mesos has given up."""
    if parent:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def _see_all_cgroups() -> None:
    """An agent in a container has a cgroup namespace of its own, where other containers' groups have other names."""
    try:
        with open("/proc/1/ns/cgroup", "rb") as host:
            ctypes.CDLL(None, use_errno=True).setns(host.fileno(), _CLONE_NEWCGROUP)
    except OSError:  # no leave, or no such namespaces: then there is nothing to see either
        return


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="services.executor", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON or YAML file")
    parser.add_argument("--parent", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    _die_with(options.parent)
    beats.begin(os.environ)
    _see_all_cgroups()
    try:
        config = load(options.config)
        environment = ExecutorEnvironment.parse(os.environ)
    except (InvalidInput, EnvironmentInvalid) as error:
        print(f"executor: {error}", file=sys.stderr)
        return EXIT_CONFIG
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_terminated(config, environment))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
