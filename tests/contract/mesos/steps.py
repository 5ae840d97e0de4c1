"""Fixtures: recorded exchanges as lists of steps, one JSON object a line.

`request` / `response` / `event` / `end` / `close` / `lost` / `raw` come from recordings of a real
Mesos 1.12; `do` / `quiet` / `wait` / `environ` say what the person recording did meanwhile. `at` is
the second of the recording. Paths and machine names are scrubbed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parent / "fixtures"
Step = dict[str, Any]


DATE = "Mon, 23 Nov 2026 08:00:00 GMT"
"""Stands for all recorded dates."""
_LINES = {
    "scheduler": "POST /api/v1/scheduler",
    "executor": "POST /api/v1/executor",
    "operator": "POST /api/v1",
}


def load(name: str, edits: Mapping[str, str] | None = None) -> list[Step]:
    """The steps of `fixtures/<name>.jsonl`, edited as text, abbreviations written out."""
    text = (FIXTURES / f"{name}.jsonl").read_text()
    for recorded, wanted in (edits or {}).items():
        if recorded not in text:
            raise ValueError(f"{name}: nothing to edit: {recorded!r}")
        text = text.replace(recorded, wanted)
    return [_written_out(json.loads(line)) for line in text.splitlines()]


def names() -> list[str]:
    """All fixtures there are."""
    return sorted(path.stem for path in FIXTURES.glob("*.jsonl"))


def _written_out(step: Step) -> Step:
    """The steps as recorded.

    `accepted` is the usual answer to a call, headers `json [stream]` the usual ones of a call, and
    `json` a body whose bytes are those of `json.dumps`.
    """
    if step["step"] == "accepted":
        headers = [["Date", DATE], ["Content-Length", "0"]]
        usual = {"status": "HTTP/1.1 202 Accepted", "headers": headers, "body": ""}
        return {**step, **usual, "step": "response"}
    if step["step"] == "response":
        step["headers"] = [[n, DATE if n == "Date" else v] for n, v in step["headers"]]
    if step["step"] == "request":
        if "json" in step:
            step["body"] = json.dumps(step.pop("json"))
        step["line"] = f"{_LINES.get(step['line'], step['line'])} HTTP/1.1"
        if isinstance(step["headers"], str):
            stream = step["headers"].removeprefix("json").strip()
            step["headers"] = [
                ["Host", "{peer}"],
                ["Content-Type", "application/json"],
                ["Accept", "application/json"],
                *([["Mesos-Stream-Id", stream]] if stream else []),
            ]
    return step


def stimulus(steps: list[Step], index: int) -> Step | None:
    """The last thing the recording side did before `steps[index]`."""
    for step in reversed(steps[:index]):
        if step["step"] in ("request", "do", "close", "raw"):
            return step
    return None
