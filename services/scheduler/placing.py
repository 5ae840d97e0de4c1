"""From pending instances and offers to launches: what `policy` decides, made true. Pure.

Reading order: `place_pending` → `_serve` (who gets what) → `_launch` → `offering.py` (offers held and given back),
`refusing.py` (why the others wait), `evicting.py` (who makes room for them), `asides.py` (what is kept for them).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from operator import itemgetter

from libs.common.events import model as ev
from libs.common.task import container_name
from services.scheduler import asides, cleaning, evicting, nodes, offering, pacing, refusing, roles
from services.scheduler.cluster import Draft
from services.scheduler.model import (
    EXECUTOR_AMOUNTS,
    Amounts,
    Instance,
    Launch,
    Offer,
    State,
    attempt_id,
    changed,
)
from services.scheduler.networks import Network
from services.scheduler.policy import Agents, Refusal, Shape
from services.scheduler.policy.fairness import Turns
from services.scheduler.policy.model import Vector
from services.scheduler.rounds import away_agents, full_agents, is_fresh, round_of, usage_of
from services.scheduler.settings import SchedulerConfig
from services.scheduler.tasks import Purse, TaskFactory
from services.scheduler.waiting import Waiting

NO_LIMIT = 1 << 40


@dataclass(slots=True)
class Outcome:
    """Of one decision: who goes to which row of the agents, and which shapes found no place."""

    agents: Agents
    placed: dict[int, list[Instance]] = field(default_factory=dict)
    refused: dict[Shape, Refusal] = field(default_factory=dict)
    limited: set[Shape] = field(
        default_factory=set
    )  # of them, those for which more room is no help
    looked_at: set[Shape] = field(default_factory=set)
    more: bool = False
    paced: bool = False  # the launch rate has let no more go


def place_pending(draft: Draft, now: float, config: SchedulerConfig, tasks: TaskFactory) -> None:
    """Place what waits on the offers there are, and ask for more or for none."""
    waiting = Waiting(draft, now)
    launching = pacing.launching(draft)
    agents = draft.volatile.roster.agents(
        draft.ours_on,
        full_agents(draft, now),
        nodes.closed(draft),
        pacing.busy(launching, config),
        away_agents(draft),
        roles.outside(draft, config),
    )
    outcome = Outcome(agents)
    if draft.volatile.offers and waiting.shapes():
        _serve(draft, waiting, outcome, pacing.Slots(launching, config), now, config)
        _launch(draft, outcome, now, tasks)
    elif waiting.shapes():
        _refuse(draft, waiting, outcome, now, config)
    draft.volatile.more = outcome.more  # until the next decision
    helped = outcome.refused.keys() - outcome.limited
    asides.review(draft, waiting, helped, outcome.looked_at, now, config)
    outcome.refused = asides.told(draft, outcome.refused)
    refusing.tell(draft, waiting, outcome.refused, outcome.looked_at, now, config)
    if outcome.paced:
        refusing.tell_paced(draft, waiting, now, config)
    evicting.make_room(draft, waiting, helped, now, config)
    _put_off(draft, waiting, now)
    usage = usage_of(draft)

    @cache
    def limited(shape: Shape) -> bool:
        return limit_of(draft, shape, usage.get(shape.bu), now, config)[0] <= 0

    offering.flow(draft, waiting, outcome.agents, outcome.refused, limited, now, config)


# -- who gets what -----------------------------------------------------------------------------------


def _serve(
    draft: Draft,
    waiting: Waiting,
    outcome: Outcome,
    slots: pacing.Slots,
    now: float,
    config: SchedulerConfig,
) -> None:
    """In turns, so that no business unit has all; no more than a slice, so that nobody else waits for long."""
    shapes = waiting.shapes()
    _give_back(waiting, outcome.agents)
    work = round_of(draft, outcome.agents, shapes, now, config)
    turns = Turns(shapes, draft.volatile.roster.total, usage_of(draft), waiting.since)
    left = pacing.refill(draft, now, config)
    # With tokens for less than a slice, the next one waits for the clock.
    paced = left < config.place_slice
    refused_there: list[tuple[int, Vector]] = []  # what is pinned, and has to wait
    for shape, count in turns:
        if left <= 0:
            outcome.more, outcome.paced = not paced, paced
            break
        if not shape.pinned:
            while refused_there:
                work.set_aside(*refused_there.pop())
        asked = min(count, left)
        instances = waiting.take(shape, asked)
        limit, why_not = limit_of(draft, shape, turns.usage(shape.bu), now, config)
        homes = draft.cluster.homes
        home, instances = homes.place(work, outcome.agents, shape, instances, limit)
        rest = min(len(instances), limit) - len(home)
        given, refusal = work.put(shape, rest) if limit else ([], None)
        placed = held = 0
        zones: list[tuple[str, int]] = []
        for row, wished in (*home, *given):
            agent = outcome.agents.rows.ids[row]
            number = wished if shape.pinned else slots.take(agent, wished)
            if number:
                outcome.placed.setdefault(row, []).extend(instances[placed : placed + number])
                zones.append((outcome.agents.rows.attributes[row].get("zone", ""), number))
            outcome.more |= 0 < number < wished and not paced  # the others go elsewhere, next
            held += wished - number
            placed += number
        if refusal is None and placed + held < len(instances):
            refusal = why_not
            outcome.limited.add(shape)
        if refusal is not None:
            outcome.refused[shape] = refusal
            if shape.agent in outcome.agents.rows.index:
                # It will be adopted some other time; until then others that are pinned there may have what it needs.
                row = outcome.agents.rows.index[shape.agent]
                refused_there.append((row, shape.vector * (len(instances) - placed)))
        _book_addresses(draft, shape, zones)
        outcome.looked_at.add(shape)
        done = refusal is not None or held > 0 or len(instances) < asked
        turns.served(shape, placed, done=done)
        pacing.spend(draft, placed, config)
        left -= placed


def _refuse(
    draft: Draft, waiting: Waiting, outcome: Outcome, now: float, config: SchedulerConfig
) -> None:
    """Nobody offers anything, the cluster being full or others holding it: why each waits, by what should be free."""
    shapes = refusing.unexplained(draft, waiting, now)
    if not shapes:
        return
    _give_back(waiting, outcome.agents)
    work = round_of(draft, outcome.agents, shapes, now, config)
    usage, too_early = usage_of(draft), refusing.begins(draft, now)
    for shape in shapes:
        limit, why_not = limit_of(draft, shape, usage.get(shape.bu), now, config)
        if why_not is not None and not limit:
            outcome.limited.add(shape)
            outcome.refused[shape] = why_not
        else:
            outcome.refused[shape] = too_early or work.why(shape)
    outcome.looked_at.update(shapes)


def _give_back(waiting: Waiting, agents: Agents) -> None:
    """What was left alone for containers that are now to be adopted is theirs."""
    for shape in waiting.shapes():
        row = agents.rows.index.get(shape.agent) if shape.agent is not None else None
        if row is not None:
            agents.give_back(row, shape.vector * sum(1 for _ in waiting.ready(shape)))


def limit_of(
    draft: Draft, shape: Shape, usage: Vector | None, now: float, config: SchedulerConfig
) -> tuple[int, Refusal | None]:
    """How many of a shape may be placed whatever room there is, and what it is that limits them."""
    limit, why = NO_LIMIT, None
    if shape.pinned:
        return limit, why
    agents = len(draft.volatile.roster.rows)
    network = draft.volatile.networks.get(shape.network)
    if network is not None and is_fresh(network, now, config):
        room, name, told = _addresses(network, shape)
        if room < limit:
            limit, why = room, Refusal(agents, {name: agents}, told)
    quota = config.quotas.get(shape.bu)
    if quota is not None:
        for n, (name, most) in enumerate(quota):
            need, has = float(shape.vector[n]), float(usage[n]) if usage is not None else 0.0
            if most > 0 and need > 0:
                fits = int((most - has + 1e-9) // need)
                if fits < limit:
                    limit = max(fits, 0)
                    held = has + limit * need
                    told = f"{shape.bu} has {held:g} of its quota of {most:g} {name}"
                    why = Refusal(agents, {f"quota of {shape.bu}": agents}, told)
    return limit, why


def _addresses(network: Network, shape: Shape) -> tuple[int, str, str]:
    """For how many of a shape a network has addresses at most, and what those lack for which it has none."""
    name, scope = shape.network, (shape.bu, shape.environment)
    if network.refuses(*scope):
        whom = f"{shape.bu} in {shape.environment}" if shape.environment else shape.bu
        return 0, f"pool in {name}", f"network {name} has no pool for {whom}"
    room = NO_LIMIT if shape.sticky else network.room(*scope)
    return room, f"free address in {name}", f"network {name} has no free address"


def _book_addresses(draft: Draft, shape: Shape, zones: Iterable[tuple[str, int]]) -> None:
    """So many of a shape are on hosts of these zones, and will ask for addresses, about in this order."""
    network = draft.volatile.networks.get(shape.network)
    if network is None or shape.pinned or shape.sticky:
        return
    for zone, there in groupby(zones, itemgetter(0)):
        count = sum(count for _, count in there)
        network = network.without(shape.bu, shape.environment, zone, count)
    draft.volatile.networks[shape.network] = network


# -- launching ---------------------------------------------------------------------------------------


def _launch(draft: Draft, outcome: Outcome, now: float, tasks: TaskFactory) -> None:
    volatile = draft.volatile
    rows = outcome.agents.rows
    if outcome.placed:
        volatile.launched_at = now
    for row, instances in outcome.placed.items():
        agent = rows.ids[row]
        offers = volatile.roster.offers[agent]
        offer = volatile.offers[offers[0]]
        begins = draft.ours_on(agent).begins
        purse = Purse(
            (volatile.offers[each] for each in offers), EXECUTOR_AMOUNTS if begins else Amounts()
        )
        launched = [_staged(each, offer, now, tasks.cluster) for each in instances]
        for each in launched:
            draft.put(each, _accepted(each, offer))
        infos = tuple(tasks.task_info(each, purse, offer.role) for each in launched)
        if draft.role_of(agent) != offer.role:
            draft.roles[agent] = offer.role
        draft.act(Launch(offers, agent, infos))
        for offer_id in offers:
            volatile.drop(offer_id)


def _staged(instance: Instance, offer: Offer, now: float, cluster: str) -> Instance:
    fresh = container_name(cluster, attempt_id(instance.id, instance.generation + 1))
    return changed(
        instance,
        {
            "state": State.STAGED,
            "generation": instance.generation + 1,
            "agent": offer.agent,
            "hostname": offer.hostname,
            "attributes": offer.attributes,
            "since": now,
            "healthy": None,
            "delayed": "",
            "message": instance.message if instance.stop else "",
            "yields_to": "",
            "returned": 0,
            "leaving": instance.leaving if offer.hostname == instance.hostname else "",
            "address": instance.address if instance.adopt else "",
            "container": instance.adopt or fresh,
        },
    )


def _accepted(instance: Instance, offer: Offer) -> ev.OfferAccepted:
    return ev.OfferAccepted(
        instance=instance.id,
        app=instance.app,
        attempt=instance.attempt,
        offer=offer.id,
        agent=offer.agent,
        hostname=offer.hostname,
        zone=offer.attributes.get("zone", ""),
        network=instance.spec.network,
        cpus=instance.spec.resources.cpus,
        mem_mib=instance.spec.resources.mem_mib,
    )


def _put_off(draft: Draft, waiting: Waiting, now: float) -> None:
    """Clean-ups that were not placed; also those for whose host there is no offer at all."""
    for shape in waiting.shapes():
        if shape.hostname:
            cleaning.put_off(draft, list(waiting.ready(shape)), now)
