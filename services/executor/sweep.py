"""Pure: what the engine's list of our containers says about attempts, and about what nobody wants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from services.executor import moves as m
from services.executor.model import (
    LABEL_JOB,
    Attempt,
    AttemptId,
    ContainerName,
    Phase,
    State,
    Summary,
)
from services.executor.reporting import World

_WATCHED = frozenset({State.RUNNING, State.STOPPING})


@dataclass(frozen=True, slots=True)
class Findings:
    """Attempts to look at; containers to clear away; ones that may be, if they still are so at the next sweep.

    `orphans` have no attempt, and run or are jobs' runs that have ended: they wait to be adopted, for `orphan_grace_s`.
    `waiting` says since when, by id.
    """

    suspects: tuple[AttemptId, ...] = ()
    discards: tuple[m.Discard, ...] = ()
    strays: frozenset[str] = frozenset()
    orphans: tuple[Summary, ...] = ()
    waiting: Mapping[str, float] = field(default_factory=dict)


def watched(attempts: Iterable[Attempt]) -> frozenset[AttemptId]:
    """Attempts whose container must run. To be asked before the engine is."""
    return frozenset(a.id for a in attempts if a.state in _WATCHED and not a.shared)


def compare(
    before: frozenset[AttemptId],
    attempts: Mapping[AttemptId, Attempt],
    listed: Iterable[Summary],
    strays: frozenset[str],
    world: World,
    waiting: Mapping[str, float] = MappingProxyType({}),
) -> Findings:
    """Compare. `before` is what `watched` said before the list was read, `strays` and `waiting` the last sweep's."""
    by_name = {each.name: each for each in listed}
    suspects = tuple(
        sorted(
            a.id
            for a in attempts.values()
            if a.id in before and a.state in _WATCHED and not _runs(by_name.get(a.container))
        )
    )
    known: frozenset[ContainerName] = frozenset(a.container for a in attempts.values())
    unknown = sorted(
        (each for name, each in by_name.items() if name not in known), key=lambda each: each.id
    )
    orphans = tuple(each for each in unknown if _may_be_adopted(each))
    dead = [
        each
        for each in unknown
        if not _may_be_adopted(each) and world.now - each.created_at > world.config.stray_grace_s
    ]
    since = {each.id: waiting.get(each.id, world.now) for each in orphans}
    grace_s = world.config.orphan_grace_s
    unwanted = [each for each in orphans if world.now - since[each.id] >= grace_s]
    gone = [each for each in dead if each.id in strays]
    return Findings(
        suspects=suspects,
        discards=tuple(m.Discard(each.name, each.id) for each in (*gone, *unwanted)),
        strays=frozenset(each.id for each in dead),
        orphans=orphans,
        waiting=since,
    )


def _runs(seen: Summary | None) -> bool:
    return seen is not None and seen.phase is Phase.RUNNING


def _may_be_adopted(seen: Summary) -> bool:
    """It runs, or it is known from it alone how a run ended."""
    return seen.phase is Phase.RUNNING or (seen.phase is Phase.EXITED and LABEL_JOB in seen.labels)
