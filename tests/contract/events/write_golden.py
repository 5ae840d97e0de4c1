"""Writes the golden file of each event type and version that has none: `python -m tests.contract.events.write_golden`.

A golden file is what some producer has really sent; it is never written again. Every field gets a value, the optional
ones too.
"""

from __future__ import annotations

import enum
import types
import typing
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import orjson
from pydantic import BaseModel

from libs.common.events import Cause, Event, model, seal

GOLDEN = Path(__file__).parent / "golden"
NOW = 1_750_000_000.25
CAUSE = Cause("c0ffee", "decaf", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
_SPECIAL: dict[str, Any] = {
    "image": "registry.example:5000/team/web@sha256:" + "ab" * 32,
    "path": "/healthz",
    "user": "1000:1000",
    "app": "shop/web",
    "address": "10.1.2.3",
    "action": None,
}


def sample(annotation: Any, name: str) -> Any:
    """A value of the type, as plain JSON."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return sample(arguments[0], name)
    if origin in (Union, types.UnionType):
        return sample(next(each for each in arguments if each is not type(None)), name)
    if origin is Literal:
        return arguments[0]
    if origin is dict:
        return {f"a-{name}": sample(arguments[1], name)}
    if origin is tuple:
        return [sample(arguments[0], name)]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return next(iter(annotation)).value
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return sample_of(annotation)
    plain = {str: f"the-{name}", int: 7, float: 2.5, bool: True, Any: "anything"}
    return _SPECIAL.get(name) or plain[annotation]


def sample_of(cls: type[BaseModel]) -> dict[str, Any]:
    """All fields of a model."""
    return {
        field.alias or name: sample(field.annotation, name)
        for name, field in cls.model_fields.items()
    }


def golden_of(cls: type[Event]) -> dict[str, Any]:
    """The record of a sample event: headers as text, value as JSON."""
    event = cls.model_validate(sample_of(cls))
    (entry,) = seal([event], source="golden", sequence=42, now=NOW, cause=CAUSE)
    headers = {name: value.decode() for name, value in entry.headers}
    return {"key": entry.key, "headers": headers, "value": orjson.loads(entry.value)}


def main() -> None:
    """Write what is missing."""
    for cls in model.ALL:
        file = GOLDEN / f"{cls.type_name()}.json"
        if not file.exists():
            options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
            file.write_bytes(orjson.dumps(golden_of(cls), option=options))
            print(file.name)


if __name__ == "__main__":
    main()
