"""Resources: amounts by kind, exact arithmetic, and the shapes in which Mesos shows them.

Scalars are kept in thousandths (Mesos' own precision), ranges as sorted disjoint pairs, sets as
frozensets. A `Kind` says everything else: name, reservations, volume, and the role an offer was
made to. Objects are immutable, so they are shared freely and cache what they print.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from libs.minimesos.units import format_scalar

Json = dict[str, Any]
Ranges = tuple[tuple[int, int], ...]
Value = int | Ranges | frozenset[str]
MILLI = 1000


class Reservation(NamedTuple):
    """One layer of a reservation stack; `labels` is their JSON text, empty for none."""

    type: str
    role: str
    principal: str
    labels: str


class Kind(NamedTuple):
    """What makes two amounts addable."""

    name: str
    type: str
    reservations: tuple[Reservation, ...] = ()
    disk: str = ""
    revocable: bool = False
    shared: bool = False
    allocated_to: str = ""


class Resources:
    """An immutable bag of resources, in the order in which kinds were added."""

    __slots__ = ("_allocated", "_amounts", "_json_old", "_json_refined")

    def __init__(self, amounts: Mapping[Kind, Value] | None = None) -> None:
        self._amounts: dict[Kind, Value] = dict(amounts) if amounts else {}
        self._allocated: dict[str, Resources] = {}
        self._json_old: list[Json] | None = None
        self._json_refined: list[Json] | None = None

    # ---- arithmetic
    def __bool__(self) -> bool:
        return bool(self._amounts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Resources) and self._amounts == other._amounts

    def __hash__(self) -> int:
        return hash(frozenset(self._amounts.items()))

    def __iter__(self) -> Iterator[tuple[Kind, Value]]:
        return iter(self._amounts.items())

    def __add__(self, other: Resources) -> Resources:
        if not other._amounts:
            return self
        if not self._amounts:
            return other
        out = dict(self._amounts)
        for kind, value in other._amounts.items():
            have = out.get(kind)
            out[kind] = value if have is None else plus(have, value)
        return Resources(out)

    def __sub__(self, other: Resources) -> Resources:
        if not other._amounts:
            return self
        out = dict(self._amounts)
        for kind, value in other._amounts.items():
            have = out.get(kind)
            if have is None:
                continue
            rest = _minus(have, value)
            if rest:
                out[kind] = rest
            else:
                del out[kind]
        return Resources(out)

    def contains(self, other: Resources) -> bool:
        """Whether every amount of `other` is within this one."""
        for kind, value in other._amounts.items():
            have = self._amounts.get(kind)
            if have is None or not _covers(have, value):
                return False
        return True

    # ---- views
    def allocated(self, role: str) -> Resources:
        """The same with every kind marked as allocated to `role` where it is not yet."""
        known = self._allocated.get(role)
        if known is None:
            known = Resources(
                {
                    (k if k.allocated_to else k._replace(allocated_to=role)): v
                    for k, v in self._amounts.items()
                }
            )
            # Thousands of like tasks then share one object.
            self._allocated[role] = known
        return known

    def unallocated(self) -> Resources:
        """The same without allocation marks."""
        out: dict[Kind, Value] = {}
        for kind, value in self._amounts.items():
            plain = kind._replace(allocated_to="") if kind.allocated_to else kind
            out[plain] = plus(out[plain], value) if plain in out else value
        return Resources(out)

    def unreserved(self) -> Resources:
        """Only what nobody reserved."""
        return Resources({k: v for k, v in self._amounts.items() if not k.reservations})

    def reserved_roles(self) -> dict[str, Resources]:
        """What is reserved, by the innermost role."""
        out: dict[str, dict[Kind, Value]] = {}
        for kind, value in self._amounts.items():
            if kind.reservations:
                out.setdefault(kind.reservations[-1].role, {})[kind] = value
        return {role: Resources(amounts) for role, amounts in out.items()}

    def offerable_to(self, role: str) -> Resources:
        """Unreserved resources, and those reserved to `role` or to a role above it."""
        return Resources(
            {
                k: v
                for k, v in self._amounts.items()
                if not k.reservations or _is_within(role, k.reservations[-1].role)
            }
        )

    def scalar_milli(self, name: str) -> int:
        """The total of scalar `name` over all kinds, in thousandths."""
        total = 0
        for kind, value in self._amounts.items():
            if kind.name == name and isinstance(value, int):
                total += value
        return total

    def scalar(self, name: str) -> float:
        """The total of scalar `name`."""
        return self.scalar_milli(name) / MILLI

    def in_offer_order(self) -> Resources:
        """Ports first, then what is reserved, then unreserved scalars: the order of Mesos' offers."""
        items = self._amounts.items()
        first = {k: v for k, v in items if k.type != "SCALAR" and not k.reservations}
        reserved = {k: v for k, v in items if k.reservations}
        return Resources({**first, **reserved, **self._amounts})

    # ---- shapes
    def to_json(self, refined: bool) -> list[Json]:
        """The list of Resource messages.

        `refined` (the post-1.4 shape): `reservations`, no `role`. Otherwise `role`, and
        `reservation` for a dynamic one, as frameworks without RESERVATION_REFINEMENT get it.
        """
        cached = self._json_refined if refined else self._json_old
        if cached is None:
            cached = [_resource_json(k, v, refined) for k, v in self._amounts.items()]
            if refined:
                self._json_refined = cached
            else:
                self._json_old = cached
        return cached

    def summary(self) -> Json:
        """The `resources` object of /state: scalars by name, ranges as text."""
        out: Json = {"disk": 0.0, "mem": 0.0, "gpus": 0.0, "cpus": 0.0}
        for kind, value in self._amounts.items():
            if isinstance(value, int):
                out[kind.name] = out.get(kind.name, 0.0) + value / MILLI
            elif isinstance(value, tuple):
                out[kind.name] = _ranges_text(value)
            else:
                out[kind.name] = "{" + ", ".join(sorted(value)) + "}"
        return out

    def quantities(self) -> dict[str, float]:
        """Scalars by name and the count of ranges, as the /roles endpoint shows them."""
        out: dict[str, float] = {}
        for kind, value in self._amounts.items():
            count = value / MILLI if isinstance(value, int) else float(_count(value))
            out[kind.name] = out.get(kind.name, 0.0) + count
        return dict(sorted(out.items()))

    def __str__(self) -> str:
        return "; ".join(kind_text(k) + ":" + _value_text(v) for k, v in self._amounts.items())


