"""What each rule of placement says of one decision, written down once more, the plain way.

What is placed only adds up within a decision, and what ends has ended before anything is placed. So whatever has a
bound must be within it when all is done, and whatever would be possible then was possible all the time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf

from libs.common.spec import Constraint, ConstraintOperator, InstanceClass
from services.scheduler.cluster import Cluster
from services.scheduler.evicting import SETTLE_S
from services.scheduler.model import EXECUTOR_AMOUNTS, Amounts, Door, Instance, InstanceId, State
from services.scheduler.settings import SchedulerConfig
from tests.unit.scheduler.hosts import ALL, NOTHING, Host, Hosts, Kinds, fits

_O = ConstraintOperator


@dataclass(frozen=True)
class Decision:
    """What was there before a decision, and what is after it.

    `offered` is what there was to launch on; `hosts` and `cluster` are as they are now. `addresses` says how many a
    network has, of those of which the scheduler was told lately. `known`: agents of which it knows what they have.
    `ended` is how many of an app have ended lately, and nobody was asked for in place of.
    """

    now: float
    config: SchedulerConfig
    before: Mapping[InstanceId, Instance]
    cluster: Cluster
    launched: tuple[Instance, ...]
    offered: Mapping[str, Kinds]
    hosts: Hosts
    addresses: Mapping[str, int]
    known: frozenset[str]
    ended: Mapping[str, int]

    @cached_property
    def after(self) -> list[Instance]:
        """All instances."""
        return list(self.cluster.instances.values())

    @cached_property
    def placed(self) -> list[Instance]:
        """Those that were placed, rather than sent back to where they are."""
        return [each for each in self.launched if not each.adopt and not each.cleanup]

    @cached_property
    def settled(self) -> list[Instance]:
        """Those that count as one of their app's; whoever is to stop does not, nor a clean-up."""
        return [each for each in self.after if has(each) and not each.stop]

    @cached_property
    def waiting(self) -> list[Instance]:
        """Those that could have been placed."""
        return [
            each
            for each in self.after
            if each.state is State.PENDING
            and not (each.stop or each.cleanup)
            and each.not_before <= self.now
        ]

    @cached_property
    def victims(self) -> list[Instance]:
        """Those that were asked to make room."""
        asked = [each for each in self.after if each.yields_to]
        return [each for each in asked if self.before[each.id].yields_to != each.yields_to]

    def siblings(self, app: str) -> list[Instance]:
        """The app's settled ones."""
        return [each for each in self.settled if each.app == app]

    def counts(
        self, app: str, attribute: str, like: Constraint | str | None = None
    ) -> Counter[str]:
        """How many of an app there are on hosts with each value.

        Without those that were placed in the same decision, and do not mind what is `like`: they may have come after.
        """
        there = self.siblings(app)
        if like is not None:
            fresh = {each.id for each in self.placed}
            there = [
                i
                for i in there
                if i.id not in fresh or like in (*i.spec.constraints, *i.spec.spread)
            ]
        return Counter(ALL[each.agent].value(attribute) for each in there)

    def usage(self, bu: str) -> Amounts:
        """What a business unit has."""
        return sum((need(i) for i in self.after if has(i) and bu_of(i) == bu), NOTHING)

    def is_open(self, host: Host) -> bool:
        """Does the host take anything new."""
        node = self.cluster.volatile.nodes.get(host.hostname)
        return node is None or node.door is Door.OPEN


def has(instance: Instance) -> bool:
    """Does it have resources, or do they wait for it."""
    return (instance.live or instance.state is State.ORPHANED) and not instance.cleanup


def need(instance: Instance) -> Amounts:
    """What it takes."""
    return Amounts.of(instance.spec)


def bu_of(instance: Instance) -> str:
    """Whose it is."""
    return instance.app.split("/")[0]


def without_a_task(instances: Iterable[Instance], network: str) -> list[Instance]:
    """Those of a network whose containers run on, with addresses of it, though their tasks have ended."""
    return [
        each
        for each in instances
        if each.state is State.ORPHANED
        and each.spec.network == network
        and not each.spec.sticky_key
    ]


# -- the rules -----------------------------------------------------------------------------------------


def no_agent_has_more_than_there_is(of: Decision) -> None:
    """Tasks, executor, and containers that wait for their next task fit into what there is."""
    for agent in {each.agent for each in of.launched}:
        there = of.hosts.on(agent)
        taken = sum((sum(each.paid.values(), NOTHING) for each in there), EXECUTOR_AMOUNTS)
        assert fits(taken + _kept(of, agent), ALL[agent].total), f"{agent} has {taken}"


