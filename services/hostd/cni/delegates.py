"""IpamPlugins as programs: found in CNI_PATH, run with what the runtime gave, killed when they take too long."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import orjson

from libs.common.telemetry import Log
from services.hostd.cni.model import UNSAID, CniError, Code, Command

TIMEOUT_S = 10.0
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_KNOWN = 64
_Stamp = tuple[str, int, int]  # path, size, time of change


class ProgramPlugins:
    """See IpamPlugins."""

    def __init__(self, log: Log, timeout_s: float = TIMEOUT_S) -> None:
        self._log = log
        self._timeout_s = timeout_s
        self._versions: dict[_Stamp, tuple[str, ...]] = {}

    async def versions(self, kind: str, path: str) -> tuple[str, ...]:
        """See IpamPlugins."""
        stamp = await asyncio.to_thread(_stamp, kind, path)
        if stamp not in self._versions:
            env, stdin = {"CNI_PATH": path}, b'{"cniVersion":"1.0.0"}'
            said = await self.run(kind, Command.VERSION, env, stdin)
            try:
                found = tuple(str(each) for each in orjson.loads(said)["supportedVersions"])
            except (ValueError, TypeError, KeyError):
                found = (UNSAID,)  # VERSION came with 0.2.0
            if len(self._versions) >= MAX_KNOWN:
                self._versions.clear()
            self._versions[stamp] = found
        return self._versions[stamp]

    async def run(self, kind: str, command: Command, env: Mapping[str, str], stdin: bytes) -> bytes:
        """See IpamPlugins."""
        program = await asyncio.to_thread(_find, kind, env.get("CNI_PATH", ""))
        path = os.environ.get("PATH", DEFAULT_PATH)
        try:
            with _readable(stdin) as conf:
                process = await asyncio.create_subprocess_exec(
                    program,
                    env={**env, "CNI_COMMAND": command.value, "PATH": path},
                    stdin=conf,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                )
        except OSError as error:
            raise CniError(Code.PLUGIN, f"{kind} can't be run", str(error)) from None
        try:
            async with asyncio.timeout(self._timeout_s):
                stdout, stderr = await process.communicate()
        except TimeoutError:
            raise CniError(
                Code.TRY_AGAIN, f"{kind} did not end", f"in {self._timeout_s:g} s"
            ) from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):  # it ended just now
                    process.kill()
                await process.wait()
        if stderr:
            self._log.info("plugin says", plugin=kind, text=stderr.decode(errors="replace")[-2000:])
        if process.returncode != 0:
            raise _failure(kind, process.returncode, stdout)
        return stdout


@contextmanager
def _readable(content: bytes) -> Iterator[BinaryIO]:
    """A file in memory to read content from, once.

    No pipe: a plugin that ends without reading (`static` does for VERSION) closes it, and uvloop's refuses to be
    written to then, with an error that `communicate` does not expect.
    """
    with os.fdopen(os.memfd_create("cni"), "w+b") as file:
        file.write(content)
        file.seek(0)
        yield file


def _find(kind: str, path: str) -> str:
    for directory in filter(None, path.split(":")):
        program = Path(directory, kind)
        if program.is_file() and os.access(program, os.X_OK):
            return str(program)
    raise CniError(Code.PLUGIN, f"there is no plugin {kind}", f"CNI_PATH is {path!r}")


def _stamp(kind: str, path: str) -> _Stamp:
    program = _find(kind, path)
    try:
        status = Path(program).stat()
    except OSError as error:
        raise CniError(Code.PLUGIN, f"{kind} can't be run", str(error)) from None
    return program, status.st_size, status.st_mtime_ns


def _failure(kind: str, exit_code: int | None, stdout: bytes) -> CniError:
    try:
        said = orjson.loads(stdout)
        return CniError(int(said["code"]), f"{kind}: {said['msg']}", str(said.get("details", "")))
    except (ValueError, TypeError, KeyError):
        text = stdout.decode(errors="replace")[-500:]
        return CniError(Code.PLUGIN, f"{kind} ended with {exit_code}", text)
