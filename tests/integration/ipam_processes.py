"""ipam in processes of its own on one real store, and hosts that ask it over HTTP."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from infra.provision.process import free_ports
from libs.common.clock import SystemClock
from libs.common.http import Kind, call_json
from libs.common.keys import SecretFile, open_secret
from libs.common.peers import PeerClient
from libs.common.tokens import TokenSigner, party_keys

SERVICE = "ipam"
READY_S = 30.0


@dataclass
class IpamProcesses:
    """Replicas by number."""

    directory: Path
    store_url: str
    settings: Mapping[str, Any]  # the section ipam
    ports: Sequence[int]
    running: dict[int, asyncio.subprocess.Process] = field(default_factory=dict)
    tree: Path = field(default_factory=Path.cwd)  # whose code runs

    async def start(self, *numbers: int) -> None:
        """Start replicas; returns when all of them answer."""
        for each in numbers:
            self.running[each] = await self._spawn(each)
        async with asyncio.timeout(READY_S):
            for each in numbers:
                while not await self._ready(each):
                    assert self.running[each].returncode is None, self.log(each)
                    await asyncio.sleep(0.05)

    async def _spawn(self, number: int) -> asyncio.subprocess.Process:
        directory = self.directory
        common = {
            "BUS": f"sqlite://{directory / 'bus.db'}",
            "STORE": self.store_url,
            "DATA_DIR": str(directory / f"ipam-{number}"),
            "SECRET_FILE": str(directory / "cluster.secret"),
            "LISTEN": orjson.dumps({SERVICE: f"127.0.0.1:{self.ports[number]}"}).decode(),
            "LOG_LEVEL": "warning",
        }
        settings = {f"GANTRY_COMMON__{key}": value for key, value in common.items()}
        for name, value in self.settings.items():
            settings[f"GANTRY_IPAM__{name.upper()}"] = orjson.dumps(value).decode()
        with (directory / f"ipam-{number}.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.ipam"),
                env={**os.environ, **settings},
                cwd=self.tree,
                stderr=log,
            )

    async def _ready(self, number: int) -> bool:
        url = f"http://127.0.0.1:{self.ports[number]}/readyz"
        try:
            async with aiohttp.request("GET", url) as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def kill(self, number: int) -> None:
        """As if its machine lost power."""
        process = self.running.pop(number)
        process.kill()
        await process.wait()

    async def stop(self, number: int) -> None:
        """In good order."""
        process = self.running.pop(number)
        process.terminate()
        assert await process.wait() == 0, self.log(number)

    def log(self, number: int) -> str:
        """What a replica said."""
        return (self.directory / f"ipam-{number}.log").read_text()

    def host(self, name: str, first: int = 0) -> IpamHost:
        """A host that asks the replicas, beginning with the first of them that is named."""
        secret = open_secret(self.directory / "cluster.secret")
        assert isinstance(secret, SecretFile)
        signer = TokenSigner(Kind.HOST, name, party_keys(secret, Kind.HOST, name), SystemClock())
        ports = [*self.ports[first:], *self.ports[:first]]
        urls = ",".join(f"http://127.0.0.1:{each}" for each in ports)
        return IpamHost(name, PeerClient(signer, {SERVICE: urls}))


@dataclass
class IpamHost:
    """A host's client."""

    name: str
    peers: PeerClient

    async def put(self, attachment: str, network: str = "web", **fields: Any) -> Any:
        """Its attachment's addresses."""
        path = f"/v1/attachments/{attachment}"
        return await call_json(
            self.peers, SERVICE, "PUT", path, self.claim(attachment, network, **fields)
        )

    def claim(self, attachment: str, network: str = "web", **fields: Any) -> dict[str, Any]:
        """What is asked for an attachment."""
        name = attachment.removesuffix(".eth0")
        own = {"network": network, "instance": f"acme-{name}", "attempt": f"acme-{name}.1"}
        return {**own, "host": self.name, **fields}

    async def burst(self, attachments: Sequence[str], network: str = "web") -> list[Any]:
        """Of many attachments in one round trip: an answer each."""
        claims = [{"attachment": each, **self.claim(each, network)} for each in attachments]
        path = "/v1/attachments"
        answer = await call_json(
            self.peers, SERVICE, "POST", path, {"claims": claims}, timeout_s=30.0
        )
        results: list[Any] = answer["results"]
        return results

    async def delete(self, attachment: str, generation: int) -> bool:
        """Give them back."""
        path = f"/v1/attachments/{attachment}?generation={generation}&reason=del"
        answer = await call_json(self.peers, SERVICE, "DELETE", path)
        return bool(answer["released"])

    async def report(self, live: Sequence[str]) -> None:
        """Which attachments it has."""
        path = f"/v1/hosts/{self.name}/attachments"
        await call_json(self.peers, SERVICE, "POST", path, {"live": list(live)})


@asynccontextmanager
async def ipam_processes(
    directory: Path, store_url: str, settings: Mapping[str, Any], replicas: int
) -> AsyncIterator[IpamProcesses]:
    """Nothing runs yet; at the end nothing is left."""
    made = IpamProcesses(directory, store_url, settings, free_ports(replicas))
    try:
        yield made
    finally:
        for each in list(made.running):
            await made.kill(each)
