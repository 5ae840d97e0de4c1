"""Virtual tasks: they run for so many seconds of the clock, without any process.

A command task `sleep N` runs N seconds; so does a task of a custom executor whose `data` holds
`sleep=N` (base64, as in the API). Anything else runs until it is killed. `says=TEXT` (base64 again) there is the data
of the update that it runs, as an executor of a framework's own would send it.
"""

from __future__ import annotations

import base64
import binascii
import re

import orjson

from libs.minimesos.agent import updates
from libs.minimesos.agent.core import Core
from libs.minimesos.agent.model import Executor, Framework, Task
from libs.minimesos.ids import uuid_bytes64
from libs.minimesos.schema import Json

_SLEEP = re.compile(r"(?:^|[\s;,])sleep[ =](\d+(?:\.\d+)?)")
_SAYS = re.compile(r"says=([A-Za-z0-9+/]+=*)")
_EXIT = re.compile(r"(?:^|[\s;,])exit[ =](\d+)")


def begin(core: Core, executor: Executor, task: Task) -> None:
    """STARTING, RUNNING, and a timer for the end."""
    framework = core.frameworks[executor.framework_id]
    info = orjson.loads(task.info)
    script = _script(info)
    said = _SAYS.search(script)
    _say(core, framework, executor, task, "TASK_STARTING", "")
    _say(core, framework, executor, task, "TASK_RUNNING", "", said.group(1) if said else "")
    _schedule(core, executor, task, core.now, _duration(info, script))


def schedule(core: Core, executor: Executor, task: Task, started_at: float) -> None:
    """Set the time of the task's end, if it has one, after a restart."""
    _schedule(core, executor, task, started_at, duration(orjson.loads(task.info)))


def _schedule(
    core: Core, executor: Executor, task: Task, started_at: float, duration_s: float | None
) -> None:
    if duration_s is not None:
        key = ("virtual", executor.framework_id, executor.executor_id, task.task_id)
        core.timers.set(key, started_at + duration_s)


def duration(info: Json) -> float | None:
    """Seconds a task runs; None: until killed."""
    return _duration(info, _script(info))


def _duration(info: Json, script: str) -> float | None:
    match = _SLEEP.search(script) if "sleep" in script else None
    if match is not None:
        return float(match.group(1))
    return 0.0 if info.get("command", {}).get("value") in ("true", "false") else None


def _script(info: Json) -> str:
    text = str(info.get("command", {}).get("value", ""))
    if "data" in info:
        try:
            text += " " + base64.b64decode(info["data"]).decode("utf-8", "replace")
        except (binascii.Error, ValueError):
            return text
    return text


def finish(core: Core, framework_id: str, executor_id: str, task_id: str) -> None:
    """A virtual task's time is over."""
    framework = core.frameworks.get(framework_id)
    executor = framework.executors.get(executor_id) if framework else None
    task = executor.tasks.get(task_id) if executor else None
    if framework is None or executor is None or task is None:
        return
    info = orjson.loads(task.info)
    match = _EXIT.search(_script(info))
    code = int(match.group(1)) if match else 0
    if info.get("command", {}).get("value") == "false":
        code = 1
    state = "TASK_FAILED" if code else "TASK_FINISHED"
    _say(core, framework, executor, task, state, f"Command exited with status {code}")


def kill(core: Core, framework: Framework, executor: Executor, task: Task) -> None:
    """A virtual task obeys at once."""
    core.timers.cancel(("virtual", framework.id, executor.executor_id, task.task_id))
    message = "Command terminated with signal Terminated"
    _say(core, framework, executor, task, "TASK_KILLED", message)


def _say(
    core: Core,
    framework: Framework,
    executor: Executor,
    task: Task,
    state: str,
    message: str,
    data: str = "",
) -> None:
    status: Json = {"task_id": {"value": task.task_id}, "state": state}
    if data:
        status["data"] = data
    if message:
        status["message"] = message
    status["source"] = "SOURCE_EXECUTOR"
    status["timestamp"] = core.now
    status["uuid"] = uuid_bytes64(core.ids.uuid())
    updates.from_executor(core, framework, executor, status)