def no_unit_is_given_more_than_its_quota(of: Decision) -> None:
    """Who has more by a lowered quota, or a host that came back, is given nothing."""
    for bu in {bu_of(each) for each in of.placed}:
        assert _within_quota(of, bu, of.usage(bu)), f"{bu} has {of.usage(bu)}"


def no_network_has_more_than_its_addresses(of: Decision) -> None:
    """Those that have one, and those that are on their way to ask for one."""
    for network in {each.spec.network for each in of.placed if not each.spec.sticky_key}:
        most = of.addresses.get(network)
        there = len(of.hosts.attached(network)) + len(without_a_task(of.after, network))
        assert most is None or there <= most, f"{there} in {network}, which has {most}"


def classes_and_doors_are_kept(of: Decision) -> None:
    """An instance of a class goes to a host of that class, and nothing new to a closed one."""
    for each in of.placed:
        host = ALL[each.agent]
        assert host.value("class") in _CLASSES[each.spec.instance_class]
        assert of.is_open(host)


def what_is_adopted_is_where_it_was(of: Decision) -> None:
    """A container can be taken over only on its own host."""
    for each in of.launched:
        if each.adopt:
            assert each.agent == of.before[each.id].agent


def constraints_hold(of: Decision) -> None:
    """Of whoever was placed, its own, as its app's other instances are now."""
    for each in of.placed:
        host = ALL[each.agent]
        for constraint in each.spec.constraints:
            told = f"{each.id} of {each.app} on {host.agent}: {constraint}"
            assert _passes(constraint, host) and _sibling_rule(of, constraint, each, host), told


def groups_are_even(of: Decision) -> None:
    """GROUP_BY: nowhere was one placed while there were fewer where another might go, room or not.

    And nowhere a second one before the app was on as many values as it is to be.
    """
    for each in of.placed:
        for constraint in each.spec.constraints:
            if constraint.operator is not _O.GROUP_BY:
                continue
            attribute = constraint.attribute
            counts = of.counts(each.app, attribute)
            mine = of.counts(each.app, attribute, constraint)[ALL[each.agent].value(attribute)]
            least = min((counts[value] for value in _groups(of, each, attribute)), default=mine)
            in_use = len(+counts - Counter({"": counts[""]}))
            if in_use < int(constraint.value or 0):
                least = 0
            assert mine - 1 <= least, f"{each.id} of {each.app}: {counts}"


def apps_are_kept_apart(of: Decision) -> None:
    """Whichever of two apps wishes it, no instance of one goes to a host with one of the other."""
    for each in of.placed:
        others = Counter(other.app for other in of.settled if other.hostname == each.hostname)
        others[each.app] -= 1
        wished = _apart(of.settled, each)
        assert not wished & set(+others), f"{each.id} of {each.app} is beside {others}"


def nobody_waits_beside_room(of: Decision) -> None:
    """Nobody waits while an offer would do, be it that something less important had not been placed there."""
    if not of.cluster.volatile.subscribed:
        return
    for each in of.waiting:
        lesser = [i for i in of.launched if not _pinned(i) and priority(i) < priority(each)]
        if _limited(of, each, lesser):
            continue
        for agent in of.offered:
            there = sum((need(i) for i in lesser if i.agent == agent), NOTHING)
            assert not _would_do(of, each, ALL[agent], _left(of, agent) + there), (
                f"{each.id} of {each.app} waits beside {agent}, where {there} is less important"
            )


def spread_is_even(of: Decision) -> None:
    """As even as there is room: nowhere was one placed while there were fewer where there still is room.

    First by the first attribute; by each further one among the agents that are alike in those before.
    """
    for each in of.placed:
        if not each.spec.spread or each.spec.constraints or each.spec.sticky_key:
            continue
        beside = list(of.offered)
        for attribute in each.spec.spread:
            value = ALL[each.agent].value(attribute)
            counts = of.counts(each.app, attribute)
            mine = of.counts(each.app, attribute, attribute)[value]
            for agent in beside:
                fewer = mine - 1 > counts[ALL[agent].value(attribute)]
                assert not (fewer and _would_do(of, each, ALL[agent], _left(of, agent))), (
                    f"{each.id} of {each.app} went to {each.agent} and not to {agent}: {counts}"
                )
            beside = [agent for agent in beside if ALL[agent].value(attribute) == value]


def room_is_made_for_the_more_important(of: Decision) -> None:
    """Only who is well makes room, for one that is more important, has waited, and finds no other place."""
    for each in of.victims:
        asker = of.cluster.instances[each.yields_to]  # type: ignore[index]
        assert priority(each) < priority(asker)
        assert each.state is State.RUNNING and each.healthy and not (each.stop or each.leaving)
        assert asker in of.waiting
        since = max(asker.since, of.cluster.volatile.subscribed_at)
        assert of.now - since >= of.config.preempt_after_s
        assert not _limited(of, asker, []), f"{asker.id} could not have it"
        assert _may(of, asker, ALL[each.agent]), f"{asker.id} may not go to {each.agent}"
        if of.now - since < of.config.preempt_after_s + SETTLE_S:
            for agent in of.known - of.hosts.lost:
                assert not _would_do(of, asker, ALL[agent], _should_be_free(of, agent)), (
                    f"{each.id} makes room for {asker.id}, for which there is room on {agent}"
                )


