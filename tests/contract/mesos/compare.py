"""Compares a recorded value with a live one, field by field, under the table in `allowed.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tests.contract.mesos.allowed import (
    ALLOWED,
    OPTIONAL,
    SUBSET_BY,
    UNORDERED_BY,
    Rule,
    may_have_more,
)
from tests.contract.mesos.binder import Binder
from tests.contract.mesos.wire import Answer


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One difference that no rule allows."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def compare(recorded: Any, live: Any, path: str, binder: Binder) -> list[Mismatch]:
    """What differs; also teaches `binder` the names met on the way."""
    rule = _rule(path)
    if rule is not None and not isinstance(recorded, dict | list):
        problem = rule.check(recorded, live, binder)
        return [Mismatch(path, problem)] if problem else []
    if isinstance(recorded, dict) and isinstance(live, dict):
        return _objects(recorded, live, path, binder)
    if isinstance(recorded, list) and isinstance(live, list):
        return _lists(recorded, live, path, binder)
    if isinstance(recorded, str) and isinstance(live, str):
        expected = binder.text(recorded)
        return [] if expected == live else [Mismatch(path, f"{expected!r} → {live!r}")]
    # 1 and 1.0 differ: doubles keep their `.0` in Mesos' JSON.
    if type(recorded) is type(live) and recorded == live:
        return []
    return [Mismatch(path, f"{_short(recorded)} → {_short(live)}")]


@lru_cache(maxsize=20_000)
def _rule(path: str) -> Rule | None:
    return next((rule for rule in ALLOWED if rule.matches(path)), None)


def _objects(
    recorded: dict[str, Any], live: dict[str, Any], path: str, binder: Binder
) -> list[Mismatch]:
    found = []
    for key, value in recorded.items():
        if key in live:
            found += compare(value, live[key], f"{path}.{key}", binder)
        elif f"{path}.{key}" not in OPTIONAL:
            found.append(Mismatch(f"{path}.{key}", f"missing, recorded {_short(value)}"))
    if not may_have_more(path, recorded):
        found += [
            Mismatch(f"{path}.{key}", f"not in the recording: {_short(live[key])}")
            for key in live
            if key not in recorded
        ]
    return found


def _lists(recorded: list[Any], live: list[Any], path: str, binder: Binder) -> list[Mismatch]:
    last = path.rsplit(".", 1)[-1]
    subset = last in SUBSET_BY and (not recorded or isinstance(recorded[0], dict | str))
    if subset:
        return _keyed(recorded, live, path, binder, SUBSET_BY[last], extra_allowed=True)
    if last in UNORDERED_BY and all(isinstance(item, dict) for item in recorded):
        return _keyed(recorded, live, path, binder, (UNORDERED_BY[last],), extra_allowed=False)
    found = []
    if len(recorded) != len(live):
        found.append(Mismatch(path, f"{len(recorded)} entries → {len(live)}: {_short(live)}"))
    for old, new in zip(recorded, live, strict=False):
        found += compare(old, new, f"{path}[]", binder)
    return found


def _keyed(
    recorded: list[Any],
    live: list[Any],
    path: str,
    binder: Binder,
    keys: tuple[str, ...],
    *,
    extra_allowed: bool,
) -> list[Mismatch]:
    rest = list(live)
    found: list[Mismatch] = []
    for item in recorded:
        wanted = binder.text(str(_key(item, keys)))
        candidates = [other for other in rest if str(_key(other, keys)) == wanted]
        if not candidates:
            found.append(Mismatch(f"{path}[{wanted}]", f"missing, recorded {_short(item)}"))
            continue
        best = (
            candidates[0]
            if len(candidates) == 1
            else min(
                candidates, key=lambda other: len(compare(item, other, f"{path}[]", binder.copy()))
            )
        )
        rest = [other for other in rest if other is not best]
        found += compare(item, best, f"{path}[]", binder)
    if not extra_allowed:
        found += [Mismatch(path, f"not in the recording: {_short(item)}") for item in rest]
    return found


def _key(item: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        value = item
        for part in key.split(".") if key else ():
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            return value
    return json.dumps(item, sort_keys=True)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else text[:157] + "…"


def compare_answer(recorded: Mapping[str, Any], live: Answer, binder: Binder) -> list[Mismatch]:
    """Status line, headers (names in their case, any order) and body of one answer."""
    old = dict(recorded["headers"])
    new = dict(live.headers)
    found = compare(recorded["status"], live.status, "response.status", binder)
    found += compare(old, new, "response.headers", binder)
    length = live.header("Content-Length")
    if "json" in recorded:
        try:
            body = json.loads(live.body)
        except ValueError:
            return [*found, Mismatch("response.body", f"not JSON: {live.body[:80]!r}")]
        found += compare(recorded["json"], body, "response.json", binder)
        compact = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        if len(compact) < len(live.body) and b": " in live.body[:40]:
            found.append(Mismatch("response.body", "JSON is not compact"))
    elif "body" in recorded:
        text = live.body.decode("utf-8", "replace")
        found += compare(recorded["body"], text, "response.body", binder)
    if length is not None and int(length) != len(live.body):
        found.append(Mismatch("response.headers.Content-Length", f"{length} is not the length"))
    return found
