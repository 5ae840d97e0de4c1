"""Leases of never-used offsets: nothing is lost and nothing is held twice, whatever fails and however pools change."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ipam.definition import PoolConfig
from services.ipam.pools import Pool, Span, merged, without
from services.ipam.territory import (
    LEASE_S,
    Territory,
    coarse,
    fitted,
    from_body,
    given_back,
    lease,
    to_body,
)


def pool(cidr: str = "10.0.0.0/26", *excluded: str) -> Pool:
    """A pool of that range."""
    given_config = {"name": "p", "cidr": cidr, "excluded": list(excluded)}
    return Pool.of("web", PoolConfig.model_validate(given_config))


def offsets(spans: list[Span] | tuple[Span, ...]) -> set[int]:
    """Each of them."""
    return {offset for first, last in spans for offset in range(first, last + 1)}


def usable(of: Pool) -> set[int]:
    """All offsets that may be given out."""
    return {offset for offset in range(of.size) if of.usable_from(offset) == offset}


spans = st.lists(
    st.tuples(st.integers(0, 80), st.integers(0, 12)).map(lambda s: (s[0], s[0] + s[1]))
)


@given(spans, st.integers(1, 6))
def test_spans(some: list[Span], limit: int) -> None:
    joined = merged(some)
    assert offsets(joined) == offsets(some)
    assert all(a[1] + 1 < b[0] for a, b in pairwise(joined))
    assert offsets(without((10, 60), joined)) == set(range(10, 61)) - offsets(some)
    few = coarse(some, limit)
    assert len(few) <= limit and offsets(few) >= offsets(some)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_offset_is_leased_and_none_to_two(data: st.DataObject) -> None:
    """Replicas lease, spend, forget what they had (they die), lose answers and go in good order."""
    of, now = pool("10.0.0.0/26", "10.0.0.9-10.0.0.20"), 1000.0
    good = usable(of)
    territory = Territory.of(of)
    held: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    known: dict[str, list[Span]] = {"a": [], "b": [], "c": []}
    spent: set[int] = set()
    for _ in range(data.draw(st.integers(1, 25))):
        who = data.draw(st.sampled_from(sorted(held)))
        match data.draw(st.sampled_from(["lease", "lost", "spend", "die", "leave", "late"])):
            case "lease" | "lost" as how:
                mine = [(each, each) for each in held[who]]
                wanted = data.draw(st.integers(1, 20))
                territory, taken = lease(territory, of, who, known[who], mine, wanted, now)
                fresh = offsets(taken) & good
                assert not any(fresh & set(each) for each in held.values())
                if how == "lease" and taken:
                    held[who] += sorted(fresh - spent)
                    known[who] = [*mine, *taken]
            case "spend" if held[who]:
                spent.add(held[who].pop(0))
            case "die":
                held[who], known[who] = [], []
            case "leave":
                mine = [(each, each) for each in held[who]]
                territory = given_back(territory, who, known[who], mine)
                held[who], known[who] = [], []
            case _:
                # Leases run out: what is held still is looked at by others, and may be taken by them.
                now += LEASE_S
                for each in held:
                    held[each], known[each] = [], []
        assert from_body(territory.version, to_body(territory)) == territory
    # Whoever comes last finds all that is not spent, in whatever state the others have left it.
    now += LEASE_S
    found: set[int] = set()
    mine_now: list[Span] = []
    while True:
        territory, taken = lease(territory, of, "last", mine_now, mine_now, 7, now)
        if not taken:
            break
        mine_now = [*mine_now, *taken]
        found |= offsets(taken)
    assert (found & good) | spent == good
    assert not territory.holes and of.usable_from(territory.frontier) is None


def test_others_blocks_are_halved_as_a_last_resort() -> None:
    of = pool("10.0.0.0/29")
    territory, taken = lease(Territory.of(of), of, "a", [], [], 6, 0.0)
    assert taken == [(1, 6)]
    assert lease(territory, of, "b", [], [], 1, 1.0) == (territory, [])
    got: list[Span] = []
    while len(got) < 3:
        territory, taken = lease(territory, of, "b", got, got, 1, 1.0, steal=True)
        got += taken
    assert got == [(4, 6), (2, 3), (1, 1)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("10.0.0.0/26",), ("10.0.0.0/25",)),
        (("10.0.0.64/26",), ("10.0.0.0/25",)),
        (("10.0.0.0/25",), ("10.0.0.64/26",)),
        (("10.0.0.0/26", "10.0.0.1-10.0.0.30"), ("10.0.0.0/26", "10.0.0.20-10.0.0.40")),
        (("10.0.0.0/26",), ("10.9.0.0/26",)),
        (("10.9.0.0/26",), ("10.0.0.0/26",)),
        (("10.0.0.0/26",), ("fd00::/120",)),
    ],
)
def test_a_pool_that_changes_loses_nothing(before: tuple[str, ...], after: tuple[str, ...]) -> None:
    old, new = pool(*before), pool(*after)
    for walked in (0, 10, 50, 500):
        territory, taken = lease(Territory.of(old), old, "a", [], [], walked or 1, 0.0)
        used = {old.address(each) for each in sorted(offsets(taken))[::2]}
        left = [(each, each) for each in sorted(offsets(taken))[1::2]]
        territory = fitted(replace(given_back(territory, "a", taken, left), version=3), new)
        assert territory.version == 3
        rest = lease(territory, new, "b", [], [], 1000, 0.0)[1]
        assert {new.address(each) for each in offsets(rest)} >= {
            new.address(each) for each in usable(new)
        } - used
    assert fitted(territory, new) == territory
