"""The built-in executor's main program.

The main thread follows the event stream; a thread a task waits for its process; one thread posts
updates and keeps them until the agent has acknowledged them. When the agent is away it
subscribes again, for as long as MESOS_RECOVERY_TIMEOUT allows.
"""

from __future__ import annotations

import base64
import os
import queue
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

from libs.minimesos.executor.agent_api import AgentApi, AgentRefused, AgentUnreachable
from libs.minimesos.executor.process import DEFAULT_GRACE_S, Checker, describe, start, terminate
from libs.minimesos.executor.real import fresh_uuid, monotonic, now, pause

Json = dict[str, Any]
TERMINAL = frozenset({"TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_ERROR"})
RETRY_S = 0.2
_UNITS_S = {"ms": 0.001, "secs": 1.0, "mins": 60.0, "hrs": 3600.0, "days": 86400.0}


def duration_s(text: str, default: float) -> float:
    """Seconds in Mesos' duration text."""
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = _UNITS_S.get(text[len(number) :])
    return default if unit is None or not number else float(number) * unit


class Task:
    """A task and its process."""

    def __init__(self, info: Json, directory: str, container: Json | None) -> None:
        self.info = info
        self.directory = directory
        self.container = container
        self.process: subprocess.Popen[bytes] | None = None
        self.killed = False
        self.reason = ""
        self.healthy: bool | None = None
        self.failures = 0
        self.check_status: Json | None = None
        self.checkers: list[Checker] = []
        if "check" in info:
            kind = info["check"].get("type", "COMMAND")
            self.check_status = {"type": kind, kind.lower(): {}}

    @property
    def id(self) -> str:
        """The task's id."""
        return str(self.info["task_id"]["value"])


