"""One command as a process: started, waited for, killed with grace; checks beside it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from libs.minimesos.executor.real import monotonic, pause

Json = dict[str, Any]
DEFAULT_GRACE_S = 3.0
# Mesos runs a command below a launcher that has no handler for TERM, so a task ends with the
# signal even if the command traps it; otherwise the launcher ends as the command did.
_WRAPPER = '"$@"; s=$?; if [ $s -gt 128 ] && [ $s -lt 160 ]; then kill -$((s-128)) $$; fi; exit $s'


def start(command: Json, directory: str) -> subprocess.Popen[bytes]:
    """Start a CommandInfo in `directory`, in a process group of its own. Raises OSError."""
    environment = dict(os.environ)
    for variable in command.get("environment", {}).get("variables", []):
        if "value" in variable:
            environment[variable["name"]] = variable["value"]
    value = command.get("value", "")
    arguments = command.get("arguments", [])[1:]
    argv = ["/bin/sh", "-c", value] if command.get("shell", True) else [value, *arguments]
    return subprocess.Popen(
        ["sh", "-c", _WRAPPER, "sh", *argv],
        executable="/bin/sh",
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def describe(returncode: int) -> str:
    """The message of a terminal update, as Mesos words it."""
    if returncode >= 0:
        return f"Command exited with status {returncode}"
    return f"Command terminated with signal {signal.strsignal(-returncode)}"


def terminate(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """TERM to the group, KILL after the grace period. Returns at once."""
    _signal(process, signal.SIGTERM)
    threading.Thread(target=_kill_later, args=(process, grace_s), daemon=True).start()


def _kill_later(process: subprocess.Popen[bytes], grace_s: float) -> None:
    deadline = monotonic() + grace_s
    while monotonic() < deadline:
        if process.poll() is not None:
            break
        pause(0.05)
    _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


class Checker:
    """Runs a health check or a check again and again, and tells when its result changes."""

    def __init__(self, spec: Json, directory: str, tell: Callable[[Json], None]) -> None:
        self._spec = spec
        self._directory = directory
        self._tell = tell
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin after the check's delay."""
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """No more results."""
        self._stop.set()

    def _run(self) -> None:
        if self._stop.wait(self._spec.get("delay_seconds", 15.0)):
            return
        interval_s = self._spec.get("interval_seconds", 10.0)
        while not self._stop.is_set():
            result = self._once(self._spec.get("timeout_seconds", 20.0) or None)
            if not self._stop.is_set():
                self._tell(result)
            self._stop.wait(interval_s)

    def _once(self, timeout_s: float | None) -> Json:
        kind = self._spec.get("type")
        if kind == "COMMAND":
            command = self._spec["command"]
            return _command(command.get("command", command), self._directory, timeout_s)
        if kind == "HTTP":
            return _http(self._spec["http"], timeout_s)
        return _tcp(self._spec["tcp"]["port"], timeout_s)


def _command(command: Json, directory: str, timeout_s: float | None) -> Json:
    try:
        process = start(command, directory)
    except OSError:
        return {"ok": False, "command": {}}
    try:
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)
        process.wait()
        return {"ok": False, "command": {}}
    return {"ok": code == 0, "command": {"exit_code": code}}


def _http(spec: Json, timeout_s: float | None) -> Json:
    scheme = spec.get("scheme", "http")
    url = f"{scheme}://127.0.0.1:{spec['port']}{spec.get('path', '/')}"
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            code = response.status
    except urllib.error.HTTPError as error:
        code = error.code
    except (OSError, ValueError):
        return {"ok": False, "http": {}}
    return {"ok": 200 <= code < 400, "http": {"status_code": code}}


def _tcp(port: int, timeout_s: float | None) -> Json:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s):
            return {"ok": True, "tcp": {"succeeded": True}}
    except OSError:
        return {"ok": False, "tcp": {"succeeded": False}}
