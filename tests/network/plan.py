"""What a churn does, decided beforehand from its seed alone: rounds of steps that are made at the same time.

Pure. What comes of a step changes nothing about the later ones: after a call that was broken off, its caller does what
callers do, repeats it or undoes it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum


class Act(StrEnum):
    """What a step does."""

    ADD = "add"
    ADD_BROKEN = "add, broken off"  # the caller leaves before the answer
    AGAIN = "add again"
    REGISTER = "give leave to start"
    DELETE = "delete"
    DELETE_BROKEN = "delete, broken off"
    MOVE = "move"  # a sticky one, to another host
    KILL_HOSTD = "kill -9 hostd"
    KILL_SWITCH = "kill -9 ovs-vswitchd"
    KILL_DATABASE = "kill -9 ovsdb-server"
    KILL_IPAM = "kill -9 ipam"
    CUT_LINK = "delete a link"
    CUT_PORT = "delete a port"
    CUT_RULES = "delete rules"
    LEAVE_RUBBISH = "leave rubbish"


FAULTS: dict[Act, int] = {  # with their weights
    Act.KILL_HOSTD: 4,
    Act.KILL_SWITCH: 2,
    Act.KILL_DATABASE: 1,
    Act.KILL_IPAM: 2,
    Act.CUT_LINK: 3,
    Act.CUT_PORT: 3,
    Act.CUT_RULES: 2,
    Act.LEAVE_RUBBISH: 2,
}
NETWORKS = ("red", "blue", "green")


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `after_s`: when a fault strikes or a call is broken off, from the beginning of the round."""

    act: Act
    host: int = 0
    container: str = ""
    network: str = ""
    sticky: str = ""
    after_s: float = 0.0
    heir: str = ""  # of a move: the container on the other host
    to_host: int = 0

    def __str__(self) -> str:
        return f"{self.act} {self.container or ''} on {self.host}"


@dataclass(frozen=True, slots=True)
class _Held:
    """What a slot's caller wants. `sure`: its last call was answered; `leaving`: it wants it gone."""

    container: str
    host: int
    network: str
    sticky: str
    sure: bool = True
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Size:
    """How a churn is. A slot is a caller that has at most one container at a time."""

    steps: int
    hosts: int = 2
    slots: int = 48
    at_once: int = 16  # steps of a round, at most
    fault_share: float = 0.25  # of rounds


def rounds(seed: int, size: Size) -> Iterator[Sequence[Step]]:
    """All steps, in rounds."""
    planner = _Planner(random.Random(seed), size)
    made = 0
    while made < size.steps:
        planned = planner.round(size.steps - made)
        made += len(planned)
        yield planned


class _Planner:
    def __init__(self, rng: random.Random, size: Size) -> None:
        self._rng = rng
        self._size = size
        self._slots: list[_Held | None] = [None] * size.slots
        self._count = 0

    def round(self, most: int) -> list[Step]:
        rng, size = self._rng, self._size
        planned = [self._fault()] if rng.random() < size.fault_share else []
        count = min(most, rng.randint(1, min(size.at_once, size.slots)))
        chosen = rng.sample(range(size.slots), count - len(planned))
        return planned + [self._call(slot) for slot in chosen]

    def _fault(self) -> Step:
        rng = self._rng
        (act,) = rng.choices(list(FAULTS), weights=list(FAULTS.values()))
        step = Step(act, rng.randrange(self._size.hosts), after_s=rng.uniform(0.0, 0.2))
        if act not in (Act.CUT_LINK, Act.CUT_PORT, Act.CUT_RULES):
            return step
        victims = [each for each in self._slots if each is not None and each.sure]
        if not victims:
            return replace(step, act=Act.LEAVE_RUBBISH)
        victim = rng.choice(victims)
        return replace(step, host=victim.host, container=victim.container)

    def _call(self, slot: int) -> Step:
        held = self._slots[slot]
        if held is None:
            return self._begin(slot)
        step = Step(Act.DELETE, held.host, held.container, held.network, held.sticky)
        if held.leaving:
            self._slots[slot] = None
            return step
        chance = self._rng.random()
        if chance < (0.15 if held.sure else 0.5):
            self._slots[slot] = replace(held, sure=True)
            return replace(step, act=Act.AGAIN)
        if held.sure and chance < 0.3:
            return replace(step, act=Act.REGISTER)
        if held.sure and chance < 0.45:
            self._slots[slot] = replace(held, sure=False, leaving=True)
            # A DEL waits half a second for others.
            return replace(step, act=Act.DELETE_BROKEN, after_s=self._rng.uniform(0.0, 0.7))
        if held.sure and held.sticky and self._size.hosts > 1 and chance < 0.75:
            return self._move(slot, held, step)
        self._slots[slot] = None
        return step

    def _begin(self, slot: int) -> Step:
        rng = self._rng
        sticky = f"key-{slot}" if slot % 3 == 0 else ""
        held = _Held(
            self._name(slot),
            rng.randrange(self._size.hosts),
            NETWORKS[slot % len(NETWORKS)],
            sticky,
        )
        step = Step(Act.ADD, held.host, held.container, held.network, held.sticky)
        if rng.random() < 0.2:
            held = replace(held, sure=False)
            step = replace(step, act=Act.ADD_BROKEN, after_s=rng.uniform(0.0, 0.08))
        self._slots[slot] = held
        return step

    def _move(self, slot: int, held: _Held, step: Step) -> Step:
        others = [each for each in range(self._size.hosts) if each != held.host]
        heir, to_host = self._name(slot), self._rng.choice(others)
        self._slots[slot] = replace(held, container=heir, host=to_host)
        return replace(step, act=Act.MOVE, heir=heir, to_host=to_host)

    def _name(self, slot: int) -> str:
        self._count += 1
        return f"acme-s{slot}.{self._count}"
