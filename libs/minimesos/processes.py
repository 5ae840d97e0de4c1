"""Processes of executors: how to start, recognise, watch and kill them (Linux)."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from libs.minimesos.effects import Launch
from libs.minimesos.errors import LaunchError
from libs.minimesos.schema import Json

FETCH_TIMEOUT_S = 60.0
_ROOT = Path(__file__).resolve().parents[2]
_BOOTSTRAP = (
    "import sys; sys.path.insert(0, {root!r}); "
    "from libs.minimesos.executor.main import main; sys.exit(main())"
)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SandboxError(LaunchError):
    """The sandbox directory could not be made."""


class Started(NamedTuple):
    """A process, recognisable later by pid and start time (clock ticks since boot)."""

    pid: int
    start_ticks: int


class _Stat(NamedTuple):
    pid: int
    parent: int
    group: int
    session: int
    start_ticks: int


def boot_id() -> str:
    """The kernel's boot id: pids mean nothing across boots."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def start(launch: Launch) -> Started:
    """Make the sandbox, fetch, start the process in a session of its own.

    Blocks; call it from a thread. Raises SandboxError or LaunchError with Mesos' text.
    """
    sandbox = Path(launch.sandbox)
    user = _make_sandbox(sandbox, launch.user)
    try:
        for uri in launch.command.get("uris", []):
            _fetch(uri, sandbox)
    except (OSError, ValueError, tarfile.TarError, shutil.ReadError) as error:
        (sandbox / "stderr").write_text(f"Failed to fetch: {error}\n")
        text = f"Failed to fetch all URIs for container '{launch.container_id}'"
        raise LaunchError(f"{text}: exited with status 1") from error
    argv, executable = _argv(launch)
    return _spawn(argv, executable, sandbox, launch.environment, user)


def _make_sandbox(sandbox: Path, user: str) -> pwd.struct_passwd | None:
    """The directory with its `latest` link; the user to switch to, None for ourselves."""
    wanted: pwd.struct_passwd | None = None
    prefix = f"Failed to create executor directory '{sandbox}'"
    try:
        sandbox.mkdir(parents=True)
        latest = sandbox.parent / "latest"
        latest.unlink(missing_ok=True)
        latest.symlink_to(sandbox)
        if user and os.geteuid() == 0 and user != "root":
            wanted = pwd.getpwnam(user)
            os.chown(sandbox, wanted.pw_uid, wanted.pw_gid)
    except KeyError:
        text = f"{prefix}: Failed to chown directory to '{user}': No such user '{user}'"
        raise SandboxError(text) from None
    except OSError as error:
        raise SandboxError(f"{prefix}: {error.strerror}") from error
    return wanted


def _fetch(uri: Json, sandbox: Path) -> None:
    """One URI of a CommandInfo: a path, file:// or http(s):// into the sandbox."""
    value: str = uri["value"]
    parts = urlsplit(value)
    target = sandbox / (uri.get("output_file") or Path(parts.path).name)
    if not target.resolve().is_relative_to(sandbox.resolve()):
        raise ValueError(f"{value} would leave the sandbox")
    if parts.scheme in ("http", "https"):
        with (
            urllib.request.urlopen(value, timeout=FETCH_TIMEOUT_S) as source,
            target.open("wb") as out,
        ):
            shutil.copyfileobj(source, out)
    elif parts.scheme in ("", "file"):
        shutil.copy(parts.path, target)
    else:
        raise ValueError(f"{value}: scheme not supported")
    if uri.get("executable"):
        target.chmod(0o755)
    elif uri.get("extract", True) and target.name.endswith((".tar", ".gz", ".tgz", ".bz2", ".xz")):
        if tarfile.is_tarfile(target):
            with tarfile.open(target) as archive:
                archive.extractall(sandbox, filter="data")
    elif uri.get("extract", True) and target.suffix == ".zip":
        shutil.unpack_archive(target, sandbox, "zip")


def _argv(launch: Launch) -> tuple[Sequence[str], str]:
    if launch.builtin:
        code = _BOOTSTRAP.format(root=str(_ROOT))
        return [sys.executable, "-I", "-S", "-c", code], sys.executable
    command = launch.command
    value: str = command.get("value", "")
    if command.get("shell", True):
        return ["sh", "-c", value], "/bin/sh"
    return command.get("arguments") or [value], value


def _spawn(
    argv: Sequence[str],
    executable: str,
    sandbox: Path,
    environment: Mapping[str, str],
    user: pwd.struct_passwd | None,
) -> Started:
    try:
        with (sandbox / "stdout").open("ab") as out, (sandbox / "stderr").open("ab") as err:
            if user is not None:
                os.fchown(out.fileno(), user.pw_uid, user.pw_gid)
                os.fchown(err.fileno(), user.pw_uid, user.pw_gid)
            process = subprocess.Popen(
                argv,
                executable=executable,
                cwd=sandbox,
                env={**environment, "PWD": str(sandbox)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                user=None if user is None else user.pw_uid,
                group=None if user is None else user.pw_gid,
            )
    except OSError as error:
        raise LaunchError(f"Failed to execute '{executable}': {error.strerror}") from error
    # It is reaped by its pidfd; Popen must not think that it still has to.
    process.returncode = 0
    found = _stat(process.pid)
    return Started(process.pid, found.start_ticks if found else 0)


def is_running(pid: int, start_ticks: int) -> bool:
    """Whether the process that had `pid` at `start_ticks` still lives."""
    found = _stat(pid)
    return found is not None and found.start_ticks == start_ticks


def _stat(pid: int) -> _Stat | None:
    try:
        raw = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = raw[raw.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return _Stat(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def kill_tree(pid: int) -> None:
    """SIGKILL to a process, its session, its group and all descendants. Blocks a little."""
    names = [entry.name for entry in Path("/proc").iterdir()]
    everyone = [s for name in names if name.isdigit() if (s := _stat(int(name)))]
    doomed = {pid}
    grown = True
    while grown:
        more = {s.pid for s in everyone if s.parent in doomed or s.session == pid or s.group == pid}
        grown = not more <= doomed
        doomed |= more
    # The first before the others: a shell would end by itself when it sees its command killed, and say another status.
    for victim in sorted(doomed, key=lambda each: each != pid):
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue


def reap(pid: int) -> int | None:
    """The wait status of an ended child; None when it was not ours."""
    try:
        _, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return status
