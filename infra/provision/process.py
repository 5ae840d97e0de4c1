"""Commands and daemons: run one to its end, start one that outlives us, watch and signal by pid.

Daemons are known by pid file and not as children: a test may start a server in one event loop
and kill or restart it from another, and the server must survive the loop that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

from infra.provision.errors import CommandError, MissingToolError, NotReadyError, NotStoppedError

POLL_S = 0.05
TAIL_CHARS = 2000

# Written before exec, so the pid is the daemon's own; renamed, so it is never read half.
_SPAWN = 'echo $$ >"$1.new" && mv "$1.new" "$1"; shift; exec "$@"'


def require(*programs: str) -> None:
    """Raises MissingToolError unless every program is on PATH."""
    for program in programs:
        if shutil.which(program) is None:
            raise MissingToolError(f"{program} is not installed: run infra/host/setup.sh test")


def require_file(path: Path) -> None:
    """Raises MissingToolError unless the file is there."""
    if not path.exists():
        raise MissingToolError(f"{path} is missing: run infra/host/setup.sh test")


async def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Runs a command in a session of its own and returns its standard output.

    Raises CommandError when it fails or is not done after timeout_s; its group is killed then.
    """
    process = await asyncio.create_subprocess_exec(
        *map(str, argv),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
        env=None if env is None else {**os.environ, **env},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    except TimeoutError:
        raise CommandError(f"{argv[0]} took longer than {timeout_s:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode != 0:
        said = (err or out).decode(errors="replace").strip()[-TAIL_CHARS:]
        raise CommandError(f"{argv[0]} exited with {process.returncode}: {said}")
    return out.decode(errors="replace")


async def spawn(
    argv: Sequence[str | Path],
    *,
    pid_file: Path,
    log: Path,
    cwd: Path,
) -> None:
    """Starts a daemon in a session of its own; its pid is in pid_file when this returns."""
    _forget(pid_file)
    command = ["setsid", "--fork", "sh", "-c", _SPAWN, "spawn", str(pid_file), *map(str, argv)]
    out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        launcher = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=cwd,
        )
        await launcher.wait()
    finally:
        os.close(out)

    async def written() -> bool:
        return _there(pid_file)

    await wait_until(written, timeout_s=30, what=f"pid file {pid_file}")


def _there(path: Path) -> bool:
    return path.exists()


def _forget(pid_file: Path) -> None:
    pid_file.unlink(missing_ok=True)


def pid_in(pid_file: Path, needle: str) -> int | None:
    """The pid in the file if it is alive and its command line holds needle, so that a reused
    pid is never taken for ours."""
    try:
        pid = int(pid_file.read_text())
        cmdline = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except (OSError, ValueError):
        return None
    if gone(pid):
        return None
    # Empty for a moment in the middle of exec, which is no reason to call a daemon dead.
    return pid if not cmdline or needle.encode() in cmdline else None


def gone(pid: int) -> bool:
    """True when the process has ended, reaped or not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        # The first thread of a killed JVM may be a zombie while others still hold its ports.
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return True
    return threads <= 1 and stat.rpartition(")")[2].split()[0] in {"Z", "X"}


def send(pids: Sequence[int], sig: signal.Signals) -> None:
    """Signals each process; one that is gone already is passed over."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)


async def wait_gone(pids: Sequence[int], *, timeout_s: float) -> None:
    """Raises NotStoppedError when one of the processes still runs after timeout_s."""

    async def all_gone() -> bool:
        return all(gone(pid) for pid in pids)

    try:
        await wait_until(all_gone, timeout_s=timeout_s, what="end")
    except NotReadyError:
        raise NotStoppedError(f"still running after {timeout_s:g} s: {list(pids)}") from None


async def wait_stopped(pids: Sequence[int], *, timeout_s: float) -> None:
    """Until SIGSTOP has reached every thread of the processes: until then they still answer. Raises NotReadyError."""

    async def all_stopped() -> bool:
        return all(_stopped(pid) for pid in pids)

    await wait_until(all_stopped, timeout_s=timeout_s, what=f"stop of {list(pids)}")


def _stopped(pid: int) -> bool:
    try:
        stats = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # a thread, or the process, has just ended
        return gone(pid)
    return all(stat.rpartition(")")[2].split()[0] in {"T", "t", "Z", "X"} for stat in stats)


async def terminate(pids: Sequence[int], *, grace_s: float) -> None:
    """TERM, then KILL after the grace. Stopped processes are continued, or TERM would wait."""
    send(pids, signal.SIGTERM)
    send(pids, signal.SIGCONT)
    try:
        await wait_gone(pids, timeout_s=grace_s)
    except NotStoppedError:
        send(pids, signal.SIGKILL)
        await wait_gone(pids, timeout_s=30)


async def wait_until(probe: Callable[[], Awaitable[bool]], *, timeout_s: float, what: str) -> None:
    """Polls until the probe says yes. Raises NotReadyError("no <what> …") at the deadline."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await probe():  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise NotReadyError(f"no {what} within {timeout_s:g} s") from None


def free_ports(count: int) -> list[int]:
    """TCP ports of loopback that nobody has now, all different, for servers that may stop and start again there.

    None is of those that the kernel gives to connections: while the server is away, one of them could take it.
    """
    first, last = map(int, _EPHEMERAL.read_text().split())
    candidates = [port for port in range(10_000, 65_536) if not first <= port <= last]
    random.shuffle(candidates)  # noqa: TID251 - others choose at the same time
    rest = iter(candidates)
    with contextlib.ExitStack() as held:
        return [_hold(held, rest) for _ in range(count)]


_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def _hold(held: contextlib.ExitStack, candidates: Iterator[int]) -> int:
    """The first of them that can be had. Raises NotReadyError when none can."""
    for port in candidates:
        taken = held.enter_context(socket.socket())
        taken.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # what was closed just now may linger
        try:
            taken.bind(("127.0.0.1", port))
        except OSError:
            continue
        return port
    raise NotReadyError("no free port on 127.0.0.1")


@contextlib.asynccontextmanager
async def tcp(
    port: int, timeout_s: float = 2
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a loopback port. Raises OSError (TimeoutError is one)."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def listens(port: int) -> bool:
    """True when something accepts TCP on the loopback port."""
    try:
        async with tcp(port):
            return True
    except OSError:
        return False


def tail(log: Path) -> str:
    """The end of a log, for error messages."""
    try:
        return log.read_text(errors="replace")[-TAIL_CHARS:]
    except OSError:
        return ""
