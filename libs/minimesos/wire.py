"""Messages between master and agent in separate processes: JSON frames over a WebSocket.

In one process the same messages are handed over as they are. Fields named `*_json` hold
serialised JSON (bytes, or a list of them) that is embedded without parsing it.
"""

from __future__ import annotations

from typing import Any

import orjson

from libs.minimesos.effects import Message
from libs.minimesos.packed import packed

PATH = "/internal/agents"


def encode(message: Message) -> bytes:
    """One message as a frame."""
    return orjson.dumps(
        {k: _wrap(v) if k.endswith("_json") else v for k, v in message.items()} | _nested(message)
    )


def decode(frame: bytes | str) -> Message:
    """The message in a frame. Raises ValueError for what is not JSON."""
    message: Message = orjson.loads(frame)
    return _restore(message)


def _nested(message: Message) -> Message:
    tasks = message.get("tasks")
    if not isinstance(tasks, list):
        return {}
    shown = [{k: _wrap(v) if k.endswith("_json") else v for k, v in task.items()} for task in tasks]
    return {"tasks": shown}


def _wrap(value: Any) -> Any:
    if isinstance(value, bytes):
        return orjson.Fragment(value)
    return [orjson.Fragment(item) for item in value]


def _restore(message: Message) -> Message:
    out: Message = {}
    for key, value in message.items():
        if key.endswith("_json"):
            many = isinstance(value, list)
            out[key] = [packed(v) for v in value] if many else packed(value)
        elif key == "tasks":
            out[key] = [_restore(task) for task in value]
        else:
            out[key] = value
    return out
