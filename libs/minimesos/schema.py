"""Protobuf messages as tables: from JSON to a canonical dict, with the errors Mesos gives.

A message is described in one string of fields, `name[!|*][%]:kind[=default]#number`, where `!` is
required, `*` repeated and `%` a map from string. A kind is `str bytes double int bool`, an
enum or a message. Parsing keeps declaration order, drops unknown fields, fills declared defaults
(Mesos prints those) and turns numbers of double fields into floats, so that `32` comes back as `32.0`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from libs.minimesos.units import format_scalar

Json = dict[str, Any]
MAX_KEPT = 1024
_SCALARS = frozenset({"str", "bytes", "double", "int", "bool"})
_FIELD = re.compile(r"^(\w+)(!|\*)?(%)?:(\w+)(?:=([^#]+))?(?:#(\d+))?$")
_BASE64_BAD = re.compile(r"[^A-Za-z0-9+/=]")


class ProtoError(Exception):
    """JSON that does not fit the message; the text is what Mesos says after `Failed to convert…`."""


class Field:
    """One field of a message type."""

    __slots__ = (
        "default",
        "is_map",
        "kind",
        "name",
        "number",
        "ordinal",
        "repeated",
        "required",
        "values",
    )

    def __init__(self, spec: str, enums: Mapping[str, frozenset[str]], ordinal: int) -> None:
        match = _FIELD.match(spec)
        if match is None:
            raise ValueError(f"bad field spec {spec!r}")
        name, mark, is_map, kind, default, number = match.groups()
        self.name = name
        self.required = mark == "!"
        self.repeated = mark == "*"
        self.is_map = is_map is not None
        self.kind = kind
        self.values = enums.get(kind)
        self.ordinal = ordinal
        self.number = int(number) if number else 1000 + ordinal
        self.default = None if default is None else _default(kind, default)


def _default(kind: str, text: str) -> object:
    if kind == "bool":
        return text == "true"
    if kind == "double":
        return float(text)
    return int(text) if kind == "int" else text


class MessageType:
    """A message: fields in declaration order; `schema` resolves message kinds."""

    __slots__ = ("_by_name", "_defaults", "_required", "fields", "name", "required", "schema")

    def __init__(self, schema: Schema, name: str, fields: list[Field]) -> None:
        self.schema = schema
        self.name = name
        self.fields = fields
        self.required = tuple(f.name for f in fields if f.required)
        self._required = frozenset(self.required)
        self._by_name = {f.name: f for f in fields}
        self._defaults = tuple((f.name, f.default) for f in fields if f.default is not None)

    def parse(self, value: object) -> Json:
        """The canonical form of `value`. Raises ProtoError as Mesos words it."""
        if not isinstance(value, dict):
            raise ProtoError("Expecting a JSON object")
        incomplete: list[str] = []
        out = self._parse(value, incomplete)
        if incomplete:
            raise ProtoError("Missing required fields: " + ", ".join(self.missing(out)))
        return out

    def _parse(self, value: Json, incomplete: list[str]) -> Json:
        """One message; names of messages with absent required fields go to `incomplete`."""
        out: Json = {}
        last = -1
        ordered = True
        for name, got in value.items():
            field = self._by_name.get(name)
            if field is None or got is None:
                continue
            parsed = self._field(field, got, incomplete)
            if parsed is None:
                continue
            out[name] = parsed
            ordered = ordered and field.ordinal > last
            last = field.ordinal
        for name, default in self._defaults:
            if name not in out:
                out[name] = default
                ordered = False
        if self._required and not self._required <= out.keys():
            incomplete.append(self.name)
        if not ordered and len(out) > 1:
            return {f.name: out[f.name] for f in self.fields if f.name in out}
        return out

    def _field(self, field: Field, got: object, incomplete: list[str]) -> object:
        if isinstance(got, list):
            if not field.repeated:
                raise _unexpected("array", field.name)
            items = [self._one(field, item, incomplete) for item in got]
            return [item for item in items if item is not None] or None
        if field.is_map and isinstance(got, dict):
            return {k: self._one(field, v, incomplete) for k, v in got.items()}
        one = self._one(field, got, incomplete)
        return [one] if field.repeated and one is not None else one

    def _one(self, field: Field, got: object, incomplete: list[str]) -> object:
        kind = field.kind
        if isinstance(got, dict):
            if kind in _SCALARS or field.values is not None:
                raise _unexpected("object", field.name)
            if kind in self.schema.repetitive:
                return self.schema.parse_repetitive(kind, got, incomplete)
            return self.schema.types[kind]._parse(got, incomplete)
        if isinstance(got, str):
            return got if kind == "str" else _from_string(field, got)
        if isinstance(got, bool):
            if kind != "bool":
                raise _unexpected("boolean", field.name)
            return got
        if isinstance(got, int | float):
            if kind == "double":
                return float(got)
            if kind == "int":
                return int(got)
            raise _unexpected("number", field.name)
        if isinstance(got, list):
            raise _unexpected("array", field.name)
        return None

    def missing(self, value: Json) -> list[str]:
        """Paths of absent required fields, outer ones first, in declaration order."""
        out = [name for name in self.required if name not in value]
        for field in self.fields:
            got = value.get(field.name)
            if got is None or field.kind in _SCALARS or field.values is not None:
                continue
            sub = self.schema.types[field.kind]
            for path, item in _items(field, got):
                out.extend(f"{path}.{m}" for m in sub.missing(item))
        return out

    def debug_string(self, value: Json, indent: int = 0) -> str:
        """Protobuf's text format: fields by number, values equal to their default left out."""
        pad = " " * indent
        lines: list[str] = []
        for field in sorted(self.fields, key=lambda f: f.number):
            got = value.get(field.name)
            if got is None or got == field.default:
                continue
            for item in got if field.repeated else [got]:
                if isinstance(item, dict):
                    body = self.schema.types[field.kind].debug_string(item, indent + 2)
                    lines.append(f"{pad}{field.name} {{\n{body}{pad}}}\n")
                else:
                    lines.append(f"{pad}{field.name}: {_text(field, item)}\n")
        return "".join(lines)


