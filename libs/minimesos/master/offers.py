"""Offers made, answered, rescinded; inverse offers likewise."""

from __future__ import annotations

from libs.minimesos.master.core import Core
from libs.minimesos.master.model import Agent, Framework, InverseOffer, Offer, id_json
from libs.minimesos.master.views import inverse_offer_json, offer_json
from libs.minimesos.schema import Json


def make_offers(core: Core) -> None:
    """One allocation: what is free is offered, one event a framework."""
    by_framework: dict[str, list[Offer]] = {}
    for grant in core.allocator.allocate(core.now):
        timeout = core.config.offer_timeout_s
        offer = Offer(
            core.next_offer_id(),
            grant.framework_id,
            grant.agent_id,
            grant.role,
            grant.resources,
            None if timeout is None else core.now + timeout,
        )
        framework = core.state.frameworks[grant.framework_id]
        core.state.offers[offer.id] = offer
        framework.offers[offer.id] = offer
        core.state.agents[grant.agent_id].offers[offer.id] = offer
        if offer.expires_at is not None:
            core.timers.set(("offer", offer.id), offer.expires_at)
        by_framework.setdefault(framework.id, []).append(offer)
    for framework_id, offers in by_framework.items():
        framework = core.state.frameworks[framework_id]
        framework.counters["offers/sent"] += len(offers)
        shown = [
            offer_json(
                offer,
                core.state.agents[offer.agent_id],
                multi_role=framework.multi_role,
                refined=framework.refined,
            )
            for offer in offers
        ]
        core.event(framework, "OFFERS", {"offers": shown})
    make_inverse_offers(core)


def take_offer(core: Core, offer: Offer) -> None:
    """An offer ends; its resources stay allocated until the caller recovers them."""
    core.state.offers.pop(offer.id, None)
    core.timers.cancel(("offer", offer.id))
    framework = core.state.frameworks.get(offer.framework_id)
    if framework is not None:
        framework.offers.pop(offer.id, None)
    agent = core.state.agents.get(offer.agent_id)
    if agent is not None:
        agent.offers.pop(offer.id, None)


def decline(core: Core, framework: Framework, body: Json) -> None:
    """DECLINE: known offers return, filtered for a while; unknown ones are ignored."""
    core.counters["messages_decline_offers"] += 1
    refuse_s = body.get("filters", {}).get("refuse_seconds", 5.0)
    for offer_id in body.get("offer_ids", []):
        offer = framework.offers.get(offer_id["value"])
        if offer is None:
            continue
        framework.counters["offers/declined"] += 1
        take_offer(core, offer)
        core.allocator.recover(framework.id, offer.agent_id, offer.resources, core.now, refuse_s)


def rescind(core: Core, offer: Offer) -> None:
    """Take an offer back and say so."""
    take_offer(core, offer)
    core.allocator.recover(offer.framework_id, offer.agent_id, offer.resources, core.now)
    framework = core.state.frameworks.get(offer.framework_id)
    if framework is not None:
        framework.counters["offers/rescinded"] += 1
        core.event(framework, "RESCIND", {"offer_id": id_json(offer.id)})


def rescind_all(core: Core, agent: Agent) -> None:
    """Take back every offer of an agent, the newest first as Mesos does."""
    for offer in reversed(list(agent.offers.values())):
        rescind(core, offer)


def drop_offers(core: Core, framework: Framework) -> None:
    """A framework is away: its offers return without a word."""
    for offer in list(framework.offers.values()):
        take_offer(core, offer)
        core.allocator.recover(framework.id, offer.agent_id, offer.resources, core.now)


# ---- inverse offers -----------------------------------------------------------------------------
def make_inverse_offers(core: Core) -> None:
    """Ask frameworks that hold something on an agent in maintenance to leave it."""
    for agent in core.state.agents.values():
        if agent.unavailability is None or not agent.active:
            continue
        asked = {offer.framework_id for offer in agent.inverse_offers.values()}
        holders = {task.framework_id for task in agent.tasks.values()}
        holders.update(executor.framework_id for executor in agent.executors.values())
        holders.update(offer.framework_id for offer in agent.offers.values())
        for framework_id in sorted(holders - asked):
            framework = core.state.frameworks.get(framework_id)
            refused = ("refused", framework_id, agent.id) in core.timers
            if framework is not None and framework.active and not refused:
                _ask_to_leave(core, framework, agent, agent.unavailability)


def _ask_to_leave(core: Core, framework: Framework, agent: Agent, unavailability: Json) -> None:
    offer = InverseOffer(core.next_offer_id(), framework.id, agent.id, unavailability)
    core.state.inverse_offers[offer.id] = offer
    framework.inverse_offers[offer.id] = offer
    agent.inverse_offers[offer.id] = offer
    shown = [inverse_offer_json(offer, agent)]
    core.event(framework, "INVERSE_OFFERS", {"inverse_offers": shown})


def take_inverse_offer(core: Core, offer: InverseOffer) -> None:
    """An inverse offer ends."""
    core.state.inverse_offers.pop(offer.id, None)
    framework = core.state.frameworks.get(offer.framework_id)
    if framework is not None:
        framework.inverse_offers.pop(offer.id, None)
    agent = core.state.agents.get(offer.agent_id)
    if agent is not None:
        agent.inverse_offers.pop(offer.id, None)


def rescind_inverse(core: Core, agent: Agent) -> None:
    """The maintenance changed: inverse offers of an agent are void."""
    for offer in list(agent.inverse_offers.values()):
        take_inverse_offer(core, offer)
        framework = core.state.frameworks.get(offer.framework_id)
        if framework is not None:
            body = {"inverse_offer_id": id_json(offer.id)}
            core.event(framework, "RESCIND_INVERSE_OFFER", body)


def drop_inverse_offers(core: Core, framework: Framework) -> None:
    """A framework is away: its inverse offers end without a word."""
    for offer in list(framework.inverse_offers.values()):
        take_inverse_offer(core, offer)
