"""Who makes room is found over vectors: it is whom one would choose one by one; what is kept of them stays right."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.spec import InstanceClass
from services.scheduler.budgets import Budgets
from services.scheduler.cluster import Cluster, Draft
from services.scheduler.departed import AWAITED_S, Departed
from services.scheduler.model import AgentId, Amounts, Instance, InstanceId, State
from services.scheduler.policy import Agents, Candidate, Shape
from services.scheduler.victims import Victims
from services.scheduler.yielding import FIRST, UNUSED, Yielding
from tests.unit.scheduler.world import spec

ROWS = 4
Cost = tuple[int, int, int]


def _running(n: int, row: int, app: str, cpus: int, priority: int, budget: int) -> Instance:
    of = spec(float(cpus), 32 * cpus).model_copy(
        update={"priority": priority, "disruption_budget": budget}
    )
    return Instance(
        InstanceId(f"i{n}"), app, 1, "d", of, state=State.RUNNING, healthy=True, generation=1,
        agent=AgentId(f"a{row}"), hostname=f"host-a{row}", since=float(n),
    )  # fmt: skip


@st.composite
def _there(draw: st.DrawFn) -> list[Instance]:
    budgets = {f"low/{n}": draw(st.integers(0, 3)) for n in range(3)}
    made = st.tuples(
        st.integers(0, ROWS - 1), st.sampled_from(sorted(budgets)), st.integers(1, 3), st.integers(0, 3)
    )  # fmt: skip
    each = draw(st.lists(made, max_size=20))
    return [
        _running(n, row, app, cpus, priority, budgets[app])
        for n, (row, app, cpus, priority) in enumerate(each)
    ]


def _plainly(there: list[Instance], row: int, free: float, shape: Shape) -> Cost | None:
    """One agent, one instance after the other: what its best choice costs."""
    left = {each.app: each.spec.disruption_budget for each in there}
    mine = [each for each in there if each.agent == f"a{row}"]
    chosen: list[Instance] = []
    for each in sorted(mine, key=lambda i: (i.spec.priority, -i.since)):
        if free < shape.cpus and left[each.app] > 0 and each.spec.priority < shape.priority:
            left[each.app] -= 1
            free += each.spec.resources.cpus
            chosen.append(each)
    for each in sorted(chosen, key=lambda i: -i.spec.priority):
        if free - each.spec.resources.cpus >= shape.cpus:
            free -= each.spec.resources.cpus
            chosen.remove(each)
    if free < shape.cpus or not chosen:
        return None
    return max(each.spec.priority for each in chosen), len(chosen), row


@settings(max_examples=300, deadline=None)
@given(
    _there(),
    st.lists(st.integers(0, 3), min_size=ROWS, max_size=ROWS),
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4)), min_size=1, max_size=3),
)
def test_the_cheapest_is_what_one_by_one_would_find(
    there: list[Instance], free: list[int], asking: list[tuple[int, int]]
) -> None:
    draft = Draft(Cluster(there))
    candidates = [
        Candidate(AgentId(f"a{n}"), f"host-a{n}", {}, Amounts(float(cpus), 10_000.0, 0.0))
        for n, cpus in enumerate(free)
    ]
    agents = Agents.of(candidates)
    victims = Victims(draft, agents, Budgets(draft, 100.0), max(most for _, most in asking))
    staying, spent = list(there), Counter[str]()
    for cpus, priority in asking:
        shape = Shape("high/app", float(cpus), 1.0, 0.0, InstanceClass.THIN, priority=priority)
        lacks = np.array([each < cpus for each in free])
        found = victims.cheapest(shape, lacks)
        left = [
            each.spec.model_copy(
                update={"disruption_budget": each.spec.disruption_budget - spent[each.app]}
            )
            for each in staying
        ]
        plain = [
            _plainly(
                [_with(each, of) for each, of in zip(staying, left, strict=True)],
                row, float(free[row]), shape,
            )
            for row in range(ROWS)
            if lacks[row]
        ]  # fmt: skip
        costs = [each for each in plain if each is not None]
        assert (found.cost if found else None) == min(costs, default=None)
        if found is not None:
            victims.gone(found)
            names = {each.id for each in found.victims}
            staying = [each for each in staying if each.id not in names]
            spent.update(each.app for each in found.victims)


def _with(instance: Instance, of: object) -> Instance:
    return Instance(**{name: getattr(instance, name) for name in _NAMES} | {"spec": of})


_NAMES = ("id", "app", "release", "deployment", "state", "agent", "since")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2 * FIRST), max_size=60), st.integers(0, 3))
def test_what_is_kept_is_of_those_that_are_there(steps: list[int], agents: int) -> None:
    known: dict[InstanceId, Instance] = {}
    kept = Yielding()
    for step, of in enumerate(steps):
        for n in range(of) if step % 2 else list(range(of, 2 * FIRST)):
            each = _running(n, (step * 7 + n) % (agents + 1), f"low/{n % 5}", 1, n % 4, 1)
            if step % 3 and each.id in known:
                kept.take(each.id)
                del known[each.id]
            elif each.id not in known:
                kept.put(each, steady=n % 2 == 0)
                known[each.id] = each
    assert len(kept) == len(known)
    said = {name: what[:3] for name, what in kept.known().items()}
    assert said == {i.id: (i.agent, i.app, i.spec.priority) for i in known.values()}
    assert int(kept.steady.sum()) == sum(int(name[1:]) % 2 == 0 for name in known)


def test_agents_and_apps_that_are_gone_are_forgotten() -> None:
    kept = Yielding()
    stays = _running(0, 0, "low/stays", 1, 0, 1)
    kept.put(stays, steady=True)
    for n in range(1, 3 * UNUSED):
        each = _running(n, n, f"low/{n}", 1, 0, 1)
        kept.put(each, steady=True)
        kept.take(each.id)
    assert len(kept.agents.values) <= UNUSED + 3 and len(kept.apps.values) <= UNUSED + 3
    assert kept.known()[stays.id][:2] == ("a0", "low/stays")


def test_whoever_ended_is_awaited_for_a_while_and_not_for_ever() -> None:
    departed = Departed()
    for n in range(3):
        departed.gone(_running(n, 0, "low/app", 1, 0, 1))
        departed.gone(_running(n, 0, f"low/other-{n}", 1, 0, 1))
    assert departed.of("low/app", 3.0) == 3
    departed.came(_running(3, 0, "low/app", 1, 0, 1))
    assert departed.of("low/app", 3.0) == 2
    assert departed.of("low/app", 1.0 + AWAITED_S) == 1
    departed.gone(_running(int(2 + AWAITED_S), 0, "low/last", 1, 0, 1))
    assert list(vars(departed)["_ends"]) == ["low/last"]  # the others are forgotten
