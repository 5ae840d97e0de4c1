"""What the stand-ins run on: a Java runtime of this host's JDK, and the jars of its ZooKeeper."""

from __future__ import annotations

import asyncio
import os
import shutil
import zipfile
from pathlib import Path

from infra.provision import process
from infra.provision.cache import cached
from infra.zookeeper.provisioner import JAR

JLINK_S = 300.0
JAVA_MODULES = (
    *(
        "java.base",
        "java.desktop",
        "java.logging",
        "java.management",
        "java.management.rmi",
        "java.naming",
    ),
    *("java.security.jgss", "java.security.sasl", "java.sql", "java.xml", "jdk.crypto.ec"),
    *("jdk.management", "jdk.unsupported"),
)


def jdk_release() -> Path:
    """The file that names the version of this host's JDK. Raises MissingToolError."""
    process.require("java", "jlink")
    return Path(shutil.which("java") or "").resolve().parents[1] / "release"


async def java_runtime() -> Path:
    """A cached Java home of JAVA_MODULES. Raises CommandError, MissingToolError."""

    async def build(directory: Path) -> None:
        jre = directory / "jre"
        options = ("--strip-debug", "--no-header-files", "--no-man-pages")
        modules = ("--add-modules", ",".join(JAVA_MODULES))
        await process.run(("jlink", *modules, *options, "--output", jre), timeout_s=JLINK_S)
        await asyncio.to_thread(shutil.rmtree, jre / "legal")
        # Classes ready to be mapped, which halves a small start. They are for modules of this very date, and an image's
        # layer dates all to the epoch.
        os.utime(jre / "lib/modules", (0, 0))
        await process.run((jre / "bin/java", "-Xshare:dump"), timeout_s=JLINK_S)

    return await cached("jre", [Path(__file__), jdk_release()], build) / "jre"


def zookeeper_jars() -> list[Path]:
    """ZooKeeper's jar and those that its manifest names, as far as they are here. Raises MissingToolError."""
    process.require_file(JAR)
    with zipfile.ZipFile(JAR) as jar:
        manifest = jar.read("META-INF/MANIFEST.MF").decode()
    # A line has 72 bytes at most; a longer one goes on in the next, after a space.
    lines = manifest.replace("\r\n", "\n").replace("\n ", "").splitlines()
    named = next(line for line in lines if line.startswith("Class-Path: ")).split()[1:]
    return [JAR, *(path for path in map(Path, named) if path.exists())]
