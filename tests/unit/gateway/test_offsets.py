"""Ids of server-sent events: places in the log as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidInput
from services.gateway.offsets import decode, encode

TOPICS = ["deploy.requested", "container.started", "node.lost"]
PLACES = st.dictionaries(
    st.tuples(st.sampled_from(TOPICS), st.integers(0, 40)), st.integers(0, 2**62)
)


@given(PLACES)
def test_a_place_comes_back(place: dict[tuple[str, int], int]) -> None:
    text = encode(place)
    assert decode(text, TOPICS) == place
    assert text.isascii() and not set(text) - set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    )


@given(PLACES, st.sets(st.sampled_from(TOPICS)))
def test_unknown_topics_are_left_out(place: dict[tuple[str, int], int], known: set[str]) -> None:
    expected = {where: offset for where, offset in place.items() if where[0] in known}
    assert decode(encode(place), known) == expected


@given(st.text(max_size=60))
def test_anything_else_is_refused_or_read_never_worse(text: str) -> None:
    try:
        decode(text, TOPICS)
    except InvalidInput as error:
        assert error.problems[0].field == "Last-Event-ID"


@pytest.mark.parametrize("text", ["A", "AA", "AQ==!", "AQAAAAD_" + "_" * 40, "x" * 20_000])
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        decode(text, TOPICS)


def test_ids_stay_short() -> None:
    """28 topics of 8 partitions, a billion records each."""
    place = {(f"topic-{t}", p): 10**9 for t in range(28) for p in range(8)}
    assert len(encode(place)) < 1700
