"""What placement wants to know of all instances, kept up one instance at a time: who waits, and who has what where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from services.scheduler.model import AgentId, Amounts, Instance, InstanceId, State
from services.scheduler.policy import Shape
from services.scheduler.policy.model import apart_of
from services.scheduler.yielding import Yielding

K = TypeVar("K")
RUNS = "job."
Place = tuple[AgentId, str]
"""An agent and its hostname."""


def shape_of(instance: Instance) -> Shape:
    """What placement looks at. An orphan goes back to its agent, a clean-up to its host."""
    agent = instance.agent if instance.state is State.ORPHANED else None
    shape = _own_shape(instance, agent)
    if instance.run is not None and not shape.relational:
        # Where its siblings are does not matter, so all runs of a unit that need the same are placed as one.
        return replace(shape, app=f"{shape.bu}/{RUNS}")
    return shape


def _own_shape(instance: Instance, agent: AgentId | None) -> Shape:
    host = instance.hostname if instance.cleanup else ""
    return Shape.of(instance.app, instance.spec, agent, host)


def waits(instance: Instance) -> bool:
    """Is it to be placed, now or later. A pending one that is to stop ends without, one that is untold may."""
    if instance.state is State.PENDING:
        return not instance.stop and not instance.untold
    return instance.state is State.ORPHANED


def settled(instance: Instance) -> bool:
    """Does it count as one of its app's for constraints. An orphan does: it goes back to where it was."""
    return uses(instance) and not instance.stop


def counts(instance: Instance) -> bool:
    """Is it one of its app's, on its way to go too: as long as it exists, another may be to come in its place."""
    return instance.state is not State.ENDED and not instance.cleanup


def steady(instance: Instance) -> bool:
    """Is it there, and well, and to stay. For its app's disruption budget whoever is not is missing."""
    running = instance.state is State.RUNNING and instance.healthy is True
    return running and not (instance.stop or instance.yields_to or instance.leaving)


def on_its_way(instance: Instance) -> bool:
    """Was it launched, and does not run yet."""
    return instance.state in (State.STAGED, State.STARTING)


