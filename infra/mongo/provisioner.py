"""A MongoDB-wire server (mongo-java-server on an H2 file) for one directory.

It speaks wire version 8. It has no transactions, change streams or pipeline updates, and ignores
partialFilterExpression and $jsonSchema without a word: tests must not lean on those. It speaks TLS, but
knows no users: it lets everybody in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pymongo
from pymongo.errors import PyMongoError

from infra.provision.certificates import make_certificates
from infra.provision.java import JavaSpec, java_server, maven_libs, ports_of
from infra.provision.server import Server

HERE = Path(__file__).parent
# As mongod flushes its journal; a write that asks for the journal or a majority is in the file before its answer.
COMMIT_INTERVAL_MS = 100
READY_S = 30


async def mongo_libs() -> Path:
    """Where the server's jars are, in `libs/`, and its own `classes/`. Raises CommandError, MissingToolError."""
    return await maven_libs("mongo", HERE / "pom.xml", (HERE / "MongoMain.java",))


@dataclass(frozen=True, slots=True)
class MongoProvisioner:
    """Makes the server of a directory: `await MongoProvisioner(directory).server()`.

    secure: TLS only; the URL names the file of the authority."""

    directory: Path
    secure: bool = False

    async def server(self) -> Server:
        """The server, not started. Raises CommandError when its jars can't be had."""
        libs = await mongo_libs()
        self.directory.mkdir(parents=True, exist_ok=True)
        (port,) = ports_of(self.directory, 1)
        url = f"mongodb://127.0.0.1:{port}"

        async def prepare() -> None:
            return

        async def answers() -> bool:
            return await mongo_answers(url)

        tls: tuple[str, ...] = ()
        if self.secure:
            made = await make_certificates(self.directory)
            tls = (str(made.certificate), str(made.key))
            url = f"{url}/?tls=true&tlsCAFile={made.authority}"
        data = str(self.directory / "data.mv")
        spec = JavaSpec(
            classpath=f"{libs}/classes:{libs}/libs/*",
            main=("MongoMain", data, str(port), str(COMMIT_INTERVAL_MS), *tls),
            # What a query finds is all in memory at once: 100,000 documents of the bench are more than 1 GiB.
            jvm_flags=("-Xms256m", "-Xmx3g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"),
            prepare=prepare,
            answers=answers,
            ready_s=READY_S,
        )
        return java_server("mongo", url, self.directory, spec)


async def mongo_answers(url: str) -> bool:
    """True when the server answers a ping."""
    client: pymongo.AsyncMongoClient[dict[str, object]] = pymongo.AsyncMongoClient(
        url, serverSelectionTimeoutMS=1000, connectTimeoutMS=1000, socketTimeoutMS=2000
    )
    try:
        await client.admin.command("ping")
    except PyMongoError:
        return False
    finally:
        await client.close()
    return True
