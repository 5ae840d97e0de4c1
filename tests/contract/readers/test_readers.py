"""Of two releases side by side each understands the other: what is new is passed over, and what is old is read."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.contract.events.test_golden import contains, grown
from tests.contract.readers.kinds import GOLDEN, KINDS, Kind

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def golden(kind: Kind) -> Any:
    """What a release has written."""
    return orjson.loads(kind.file.read_bytes())


@each_kind
def test_what_an_older_release_wrote_is_read_with_the_same_values(kind: Kind) -> None:
    read = kind.read(orjson.dumps(golden(kind)))
    assert contains(orjson.loads(read.model_dump_json(by_alias=True)), golden(kind))


@each_kind
def test_what_a_newer_release_adds_is_passed_over(kind: Kind) -> None:
    """In each object, however deep."""
    more = grown(golden(kind), kind.model)
    assert more != golden(kind)
    assert kind.read(orjson.dumps(more)) == kind.read(orjson.dumps(golden(kind)))


def test_there_is_a_file_of_each_kind_and_no_other() -> None:
    assert {kind.file for kind in KINDS} == set(GOLDEN.glob("*.json"))