def no_more_room_is_made_than_is_needed(of: Decision) -> None:
    """What ends for somebody is enough for it, and none of it ends for nothing."""
    for name in {each.yields_to for each in of.victims}:
        asker = of.cluster.instances[name]  # type: ignore[index]
        mine = [each for each in of.victims if each.yields_to == name]
        assert len({each.agent for each in mine}) == 1
        agent = mine[0].agent
        if agent not in of.known:
            continue
        free = sum(of.hosts.free(agent).values(), NOTHING) - _kept(of, agent)
        made = sum(map(need, mine), free)
        assert fits(need(asker), made), f"{made} on {agent} is not enough for {need(asker)}"
        for each in mine:
            assert not fits(need(asker), made - need(each)), f"{each.id} ends for nothing"


def no_app_is_asked_for_more_than_its_budget(of: Decision) -> None:
    """All of its instances that are missing count, for whatever reason: also who stops, is to move, or ended."""
    for each in of.victims:
        mine = [i for i in of.after if i.app == each.app and not i.cleanup]
        wanted = len(mine) + of.ended.get(each.app, 0)
        well = [i for i in mine if i.state is State.RUNNING and i.healthy]
        stay = [i for i in well if not (i.yields_to or i.stop or i.leaving)]
        for sibling in mine:
            spec = sibling.spec
            share = spec.disruption_budget_pct * wanted // 100
            budget = share if spec.disruption_budget_pct else spec.disruption_budget
            assert sibling.stop or wanted - len(stay) <= budget, (
                f"{each.id} is asked, and of the {wanted} of {each.app} only {[i.id for i in stay]} stay;"
                f" {sibling.id} can spare {budget}"
            )


EVERY: tuple[Callable[[Decision], None], ...] = (
    no_agent_has_more_than_there_is,
    no_unit_is_given_more_than_its_quota,
    no_network_has_more_than_its_addresses,
    classes_and_doors_are_kept,
    what_is_adopted_is_where_it_was,
    constraints_hold,
    groups_are_even,
    apps_are_kept_apart,
    nobody_waits_beside_room,
    spread_is_even,
    room_is_made_for_the_more_important,
    no_more_room_is_made_than_is_needed,
    no_app_is_asked_for_more_than_its_budget,
)

# -- what they are made of -----------------------------------------------------------------------------

_CLASSES: Mapping[InstanceClass, tuple[str, ...]] = {
    InstanceClass.THIN: ("thin", ""),
    InstanceClass.FAT: ("fat",),
    InstanceClass.WINDOWS: ("windows",),
}


def priority(instance: Instance) -> int:
    """How important it is."""
    return instance.spec.priority


def _pinned(instance: Instance) -> bool:
    return bool(instance.adopt) or instance.cleanup


def _kept(of: Decision, agent: str) -> Amounts:
    """What containers there have without a task."""
    return sum(
        (need(i) for i in of.after if i.state is State.ORPHANED and i.agent == agent), NOTHING
    )


def _within_quota(of: Decision, bu: str, usage: Amounts) -> bool:
    quota = of.config.quotas.get(bu)
    if quota is None:
        return True
    limits = (quota.cpus, quota.mem_mib, quota.disk_mib)
    taken = (usage.cpus, usage.mem_mib, usage.disk_mib)
    return all(has <= most + 1e-6 for has, most in zip(taken, limits, strict=True) if most > 0)


def _limited(of: Decision, each: Instance, lesser: list[Instance]) -> bool:
    """Is there something other than room that it lacks, had the lesser ones not been placed."""
    mine = [need(i) for i in lesser if bu_of(i) == bu_of(each)]
    usage = of.usage(bu_of(each)) - sum(mine, NOTHING) + need(each)
    network = of.cluster.volatile.networks.get(each.spec.network)
    taken = [i for i in lesser if i.spec.network == each.spec.network and not i.spec.sticky_key]
    dry = False
    if network is not None and of.now - network.told_at <= of.config.pools_fresh_s:
        room = network.room(bu_of(each), each.spec.environment) + len(taken)
        dry = room < 1 and not each.spec.sticky_key
    return dry or not _within_quota(of, bu_of(each), usage)


