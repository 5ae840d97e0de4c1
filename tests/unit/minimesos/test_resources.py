"""Arithmetic of resources and the shapes they are shown in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.minimesos.errors import ConfigError
from libs.minimesos.resources import Kind, Resources, coalesce
from libs.minimesos.resources_read import (
    ResourceError,
    attributes_from_flag,
    parse_resources,
    resources_from_flag,
)

KINDS = [Kind("cpus", "SCALAR"), Kind("mem", "SCALAR"), Kind("ports", "RANGES")]


@st.composite
def some_resources(draw: st.DrawFn) -> Resources:
    """Random amounts of a few kinds."""
    amounts: dict[Kind, object] = {}
    for kind in KINDS[:2]:
        milli = draw(st.integers(0, 5000))
        if milli:
            amounts[kind] = milli
    pairs = draw(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9)), max_size=4))
    if pairs:
        amounts[KINDS[2]] = coalesce((begin, begin + size) for begin, size in pairs)
    return Resources(amounts)  # type: ignore[arg-type]


@given(some_resources(), some_resources())
def test_what_was_added_can_be_taken_away(a: Resources, b: Resources) -> None:
    """(a + b) holds both; taking b leaves a (ports that both had are gone)."""
    both = a + b
    assert both.contains(a)
    assert both.contains(b)
    rest = both - b
    for kind in KINDS[:2]:
        assert rest.scalar_milli(kind.name) == a.scalar_milli(kind.name)
    assert a.contains(rest)
    assert rest + b == both


@given(some_resources())
def test_json_in_both_shapes_reads_back(resources: Resources) -> None:
    """The refined and the old shape mean the same."""
    allocated = resources.allocated("r")
    assert parse_resources(allocated.to_json(refined=True)) == allocated
    assert parse_resources(allocated.to_json(refined=False)) == allocated
    assert allocated.unallocated() == resources


def test_reservations_change_their_shape_with_the_capability() -> None:
    """`role` and `reservation` before refinement, `reservations` after."""
    message = {
        "name": "cpus",
        "type": "SCALAR",
        "scalar": {"value": 1},
        "reservations": [{"type": "DYNAMIC", "role": "r", "principal": "p"}],
    }
    resources = parse_resources([message])
    old = {
        "name": "cpus",
        "type": "SCALAR",
        "scalar": {"value": 1.0},
        "role": "r",
        "reservation": {"principal": "p"},
    }
    assert resources.to_json(refined=False) == [old]
    assert parse_resources([old]) == resources
    static = parse_resources([{**message, "reservations": [{"type": "STATIC", "role": "r"}]}])
    assert static.to_json(refined=False)[0]["role"] == "r"
    assert "reservation" not in static.to_json(refined=False)[0]


def test_text_is_mesos_text() -> None:
    """As in its error messages."""
    resources = resources_from_flag("ports:[31000-32000];cpus:3.9;mem:4064").allocated("*")
    assert str(resources) == (
        "ports(allocated: *):[31000-32000]; cpus(allocated: *):3.9; mem(allocated: *):4064"
    )
    volume = {
        "name": "disk",
        "type": "SCALAR",
        "scalar": {"value": 100},
        "reservations": [{"type": "DYNAMIC", "role": "rg", "principal": "pg"}],
        "disk": {"persistence": {"id": "vol1"}, "volume": {"container_path": "data", "mode": "RW"}},
    }
    assert str(parse_resources([volume])) == (
        "disk(reservations: [(DYNAMIC,rg,pg)])[vol1:data]:100"
    )


@pytest.mark.parametrize(("value", "shown"), [(-1, "-1"), (0.0001, "0")])
def test_amounts_must_be_positive_at_a_thousandth(value: float, shown: str) -> None:
    """Recorded texts."""
    message = {"name": "cpus", "type": "SCALAR", "scalar": {"value": value}}
    with pytest.raises(ResourceError) as caught:
        parse_resources([message])
    expected = f"Resource 'cpus:{shown}' is invalid: Invalid scalar resource: value <= 0"
    assert str(caught.value) == expected


def test_flags() -> None:
    """Reserved resources and attributes of all types."""
    resources = resources_from_flag("cpus(rr):1;cpus:2;ports:[1-2,5-6]")
    assert resources.reserved_roles()["rr"].scalar("cpus") == 1
    assert resources.unreserved().scalar("cpus") == 2
    assert resources.offerable_to("rr/x").scalar("cpus") == 3
    assert resources.offerable_to("other").scalar("cpus") == 2
    assert attributes_from_flag("rack:r2;gen:3;range:[1-3]") == [
        {"name": "rack", "type": "TEXT", "text": {"value": "r2"}},
        {"name": "gen", "type": "SCALAR", "scalar": {"value": 3.0}},
        {"name": "range", "type": "RANGES", "ranges": {"range": [{"begin": 1, "end": 3}]}},
    ]
    with pytest.raises(ConfigError):
        resources_from_flag("cpus=4")