class Ledger:
    """Sums over instances; `change` keeps them right."""

    def __init__(self) -> None:
        self.waiting: dict[Shape, dict[InstanceId, None]] = {}
        self.shapes: dict[InstanceId, Shape] = {}  # of those that wait
        self.places: dict[str, Counter[Place]] = {}  # by app, where its settled instances are
        self.apart: dict[tuple[str, str], int] = {}  # settled instances of one that avoid the other
        self.usage: dict[str, Amounts] = {}  # by business unit
        self.apps: dict[str, dict[InstanceId, None]] = {}  # those that have not ended, by app
        self.steady: dict[str, int] = {}  # how many of them are, by app
        self.budgets: dict[str, Counter[tuple[int, int]]] = {}  # of those that are to be, by app
        self.launching: dict[AgentId, int] = {}  # on their way to run, by agent
        self.yielding = Yielding()  # settled ones that may have to make room

    def change(self, old: Instance | None, new: Instance) -> None:
        """It was so, if it was there; now it is so, unless it has ended."""
        if old is not None and _stays(old, new):
            for each, count in ((old, -1), (new, 1)):
                if on_its_way(each):
                    self._launch(each.agent, count)
            if steady(old) != steady(new):
                self._stand(new.app, 1 if steady(new) else -1)
            if old.since != new.since or steady(old) != steady(new):
                self.yielding.update(new, steady(new))
            return
        if old is not None:
            self.remove(old)
        if new.state is not State.ENDED:
            self.add(new)

    def _launch(self, agent: AgentId, count: int) -> None:
        left = self.launching.pop(agent, 0) + count
        if left:
            self.launching[agent] = left

    def _stand(self, app: str, count: int) -> None:
        left = self.steady.pop(app, 0) + count
        if left:
            self.steady[app] = left

    def add(self, instance: Instance) -> None:
        """It is so now."""
        if waits(instance):
            shape = shape_of(instance)
            self.shapes[instance.id] = shape
            self.waiting.setdefault(shape, {})[instance.id] = None
        if counts(instance):
            self.apps.setdefault(instance.app, {})[instance.id] = None
            if not instance.stop:
                self.budgets.setdefault(instance.app, Counter())[instance.spec.budgeted] += 1
        if steady(instance):
            self._stand(instance.app, 1)
        if on_its_way(instance):
            self._launch(instance.agent, 1)
        if settled(instance):
            if instance.live and any(instance.spec.budgeted):
                self.yielding.put(instance, steady(instance))
            places = self.places.get(instance.app)
            if places is None:
                places = self.places[instance.app] = Counter()
            places[instance.agent, instance.hostname] += 1
            for other in apart_of(instance.app, instance.spec):
                pair = (instance.app, other)
                self.apart[pair] = self.apart.get(pair, 0) + 1
        if uses(instance):
            bu = bu_of(instance)
            self.usage[bu] = self.usage.get(bu, Amounts()) + Amounts.of(instance.spec)

    def remove(self, instance: Instance) -> None:
        """It was so, and was added so."""
        shape = self.shapes.pop(instance.id, None)
        if shape is not None:
            group = self.waiting[shape]
            del group[instance.id]
            if not group:
                del self.waiting[shape]
        mine = self.apps.get(instance.app, {})
        mine.pop(instance.id, None)
        if not mine:
            self.apps.pop(instance.app, None)
        if counts(instance) and not instance.stop:
            budgets = self.budgets[instance.app]
            _take(budgets, instance.spec.budgeted)
            if not budgets:
                del self.budgets[instance.app]
        if steady(instance):
            self._stand(instance.app, -1)
        self.yielding.take(instance.id)
        if on_its_way(instance):
            self._launch(instance.agent, -1)
        if settled(instance):
            places = self.places[instance.app]
            _take(places, (instance.agent, instance.hostname))
            if not places:
                del self.places[instance.app]
            for other in apart_of(instance.app, instance.spec):
                _take(self.apart, (instance.app, other))
        if uses(instance):
            bu = bu_of(instance)
            self.usage[bu] = self.usage[bu] - Amounts.of(instance.spec)


def uses(instance: Instance) -> bool:
    """Does it have resources."""
    return (instance.live or instance.state is State.ORPHANED) and not instance.cleanup


def _stays(old: Instance, new: Instance) -> bool:
    """Is it settled where it was: nothing has changed but how far it has come."""
    there = (old.agent, old.hostname) == (new.agent, new.hostname)
    runs = old.live and new.live and settled(old) and settled(new)
    return there and old.spec is new.spec and runs


def bu_of(instance: Instance) -> str:
    """The business unit that it belongs to."""
    return instance.app.partition("/")[0]


def _take(counts: dict[K, int], key: K) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


def changed_usage(
    usage: dict[str, Amounts], changes: Iterable[tuple[Instance | None, Instance]]
) -> dict[str, Amounts]:
    """The sums with changes that are not in the ledger yet, each (before, after)."""
    after = dict(usage)
    for old, new in changes:
        if old is not None and uses(old) and uses(new) and old.spec is new.spec:
            continue  # it has what it had
        for each, sign in ((old, -1), (new, 1)):
            if each is not None and uses(each):
                bu, amounts = bu_of(each), Amounts.of(each.spec)
                known = after.get(bu, Amounts())
                after[bu] = known + amounts if sign > 0 else known - amounts
    return after


def changed_apart(
    apart: dict[tuple[str, str], int], changes: Iterable[tuple[Instance | None, Instance]]
) -> set[tuple[str, str]]:
    """Which apps keep apart from which, by their settled instances, with changes that are not in the ledger yet."""
    after = dict(apart)
    for old, new in changes:
        for each, sign in ((old, -1), (new, 1)):
            if each is not None and each.spec.apart_from and settled(each):
                for other in apart_of(each.app, each.spec):
                    pair = (each.app, other)
                    after[pair] = after.get(pair, 0) + sign
    return {pair for pair, count in after.items() if count}