def _items(field: Field, got: Any) -> list[tuple[str, Json]]:
    if field.repeated:
        return [(f"{field.name}[{i}]", item) for i, item in enumerate(got)]
    if field.is_map:
        return [(f"{field.name}[{k}]", item) for k, item in got.items()]
    return [(field.name, got)]


def _text(field: Field, item: object) -> str:
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, float):
        return format_scalar(item)
    if isinstance(item, str) and field.values is None:
        return '"' + item.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return str(item)


def _unexpected(what: str, name: str) -> ProtoError:
    return ProtoError(f"Not expecting a JSON {what} for field '{name}'")


def _from_string(field: Field, got: str) -> object:
    kind = field.kind
    if kind == "str":
        return got
    if field.values is not None:
        if got in field.values:
            return got
        if field.required:
            raise ProtoError(f"Failed to find enum for '{got}'")
        return None
    if kind == "bytes":
        bad = _BASE64_BAD.search(got)
        if bad is not None:
            raise ProtoError(
                f"Failed to base64 decode bytes field '{field.name}': "
                f"Invalid character '{bad.group()}'"
            )
        return got
    if kind in ("double", "int"):
        try:
            return float(got) if kind == "double" else int(got)
        except ValueError:
            raise ProtoError(
                f"Failed to parse '{got}' as a JSON number for field '{field.name}'"
            ) from None
    raise _unexpected("string", field.name)


class Schema:
    """All message types of an API."""

    def __init__(
        self,
        enums: Mapping[str, str],
        messages: Mapping[str, str],
        repetitive: frozenset[str] = frozenset(),
    ) -> None:
        """`repetitive` messages come again and again unchanged: their parsed form is kept."""
        self.repetitive = repetitive
        self._kept: dict[bytes, Json] = {}
        values = {name: frozenset(text.split()) for name, text in enums.items()}
        self.types: dict[str, MessageType] = {}
        for name, text in messages.items():
            fields = [Field(spec, values, i) for i, spec in enumerate(text.split())]
            self.types[name] = MessageType(self, name, fields)
        self._check(values)

    def _check(self, values: Mapping[str, frozenset[str]]) -> None:
        for kind in self.types.values():
            for field in kind.fields:
                known = field.kind in _SCALARS or field.kind in values or field.kind in self.types
                if not known:
                    raise ValueError(f"{kind.name}.{field.name}: unknown kind {field.kind}")

    def parse_repetitive(self, name: str, value: Json, incomplete: list[str]) -> Json:
        """Like parsing, but equal messages give the same object: treat it as immutable."""
        key = orjson.dumps([name, value])
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        before = len(incomplete)
        parsed = self.types[name]._parse(value, incomplete)
        if len(incomplete) == before:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[key] = parsed
        return parsed

    def __getitem__(self, name: str) -> MessageType:
        return self.types[name]
