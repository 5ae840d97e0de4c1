"""TaskStatus messages that master and agent make themselves, and what they read from others'."""

from __future__ import annotations

import orjson

from libs.minimesos.packed import packed
from libs.minimesos.schema import Json
from libs.minimesos.units import nanoseconds

MASTER = "SOURCE_MASTER"
AGENT = "SOURCE_AGENT"


def make_status(
    task_id: str,
    state: str,
    source: str,
    now: float,
    *,
    message: str = "",
    reason: str = "",
    agent_id: str = "",
    executor_id: str = "",
    uuid: str = "",
    unreachable_time: float | None = None,
    extra: Json | None = None,
) -> Json:
    """A TaskStatus with fields in Mesos' order; empty arguments are left out.

    `uuid` is in its base64 form; `extra` holds healthy, check_status and container_status.
    """
    out: Json = {"task_id": {"value": task_id}, "state": state}
    if message:
        out["message"] = message
    out["source"] = source
    if reason:
        out["reason"] = reason
    if agent_id:
        out["agent_id"] = {"value": agent_id}
    if executor_id:
        out["executor_id"] = {"value": executor_id}
    out["timestamp"] = now
    if uuid:
        out["uuid"] = uuid
    if extra:
        out.update(extra)
    if unreachable_time is not None:
        out["unreachable_time"] = nanoseconds(unreachable_time)
    return out


def without_data(status: bytes) -> bytes:
    """A status as it is remembered: the framework's own `data` is not kept."""
    if b'"data":' not in status:
        return status
    value = orjson.loads(status)
    value.pop("data", None)
    return packed(value)


def state_of(status: bytes) -> str:
    """The state in a serialised status."""
    return str(orjson.loads(status)["state"])


def remembered(statuses: tuple[bytes, ...], status: bytes, state: str) -> tuple[bytes, ...]:
    """`statuses` with `status` appended; a run of the same state keeps only its last."""
    status = without_data(status)
    if statuses and statuses[-1].find(b'"state":"%b"' % state.encode()) >= 0:
        return (*statuses[:-1], status)
    return (*statuses, status)


def latest_extra(statuses: tuple[bytes, ...]) -> Json:
    """healthy, check_status and container_status as reconciliation repeats them."""
    if not statuses:
        return {}
    last = orjson.loads(statuses[-1])
    out = {k: last[k] for k in ("healthy", "check_status") if k in last}
    for raw in reversed(statuses):
        status = orjson.loads(raw)
        if "container_status" in status:
            out["container_status"] = status["container_status"]
            break
    return out
