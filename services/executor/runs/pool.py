"""Pure: which shared container a run joins, when one is made, and when one goes.

**Invariants**: runs of different business units, environments, networks, images or users never share; a container that
is to be recycled gets no further task; none goes while a task is in it; at most `pool_closes` go at a time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson

from libs.common.task import TaskPayload
from services.executor.config import ExecutorConfig
from services.executor.runs.model import Member, Waiting

_SETTLED = 3  # so many starts tell a period
_LATE = 1.5  # of a period: a job that is later than this has another one, or is gone


@dataclass(frozen=True, slots=True)
class Habit:
    """When runs of a key began: the last, and how far apart they are on the average; and when one was `foretold`."""

    last: float
    period_s: float = 0.0
    starts: int = 1
    foretold: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done: (run, container) joins, runs to make a container for, (container, reason) to end."""

    joins: tuple[tuple[str, str], ...] = ()
    opens: tuple[str, ...] = ()
    closes: tuple[tuple[str, str], ...] = ()


def is_shared(payload: TaskPayload) -> bool:
    """May this attempt run with others? Secret files are one container's own, as they are mounted into it."""
    run = payload.run
    if run is None or run.reuse != "shared":
        return False
    return all(ref.file is None for ref in payload.spec.secrets)


def key_of(payload: TaskPayload) -> str:
    """The reuse key: 16 hex digits. Variables and secrets in them are each task's own, and limits its cgroup's."""
    spec = payload.spec
    parts = {
        "bu": payload.app.partition("/")[0],
        "image": spec.image,
        "user": spec.user or "",
        "network": spec.network,
        "options": spec.network_options.model_dump(mode="json"),
        "address": spec.address.model_dump(mode="json") if spec.address else None,
        "class": spec.instance_class.value,
        # Without one the key is what it always was: containers of before go on to be used.
        **({"environment": spec.environment} if spec.environment else {}),
    }
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def began(habit: Habit | None, now: float) -> Habit:
    """One more run of the key has begun. Runs of the same second count as one."""
    if habit is None or not habit.starts:
        return Habit(now, foretold=habit.foretold if habit else 0.0)
    apart_s = now - habit.last
    if apart_s < 1.0:
        return habit
    period_s = apart_s if habit.starts == 1 else 0.7 * habit.period_s + 0.3 * apart_s
    return Habit(now, period_s, habit.starts + 1, habit.foretold)


def foretell(habit: Habit | None, now: float) -> Habit:
    """A run of the key is about to be due."""
    return replace(habit or Habit(0.0, starts=0), foretold=now)


def outdated(
    habits: Mapping[str, Habit], members: Iterable[Member], now: float, config: ExecutorConfig
) -> list[str]:
    """Keys without a container whose habit would keep none any more."""
    used = {each.key for each in members}
    kept_s = _LATE * config.pool_warm_s + config.pool_idle_s
    return [
        key
        for key, habit in habits.items()
        if key not in used and now - max(habit.last, habit.foretold) > kept_s
    ]


def lacks(members: Iterable[Member], key: str, now: float, config: ExecutorConfig) -> bool:
    """Is a container to be made ahead of a run: no other will have room for it, and few are made so as yet."""
    known = list(members)
    mine = [each for each in known if each.key == key and not worn(each, now, config)]
    unused = sum(each.ahead and not each.uses for each in known)
    return unused < config.pool_ahead and all(each.tasks >= config.pool_tasks for each in mine)


def keep_until(member: Member, habit: Habit | None, config: ExecutorConfig) -> float:
    """How long an idle container is kept: until its runs, by their habit, should have come again."""
    foretold = habit.foretold if habit is not None else 0.0
    until = max(member.idle_since, foretold) + config.pool_idle_s
    if habit is None or habit.starts < _SETTLED or habit.period_s > config.pool_warm_s:
        return until
    return max(until, habit.last + habit.period_s * _LATE)


def worn(member: Member, now: float, config: ExecutorConfig) -> str:
    """Why the container is to be recycled, or ""."""
    if member.recycle:
        return member.recycle
    if member.uses >= config.pool_uses:
        return f"it has had {member.uses} tasks"
    if now - member.made_at >= config.pool_age_s:
        return f"it is {config.pool_age_s:g} s old"
    return ""


def plan(
    members: Iterable[Member],
    waiting: Sequence[Waiting],
    habits: Mapping[str, Habit],
    closing: int,
    config: ExecutorConfig,
    now: float,
    *,
    draining: bool = False,
) -> Plan:
    """What to do now. `closing` containers are on their way out already."""
    known = {each.id: each for each in members}
    open_to: dict[str, list[str]] = {}
    for each in known.values():
        if not worn(each, now, config):
            open_to.setdefault(each.key, []).append(each.id)
    joins, opens = [], []
    coming: dict[str, int] = {}  # places in containers that are being made
    for run in waiting:
        chosen = _choose([known[each] for each in open_to.get(run.key, ())], config)
        if chosen is not None and chosen.ready:
            joins.append((run.attempt, chosen.id))
            known[chosen.id] = replace(chosen, tasks=chosen.tasks + 1, uses=chosen.uses + 1)
            if known[chosen.id].uses >= config.pool_uses:
                open_to[run.key].remove(chosen.id)
            continue
        if run.key not in coming:
            making = [known[each] for each in open_to.get(run.key, ()) if not known[each].ready]
            coming[run.key] = len(making) * config.pool_tasks
        if coming[run.key] == 0:
            opens.append(run.attempt)
            coming[run.key] = config.pool_tasks
        coming[run.key] -= 1
    room = math.inf if draining else config.pool_closes - closing
    closes: list[tuple[str, str]] = []
    for each in sorted(known.values(), key=lambda member: (member.idle_since, member.id)):
        unused = not each.tasks and (each.ready or draining)
        why = _why_close(each, habits, config, now, draining) if unused else ""
        if why and len(closes) < room:
            closes.append((each.id, why))
    return Plan(tuple(joins), tuple(opens), tuple(closes))


def _choose(members: Sequence[Member], config: ExecutorConfig) -> Member | None:
    """The fullest that has room, so that others may become idle; of equals the one with the lesser id."""
    fitting = [each for each in members if each.ready and each.tasks < config.pool_tasks]
    return min(fitting, key=lambda each: (-each.tasks, each.id), default=None)


def _why_close(
    member: Member,
    habits: Mapping[str, Habit],
    config: ExecutorConfig,
    now: float,
    draining: bool,
) -> str:
    if draining:
        return "the executor was shut down"
    why = worn(member, now, config)
    if why:
        return why
    if now >= keep_until(member, habits.get(member.key), config):
        return "nothing has run in it for long"
    return ""
