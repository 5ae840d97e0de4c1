"""Who is to be placed now, by shape, in the order of their asking. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from services.scheduler.cluster import Draft
from services.scheduler.ledger import shape_of, waits
from services.scheduler.model import Instance, InstanceId
from services.scheduler.policy import Shape


class Waiting:
    """Those that wait by a draft, read shape by shape and no further than needed."""

    def __init__(self, draft: Draft, now: float) -> None:
        self._draft = draft
        self._now = now
        self._ledger = draft.cluster.ledger
        self._before = frozenset(
            draft.changed
        )  # what is decided later is looked up when it is read
        self._changed: dict[Shape, list[InstanceId]] = {}
        for each in draft.changed.values():
            if waits(each):
                self._changed.setdefault(shape_of(each), []).append(each.id)
        self._open: dict[Shape, Iterator[Instance]] = {}

    def shapes(self) -> dict[Shape, None]:
        """All shapes of which somebody may wait."""
        return {**dict.fromkeys(self._ledger.waiting), **dict.fromkeys(self._changed)}

    def since(self, shape: Shape) -> float:
        """Since when one of a shape waits: the oldest, but where its like have been told since why they wait."""
        name = next(iter(self._ledger.waiting.get(shape, ())), None) or self._changed[shape][0]
        return (self._draft.changed.get(name) or self._draft.cluster.instances[name]).since

    def take(self, shape: Shape, count: int) -> list[Instance]:
        """The next ones of a shape whose time has come; fewer than `count` when there are no more."""
        known = self._open.get(shape)
        if known is None:
            known = self._open[shape] = self.ready(shape)
        return list(islice(known, count))

    def ready(self, shape: Shape, ahead_s: float = 0.0) -> Iterator[Instance]:
        """All of a shape whose time has come, or will have so soon."""
        return (each for each in self.all_of(shape) if each.not_before <= self._now + ahead_s)

    def all_of(self, shape: Shape) -> Iterator[Instance]:
        """All of a shape that still wait, also those that wait for their time, as they are by now."""
        changed, instances = self._draft.changed, self._draft.cluster.instances
        for name in self._ledger.waiting.get(shape, ()):
            if name not in self._before:
                each = changed.get(name) or instances[name]
                if waits(each):
                    yield each
        yield from self.new(shape)

    def new(self, shape: Shape) -> Iterator[Instance]:
        """Those of a shape that have changed in this decision, and still wait."""
        for name in self._changed.get(shape, ()):
            each = self._draft.changed[name]
            if waits(each):
                yield each
