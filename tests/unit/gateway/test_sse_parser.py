"""The client's reader of server-sent events: the same messages however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.client import sse
from libs.client.sse import Message, Parser
from libs.common.errors import Unavailable

STREAM = (
    "retry: 1500\nid: a\n\n"
    ": a comment\n"
    "event: x.y\ndata: {\"n\": 1}\nid: b\n\n"
    "data: one\r\ndata:two\r\n\r\n"
    "id: c\n\n"
    "data: grüße\rid: d\r\r"
    "unknown: field\ndata\n\n"
).encode()  # fmt: skip
MESSAGES = [
    Message("x.y", '{"n": 1}', "b"),
    Message("message", "one\ntwo", "b"),
    Message("message", "grüße", "d"),
    Message("message", "", "d"),
]


@given(st.lists(st.integers(1, len(STREAM) - 1), max_size=30))
def test_cuts_make_no_difference(cuts: list[int]) -> None:
    parser = Parser()
    places = sorted({0, *cuts, len(STREAM)})
    got = [message for start, end in pairwise(places) for message in parser.feed(STREAM[start:end])]
    assert got == MESSAGES and parser.last_id == "d" and parser.retry_s == 1.5


def test_a_line_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_LINE_CHARS", 100)
    parser = Parser()
    with pytest.raises(Unavailable):
        for _ in range(20):
            list(parser.feed(b"x" * 10))
