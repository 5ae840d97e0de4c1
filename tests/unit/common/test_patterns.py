"""Users' regular expressions."""

from __future__ import annotations

import pytest

from libs.common.patterns import pattern


@pytest.mark.parametrize(
    ("expression", "text", "matches"),
    [
        ("rack-[0-9]+", "rack-12", True),
        ("rack-[0-9]+", "rack-12b", False),
        ("(?i)WEST|east", "west", True),
        (r"h\d\.z", "h1.z", True),
        # Python's own engine would take longer than the universe is old.
        ("([a-z0-9.-]+)+!", "a" * 5000, False),
    ],
)
def test_all_of_the_text_is_matched(expression: str, text: str, matches: bool) -> None:
    assert (pattern(expression).fullmatch(text) is not None) is matches


@pytest.mark.parametrize("expression", ["(", "(?=a)", r"(a)\1", "a{2000}", "((a{500}){500}){500}"])
def test_what_could_take_for_ever_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r".{5}"):
        pattern(expression)
