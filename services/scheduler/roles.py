"""In which of our roles an agent is ours. Pure.

Mesos offers what an agent has in one role at a time, and what is reserved for a role in no other. Our executor never
changes, nor do its resources: once it runs in a role, so does all that is launched there, and what the agent offers
in others goes back for long. Where none runs, it is the first role by preference for which something is reserved
there; where nothing is, the one that it was in before, or the first of all. Another one's offer is taken when that role
is offered nothing for a while.

The role is saved before the first launch. It binds while a task of ours is there, or the executor, as offers say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from libs.mesos.messages import TaskStatus
from services.scheduler.cluster import Draft
from services.scheduler.model import AgentId, Offer, OfferId
from services.scheduler.offering import IDLE_REFUSE_S
from services.scheduler.settings import SchedulerConfig

_ALLOCATED = re.compile(r'allocation_info \{\s*role: "([^"]+)"')
_INCOMPATIBLE = "ExecutorInfo is not compatible with existing ExecutorInfo"
_GIVEN = "\nExecutorInfo:\n"


def sort_out(
    draft: Draft, offers: Sequence[Offer], now: float, config: SchedulerConfig
) -> list[Offer]:
    """Those of new offers that count: of each agent, of one role. The others go back."""
    several = len(config.roles) > 1
    _note_executors(draft, offers)
    if several:
        _note_reservations(draft, offers, config)
        offers = sorted(offers, key=lambda each: config.roles.index(each.role))
    taken: list[Offer] = []
    elsewhere: list[Offer] = []  # their agents are ours in another role
    not_yet: list[OfferId] = []
    roles: dict[AgentId, str] = {}  # in which these offers are
    for offer in offers:
        bound = _bound(draft, offer, config)
        if bound and bound != offer.role:
            elsewhere.append(offer)
            continue
        if several and not bound:
            held = roles.get(offer.agent) or _held(draft, offer.agent)
            if not _chosen(draft, offer, held, now, config):
                not_yet.append(offer.id)
                continue
            if held not in ("", offer.role):
                not_yet += draft.volatile.roster.offers.get(offer.agent, ())
        roles[offer.agent] = offer.role
        taken.append(offer)
    _give_back(draft, [each.id for each in elsewhere], IDLE_REFUSE_S, now)
    _give_back(draft, not_yet, config.decline_s, now)
    _count(draft, elsewhere, config)
    return taken


def _bound(draft: Draft, offer: Offer, config: SchedulerConfig) -> str:
    """The role in which its agent is ours; "": in none, our executor is not there."""
    role = draft.role_of(offer.agent)
    if not role or offer.executor or not draft.ours_on(offer.agent).begins:
        return role
    if role not in config.roles:
        draft.roles[offer.agent] = ""  # its executor has ended, and the next one is in another role
    return ""


def _note_executors(draft: Draft, offers: Iterable[Offer]) -> None:
    known, roster = draft.volatile.executors, draft.volatile.roster
    for offer in offers:
        if offer.executor != (offer.agent in known):
            (known.add if offer.executor else known.discard)(offer.agent)
            roster.dirty.add(offer.agent)


def _note_reservations(draft: Draft, offers: Iterable[Offer], config: SchedulerConfig) -> None:
    kept_for = draft.volatile.kept_for
    for offer in offers:
        for role in offer.reserved_for:
            # What is reserved for a role above ours is offered to ours.
            mine = role if role in config.roles else offer.role
            known = kept_for.get(offer.agent, mine)
            kept_for[offer.agent] = min(mine, known, key=config.roles.index)


def _held(draft: Draft, agent: AgentId) -> str:
    """The role of the offers of an agent that are held, if any."""
    held = draft.volatile.roster.offers.get(agent)
    return draft.volatile.offers[held[0]].role if held else ""


def _chosen(draft: Draft, offer: Offer, held: str, now: float, config: SchedulerConfig) -> bool:
    """Does an offer count, of an agent that is in no role yet. `held`: the role of its offers that do."""
    kept_for, waited = draft.volatile.kept_for.get(offer.agent), draft.volatile.waited
    best = kept_for or draft.role_of(offer.agent) or config.roles[0]
    if offer.role == best and (kept_for or held in ("", offer.role)):
        waited.pop(offer.agent, None)
        return True
    if kept_for or held:
        return not kept_for and offer.role == held
    return now - waited.setdefault(offer.agent, now) >= config.decline_s


def _give_back(draft: Draft, offers: Sequence[OfferId], refuse_s: float, now: float) -> None:
    if offers:
        draft.give_back(offers, refuse_s)
        draft.volatile.turned_at = now


def _count(draft: Draft, offers: Sequence[Offer], config: SchedulerConfig) -> None:
    """Agents in a role that is ours no more offer nothing that counts; who asks why something waits is told of them."""
    roster = draft.volatile.roster
    found = {
        each.agent: (each.agent, each.hostname, each.attributes)
        for each in offers
        if each.agent not in roster.rows.index and draft.role_of(each.agent) not in config.roles
    }
    if found:
        roster.expect(found.values(), draft.ours_on)


def outside(draft: Draft, config: SchedulerConfig) -> list[AgentId]:
    """Agents whose executor is in a role that is ours no more: nothing new may go there."""
    saved = draft.cluster.in_role.items()
    agents = [a for role, there in saved if role not in config.roles for a in there]
    changed = [a for a, role in draft.roles.items() if role and role not in config.roles]
    return [each for each in agents if each not in draft.roles] + changed


def learn(draft: Draft, agent: AgentId, status: TaskStatus, now: float) -> bool:
    """Was a launch refused because the executor there is in another role than we thought: then we know it now.

    So it may be where an older release has launched something, or a store has been restored.
    """
    there = role_told(status)
    if there is None:
        return False
    draft.roles[agent] = there
    if _held(draft, agent) != there:
        held = draft.volatile.roster.offers.get(agent, ())
        _give_back(draft, held, IDLE_REFUSE_S, now)
    return True


def role_told(status: TaskStatus) -> str | None:
    """The role of an agent's executor, by a refusal of a launch in another one; None: it says something else."""
    message = status.get("message", "")
    if status["state"] != "TASK_ERROR" or not message.startswith(_INCOMPATIBLE):
        return None
    existing, _, given = message.partition(_GIVEN)
    there, meant = _ALLOCATED.search(existing), _ALLOCATED.search(given)
    if there is None or meant is None or there[1] == meant[1]:
        return None
    return there[1]
