"""Draining: the agent empties itself at the master's wish."""

from __future__ import annotations

import orjson

from libs.minimesos.agent.core import Core
from libs.minimesos.agent.executors import kill_task
from libs.minimesos.effects import Message
from libs.minimesos.schema import Json
from libs.minimesos.units import nanoseconds


def drain(core: Core, config: Json | None) -> None:
    """DRAIN: kill all tasks, each within the given grace; None ends the draining."""
    core.drain = config
    if config is None:
        core.forget("drain")
        return
    core.save("drain", orjson.dumps(config))
    limit = config.get("max_grace_period")
    for executor in list(core.executors()):
        for task in list(executor.active_tasks()):
            message: Message = {
                "type": "KILL",
                "framework_id": executor.framework_id,
                "task_id": task.task_id,
            }
            policy = orjson.loads(task.info).get("kill_policy", {}).get("grace_period")
            if limit is not None:
                own_ns = policy["nanoseconds"] if policy else limit["nanoseconds"]
                grace = nanoseconds(min(own_ns, limit["nanoseconds"]) / 1e9)
                message["kill_policy"] = {"grace_period": grace}
            kill_task(core, message)
