"""Resources from Resource messages, and resources and attributes from the agent's flags."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

import orjson

from libs.minimesos.errors import ConfigError
from libs.minimesos.resources import (
    MILLI,
    Json,
    Kind,
    Reservation,
    Resources,
    Value,
    coalesce,
    kind_text,
    plus,
)
from libs.minimesos.units import format_scalar


class ResourceError(ValueError):
    """A resource that Mesos calls invalid; the text is Mesos' own."""


def parse_resources(messages: Iterable[Json]) -> Resources:
    """Resources from Resource messages in either shape. Raises ResourceError with Mesos' text.

    Equal lists give the same object, so a thousand like tasks share one.
    """
    return _parse_cached(orjson.dumps(list(messages)))


@lru_cache(maxsize=4096)
def _parse_cached(raw: bytes) -> Resources:
    out: dict[Kind, Value] = {}
    for message in orjson.loads(raw):
        kind, value = _parse_one(message)
        out[kind] = plus(out[kind], value) if kind in out else value
    return Resources(out)


def _parse_one(message: Json) -> tuple[Kind, Value]:
    disk = message.get("disk")
    kind = Kind(
        name=message["name"],
        type=message["type"],
        reservations=_parse_reservations(message),
        disk=orjson.dumps(disk, option=orjson.OPT_SORT_KEYS).decode() if disk else "",
        revocable="revocable" in message,
        shared="shared" in message,
        allocated_to=message.get("allocation_info", {}).get("role", ""),
    )
    return kind, _parse_value(kind, message)


def _parse_value(kind: Kind, message: Json) -> Value:
    if kind.type == "SCALAR":
        if "scalar" not in message:
            raise _invalid(kind, "", "Invalid scalar resource")
        milli = round(float(message["scalar"]["value"]) * MILLI)
        if milli <= 0:
            text = format_scalar(milli / MILLI)
            raise _invalid(kind, text, "Invalid scalar resource: value <= 0")
        return milli
    if kind.type == "RANGES":
        pairs = [(r["begin"], r["end"]) for r in message.get("ranges", {}).get("range", [])]
        if not pairs or any(begin > end for begin, end in pairs):
            raise _invalid(kind, "[]", "Invalid ranges resource: begin > end or empty")
        return coalesce(pairs)
    if kind.type == "SET":
        return frozenset(message.get("set", {}).get("item", []))
    raise _invalid(kind, "", "Unsupported resource type")


def _invalid(kind: Kind, value: str, why: str) -> ResourceError:
    return ResourceError(f"Resource '{kind_text(kind)}:{value}' is invalid: {why}")


def _parse_reservations(message: Json) -> tuple[Reservation, ...]:
    refined = message.get("reservations")
    if refined:
        return tuple(_parse_reservation(r, r.get("role", "")) for r in refined)
    role = message.get("role", "*")
    if role == "*":
        return ()
    dynamic = message.get("reservation")
    if dynamic is None:
        return (Reservation("STATIC", role, "", ""),)
    return (_parse_reservation({**dynamic, "type": "DYNAMIC"}, role),)


def _parse_reservation(message: Json, role: str) -> Reservation:
    labels = message.get("labels")
    return Reservation(
        message.get("type", "UNKNOWN"),
        role,
        message.get("principal", ""),
        orjson.dumps(labels, option=orjson.OPT_SORT_KEYS).decode() if labels else "",
    )


# ---- flags --------------------------------------------------------------------------------------
_FLAG = re.compile(r"^(\w+)(?:\(([^)]+)\))?:(.+)$")
_RANGES = re.compile(r"^\[(.*)\]$")


def resources_from_flag(text: str) -> Resources:
    """Resources from `cpus:4;cpus(role):1;ports:[31000-32000,33000-33010]` or a JSON list.

    Raises ConfigError.
    """
    if text.lstrip().startswith("["):
        try:
            return parse_resources(orjson.loads(text))
        except (orjson.JSONDecodeError, ResourceError, KeyError) as error:
            raise ConfigError(f"--resources: {error}") from error
    messages: list[Json] = []
    for part in filter(None, (p.strip() for p in text.split(";"))):
        match = _FLAG.match(part)
        if match is None:
            raise ConfigError(f"--resources: '{part}' is not name:value or name(role):value")
        name, role, value = match.groups()
        message: Json = {"name": name, **_value_message(value, f"--resources: '{part}'")}
        if message["type"] == "TEXT":
            raise ConfigError(f"--resources: '{part}' is neither number, [ranges] nor {{set}}")
        if role and role != "*":
            message["role"] = role
        messages.append(message)
    try:
        return parse_resources(messages)
    except ResourceError as error:
        raise ConfigError(f"--resources: {error}") from error


def attributes_from_flag(text: str) -> list[Json]:
    """Attribute messages from `rack:r1;gen:3;range:[1-3]`. Raises ConfigError."""
    out: list[Json] = []
    for part in filter(None, (p.strip() for p in text.split(";"))):
        name, separator, value = part.partition(":")
        if not separator:
            raise ConfigError(f"--attributes: '{part}' is not name:value")
        out.append({"name": name.strip(), **_value_message(value.strip(), part)})
    return out


def _value_message(text: str, what: str) -> Json:
    ranges = _RANGES.match(text)
    if ranges:
        try:
            pairs = [p.split("-") for p in ranges.group(1).replace(" ", "").split(",")]
            items = [{"begin": int(begin), "end": int(end)} for begin, end in pairs]
        except ValueError as error:
            raise ConfigError(f"{what}: bad ranges") from error
        return {"type": "RANGES", "ranges": {"range": items}}
    if text.startswith("{") and text.endswith("}"):
        return {"type": "SET", "set": {"item": [x.strip() for x in text[1:-1].split(",")]}}
    try:
        return {"type": "SCALAR", "scalar": {"value": float(text)}}
    except ValueError:
        return {"type": "TEXT", "text": {"value": text}}
