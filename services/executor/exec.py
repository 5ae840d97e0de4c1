"""CommandRunner on `docker exec`, for health checks only: an exec costs the engine dearly."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

import aiohttp
from aiodocker import Docker
from aiodocker.exceptions import DockerError
from aiodocker.execs import Exec

from libs.common.errors import NotFound, TimedOut, Unavailable

_CONCURRENCY = 4
_OUTPUT_BYTES = 4096
_CLEANUP_S = 5.0


class DockerCommands:
    """See CommandRunner."""

    def __init__(self, docker: Docker) -> None:
        self._docker = docker
        self._busy = asyncio.Semaphore(_CONCURRENCY)

    async def run(
        self, container: str, command: tuple[str, ...], timeout_s: float
    ) -> tuple[int, str]:
        """See CommandRunner. The time-out counts from the start of the command, not the wait for its turn."""
        async with self._busy:
            try:
                made = await self._docker.containers.container(container).exec(list(command))
                try:
                    async with asyncio.timeout(timeout_s):
                        output = await _output(made)
                        code = (await made.inspect())["ExitCode"]
                except TimeoutError:
                    await _kill(made)
                    raise TimedOut(f"it did not end in {timeout_s:g} s") from None
            except DockerError as error:
                kind = NotFound if error.status == 404 else Unavailable
                raise kind(error.message) from None
            except (aiohttp.ClientError, OSError) as error:
                raise Unavailable(f"Docker can't be reached: {type(error).__name__}") from None
            return (-1 if code is None else int(code)), output.decode("utf-8", "replace")


async def _output(made: Exec) -> bytes:
    """All of it is read, as unread output would block the command; the beginning is kept."""
    kept = b""
    async with made.start(detach=False) as stream:
        while (message := await stream.read_out()) is not None:
            kept += message.data[: _OUTPUT_BYTES - len(kept)]
    return kept


async def _kill(made: Exec) -> None:
    """Docker has no call to end an exec; its process is the host's, so a signal does it."""
    with suppress(DockerError, aiohttp.ClientError, OSError, TimeoutError):
        async with asyncio.timeout(_CLEANUP_S):
            state = await made.inspect()
        if state["Running"] and state["Pid"] > 1:
            os.kill(state["Pid"], signal.SIGKILL)
