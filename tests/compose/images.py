"""Gantry's image, built by its Dockerfile, and stand-ins for the images of others, all from what this machine can get.

Debian's base image is made by debootstrap with this machine's package sources, certificates and pip settings, so that
the Dockerfile's own commands work inside as they do here. The stand-ins are in `standins/Dockerfile`.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from infra.kafka.provisioner import kafka_libs
from infra.mongo.provisioner import mongo_libs
from infra.provision import process
from infra.provision.cache import cached
from infra.provision.errors import CommandError
from tests.compose.java import java_runtime, zookeeper_jars

REPOSITORY = Path(__file__).parents[2]
HERE = Path(__file__).parent / "standins"
BUILD_S = 900.0
RELEASE = "bookworm"
GANTRY = "gantry:0.1.0"
# What a build inside needs of this machine to reach its package indexes.
SETTINGS = (
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d",
    "/etc/apt/apt.conf.d",
    "/etc/pip.conf",
    "/etc/ssl/certs/ca-certificates.crt",
)
# Target of the stand-ins' Dockerfile → the name in the compose files.
STANDINS = {
    "kafka": "apache/kafka:3.9.2",
    "mongo": "mongo:7.0.21",
    "zookeeper": "zookeeper:3.9.3",
    "registry": "registry:2.8.3",
    "mesos-master": "mesosphere/mesos-master:1.7.1",
    "mesos-slave": "mesosphere/mesos-slave:1.7.1",
}


async def build_all(engine_url: str) -> None:
    """Make every image that the compose files name in the engine. Raises CommandError, MissingToolError."""
    base = await cached("debian-base", [Path(__file__)], _bootstrap)
    dockerfile = (REPOSITORY / "Dockerfile").read_text()
    name = next(line for line in dockerfile.splitlines() if line.startswith("ARG BASE="))[9:]
    await _docker(engine_url, "import", base / "base.tar", name)
    await _build(engine_url, REPOSITORY, "--tag", GANTRY)
    with tempfile.TemporaryDirectory(prefix="standins-") as directory:
        context = Path(directory, "context")
        await _context(context)
        for target, tag in STANDINS.items():
            await _build(engine_url, context, "--target", target, "--tag", tag)


async def _bootstrap(directory: Path) -> None:
    """A root file system of Debian's, as one archive."""
    process.require("debootstrap")
    root = directory / "root"
    mirror = await asyncio.to_thread(_mirror)
    arguments = ("--variant=minbase", "--include=ca-certificates", RELEASE, root, mirror)
    await process.run(("debootstrap", *arguments), timeout_s=BUILD_S)
    await asyncio.to_thread(_copy_settings, root)
    await process.run(("tar", "-C", root, "-cf", directory / "base.tar", "."), timeout_s=BUILD_S)
    await asyncio.to_thread(shutil.rmtree, root)


def _mirror() -> str:
    """Where this machine's Debian packages come from."""
    found = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").iterdir()]
    for file in found:
        for line in file.read_text().splitlines() if file.exists() else ():
            words = line.split()
            if file.suffix == ".sources" and words[:1] == ["URIs:"]:
                return words[1]
            if file.suffix == ".list" and words[:1] == ["deb"]:
                return next(word for word in words if "://" in word)
    raise CommandError("no package source of Debian's is known to apt here")


def _copy_settings(root: Path) -> None:
    for name in SETTINGS:
        source, target = Path(name), root / name[1:]
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            shutil.copy(source, target)
        else:
            target.unlink(missing_ok=True)
    for archive in (root / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()


async def _context(context: Path) -> None:
    """What the stand-ins' Dockerfile copies."""
    await asyncio.to_thread(shutil.copytree, HERE, context)
    kafka = await kafka_libs()
    mongo = await mongo_libs()
    jre = await java_runtime()

    def copy() -> None:
        shutil.copytree(jre, context / "jre")
        shutil.copytree(kafka / "libs", context / "kafka/libs")
        shutil.copy(REPOSITORY / "infra/kafka/log4j.properties", context / "kafka")
        shutil.copytree(mongo, context / "mongo", ignore=shutil.ignore_patterns("pom.xml"))
        (context / "zookeeper").mkdir()
        for jar in zookeeper_jars():
            shutil.copy(jar, context / "zookeeper")
        shutil.copy("/bin/busybox", context)
        shutil.copy("/usr/bin/docker-registry", context)

    await asyncio.to_thread(copy)


async def _build(engine_url: str, context: Path, *options: str) -> None:
    # The classic builder: Debian's engine has no other. The build needs this machine's network.
    await _docker(engine_url, "build", "--quiet", "--network", "host", *options, context)


async def _docker(engine_url: str, *arguments: str | Path) -> None:
    command = ("docker", "-H", engine_url, *arguments)
    await process.run(command, timeout_s=BUILD_S, env={"DOCKER_BUILDKIT": "0"})
