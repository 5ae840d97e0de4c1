"""Pure: what Chronos tells each try of a job in its environment, for the jobs that came by Chronos' API.

What is the same for all tries (`CHRONOS_JOB_NAME`, …) the gateway has put into the spec.
Source: MesosTaskBuilder.envs of Chronos 3.0.2, which lets a job's own variables replace none of them; Mesos'
executors add `MESOS_TASK_ID`.
"""

from __future__ import annotations

from libs.common.jobs import CHRONOS_NAME
from libs.common.task import TaskPayload


def variables(payload: TaskPayload) -> dict[str, str]:
    """Those of this try; none for any other task. The run's time is in milliseconds, its first try is number 0."""
    run, name = payload.run, payload.spec.labels.get(CHRONOS_NAME)
    if run is None or name is None:
        return {}
    due_ms = str(round(run.target * 1000))
    told = {"CHRONOS_JOB_RUN_TIME": due_ms, "MESOS_TASK_ID": payload.attempt}
    if run.tries is not None:
        told["CHRONOS_JOB_RUN_ATTEMPT"] = str(run.tries)
        # Chronos' own id of it, by which a client reports progress; its last part, the arguments, is left empty.
        told["mesos_task_id"] = f"ct:{due_ms}:{run.tries}:{name}:"
    if run.hostname:
        told["HOST"] = run.hostname
    return told
