"""Boxes that only a secret opens: which one, of what, and while secrets are replaced."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import Unavailable
from libs.common.keys import FixedKeys
from libs.common.sealing import Sealer, label_of

OLD, NEW, NEWER = b"o" * 32, b"n" * 32, b"x" * 32


def sealer(*secrets: bytes, purpose: str = "test") -> Sealer:
    return Sealer(FixedKeys(secrets), purpose, random.Random(1))


@given(st.binary(max_size=200), st.text(max_size=20))
def test_what_is_sealed_opens_for_the_same_thing(content: bytes, about: str) -> None:
    boxes = sealer(OLD).seal(content, about)
    assert sealer(OLD).open(boxes, about) == content
    with pytest.raises(Unavailable):
        sealer(OLD).open(boxes, about + "x")


def test_boxes_show_nothing_and_differ_each_time() -> None:
    one = sealer(OLD)
    first, second = one.seal(b"marker", "a"), one.seal(b"marker", "a")
    assert first != second
    assert "marker" not in first[0]


@pytest.mark.parametrize("other", [sealer(NEW), sealer(OLD, purpose="another")])
def test_another_secret_or_purpose_opens_nothing(other: Sealer) -> None:
    with pytest.raises(Unavailable):
        other.open(sealer(OLD).seal(b"x", "a"), "a")


def test_a_box_that_was_changed_does_not_open() -> None:
    (box,) = sealer(OLD).seal(b"content", "a")
    print_, _, text = box.partition(".")
    for wrong in (f"{print_}.{text[:-6]}AAAA==", f"{print_}.!", f"{print_}.", print_):
        with pytest.raises(Unavailable):
            sealer(OLD).open([wrong], "a")


def test_any_key_opens_while_they_are_replaced() -> None:
    boxes = sealer(NEW, OLD).seal(b"x", "a")
    assert len(boxes) == 2
    for each in (sealer(OLD), sealer(NEW), sealer(NEWER, NEW)):
        assert each.open(boxes, "a") == b"x"


BEHIND: list[tuple[Sequence[bytes], Sequence[bytes], bool]] = [
    # who looks, sealed by, behind
    ([OLD], [OLD], False),
    ([NEW, OLD], [NEW, OLD], False),
    ([NEW, OLD], [OLD], True),  # a replica that had not heard of the new one wrote it
    ([NEW], [NEW, OLD], True),  # the old one was retired, and must open nothing
    ([OLD], [NEW, OLD], False),  # the new one has not got here: its box stays
    ([NEW, OLD], [NEW], False),
    ([NEWER], [OLD], True),
    ([OLD], [NEWER, NEW, OLD], False),
]


@pytest.mark.parametrize(("ours", "theirs", "behind"), BEHIND)
def test_what_is_to_be_sealed_anew(
    ours: Sequence[bytes], theirs: Sequence[bytes], behind: bool
) -> None:
    boxes = sealer(*theirs).seal(b"x", "a")
    assert sealer(*ours).is_behind(boxes) is behind
    assert label_of(boxes) == sealer(*theirs).label
