"""Prober: health checks from inside a container's network namespace, as the host need not be in its VLAN.

A socket belongs to the namespace in which it was made, and works from any thread afterwards. So one thread makes
sockets, each after setns; the event loop does the rest.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from libs.common.errors import GantryError
from libs.common.spec import HealthCheck
from services.executor.model import ProbeResult, ProbeTarget

_CLONE_NEWNET = 0x40000000
_STATUS_LINE_BYTES = 4096
_SAID_CHARACTERS = 200


class CommandRunner(Protocol):
    """Runs a command in a container."""

    async def run(
        self, container: str, command: tuple[str, ...], timeout_s: float
    ) -> tuple[int, str]:
        """Exit code and the beginning of the output. Raises NotFound, TimedOut, Unavailable."""
        ...


class NamespaceSockets:
    """Makes TCP sockets inside network namespaces; close it at the end."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="netns")
        self._libc = ctypes.CDLL(None, use_errno=True)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def tcp(self, namespace: str, family: int = socket.AF_INET) -> socket.socket:
        """A non-blocking socket in the namespace at that path. Raises OSError."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._make, namespace, family)

    def _make(self, namespace: str, family: int) -> socket.socket:
        home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            there = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._enter(there)
                try:
                    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                finally:
                    # A thread that stayed there would keep the namespace alive.
                    self._enter(home)
            finally:
                os.close(there)
        finally:
            os.close(home)

    def _enter(self, namespace: int) -> None:
        if self._libc.setns(namespace, _CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))


class NamespaceProber:
    """See Prober."""

    def __init__(self, commands: CommandRunner) -> None:
        self._sockets = NamespaceSockets()
        self._commands = commands

    def close(self) -> None:
        """End the thread."""
        self._sockets.close()

    async def probe(self, target: ProbeTarget, check: HealthCheck) -> ProbeResult:
        """See Prober."""
        what = _describe(target, check)
        try:
            if check.type == "command":
                return await self._command(target, check, what)
            async with asyncio.timeout(check.timeout_s):
                answer = await self._knock(target, check)
        except TimeoutError:
            return ProbeResult(False, f"{what}: no answer in {check.timeout_s:g} s")
        except OSError as error:  # asyncio's own text repeats the address
            said = os.strerror(error.errno) if error.errno else type(error).__name__
            return ProbeResult(False, f"{what}: {said}")
        except GantryError as error:
            return ProbeResult(False, f"{what}: {error}")
        return ProbeResult(not answer, f"{what}: {answer}" if answer else "")

    async def _knock(self, target: ProbeTarget, check: HealthCheck) -> str:
        """What is wrong, or ""."""
        loop = asyncio.get_running_loop()
        with await self._sockets.tcp(target.namespace, _family(target.ip)) as sock:
            await loop.sock_connect(sock, (target.ip, check.port))
            if check.type == "tcp":
                return ""
            request = (
                f"GET {check.path} HTTP/1.1\r\nHost: {_authority(target.ip, check.port)}\r\n"
                "User-Agent: gantry-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
            )
            await loop.sock_sendall(sock, request.encode())
            received = b""
            while b"\n" not in received and len(received) < _STATUS_LINE_BYTES:
                chunk = await loop.sock_recv(sock, _STATUS_LINE_BYTES)
                if not chunk:
                    break
                received += chunk
        return judge_status_line(received.partition(b"\n")[0])

    async def _command(self, target: ProbeTarget, check: HealthCheck, what: str) -> ProbeResult:
        code, output = await self._commands.run(target.container_id, check.command, check.timeout_s)
        if code == 0:
            return ProbeResult(True)
        said = " ".join(output.split())[:_SAID_CHARACTERS]
        return ProbeResult(False, f"{what}: exited with code {code}{f': {said}' * bool(said)}")


def _family(ip: str) -> int:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def _authority(ip: str, port: int | None) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _describe(target: ProbeTarget, check: HealthCheck) -> str:
    if check.type == "command":
        return f"command {' '.join(check.command)[:_SAID_CHARACTERS]}"
    address = _authority(target.ip, check.port)
    return f"GET http://{address}{check.path}" if check.type == "http" else f"TCP {address}"


def judge_status_line(line: bytes) -> str:
    """What is wrong with an HTTP status line, or "" for a status of 200 to 399."""
    if not line:
        return "the connection was closed without an answer"
    parts = line.split(None, 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():
        return "the answer is not HTTP"
    status = int(parts[1])
    return "" if 200 <= status < 400 else f"status {status}"
