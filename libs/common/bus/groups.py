"""Who holds which partition of a consumer group: pure, for the adapters that keep their own groups.

A rebalance is cooperative: a partition that is to move stays with its holder until that one fetches again (it has
then committed what it handled), leaves, dies, or has not fetched for its `max_poll_s`. Only the last two take a
partition away in the middle of a handler; a commit after that is fenced.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from libs.common.bus.base import TopicPartition

POLL_GRACE = 1.25  # `polled_at` may be written up to a quarter of `max_poll_s` late


@dataclass(frozen=True, slots=True)
class Member:
    """One consumer: what it reads, when it last fetched, for how long that counts, which process it lives in."""

    topics: frozenset[str]
    polled_at: float
    max_poll_s: float
    process: str = ""

    def expired(self, now: float) -> bool:
        """Has it not fetched for too long?"""
        return now - self.polled_at > self.max_poll_s * POLL_GRACE


@dataclass(frozen=True, slots=True)
class Group:
    """The members by id, and the holder of each partition. `generation` grows with every change of either.

    `partitions` are the topics' counts when it was last settled; `givers` are those who hold a
    partition that is to move.
    """

    generation: int = 0
    members: Mapping[str, Member] = field(default_factory=dict)
    owners: Mapping[TopicPartition, str] = field(default_factory=dict)
    partitions: Mapping[str, int] = field(default_factory=dict)
    givers: tuple[str, ...] = ()

    def held(self, member: str) -> frozenset[TopicPartition]:
        """The partitions of one member."""
        return frozenset(place for place, owner in self.owners.items() if owner == member)


def quiet(group: Group, partitions: Mapping[str, int], *, now: float, fetching: str) -> bool:
    """Would `settle` change nothing but when `fetching` polled? (`partitions`: those that it reads.)"""
    if fetching not in group.members or fetching in group.givers:
        return False
    for topic, count in partitions.items():
        if group.partitions.get(topic) != count:
            return False
    return not any(each.expired(now) for name, each in group.members.items() if name != fetching)


def quiet_until(group: Group, *, fetching: str) -> float:
    """Until when a quiet group stays so, if nobody changes it and `fetching` goes on polling."""
    expiries = (
        each.polled_at + each.max_poll_s * POLL_GRACE
        for name, each in group.members.items()
        if name != fetching
    )
    return min(expiries, default=float("inf"))


def settle(
    group: Group,
    partitions: Mapping[str, int],
    *,
    now: float,
    joining: Mapping[str, Member] | None = None,
    leaving: Collection[str] = (),
    fetching: str = "",
) -> Group:
    """The group after members came and went. `partitions` has the count of each topic.

    `leaving` names members that left or died; `fetching` is one that has nothing in hand just now.
    """
    everybody = {**group.members, **(joining or {})}
    members = {
        name: member
        for name, member in sorted(everybody.items())
        if name not in leaving and (name == fetching or not member.expired(now))
    }
    owners = {place: owner for place, owner in group.owners.items() if owner in members}
    target = balance(members, partitions, owners)
    settled = {
        place: wanted if owners.get(place, fetching) == fetching else owners[place]
        for place, wanted in target.items()
    }
    changed = settled != group.owners or members.keys() != group.members.keys()
    return Group(
        generation=group.generation + changed,
        members=members,
        owners=settled,
        partitions=dict(partitions),
        givers=tuple(sorted({owner for place, owner in settled.items() if owner != target[place]})),
    )


def balance(
    members: Mapping[str, Member],
    partitions: Mapping[str, int],
    owners: Mapping[TopicPartition, str],
) -> dict[TopicPartition, str]:
    """The wanted holder of each partition: even to within one, moving as few as possible; deterministic."""
    load = dict.fromkeys(sorted(members), 0)
    target: dict[TopicPartition, str] = {}
    for topic, count in sorted(partitions.items()):
        able = [name for name in load if topic in members[name].topics]
        if not able:
            continue
        for place in ((topic, number) for number in range(count)):
            owner = owners.get(place, "")
            if owner in able:
                target[place] = owner
                load[owner] += 1
    for topic, count in sorted(partitions.items()):
        able = [name for name in load if topic in members[name].topics]
        for place in ((topic, number) for number in range(count) if able):
            if place not in target:
                least = min(able, key=lambda name: (load[name], name))
                target[place] = least
                load[least] += 1
    _even_out(target, members, load)
    return dict(sorted(target.items()))


def _even_out(
    target: dict[TopicPartition, str], members: Mapping[str, Member], load: dict[str, int]
) -> None:
    while True:  # each move takes one from a member with at least two more: it ends
        for place, owner in sorted(target.items(), key=lambda each: (-load[each[1]], each[0])):
            able = [name for name in load if place[0] in members[name].topics]
            least = min(able, key=lambda name: (load[name], name))
            if load[owner] - load[least] >= 2:
                target[place] = least
                load[owner] -= 1
                load[least] += 1
                break
        else:
            return
