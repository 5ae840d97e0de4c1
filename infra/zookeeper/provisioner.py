"""A standalone ZooKeeper for one directory, from the distribution's zookeeper package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from infra.provision import process
from infra.provision.certificates import Certificates, make_certificates
from infra.provision.java import JavaSpec, fill, java_server, ports_of
from infra.provision.server import Server

HERE = Path(__file__).parent
JAR = Path("/usr/share/java/zookeeper.jar")  # its manifest names the other jars it needs
CODEC = Path("/usr/share/java/netty-codec.jar")  # …but for this one, which TLS needs
MAIN_CLASS = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
READY_S = 30


@dataclass(frozen=True, slots=True)
class ZooKeeperProvisioner:
    """Makes the server of a directory: `await ZooKeeperProvisioner(directory).server()`.

    secure: its URL is of a port that speaks TLS only and asks for a certificate, and names the files for both."""

    directory: Path
    secure: bool = False

    async def server(self) -> Server:
        """The server, not started. Raises MissingToolError."""
        process.require("java")
        process.require_file(JAR)
        self.directory.mkdir(parents=True, exist_ok=True)
        port, *more = ports_of(self.directory, 2 if self.secure else 1)
        config = self.directory / "zoo.cfg"
        fill(HERE / "zoo.cfg.in", config, {"port": port, "data": self.directory / "data"})
        url, classpath = f"zk://127.0.0.1:{port}", str(JAR)
        if self.secure:
            process.require_file(CODEC)
            classpath = f"{JAR}:{CODEC}"
            made = await self._add_door(config, more[0])
            files = f"cafile={made.authority}&certfile={made.certificate}&keyfile={made.key}"
            url = f"zk://127.0.0.1:{more[0]}?tls=1&{files}"

        async def prepare() -> None:
            return

        async def answers() -> bool:
            return await serves(port)

        spec = JavaSpec(
            classpath=classpath,
            main=(MAIN_CLASS, str(config)),
            jvm_flags=("-Xmx192m", "-Dzookeeper.jmx.log4j.disable=true"),
            prepare=prepare,
            answers=answers,
            ready_s=READY_S,
        )
        return java_server("zookeeper", url, self.directory, spec)

    async def _add_door(self, config: Path, port: int) -> Certificates:
        made = await make_certificates(self.directory)
        keystore = self.directory / "store.pem"  # ZooKeeper wants both in one file
        keystore.write_text(made.certificate.read_text() + made.key.read_text())
        extra = self.directory / "secure.cfg"
        files = {"keystore": keystore, "truststore": made.authority}
        fill(HERE / "secure.cfg.in", extra, {"secure_port": port, **files})
        with config.open("a") as out:
            out.write(extra.read_text())
        return made


async def serves(port: int) -> bool:
    """True when `srvr` names a mode; before it serves, ZooKeeper answers with an apology."""
    try:
        async with process.tcp(port) as (reader, writer):
            writer.write(b"srvr")
            await writer.drain()
            return b"Mode: " in await reader.read(4096)
    except OSError:
        return False
