"""A standalone ZooKeeper for one directory, from the distribution's zookeeper package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from infra.provision import process
from infra.provision.java import JavaSpec, fill, java_server, ports_of
from infra.provision.server import Server

HERE = Path(__file__).parent
JAR = Path("/usr/share/java/zookeeper.jar")  # its manifest names the other jars it needs
MAIN_CLASS = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
READY_S = 30


@dataclass(frozen=True, slots=True)
class ZooKeeperProvisioner:
    """Makes the server of a directory: `await ZooKeeperProvisioner(directory).server()`."""

    directory: Path

    async def server(self) -> Server:
        """The server, not started. Raises MissingToolError."""
        process.require("java")
        process.require_file(JAR)
        self.directory.mkdir(parents=True, exist_ok=True)
        (port,) = ports_of(self.directory, 1)
        config = self.directory / "zoo.cfg"
        fill(HERE / "zoo.cfg.in", config, {"port": port, "data": self.directory / "data"})

        async def prepare() -> None:
            return

        async def answers() -> bool:
            return await serves(port)

        spec = JavaSpec(
            classpath=str(JAR),
            main=(MAIN_CLASS, str(config)),
            jvm_flags=("-Xmx192m", "-Dzookeeper.jmx.log4j.disable=true"),
            prepare=prepare,
            answers=answers,
            ready_s=READY_S,
        )
        return java_server("zookeeper", f"zk://127.0.0.1:{port}", self.directory, spec)


async def serves(port: int) -> bool:
    """True when `srvr` names a mode; before it serves, ZooKeeper answers with an apology."""
    try:
        async with process.tcp(port) as (reader, writer):
            writer.write(b"srvr")
            await writer.drain()
            return b"Mode: " in await reader.read(4096)
    except OSError:
        return False