def _left(of: Decision, agent: str) -> Amounts:
    """What there still was on an agent's offers when all was placed; nothing where no executor can start."""
    mine = [need(each) for each in of.launched if each.agent == agent]
    left = sum(of.offered[agent].values(), NOTHING) - sum(mine, NOTHING) - _kept(of, agent)
    if _is_barred(of, agent):
        return Amounts(-1.0)
    return left - EXECUTOR_AMOUNTS if _begins(of, agent) else left


def _should_be_free(of: Decision, agent: str) -> Amounts:
    """Offered or not, and nothing where no executor can start."""
    kinds = of.hosts.free(agent)
    left = sum(kinds.values(), NOTHING) - _kept(of, agent)
    if of.hosts.on(agent):
        return left
    return left - EXECUTOR_AMOUNTS if fits(EXECUTOR_AMOUNTS, kinds["*"]) else Amounts(-1.0)


def _begins(of: Decision, agent: str) -> bool:
    """Would an executor have to start there."""
    known = {each.id for each in of.launched}
    return not any(each.live and each.agent == agent and each.id not in known for each in of.after)


def _is_barred(of: Decision, agent: str) -> bool:
    lacks = not fits(EXECUTOR_AMOUNTS, of.offered[agent].get("*", NOTHING))
    return lacks and _begins(of, agent)


def _passes(constraint: Constraint, host: Host) -> bool:
    """What only looks at the host."""
    value, wanted = host.value(constraint.attribute), constraint.value or ""
    if not value:  # of whoever lacks the attribute no rule holds, but that it is unlike something
        return constraint.operator is _O.UNLIKE
    match constraint.operator:
        case _O.IS:
            return value == wanted
        case _O.LIKE:
            return re.fullmatch(wanted, value) is not None
        case _O.UNLIKE:
            return re.fullmatch(wanted, value) is None
        case _O.CLUSTER:
            return wanted in ("", value)
    return True


def _sibling_rule(of: Decision, constraint: Constraint, each: Instance, host: Host) -> bool:
    """What looks at the app's others, with this one among them."""
    counts = of.counts(each.app, constraint.attribute, constraint)
    value = host.value(constraint.attribute)
    if constraint.operator is _O.CLUSTER and not constraint.value:
        others = counts - Counter([value])
        del others[""]
        return not others or value in others
    return counts[value] <= _most(constraint)


def _may(of: Decision, each: Instance, host: Host) -> bool:
    """Whatever there is room for: may it go there, as things are."""
    if host.value("class") not in _CLASSES[each.spec.instance_class] or not of.is_open(host):
        return False
    for constraint in each.spec.constraints:
        counts = of.counts(each.app, constraint.attribute)
        mine = counts[host.value(constraint.attribute)]
        if not _passes(constraint, host) or mine >= _most(constraint):
            return False
    there = {other.app for other in of.settled if other.hostname == host.hostname}
    return not there & _apart([i for i in of.after if not i.stop], each)


def _most(constraint: Constraint) -> float:
    match constraint.operator:
        case _O.UNIQUE:
            return 1
        case _O.MAX_PER:
            return int(constraint.value or 0)
    return inf


def _would_do(of: Decision, each: Instance, host: Host, room: Amounts) -> bool:
    """May it surely go there, and is there room. Whose turn it is depends on the order: those are left out."""
    for constraint in each.spec.constraints:
        turns = constraint.operator is _O.CLUSTER and not constraint.value
        if turns or constraint.operator is _O.GROUP_BY:
            return False
    return fits(need(each), room) and _may(of, each, host)


def _apart(wishing: list[Instance], each: Instance) -> set[str]:
    """Apps that its app keeps apart from, by one of its releases, and those that do so from it."""
    bu, _, name = each.app.partition("/")
    mine = [i for i in wishing if i.app == each.app]
    theirs = {i.app for i in wishing if bu_of(i) == bu and name in i.spec.apart_from}
    return theirs | {f"{bu}/{other}" for i in (each, *mine) for other in i.spec.apart_from}


def _groups(of: Decision, each: Instance, attribute: str) -> Iterator[str]:
    """Values of hosts that offered something or have siblings, and on which one more might go."""
    away = {i.agent for i in of.after if i.state is State.UNREACHABLE} - set(of.offered)
    theirs = {i.agent for i in of.siblings(each.app)}
    chosen = any(c.operator is _O.CLUSTER and not c.value for c in each.spec.constraints)
    offered = {agent for agent in of.offered if not _is_barred(of, agent)}
    for agent in (theirs | offered) - away:
        host = ALL[agent]
        there = {other.app for other in of.settled if other.hostname == host.hostname}
        may = host.value("class") in _CLASSES[each.spec.instance_class] and of.is_open(host)
        may &= all(_passes(c, host) for c in each.spec.constraints)
        if may and not chosen and not (there - {each.app}) & _apart(of.after, each):
            yield host.value(attribute)
