"""Consumer groups as pure decisions: fair, sticky, cooperative, fenced."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from libs.common.bus.groups import (
    POLL_GRACE,
    Group,
    Member,
    balance,
    quiet,
    quiet_until,
    settle,
)

PARTITIONS = {"t": 8, "u": 3}
BOTH = frozenset({"t", "u"})


def member(topics: frozenset[str] = BOTH, polled_at: float = 0.0) -> Member:
    """One that may stay away for 10 s."""
    return Member(topics, polled_at, 10.0)


def joined(*names: str, group: Group | None = None) -> Group:
    """A group after these joined one after another, each fetching until all is settled."""
    made = group or Group()
    for name in names:
        made = settle(made, PARTITIONS, now=0.0, joining={name: member()}, fetching=name)
        for holder in made.members:
            made = settle(made, PARTITIONS, now=0.0, fetching=holder)
    return made


def loads(group: Group) -> list[int]:
    """How many partitions each holds."""
    return sorted(Counter(group.owners.values()).values())


def test_partitions_are_shared_evenly() -> None:
    assert loads(joined("a")) == [11]
    assert loads(joined("a", "b")) == [5, 6]
    assert loads(joined("a", "b", "c")) == [3, 4, 4]


def test_few_move() -> None:
    before = joined("a", "b", "c")
    after = joined("d", group=before)
    moved = [place for place in before.owners if before.owners[place] != after.owners[place]]
    assert loads(after) == [2, 3, 3, 3] and len(moved) == 2
    assert all(after.owners[place] == "d" for place in moved)


def test_a_partition_stays_until_its_holder_fetches() -> None:
    group = joined("a")
    group = settle(group, PARTITIONS, now=1.0, joining={"b": member()}, fetching="b")
    assert group.held("a") == frozenset(group.owners) and group.givers == ("a",)
    assert quiet(group, PARTITIONS, now=1.0, fetching="b")  # b can do nothing about it
    assert not quiet(group, PARTITIONS, now=1.0, fetching="a")
    group = settle(group, PARTITIONS, now=1.0, fetching="a")
    assert loads(group) == [5, 6] and group.givers == ()
    assert quiet(group, PARTITIONS, now=1.0, fetching="a")


def test_a_silent_member_loses_everything_to_the_others() -> None:
    group = joined("a", "b")
    now = 10.0 * POLL_GRACE + 0.1
    group = settle(group, PARTITIONS, now=now, joining={"b": member(polled_at=now)}, fetching="b")
    assert set(group.owners.values()) == {"b"} and "a" not in group.members


def test_who_leaves_hands_on_at_once() -> None:
    group = settle(joined("a", "b"), PARTITIONS, now=0.0, leaving=["a"])
    assert set(group.owners.values()) == {"b"} and list(group.members) == ["b"]
    group = settle(group, PARTITIONS, now=0.0, leaving=["b"])
    assert not group.owners and not group.members


def test_members_get_only_what_they_read() -> None:
    group = settle(Group(), PARTITIONS, now=0.0, joining={"a": member(frozenset("t"))})
    assert {topic for topic, _ in group.owners} == {"t"}
    group = settle(group, PARTITIONS, now=0.0, joining={"b": member(frozenset("u"))})
    assert {topic for topic, _ in group.held("b")} == {"u"}


def test_a_new_topic_is_noticed() -> None:
    group = settle(Group(), {"t": 8}, now=0.0, joining={"a": member()})
    assert not quiet(group, PARTITIONS, now=0.0, fetching="a")


NAMES = st.sampled_from("abcde")
STEPS = st.lists(st.tuples(st.sampled_from(["join", "leave", "fetch"]), NAMES), max_size=40)


@given(STEPS, st.sets(st.sampled_from("tu"), min_size=1))
def test_whatever_happens_nobody_is_robbed_and_all_ends_even(
    steps: list[tuple[str, str]], topics: set[str]
) -> None:
    reads = frozenset(topics)
    states = [Group()]
    for what, name in steps:
        group = states[-1]
        if what == "join":
            after = settle(group, PARTITIONS, now=0.0, joining={name: member(reads)}, fetching=name)
        elif what == "leave":
            after = settle(group, PARTITIONS, now=0.0, leaving=[name])
        else:
            after = settle(
                group, PARTITIONS, now=0.0, fetching=name if name in group.members else ""
            )
        for place, owner in group.owners.items():
            # Only the one who fetches or leaves gives anything away.
            assert after.owners.get(place) == owner or owner == name
        states.append(after)
    for before, after in pairwise(states):
        changed = (before.owners, set(before.members)) != (after.owners, set(after.members))
        assert after.generation == before.generation + changed
    last = states[-1]
    for name in sorted(last.members):
        last = settle(last, PARTITIONS, now=0.0, fetching=name)
    if last.members:
        assert len(last.owners) == sum(PARTITIONS[topic] for topic in topics)
        held = [len(last.held(name)) for name in last.members]
        assert max(held) - min(held) <= 1
        assert balance(last.members, PARTITIONS, last.owners) == last.owners


def test_until_when_a_group_stays_quiet() -> None:
    group = settle(Group(), PARTITIONS, now=0.0, joining={"a": member()}, fetching="a")
    assert quiet_until(group, fetching="a") == float("inf")
    group = settle(group, PARTITIONS, now=1.0, joining={"b": member(polled_at=1.0)}, fetching="b")
    for fetching, other in (("a", 1.0), ("b", 0.0)):
        until = quiet_until(group, fetching=fetching)
        assert until == other + 10.0 * POLL_GRACE
        others = [each for name, each in group.members.items() if name != fetching]
        assert not any(each.expired(until) for each in others)
        assert any(each.expired(until + 0.1) for each in others)