NOTHING = Resources()


# ---- values -------------------------------------------------------------------------------------
def plus(a: Value, b: Value) -> Value:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    if isinstance(a, frozenset) and isinstance(b, frozenset):
        return a | b
    assert isinstance(a, tuple) and isinstance(b, tuple)
    return coalesce(a + b)


def _minus(a: Value, b: Value) -> Value:
    if isinstance(a, int) and isinstance(b, int):
        return max(a - b, 0)
    if isinstance(a, frozenset) and isinstance(b, frozenset):
        return a - b
    assert isinstance(a, tuple) and isinstance(b, tuple)
    return _cut(a, b)


def _covers(a: Value, b: Value) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a >= b
    if isinstance(a, frozenset) and isinstance(b, frozenset):
        return a >= b
    assert isinstance(a, tuple) and isinstance(b, tuple)
    return all(any(lo <= begin and end <= hi for lo, hi in a) for begin, end in b)


def _count(value: Value) -> int:
    if isinstance(value, tuple):
        return sum(end - begin + 1 for begin, end in value)
    return len(value) if isinstance(value, frozenset) else value


def coalesce(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sorted, disjoint, with neighbours joined."""
    out: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if out and begin <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((begin, end))
    return tuple(out)


def _cut(ranges: Ranges, holes: Ranges) -> Ranges:
    rest = list(ranges)
    for begin, end in holes:
        kept: list[tuple[int, int]] = []
        for lo, hi in rest:
            if end < lo or begin > hi:
                kept.append((lo, hi))
                continue
            if lo < begin:
                kept.append((lo, begin - 1))
            if end < hi:
                kept.append((end + 1, hi))
        rest = kept
    return tuple(rest)


def _is_within(role: str, ancestor: str) -> bool:
    return role == ancestor or role.startswith(ancestor + "/")


# ---- printing -----------------------------------------------------------------------------------
def _resource_json(kind: Kind, value: Value, refined: bool) -> Json:
    out: Json = {"name": kind.name, "type": kind.type}
    if isinstance(value, int):
        out["scalar"] = {"value": value / MILLI}
    elif isinstance(value, tuple):
        out["ranges"] = {"range": [{"begin": b, "end": e} for b, e in value]}
    else:
        out["set"] = {"item": sorted(value)}
    old = not refined and len(kind.reservations) <= 1
    if old:
        out["role"] = kind.reservations[0].role if kind.reservations else "*"
    if kind.allocated_to:
        out["allocation_info"] = {"role": kind.allocated_to}
    if kind.reservations and not old:
        out["reservations"] = [_reservation_json(r) for r in kind.reservations]
    elif kind.reservations and kind.reservations[0].type == "DYNAMIC":
        whole = _reservation_json(kind.reservations[0])
        out["reservation"] = {k: v for k, v in whole.items() if k not in ("type", "role")}
    if kind.disk:
        out["disk"] = orjson.loads(kind.disk)
    if kind.revocable:
        out["revocable"] = {}
    if kind.shared:
        out["shared"] = {}
    return out


def _reservation_json(reservation: Reservation) -> Json:
    out: Json = {"type": reservation.type, "role": reservation.role}
    if reservation.principal:
        out["principal"] = reservation.principal
    if reservation.labels:
        out["labels"] = orjson.loads(reservation.labels)
    return out


def kind_text(kind: Kind) -> str:
    text = kind.name
    if kind.allocated_to:
        text += f"(allocated: {kind.allocated_to})"
    if kind.reservations:
        layers = ",".join(_reservation_text(r) for r in kind.reservations)
        text += f"(reservations: [{layers}])"
    if kind.disk:
        text += f"[{_disk_text(orjson.loads(kind.disk))}]"
    if kind.revocable:
        text += "{REV}"
    if kind.shared:
        text += "<SHARED>"
    return text


def _reservation_text(reservation: Reservation) -> str:
    parts = [reservation.type, reservation.role]
    if reservation.principal:
        parts.append(reservation.principal)
    if reservation.labels:
        labels = orjson.loads(reservation.labels).get("labels", [])
        inner = ", ".join(f"{x['key']}: {x['value']}" if "value" in x else x["key"] for x in labels)
        parts.append("{" + inner + "}")
    return "(" + ",".join(parts) + ")"


def _disk_text(disk: Json) -> str:
    text = ""
    source = disk.get("source")
    if source:
        text = str(source["type"])
    persistence = disk.get("persistence")
    if persistence:
        text += ("," if text else "") + str(persistence["id"])
    volume = disk.get("volume")
    if volume:
        text += ":" + str(volume["container_path"])
    return text


def _value_text(value: Value) -> str:
    if isinstance(value, int):
        return format_scalar(value / MILLI)
    if isinstance(value, tuple):
        return _ranges_text(value)
    return "{" + ", ".join(sorted(value)) + "}"


def _ranges_text(ranges: Ranges) -> str:
    return "[" + ", ".join(f"{begin}-{end}" for begin, end in ranges) + "]"
