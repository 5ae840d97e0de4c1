"""A Kafka broker in KRaft mode for one directory.

Format and start as Kafka's own quick start says: StorageTool writes the cluster id into the log
directory once, then kafka.Kafka runs from the same properties. A broker with doors speaks SASL
(SCRAM-SHA-512 and PLAIN) over TLS only, with a user that is made when its directory is formatted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from infra.provision import process
from infra.provision.certificates import make_certificates
from infra.provision.java import JavaSpec, fill, java_server, maven_libs, ports_of
from infra.provision.server import Server
from libs.common.bus.kafka_url import parse_url

HERE = Path(__file__).parent
# 22 characters of URL-safe base64 that decode to 16 bytes; brokers of tests never meet.
CLUSTER_ID = "Z2FudHJ5LXRlc3RzLS0tLQ"
USER = "gantry"
FORMAT_TIMEOUT_S = 60
READY_S = 60


async def kafka_libs() -> Path:
    """Where Kafka's jars are, in `libs/`. Raises CommandError, MissingToolError."""
    return await maven_libs("kafka", HERE / "pom.xml")


@dataclass(frozen=True, slots=True)
class KafkaProvisioner:
    """Makes the broker of a directory: `await KafkaProvisioner(directory).server()`.

    secure: SASL and TLS; the URL names the files with password and authority."""

    directory: Path
    secure: bool = False

    async def server(self) -> Server:
        """The broker, not started. Raises CommandError when its jars can't be had."""
        libs = await kafka_libs()
        self.directory.mkdir(parents=True, exist_ok=True)
        port, controller_port = ports_of(self.directory, 2)
        ports = {"port": port, "controller_port": controller_port}
        values = {**ports, "data": self.directory / "data"}
        fill(HERE / "server.properties.in", self.properties, values)
        url = f"kafka://127.0.0.1:{port}"
        if self.secure:
            await self._add_doors(ports)
            options = f"tls=1&cafile={self.directory}/ca.pem&password_file={self.password_file}"
            url = f"kafka://{USER}@127.0.0.1:{port}?{options}"
        classpath = f"{libs}/libs/*"

        async def prepare() -> None:
            await self.format(classpath)

        async def answers() -> bool:
            return await broker_answers(port, url)

        spec = JavaSpec(
            classpath=classpath,
            main=("kafka.Kafka", str(self.properties)),
            jvm_flags=(
                "-Xms128m",
                "-Xmx512m",
                f"-Dlog4j.configuration=file:{HERE}/log4j.properties",
            ),
            prepare=prepare,
            answers=answers,
            ready_s=READY_S,
        )
        return java_server("kafka", url, self.directory, spec)

    @property
    def properties(self) -> Path:
        return self.directory / "server.properties"

    @property
    def password_file(self) -> Path:
        return self.directory / "password"

    async def _add_doors(self, ports: dict[str, int]) -> None:
        made = await make_certificates(self.directory)
        if not self.password_file.exists():
            self.password_file.touch(mode=0o600)
            self.password_file.write_text(secrets.token_urlsafe(24) + "\n")
        keystore = self.directory / "broker.pem"  # Kafka wants key and certificate in one file
        keystore.write_text(made.key.read_text() + made.certificate.read_text())
        extra = self.directory / "secure.properties"
        doors = {"user": USER, "password": self.password_file.read_text().strip()}
        files = {"keystore": keystore, "truststore": made.authority}
        fill(HERE / "secure.properties.in", extra, {**ports, **doors, **files})
        with self.properties.open("a") as out:
            out.write(extra.read_text())

    async def format(self, classpath: str) -> None:
        """Writes the cluster id into an empty log directory; does nothing to a formatted one."""
        if (self.directory / "data" / "meta.properties").exists():
            return
        argv = ["java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", classpath]
        argv += ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self.properties)]
        if self.secure:
            password = self.password_file.read_text().strip()
            argv += ["--add-scram", f"SCRAM-SHA-512=[name={USER},password={password}]"]
        await process.run(argv, timeout_s=FORMAT_TIMEOUT_S, cwd=self.directory)


async def broker_answers(port: int, url: str = "") -> bool:
    """True when the broker is registered with its controller and says so to a client.

    The port alone tells too little: it is open before the broker is unfenced.
    """
    if not await process.listens(port):
        return False
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    admin = AIOKafkaAdminClient(
        **parse_url(url or f"kafka://127.0.0.1:{port}").connection(), request_timeout_ms=5000
    )
    try:
        async with asyncio.timeout(5):
            await admin.start()
            return bool((await admin.describe_cluster())["brokers"])
    except (KafkaError, OSError):
        return False
    finally:
        with contextlib.suppress(KafkaError, OSError):
            await admin.close()
