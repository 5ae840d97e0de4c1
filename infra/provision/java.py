"""Java servers: their jars from Maven, their directory, their process.

One provisioner a server says what differs (a `JavaSpec`); this module does the rest.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template

from infra.provision import process
from infra.provision.cache import cached
from infra.provision.errors import NotReadyError, PortTakenError
from infra.provision.server import ProcessControl, Server

MAVEN_TIMEOUT_S = 300
COPY_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
STOP_GRACE_S = 15
# JVMs of tests live briefly on shared cores: one collector thread, small heap, a fixed seed of
# entropy that never blocks.
JVM_FLAGS = ("-XX:+UseSerialGC", "-Xshare:auto", "-Djava.security.egd=file:/dev/./urandom")
ADDRESS_IN_USE = ("Address already in use", "BindException")


async def maven_libs(name: str, pom: Path, sources: tuple[Path, ...] = ()) -> Path:
    """A cached directory with `libs/*.jar` of the pom's runtime dependencies and, when there are
    sources, their classes in `classes/`. Raises CommandError, MissingToolError."""

    async def build(directory: Path) -> None:
        process.require("java", "mvn")
        copy_of_pom = directory / "pom.xml"  # Maven leaves files beside the pom it reads
        await asyncio.to_thread(shutil.copy, pom, copy_of_pom)
        maven: list[str | Path] = [
            "mvn",
            "-q",
            "-B",
            "--strict-checksums",
            "-f",
            copy_of_pom,
            COPY_GOAL,
        ]
        options = [f"-DoutputDirectory={directory / 'libs'}", "-DincludeScope=runtime"]
        await process.run([*maven, *options], timeout_s=MAVEN_TIMEOUT_S, cwd=directory)
        if sources:
            process.require("javac")
            classes = directory / "classes"
            javac: list[str | Path] = [
                "javac",
                "-cp",
                f"{directory}/libs/*",
                "-d",
                classes,
                *sources,
            ]
            await process.run(javac, timeout_s=60, cwd=directory)

    return await cached(name, [pom, *sources], build)


@dataclass(frozen=True, slots=True)
class JavaSpec:
    """How to run one Java server in one directory.

    argv: main class and arguments. prepare: makes what must be on disk before the first start.
    answers: True when the server does its real work.
    """

    classpath: str
    main: tuple[str, ...]
    jvm_flags: tuple[str, ...]
    prepare: Callable[[], Awaitable[None]]
    answers: Callable[[], Awaitable[bool]]
    ready_s: float


def ports_of(directory: Path, count: int) -> list[int]:
    """The server's ports: chosen once, then kept, as clients hold on to an address."""
    path = directory / "ports.json"
    if path.exists():
        return [int(port) for port in json.loads(path.read_text())]
    ports = process.free_ports(count)
    path.write_text(json.dumps(ports))
    return ports


def fill(template: Path, target: Path, values: dict[str, object]) -> None:
    """Writes the template with its ${names} replaced; an unknown name raises KeyError."""
    target.write_text(Template(template.read_text()).substitute(values))


def java_server(name: str, url: str, directory: Path, spec: JavaSpec) -> Server:
    """A Server that runs the spec; nothing is started yet."""
    log = directory / f"{name}.log"
    pid_file = directory / f"{name}.pid"
    needle = str(directory)

    def pid() -> int | None:
        return process.pid_in(pid_file, needle)

    async def answers_or_died() -> bool:
        return pid() is None or await spec.answers()

    async def launch() -> None:
        if pid() is None:
            await spec.prepare()
            # The directory is in the command line, so the pid can be told from a reused one.
            argv = ["java", f"-Dgantry.dir={directory}", *JVM_FLAGS, *spec.jvm_flags]
            argv += ["-cp", spec.classpath, *spec.main]
            offset = log.stat().st_size if log.exists() else 0
            await process.spawn(argv, pid_file=pid_file, log=log, cwd=directory)
        else:
            offset = 0
        try:
            what = f"answer from {name}"
            await process.wait_until(answers_or_died, timeout_s=spec.ready_s, what=what)
        except NotReadyError as error:
            raise NotReadyError(f"{error}; its log ends: {process.tail(log)}") from None
        if pid() is None:
            said = log.read_text(errors="replace")[offset:]
            failure = PortTakenError if any(t in said for t in ADDRESS_IN_USE) else NotReadyError
            raise failure(f"{name} died while starting; its log ends: {process.tail(log)}")

    async def shutdown() -> None:
        if (found := pid()) is not None:
            await process.terminate([found], grace_s=STOP_GRACE_S)

    async def remove() -> None:
        if (found := pid()) is not None:
            await process.terminate([found], grace_s=1)  # its data go anyway
        await asyncio.to_thread(shutil.rmtree, directory, True)

    control = ProcessControl((pid_file,), needle, launch, shutdown, remove)
    return Server(name, url, directory, control)
