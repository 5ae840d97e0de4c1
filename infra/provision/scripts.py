"""Servers that a shell script of infra/ starts and stops: engine, ovs, registry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from infra.provision import process
from infra.provision.errors import CommandError, NotReadyError, PortTakenError
from infra.provision.java import ADDRESS_IN_USE, ports_of
from infra.provision.server import OvsServer, ProcessControl, Server

INFRA = Path(__file__).parent.parent
SCRIPT_TIMEOUT_S = 90


def _control(
    script: Path,
    directory: Path,
    pid_files: tuple[str, ...],
    options: Sequence[str] = (),
    enter: Sequence[str] = (),
) -> ProcessControl:
    async def call(verb: str, *more: str) -> None:
        argv: list[str | Path] = [*enter, script, verb, "--dir", directory, *more]
        await process.run(argv, timeout_s=SCRIPT_TIMEOUT_S)

    async def launch() -> None:
        try:
            await call("start", *options)
        except CommandError as error:
            taken = any(text in str(error) for text in (*ADDRESS_IN_USE, "address already in use"))
            raise (PortTakenError if taken else NotReadyError)(str(error)) from None

    async def shutdown() -> None:
        await call("stop")

    async def remove() -> None:
        await call("stop", "--purge")

    paths = tuple(directory / name for name in pid_files)
    return ProcessControl(paths, str(directory), launch, shutdown, remove)


def engine_server(
    directory: Path, *, runtime_path: Path | None = None, registries: Sequence[str] = ()
) -> Server:
    """A Docker engine, not started. kill9 and pause hit dockerd only: containers go on.

    runtime_path: the binary behind the OCI runtime "gantry". registries: `HOST:PORT` without TLS.
    """
    options = [word for each in registries for word in ("--registry", each)]
    if runtime_path is not None:
        options += ["--runtime-path", str(runtime_path)]
    script = INFRA / "host" / "engine.sh"
    control = _control(script, directory, ("dockerd.pid",), options)
    return Server("engine", f"unix://{directory}/docker.sock", directory, control)


def ovs_server(directory: Path, *, enter: Sequence[str] = ()) -> OvsServer:
    """An Open vSwitch, not started; its processes are the switch and its database.

    enter: the command that leads into another network namespace (`nsenter --net=…`): each has room for one switch.
    """
    pid_files = ("ovs-vswitchd.pid", "ovsdb-server.pid")
    script = INFRA / "host" / "ovs.sh"
    control = _control(script, directory, pid_files, enter=enter)
    return OvsServer("ovs", f"unix:{directory}/db.sock", directory, control)


def registry_server(
    directory: Path, *, notify_url: str | None = None, logins: Path | None = None
) -> Server:
    """An image registry, not started. notify_url gets its push and delete events.

    logins: a file of who may push and pull, `user:password` a line; None: everybody.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (port,) = ports_of(directory, 1)
    options = ["--port", str(port)]
    if notify_url is not None:
        options += ["--notify", notify_url]
    if logins is not None:
        options += ["--logins", str(logins)]
    control = _control(INFRA / "registry" / "registry.sh", directory, ("registry.pid",), options)
    return Server("registry", f"http://127.0.0.1:{port}", directory, control)
