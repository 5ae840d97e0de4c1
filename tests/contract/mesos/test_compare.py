"""The comparison itself: a recording equals itself, and no spoilt field of it goes unnoticed.

Without this the suite could pass by allowing too much.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from tests.contract.mesos import steps
from tests.contract.mesos.allowed import ALLOWED, OPTIONAL, SUBSET_BY, may_have_more
from tests.contract.mesos.binder import Binder
from tests.contract.mesos.compare import compare, compare_answer
from tests.contract.mesos.wire import Answer


def _documents(name: str) -> Iterator[tuple[str, Any]]:
    """(path, recorded value) of everything of a fixture that is compared."""
    for step in steps.load(name):
        if step["step"] == "event":
            yield f"{step['event']['type']} event", step["event"]
        elif step["step"] == "response":
            yield "response.headers", dict(step["headers"])
            if "json" in step:
                yield "response.json", step["json"]


Keys = tuple[str | int, ...]


def _nodes(value: Any, path: str, keys: Keys = ()) -> Iterator[tuple[str, Keys]]:
    """(path as in rules, keys that lead there) of every field and entry."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{path}.{key}", (*keys, key)
            yield from _nodes(inner, f"{path}.{key}", (*keys, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield f"{path}[]", (*keys, index)
            yield from _nodes(inner, f"{path}[]", (*keys, index))


def _at(document: Any, keys: Keys) -> Any:
    for key in keys:
        document = document[key]
    return document


def _spoilt(value: Any) -> list[Any]:
    """Values that must not pass for `value`: another one of its type, and other types."""
    match value:
        case bool():
            return [not value, "x", None]
        case int():
            return [value + 1, value + 0.5, str(value)]
        case float():
            return [value + 0.5, str(value), None]
        case str():
            return [value + "x", "", 7, None]
    return [None, "x", 7]


_LEARNT: dict[int, Binder] = {}


def _learnt(document: Any, path: str) -> Binder:
    """A binder that has seen the document compared with itself."""
    if id(document) not in _LEARNT:
        binder = Binder()
        assert compare(document, document, path, binder) == []
        _LEARNT[id(document)] = binder
    return _LEARNT[id(document)].copy()


@pytest.mark.parametrize("name", steps.names())
def test_a_recording_equals_itself(name: str) -> None:
    """Events and answers, bodies included; ids are learnt consistently on the way."""
    binder = Binder()
    for step in steps.load(name):
        if step["step"] == "event":
            assert compare(step["event"], step["event"], "event", binder) == []
        elif step["step"] == "response" and "body" in step:
            body = step["body"].encode()
            headers = [
                (n, str(len(body)) if n == "Content-Length" else v) for n, v in step["headers"]
            ]
            headers = [
                (n, "Mon, 23 Nov 2026 08:00:00 GMT" if n == "Date" else v) for n, v in headers
            ]
            assert compare_answer(step, Answer(step["status"], headers, body), binder) == []


def test_every_missing_field_is_noticed() -> None:
    """Whatever field is left out of a document, the comparison says so."""
    for path, document, spot, keys in _spots():
        if spot in OPTIONAL:
            continue
        spoilt = copy.deepcopy(document)
        del _at(spoilt, keys[:-1])[keys[-1]]
        assert compare(document, spoilt, path, _learnt(document, path)), spot


def test_every_extra_field_is_noticed() -> None:
    """But for metrics and flags, an object of the live side has no more fields than recorded."""
    for path, document, spot, keys in _spots():
        value = _at(document, keys)
        if not isinstance(value, dict) or may_have_more(spot, value):
            continue
        spoilt = copy.deepcopy(document)
        _at(spoilt, keys)["not_in_mesos"] = 1
        assert compare(document, spoilt, path, _learnt(document, path)), spot


def test_every_spoilt_value_is_noticed() -> None:
    """A value of another type is never allowed; of the same type only where a rule says so."""
    for path, document, spot, keys in _spots():
        kept = _at(document, keys)
        for wrong in _spoilt(kept):
            if wrong == kept or (type(wrong) is type(kept) and _free(spot) and wrong != ""):
                continue
            spoilt = copy.deepcopy(document)
            _at(spoilt, keys[:-1])[keys[-1]] = wrong
            assert compare(document, spoilt, path, _learnt(document, path)), f"{spot} → {wrong}"


def _free(path: str) -> bool:
    """Whether a rule lets any value of the same type pass there."""
    rule = next((rule for rule in ALLOWED if rule.matches(path)), None)
    return rule is not None and rule.check.__name__ in (
        "same_type",
        "digits",
        "http_date",
        "version",
    )


@cache
def _spots() -> list[tuple[str, Any, str, Keys]]:
    """(document's path, document, spot in it, keys to it): each spot of all fixtures once."""
    seen: dict[str, tuple[str, Any, str, Keys]] = {}
    documents = [pair for name in steps.names() for pair in _documents(name)]
    # Small documents first: the copies and comparisons per spot are cheaper.
    for path, document in sorted(documents, key=lambda pair: len(str(pair[1]))):
        for spot, keys in _nodes(document, path):
            seen.setdefault(spot, (path, document, spot, keys))
    return list(seen.values())


def test_a_name_stands_for_one_thing_only() -> None:
    """Two recorded offers cannot be one live offer, nor one recorded two live ones."""
    master = "4ecbeda4-486d-44d5-9773-d6daf1afd113"

    def rescind(number: int) -> dict[str, Any]:
        return {"type": "RESCIND", "rescind": {"offer_id": {"value": f"{master}-O{number}"}}}

    binder = Binder()
    assert compare(rescind(1), rescind(7), "e", binder) == []
    assert compare(rescind(2), rescind(7), "e", binder)
    assert compare(rescind(1), rescind(8), "e", binder)
    assert binder.text(f"offer {master}-O1 of {master}-O12") == f"offer {master}-O7 of {master}-O12"


def test_what_others_did_is_no_difference() -> None:
    """Lists of SUBSET_BY may hold more; what is recorded must be there."""
    task = {"task_id": {"value": "t"}, "state": "TASK_RUNNING"}
    other = {"task_id": {"value": "u"}, "state": "TASK_LOST"}
    assert "tasks" in SUBSET_BY
    assert compare({"tasks": [task]}, {"tasks": [other, task]}, "json", Binder()) == []
    assert compare({"tasks": [task]}, {"tasks": [other]}, "json", Binder())
