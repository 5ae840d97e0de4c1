"""Agents' attributes as text: as Marathon writes them, whatever their type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from libs.mesos.attributes import as_number, as_texts, number
from libs.minimesos.resources_read import attributes_from_flag

RECORDED = Path("tests/contract/mesos/fixtures/two_agents.jsonl")


def _texts(flag: str) -> dict[str, str]:
    return as_texts(attributes_from_flag(flag))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("rack-1", "rack-1"),
        ("20240101", "20240101"),  # a scalar, and more than six digits
        ("0.1", "0.1"),
        ("7.0", "7"),
        ("1200000", "1200000"),
        ("100", "100"),
        # Marathon's own examples of rounding: thousandths, half to even.
        ("1.0005", "1"),
        ("1.00051", "1.001"),
        ("1.1005", "1.101"),
        ("[300-400,100-200]", "[100-200,300-400]"),
        ("{b,a}", "{a,b}"),
    ],
)
def test_an_attribute_of_any_type_is_text(flag: str, text: str) -> None:
    assert _texts(f"x:{flag}") == {"x": text}


def test_of_several_with_one_name_the_first_counts() -> None:
    assert _texts("x:a;y:1;x:b") == {"x": "a", "y": "1"}


def test_what_mesos_leaves_out_is_empty() -> None:
    empty: Any = [
        {"name": "r", "type": "RANGES", "ranges": {}},
        {"name": "s", "type": "SET", "set": {}},
    ]
    assert as_texts(empty) == {"r": "[]", "s": "{}"}


def test_what_mesos_sent_is_read() -> None:
    events = [orjson.loads(line).get("event", {}) for line in RECORDED.read_text().splitlines()]
    offers = [offer for each in events for offer in each.get("offers", {}).get("offers", [])]
    read = [as_texts(offer["attributes"]) for offer in offers]
    assert {"rack": "r1", "class": "fat"} in read
    assert {"rack": "r2", "gen": "3", "range": "[1-3]"} in read


def test_what_is_written_like_a_number_is_compared_as_one() -> None:
    assert as_number("0.80") == as_number("0.8001") == number(0.8) == "0.8"
    assert [as_number(each) for each in ("r1", "1.", "-1", "1e3")] == ["r1", "1.", "-1", "1e3"]