class Executor:
    """All state of the program; `lock` guards it."""

    def __init__(self) -> None:
        environment = os.environ
        self.executor_id = environment["MESOS_EXECUTOR_ID"]
        self.api = AgentApi(
            environment["MESOS_AGENT_ENDPOINT"],
            environment["MESOS_FRAMEWORK_ID"],
            self.executor_id,
            # Not for the tasks' processes, which inherit the rest.
            environment.pop("MESOS_EXECUTOR_AUTHENTICATION_TOKEN", ""),
        )
        self.sandbox = environment["MESOS_SANDBOX"]
        self.checkpoint = environment.get("MESOS_CHECKPOINT") == "1"
        self.recovery_s = duration_s(environment.get("MESOS_RECOVERY_TIMEOUT", ""), 900.0)
        grace = environment.get("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", "")
        self.shutdown_grace_s = duration_s(grace, 5.0)
        self.lock = threading.RLock()
        self.tasks: dict[str, Task] = {}
        self.unacknowledged: dict[str, Json] = {}
        self.outbox: queue.Queue[str] = queue.Queue()
        self.container_id = ""
        self.killing_state = False
        self.launched = False
        self.group = False

    # ---- the stream
    def run(self) -> int:
        """Follow the agent until all tasks are over."""
        threading.Thread(target=self._send_updates, daemon=True).start()
        last_contact = monotonic()
        while True:
            with self.lock:
                tasks = [t.info for t in self.tasks.values()]
                updates = [{"status": s} for s in self.unacknowledged.values()]
            try:
                for event in self.api.subscribe(tasks, updates):
                    last_contact = monotonic()
                    self._handle(event)
                    if self._done():
                        return 0
            except AgentRefused as error:
                print(f"refused: {error}", file=sys.stderr, flush=True)
            except AgentUnreachable as error:
                print(f"agent unreachable: {error}", file=sys.stderr, flush=True)
            away_s = monotonic() - last_contact
            if not self.checkpoint or away_s > self.recovery_s:
                self._end(0.0)
                return 1
            pause(RETRY_S)

    def _done(self) -> bool:
        with self.lock:
            return self.launched and not self.tasks and not self.unacknowledged

    def _handle(self, event: Json) -> None:
        kind = event["type"]
        if kind == "SUBSCRIBED":
            body = event["subscribed"]
            self.container_id = body.get("container_id", {}).get("value", "")
            capabilities = body["framework_info"].get("capabilities", [])
            self.killing_state = any(c.get("type") == "TASK_KILLING_STATE" for c in capabilities)
        elif kind == "LAUNCH":
            self._launch(Task(event["launch"]["task"], self.sandbox, None))
        elif kind == "LAUNCH_GROUP":
            self.group = True
            for info in event["launch_group"]["task_group"]["tasks"]:
                self._launch(self._member(info))
        elif kind == "KILL":
            policy = event["kill"].get("kill_policy")
            task = self.tasks.get(event["kill"]["task_id"]["value"])
            if task is not None:
                self._kill(task, policy)
        elif kind == "ACKNOWLEDGED":
            with self.lock:
                self.unacknowledged.pop(event["acknowledged"]["uuid"], None)
        elif kind == "SHUTDOWN":
            self._end(self.shutdown_grace_s * 0.8)
            os._exit(0)

    def _member(self, info: Json) -> Task:
        """A task of a group runs in a directory and a container of its own."""
        nested = str(fresh_uuid())
        directory = Path(self.sandbox) / "tasks" / info["task_id"]["value"]
        directory.mkdir(parents=True, exist_ok=True)
        container = {"container_id": {"value": nested, "parent": {"value": self.container_id}}}
        return Task(info, str(directory), container)

    # ---- tasks
    def _launch(self, task: Task) -> None:
        with self.lock:
            if task.id in self.tasks:
                return
            self.tasks[task.id] = task
            self.launched = True
        self._update(task, "TASK_STARTING")
        try:
            task.process = start(task.info.get("command", {}), task.directory)
        except OSError as error:
            self._finish(task, "TASK_FAILED", f"Failed to launch command: {error.strerror}")
            return
        self._update(task, "TASK_RUNNING")
        for name, tell in (("health_check", self._health), ("check", self._check)):
            spec = task.info.get(name)
            if spec is not None:
                checker = Checker(spec, task.directory, partial(tell, task))
                task.checkers.append(checker)
                checker.start()
        threading.Thread(target=self._wait, args=(task,), daemon=True).start()

    def _wait(self, task: Task) -> None:
        process = task.process
        assert process is not None
        limit = task.info.get("max_completion_time", {}).get("nanoseconds")
        try:
            code = process.wait(None if limit is None else limit / 1e9)
        except subprocess.TimeoutExpired:
            task.reason = "REASON_MAX_COMPLETION_TIME_REACHED"
            self._kill(task, None)
            code = process.wait()
        state = "TASK_FINISHED" if code == 0 else "TASK_FAILED"
        if task.killed:
            state = "TASK_FAILED" if task.reason else "TASK_KILLED"
        self._finish(task, state, describe(code))

    def _finish(self, task: Task, state: str, message: str) -> None:
        for checker in task.checkers:
            checker.stop()
        if task.check_status is not None:
            task.check_status = {k: {} if k != "type" else v for k, v in task.check_status.items()}
        if state == "TASK_FINISHED":
            task.healthy = None
        # In one: after the last acknowledgement nobody asks again whether we are done.
        with self.lock:
            self._update(task, state, message, task.reason)
            self.tasks.pop(task.id, None)
            others = list(self.tasks.values())
        if self.group and state != "TASK_FINISHED":
            for other in others:
                self._kill(other, None)

    def _kill(self, task: Task, policy: Json | None) -> None:
        with self.lock:
            if task.killed or task.process is None:
                return
            task.killed = True
        if self.killing_state and not task.reason:
            self._update(task, "TASK_KILLING")
        policy = policy or task.info.get("kill_policy") or {}
        grace_ns = policy.get("grace_period", {}).get("nanoseconds", DEFAULT_GRACE_S * 1e9)
        terminate(task.process, grace_ns / 1e9)

    def _end(self, grace_s: float) -> None:
        with self.lock:
            running = [t.process for t in self.tasks.values() if t.process is not None]
        for process in running:
            terminate(process, grace_s)
        for process in running:
            process.wait()

    # ---- checks
    def _health(self, task: Task, result: Json) -> None:
        spec = task.info["health_check"]
        changed = task.healthy is not result["ok"]
        if result["ok"]:
            task.failures = 0
        else:
            task.failures += 1
        if changed or not result["ok"]:
            task.healthy = result["ok"]
            self._update(task, "TASK_RUNNING", reason="REASON_TASK_HEALTH_CHECK_STATUS_UPDATED")
        if task.failures >= spec.get("consecutive_failures", 3) > 0:
            self._kill(task, None)

    def _check(self, task: Task, result: Json) -> None:
        kind = task.info["check"].get("type", "COMMAND").lower()
        status = {"type": kind.upper(), kind: result[kind]}
        if status != task.check_status:
            task.check_status = status
            self._update(task, "TASK_RUNNING", reason="REASON_TASK_CHECK_STATUS_UPDATED")

    # ---- updates
    def _update(self, task: Task, state: str, message: str = "", reason: str = "") -> None:
        raw = fresh_uuid().bytes
        status: Json = {
            "task_id": {"value": task.id},
            "state": state,
            "source": "SOURCE_EXECUTOR",
            "executor_id": {"value": self.executor_id},
            "timestamp": now(),
            "uuid": base64.b64encode(raw).decode(),
        }
        if message:
            status["message"] = message
        if reason:
            status["reason"] = reason
        if task.healthy is not None:
            status["healthy"] = task.healthy
        if task.check_status is not None:
            status["check_status"] = task.check_status
        if task.container is not None:
            status["container_status"] = dict(task.container)
            if state == "TASK_RUNNING" and task.process is not None:
                status["container_status"]["executor_pid"] = task.process.pid
        with self.lock:
            self.unacknowledged[status["uuid"]] = status
        self.outbox.put(status["uuid"])

    def _send_updates(self) -> None:
        while True:
            key = self.outbox.get()
            while not self._sent(key):
                # Sent twice does no harm: the agent knows updates by their uuid.
                pause(RETRY_S)

    def _sent(self, key: str) -> bool:
        with self.lock:
            status = self.unacknowledged.get(key)
        if status is None:
            return True
        try:
            self.api.call("UPDATE", update={"status": status})
        except AgentUnreachable:
            return False
        except AgentRefused as error:
            print(f"update refused: {error}", file=sys.stderr, flush=True)
        return True


def main() -> int:
    """Run until all tasks are over; the exit status of the process."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    return Executor().run()
