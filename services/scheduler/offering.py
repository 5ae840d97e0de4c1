"""How long offers are held, and when more are asked for. Pure.

An offer is held while something waits that it could help, alone or with what its agent offers later, and never longer
than `offer_hold_s`. One that can't help goes back at once: another framework may starve for it. None helps who waits
for the end of a back-off, or is at a limit. When all is placed the rest goes back a moment later: wishes come in
waves, and to have thousands of offers made anew for each costs more than to place it. For runs of jobs and ends of
back-offs that are about to come offers are at hand: a master makes them only once a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from services.scheduler.cluster import Draft
from services.scheduler.ledger import waits
from services.scheduler.model import Decline, Revive, Suppress
from services.scheduler.policy import Agents, Refusal, Shape
from services.scheduler.policy.model import Mask
from services.scheduler.policy.rules import filters
from services.scheduler.settings import SchedulerConfig
from services.scheduler.waiting import Waiting

NEW_REVIVE_S = 0.05
REVIVE_EVERY_S = 1.0  # the master's own allocation cycle
MORE_COMES_S = 1.0  # after a launch
AHEAD_S = 1.5  # before a job or a back-off is due, its offers are asked for
TURN_S = 2.0  # two such cycles
IDLE_REFUSE_S = 3600.0  # REVIVE clears it as soon as there is something to place


def flow(
    draft: Draft,
    waiting: Waiting,
    agents: Agents,
    refused: Mapping[Shape, Refusal],
    limited: Callable[[Shape], bool],
    now: float,
    config: SchedulerConfig,
) -> None:
    """Hold offers no longer than it helps; ask for none when they help nobody, and for some when they do.

    `limited` tells of which shapes none may be placed, whatever room there is.
    """
    volatile, shapes = draft.volatile, waiting.shapes()

    def helped(ahead_s: float) -> Iterator[Shape]:
        """Shapes of which somebody could be placed, now or so soon; there may be thousands."""
        for shape in shapes:
            if any(True for _ in waiting.ready(shape, ahead_s)) and not limited(shape):
                yield shape

    idle = not any(True for _ in helped(AHEAD_S))
    due = draft.cluster.jobs.agenda.first()
    soon = due is not None and due <= now + AHEAD_S
    placing = soon or now - volatile.launched_at < MORE_COMES_S
    if idle and not placing:
        if volatile.offers:
            draft.act(Decline(tuple(volatile.offers), IDLE_REFUSE_S))
            volatile.drop_all()
        if not volatile.suppressed:
            draft.act(Suppress())
            volatile.suppressed = True
            volatile.waited.clear()
        return
    _give_back(draft, agents, _useful(agents, helped(AHEAD_S), refused), placing, now, config)
    if idle and not soon:
        return
    # Something new asks at once; what has been waiting for long asks at Mesos' own pace.
    fresh = any(each.version == 0 and waits(each) for each in draft.changed.values())
    pause_s = NEW_REVIVE_S if fresh else REVIVE_EVERY_S
    starving = not volatile.offers
    # What nobody needed when it was given back may be what something new needs.
    missing = fresh and volatile.spared and all(shape in refused for shape in helped(0.0))
    since_s = now - volatile.revived_at
    # What was given back for its role is offered in the right one meanwhile; a REVIVE would bring it back as it was.
    turning = now - volatile.turned_at < TURN_S
    asks = (starving and since_s >= pause_s) or (missing and since_s >= REVIVE_EVERY_S)
    if volatile.suppressed or (asks and not turning):
        draft.act(Revive())
        volatile.suppressed = volatile.spared = False
        volatile.revived_at = now


def _give_back(
    draft: Draft, agents: Agents, useful: Mask, placing: bool, now: float, config: SchedulerConfig
) -> None:
    """What can't help, and what was held for long. Who is placing gives back some agents' offers at a time.

    These are offered again by the next allocation, if nobody else wants them.
    """
    offers, index = draft.volatile.offers, agents.rows.index
    hold_s = config.offer_hold_s
    oldest = next((each.received_at for each in offers.values()), now)
    if now - oldest < hold_s / 2 and useful.all():  # they are in the order of coming
        return
    old, useless = [], []
    for each in offers.values():
        row = index[each.agent]
        patience_s = hold_s * (1 + row / len(index)) / 2 if placing else hold_s
        if not useful[row]:
            useless.append(each.id)
        elif now - each.received_at >= patience_s:
            old.append(each.id)
    draft.volatile.spared |= bool(old)
    for given, refuse_s in (
        (useless, config.decline_s),
        (old, 0.0 if placing else config.decline_s),
    ):
        draft.give_back(given, refuse_s)


def _useful(agents: Agents, helped: Iterable[Shape], refused: Mapping[Shape, Refusal]) -> Mask:
    """Agents on which something that waits may go, if there were more room; all, while that is not known."""
    every = np.ones(len(agents.rows), dtype=np.bool_)
    shapes = []
    for shape in helped:
        if shape not in refused:
            return every
        shapes.append(shape)
    if not shapes:
        return every
    useful = np.zeros_like(every)
    # A full disk may have room again any moment, and launches be over; a closed host stays closed.
    full = np.zeros_like(agents.full)
    agents = Agents(agents.rows, agents.free, agents.offered, full, agents.closed)
    for shape in shapes:
        may = every.copy()
        for each in filters(agents, shape):
            may &= each.mask
        useful |= may
    return useful
