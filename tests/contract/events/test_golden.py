"""What producers have sent is understood for ever: the golden files, one an event type and version."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import orjson
import pytest
from pydantic import BaseModel

from libs.common.bus.base import Record
from libs.common.errors import Poison
from libs.common.events import EVENT_TYPES, Event, model, seal
from tests.contract.events.write_golden import CAUSE, GOLDEN, NOW

FILES = sorted(GOLDEN.glob("*.json"))


def load(file: Path) -> tuple[dict[str, Any], Record]:
    """A golden file, and the record it stands for."""
    golden = orjson.loads(file.read_bytes())
    topic = golden["headers"]["ce_type"].removeprefix("gantry.").rpartition(".v")[0]
    headers = tuple((name, value.encode()) for name, value in golden["headers"].items())
    return golden, Record(topic, golden["key"], orjson.dumps(golden["value"]), headers)


def contains(whole: Any, part: Any) -> bool:
    """Is everything of `part` in `whole`, at the same places?"""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            name in whole and contains(whole[name], each) for name, each in part.items()
        )
    if isinstance(part, list):
        return (
            isinstance(whole, list) and len(whole) == len(part) and all(map(contains, whole, part))
        )
    return type(whole) is type(part) and bool(whole == part)


def grown(value: Any, cls: Any) -> Any:
    """The value with a new field in it and in every object inside that is a model of its own."""
    if isinstance(value, list):
        return [grown(each, cls) for each in value]
    if not isinstance(value, dict):
        return value
    inner = {name: _model_in(field.annotation) for name, field in cls.model_fields.items()}
    kept = {n: grown(v, inner[n]) if inner.get(n) else v for n, v in value.items()}
    return {**kept, "a-field-of-next-year": {"x": 1}}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(each) for each in get_args(annotation))
    return next((each for each in found if each is not None), None)


def test_a_field_of_next_year_may_be_deep_inside() -> None:
    golden, _ = load(GOLDEN / "gantry.instance.requested.v1.json")
    spec = grown(golden["value"], model.InstanceRequested)["spec"]
    assert (
        "a-field-of-next-year" in spec["resources"] and "a-field-of-next-year" in spec["health"][0]
    )


def test_every_event_type_has_its_golden_file_and_none_was_dropped() -> None:
    types = {cls.type_name() for cls in model.ALL}
    assert {file.stem for file in FILES} == types
    assert len(types) == len(model.ALL)


def test_no_event_is_left_out_of_the_contract() -> None:
    def below(cls: type[Event]) -> set[type[Event]]:
        return {cls}.union(*map(below, cls.__subclasses__()))

    ours = {
        cls
        for cls in below(Event)
        if cls.__module__.startswith(Event.__module__.rpartition(".")[0])
    }
    assert {cls for cls in ours if "TOPIC" in vars(cls)} == set(model.ALL)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_golden_event_is_read_with_the_same_values(file: Path) -> None:
    golden, record = load(file)
    event, envelope = EVENT_TYPES.open(record)
    assert contains(orjson.loads(event.model_dump_json(by_alias=True)), golden["value"])
    assert (envelope.type, envelope.subject) == (file.stem, golden["key"])
    assert (envelope.sequence, envelope.time, envelope.cause) == (42, NOW, CAUSE)
    assert envelope.id == golden["headers"]["ce_id"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_sealing_it_again_gives_the_same_record(file: Path) -> None:
    """Ids must not change from one version of the code to the next, or a handler's second run shows twice."""
    golden, record = load(file)
    event, envelope = EVENT_TYPES.open(record)
    (entry,) = seal([event], source="golden", sequence=42, now=NOW, cause=envelope.cause)
    assert {name: value.decode() for name, value in entry.headers} == golden["headers"]
    assert (entry.topic, entry.key, entry.id) == (record.topic, record.key, envelope.id)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_unknown_fields_are_ignored_and_missing_ones_are_poison(file: Path) -> None:
    golden, record = load(file)
    event_class = EVENT_TYPES.by_type[golden["headers"]["ce_type"]]
    more = orjson.dumps(grown(golden["value"], event_class))
    event, _ = EVENT_TYPES.open(Record(record.topic, record.key, more, record.headers))
    assert event == EVENT_TYPES.open(record)[0]
    cls: type[Event] = type(event)
    for name, field in cls.model_fields.items():
        if field.is_required():
            less = {n: v for n, v in golden["value"].items() if n != (field.alias or name)}
            broken = Record(record.topic, record.key, orjson.dumps(less), record.headers)
            with pytest.raises(Poison, match=name):
                EVENT_TYPES.open(broken)
