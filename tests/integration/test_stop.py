"""SIGTERM ends each service within seconds, in good order, whatever it waits for: here, servers that are frozen."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from infra.provision import Server
from infra.provision.process import free_ports
from tests.servers import MARK, REPOSITORY

SERVICES = ("gateway", "deployer", "scheduler", "ipam", "monitor")
STOP_S = 10.0
FROZEN_S = 2.0  # so that calls to the servers hang


@dataclass
class Running:
    """A service's process."""

    name: str
    url: str
    process: asyncio.subprocess.Process
    log: Path

    async def at_work(self, session: aiohttp.ClientSession) -> None:
        """Wait until it leads and serves; the scheduler has no Mesos here."""
        async with asyncio.timeout(40):
            while True:
                assert self.process.returncode is None, self.log.read_text()
                try:
                    async with session.get(f"{self.url}/readyz") as answer:
                        content = await answer.json()
                        if answer.status == 200 or "Mesos" in content["reason"]:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.1)

    async def gone(self) -> tuple[str, bool, int | None]:
        """Its name, whether it went in time, and how."""
        began = time.monotonic()
        code = await self.process.wait()
        return self.name, time.monotonic() - began < STOP_S, code


@asynccontextmanager
async def services(directory: Path, kafka: Server, mongo: Server) -> AsyncIterator[list[Running]]:
    """One of each; those that are left are killed."""
    urls = {
        name: f"http://127.0.0.1:{port}"
        for name, port in zip(SERVICES, free_ports(len(SERVICES)), strict=True)
    }
    mesos = {"masters": ["127.0.0.1:1"], "leader_lease_s": 6.0}
    sections: dict[str, Any] = {"scheduler": {**mesos, "executor_command": "x"}, "monitor": mesos}
    running: list[Running] = []
    try:
        for name, url in urls.items():
            common = {
                "cluster": f"{MARK}-stop",
                "data_dir": str(directory / "data"),
                "bus": f"{kafka.url}?prefix={MARK}s",
                "store": f"{mongo.url}/{MARK}_stop",
                "listen": {name: url.removeprefix("http://")},
                "peers": urls,
            }
            file, log = directory / f"{name}.yaml", directory / f"{name}.log"
            file.write_text(yaml.safe_dump({"common": common, name: sections.get(name, {})}))
            command = (sys.executable, "-m", f"services.{name}", "--config", str(file))
            with log.open("wb") as err:
                process = await asyncio.create_subprocess_exec(*command, cwd=REPOSITORY, stderr=err)
            running.append(Running(name, url, process, log))
        yield running
    finally:
        for each in running:
            if each.process.returncode is None:
                each.process.kill()
                await each.process.wait()


@pytest.mark.timeout(120)
async def test_each_service_leaves_in_time_while_kafka_and_mongodb_are_frozen(
    tmp_path: Path, own_kafka: Server, own_mongo: Server
) -> None:
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(services(tmp_path, own_kafka, own_mongo))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await asyncio.gather(*(each.at_work(session) for each in running))
        key = (tmp_path / "data/admin.key").read_text().strip()
        headers = {"authorization": f"Bearer {key}"}
        events = await session.get(f"{running[0].url}/v1/events", headers=headers)
        assert events.status == 200 and await events.content.readline()
        for server in (own_kafka, own_mongo):
            await server.pause()
            stack.push_async_callback(server.resume)
        # A reader of events, and one whose answer never comes, must not hold the gateway back.
        asking = asyncio.ensure_future(session.get(f"{running[0].url}/v1/keys", headers=headers))
        await asyncio.sleep(FROZEN_S)
        assert not asking.done()
        for each in running:
            os.kill(each.process.pid, signal.SIGTERM)
        gone = await asyncio.gather(*(each.gone() for each in running))
        logs = "\n".join(each.log.read_text()[-3000:] for each in running)
        assert gone == [(each.name, True, 0) for each in running], logs
        asking.cancel()
