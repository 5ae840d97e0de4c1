"""Whatever business units wish and whatever becomes of hosts: every rule of placement holds in every decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    rule,
    run_state_machine_as_test,
)

from libs.common.spec import Constraint, ConstraintOperator, InstanceClass, InstanceSpec
from libs.common.wishes import Unreachable
from libs.mesos import events as mesos
from services.scheduler.api import why_of
from services.scheduler.core import Input
from services.scheduler.departed import AWAITED_S
from services.scheduler.model import (
    Decline,
    Door,
    Instance,
    InstanceId,
    Kill,
    Launch,
    Node,
    NodeSet,
    State,
    Tick,
    Unwant,
    Want,
)
from services.scheduler.planning import plan
from services.scheduler.settings import Quota, SchedulerConfig
from tests.unit.scheduler import rules
from tests.unit.scheduler.hosts import ALL, Hosts, Task
from tests.unit.scheduler.world import Desk, free, spec, unwant, update, want

_O = ConstraintOperator
APPS = ("acme/web", "acme/db", "beta/web", "beta/db", "core/app")
NETWORKS = ("web", "lan")
RULES = [
    Constraint(attribute="hostname", operator=_O.UNIQUE),
    Constraint(attribute="zone", operator=_O.UNIQUE),
    Constraint(attribute="hostname", operator=_O.MAX_PER, value="2"),
    Constraint(attribute="zone", operator=_O.MAX_PER, value="2"),
    Constraint(attribute="zone", operator=_O.GROUP_BY),
    Constraint(attribute="zone", operator=_O.GROUP_BY, value="2"),
    Constraint(attribute="zone", operator=_O.GROUP_BY, value="3"),
    Constraint(attribute="hostname", operator=_O.GROUP_BY),
    Constraint(attribute="zone", operator=_O.CLUSTER),
    Constraint(attribute="zone", operator=_O.CLUSTER, value="b"),
    Constraint(attribute="zone", operator=_O.LIKE, value="a|b"),
    Constraint(attribute="zone", operator=_O.LIKE, value=".*"),
    Constraint(attribute="zone", operator=_O.UNLIKE, value="a"),
    Constraint(attribute="zone", operator=_O.UNLIKE, value=".*"),
    Constraint(attribute="zone", operator=_O.IS, value="a"),
]
CONSTRAINTS = st.sampled_from([0, 0, 1, 1, 2]).flatmap(
    lambda most: st.lists(
        st.sampled_from(RULES),
        min_size=most,
        max_size=most,
        unique_by=lambda each: (each.operator, each.attribute),
    )
)
THIN, FAT, WINDOWS = InstanceClass.THIN, InstanceClass.FAT, InstanceClass.WINDOWS
SPECS = st.builds(
    lambda cpus, mem, disk, rules, **more: spec(cpus, mem, tuple(rules)).model_copy(
        update={**more, "resources": spec(cpus, mem).resources.model_copy(update=disk)}
    ),
    cpus=st.sampled_from([0.25, 0.5, 0.75, 1.0, 1.75]),
    mem=st.sampled_from([32, 64, 256]),
    disk=st.sampled_from([{}, {"disk_mib": 300}]),
    rules=CONSTRAINTS,
    instance_class=st.sampled_from([THIN, THIN, THIN, FAT, WINDOWS]),
    spread=st.sampled_from([(), (), ("zone",), ("hostname",), ("zone", "hostname")]),
    apart_from=st.sampled_from([(), (), ("web",), ("db",)]),
    priority=st.sampled_from([0, 0, 5, 20]),
    disruption_budget=st.sampled_from([0, 1, 1, 2]),
    disruption_budget_pct=st.sampled_from([0, 0, 0, 50]),
    network=st.sampled_from(NETWORKS),
    sticky_key=st.sampled_from(["", "", "", "kept"]),
    unreachable=st.sampled_from([Unreachable(), Unreachable(keep="first")]),
)
SMALL = spec(0.25, 32).resources
SOME = st.sets(st.sampled_from(sorted(ALL)), min_size=1, max_size=4).map(sorted)
ONE = st.sampled_from(sorted(ALL))
ANY = st.integers(0, 99)


class Market(RuleBasedStateMachine):
    """Business units wish, hosts offer, and each decision is looked at by every rule."""

    met: ClassVar[Counter[str]] = Counter()  # what has come up, over all examples

    def __init__(self) -> None:
        super().__init__()
        config = SchedulerConfig(
            quotas={"beta": Quota(cpus=3.0)},
            unreachable_after_s=20,
            adoption_deadline_s=10,
            preempt_after_s=2,
        )
        self.desk = Desk(config)
        self.hosts = Hosts()
        self.specs: dict[str, InstanceSpec] = {app: spec() for app in APPS}
        self.addresses = dict(zip(NETWORKS, (12, 4), strict=True))
        self.told: dict[str, tuple[int, float]] = {}
        self.killed: dict[str, None] = {}
        self.known: set[str] = set()
        self.ends: dict[str, list[float]] = {app: [] for app in APPS}
        self.doors = self.named = 0
        self.give(mesos.Subscribed("f1", 15.0, {}))

    # -- decisions

    def give(self, *inputs: Input) -> None:
        """Decide, do what is asked of Mesos, and look at it."""
        cluster = self.desk.cluster
        before = dict(cluster.instances)
        offered = self.hosts.offered()
        launched = []
        for action in self.desk.give(*inputs):
            match action:
                case Launch():
                    mine = [cluster.instances[InstanceId(each["name"])] for each in action.tasks]
                    tasks: dict[str, Task] = {i.attempt: self._task(i, action.agent) for i in mine}
                    self.hosts.accept(action, tasks, {i.attempt: rules.need(i) for i in mine})
                    launched += mine
                case Decline(offers):
                    for offer in offers:
                        del self.hosts.offers[offer]
                case Kill(task):
                    self.killed[task] = None
        self._count_ends(before)
        fresh = self.desk.config.pools_fresh_s
        decision = rules.Decision(
            now=self.desk.now,
            config=self.desk.config,
            before=before,
            cluster=cluster,
            launched=tuple(launched),
            offered=offered,
            hosts=self.hosts,
            addresses={n: k for n, (k, at) in self.told.items() if self.desk.now - at <= fresh},
            known=frozenset(self.known),
            ended={
                app: sum(self.desk.now - at < AWAITED_S for at in ends)
                for app, ends in self.ends.items()
            },
        )
        for each in rules.EVERY:
            each(decision)
        self._note(decision)

    def _count_ends(self, before: Mapping[InstanceId, Instance]) -> None:
        """Each that is new is in place of one that ended."""
        after = self.desk.cluster.instances
        for name, each in before.items():
            if name not in after and not each.cleanup:
                self.ends[each.app].append(self.desk.now)
        for name in after.keys() - before.keys():
            if not after[name].cleanup:
                ends = self.ends[after[name].app]
                ends[:] = [at for at in ends if self.desk.now - at < AWAITED_S][1:]

    def _task(self, instance: Instance, agent: str) -> Task:
        of = instance.spec
        sticky = bool(of.sticky_key) or instance.cleanup
        return Task(instance.attempt, agent, {}, of.network, sticky, address=bool(instance.adopt))

    def _note(self, of: rules.Decision) -> None:
        met = self.met
        met["placed"] += len(of.placed)
        met["adopted"] += sum(bool(each.adopt) for each in of.launched)
        met["victims"] += len(of.victims)
        for each in of.placed:
            met[each.spec.instance_class] += 1
            met.update(rule.operator for rule in each.spec.constraints)
            met["spread"] += bool(each.spec.spread)
            met["apart"] += bool(each.spec.apart_from)
            paid = self.hosts.tasks[each.attempt].paid
            met.update(list(paid))
            met["mixed"] += len(paid) > 1
        for why in self.desk.cluster.volatile.why.values():
            met.update(name.split()[0] for name in why.refusal.failed)

    # -- wishes

    @rule(app=st.sampled_from(APPS), of=SPECS)
    def released(self, app: str, of: InstanceSpec) -> None:
        self.specs[app] = of

    @rule(app=st.sampled_from(APPS), more=st.integers(1, 4))
    def scaled_up(self, app: str, more: int) -> None:
        self.give(*self._wants(app, more))

    def _wants(self, app: str, count: int) -> list[Want]:
        found = []
        for _ in range(count):
            self.named += 1
            of, key = self.specs[app], f"{app}/{self.named % 3}"
            if of.sticky_key:
                of = of.model_copy(update={"sticky_key": key})
            found.append(want(f"{app.replace('/', '-')}-{self.named}", of, app))
        return found

    @rule(app=st.sampled_from(APPS), n=ANY)
    def scaled_down(self, app: str, n: int) -> None:
        mine = [each for each in self.desk.cluster.instances.values() if each.app == app]
        if mine:
            self.give(Unwant(mine[n % len(mine)].id, app, "scaled down"))

    @rule(app=st.sampled_from(APPS), of=SPECS, more=st.integers(1, 2))
    def urgent(self, app: str, of: InstanceSpec, more: int) -> None:
        """One or two more, of something more important than before, and they wait for a while."""
        self.specs[app] = of.model_copy(update={"priority": 50})
        self.give(*self._wants(app, more))
        for _ in range(4):
            self.time_passes(1.0)

    @rule(app=st.sampled_from(APPS), of=SPECS, budget=st.integers(0, 3))
    def crowded(self, app: str, of: InstanceSpec, budget: int) -> None:
        """An app takes all it can, and can spare some."""
        self.specs[app] = of.model_copy(update={"disruption_budget": budget, "priority": 0})
        self.give(*self._wants(app, 12))
        self._settle()
        self.all_run(healthy=True)

    @rule(
        few=st.sampled_from(APPS),
        low=st.sampled_from(APPS),
        high=st.sampled_from(APPS),
        of=SPECS,
        other=SPECS,
        pause_s=st.sampled_from([1.5, AWAITED_S, AWAITED_S]),
        then=st.sampled_from(["", "", "grows", "shrinks", "drained"]),
    )
    def squeezed(
        self,
        few: str,
        low: str,
        high: str,
        of: InstanceSpec,
        other: InstanceSpec,
        pause_s: float,
        then: str,
    ) -> None:
        """Large ones and small ones take all there is of a class, and another has something urgent for it."""
        self.crowded(low, of, 1 + self.named % 3)
        self.desk.now += 1.0  # the newest ones go first, and these alone are not enough
        self.crowded(few, of.model_copy(update={"resources": SMALL}), 3)
        same = {"instance_class": of.instance_class, "constraints": other.constraints[1:]}
        more = 1 + self.named % 2
        self.desk.now += pause_s  # before the next look
        self.specs[high] = other.model_copy(update={**same, "priority": 50})
        self.give(*self._wants(high, more))
        self.desk.now += 2.0
        match then:
            case "grows":
                self.scaled_up(low, 1)
            case "shrinks":
                self.scaled_down(low, self.named)
            case "drained":
                self.door(sorted(ALL)[self.named % len(ALL)], Door.DRAINING)
        for _ in range(3):
            self.time_passes(1.0)

    @rule(bu=st.sampled_from(["acme", "beta", "core"]), cpus=st.sampled_from([0.0, 1.5, 4.0]))
    def quota(self, bu: str, cpus: float) -> None:
        quotas = {**self.desk.config.quotas, bu: Quota(cpus=cpus, mem_mib=cpus * 256)}
        self.desk.config = self.desk.config.model_copy(update={"quotas": quotas})

    # -- what hosts offer

    @rule(parts=st.sampled_from([1, 1, 2]))
    def all_offered(self, parts: int) -> None:
        self._offered(sorted(ALL), parts)

    @rule(agents=SOME)
    def some_offered(self, agents: list[str]) -> None:
        self._offered(agents)

    def _offered(self, agents: list[str], parts: int = 1, also: tuple[Input, ...] = ()) -> None:
        for agent in set(agents) - self.hosts.lost:
            known = self.desk.cluster.instances
            strange = [
                task
                for task in self.hosts.on(agent)
                if (i := known.get(InstanceId(task.instance))) is None or i.attempt != task.id
            ]
            if not strange:  # what others have there is found out only when it is offered
                self.known.add(agent)
        offers = tuple(self.hosts.offer(agents, parts))
        self.give(*also, mesos.Offers(offers))  # type: ignore[arg-type]

    @rule(n=ANY)
    def rescinded(self, n: int) -> None:
        if self.hosts.offers:
            name = sorted(self.hosts.offers)[n % len(self.hosts.offers)]
            del self.hosts.offers[name]
            self.give(mesos.Rescind(name))

    @rule(agent=ONE, door=st.sampled_from([Door.OPEN, Door.OPEN, Door.CORDONED, Door.DRAINING]))
    def door(self, agent: str, door: Door) -> None:
        self.doors += 1
        self.give(NodeSet(Node(ALL[agent].hostname, door, version=self.doors)))

    @rule(network=st.sampled_from(NETWORKS), count=st.integers(0, 6))
    def more_addresses(self, network: str, count: int) -> None:
        self.addresses[network] = count

    @rule()
    def pools_told(self) -> None:
        """ipam knows who has an address, not who is about to ask for one."""
        counts = {}
        for name, count in self.addresses.items():
            taken = sum(each.address for each in self.hosts.attached(name))
            kept = rules.without_a_task(self.desk.cluster.instances.values(), name)
            counts[name] = max(count - taken - len(kept), 0)
            self.told[name] = (count, self.desk.now)
        self.give(free(**counts))

    # -- what becomes of tasks

    def _tell(self, task: Task, state: str, **said: Any) -> None:
        if state in ("TASK_RUNNING", "TASK_STARTING"):
            task.told, task.address = state, True
        elif state != "TASK_UNREACHABLE":
            self.hosts.tasks.pop(task.id, None)
            self.killed.pop(task.id, None)
        running = state == "TASK_RUNNING"
        container = f"c-{task.id}" if running else ""
        self.give(update(task.id, state, agent=task.agent, container=container, **said))

    def _reachable(self) -> list[Task]:
        return [each for each in self.hosts.tasks.values() if each.agent not in self.hosts.lost]

    @rule(healthy=st.sampled_from([True, True, True, False]))
    def all_run(self, healthy: bool) -> None:
        for task in self._reachable():
            if task.told != "TASK_RUNNING":
                self._tell(task, "TASK_RUNNING", healthy=healthy)

    @rule(n=ANY, state=st.sampled_from(["TASK_STARTING", "TASK_RUNNING"]))
    def one_goes_on(self, n: int, state: str) -> None:
        if there := self._reachable():
            self._tell(there[n % len(there)], state)

    @rule(n=ANY, state=st.sampled_from(["TASK_FAILED", "TASK_FINISHED", "TASK_DROPPED"]))
    def one_ends(self, n: int, state: str) -> None:
        if there := self._reachable():
            self._tell(there[n % len(there)], state)

    @rule()
    def kills_are_done(self) -> None:
        for task in self._reachable():
            if task.id in self.killed:
                self._tell(task, "TASK_KILLED")

    @rule(agent=ONE)
    def executor_dies(self, agent: str) -> None:
        """Mesos gives its tasks up, one after the other; their containers run on."""
        if agent not in self.hosts.lost:
            for task in self.hosts.on(agent):
                self._tell(task, "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")

    @rule(agent=ONE)
    def host_lost(self, agent: str) -> None:
        if agent in self.hosts.lost:
            return
        gone = [name for name, (where, _) in self.hosts.offers.items() if where == agent]
        for name in gone:
            del self.hosts.offers[name]
        self.hosts.lost.add(agent)
        self.known.discard(agent)
        self.give(*(mesos.Rescind(name) for name in gone))
        for task in self.hosts.on(agent):
            task.address = True  # its host may have asked for it unheard
            self._tell(task, "TASK_UNREACHABLE", reason="REASON_AGENT_REMOVED")

    @rule()
    def hosts_are_back(self) -> None:
        back = sorted(self.hosts.lost)
        self.hosts.lost.clear()
        for agent in back:
            for task in self.hosts.on(agent):
                self._tell(task, "TASK_RUNNING", reason="REASON_AGENT_REREGISTERED")

    @rule(after_s=st.sampled_from([0.5, 3.0, 3.0, 12.0]))
    def time_passes(self, after_s: float) -> None:
        self.desk.now += after_s
        self.give(Tick())

    @rule()
    def subscribed_again(self) -> None:
        self.hosts.offers.clear()
        self.known.clear()
        self.give(mesos.Disconnected("cut", True, 1.0))
        self.give(mesos.Subscribed("f1", 15.0, {}))

    # -- the dry run

    def _settle(self) -> bool:
        """Nobody waits any more, and all offer what they have. Returns whether that is so."""
        instances = self.desk.cluster.instances
        away = {i.agent for i in instances.values() if i.state is State.UNREACHABLE}
        if self.hosts.lost - away:
            self.hosts_are_back()  # nobody tells of a lost host on which nothing of ours is
        self._offered(sorted(ALL))
        self.give(*(unwant(i.id) for i in instances.values() if i.state is State.PENDING))
        self._offered(sorted(ALL))
        quiet = not any(rules.has(i) and not i.live for i in instances.values())
        return quiet and not self.desk.cluster.ledger.waiting

    @rule(app=st.sampled_from(APPS), count=st.integers(1, 12), of=SPECS)
    def planned(self, app: str, count: int, of: InstanceSpec) -> None:
        """What a dry run says comes true, when the same is offered and nothing else waits."""
        self.specs[app] = of.model_copy(update={"sticky_key": ""})
        if self._settle():
            self._compare(app, count, replacing=False)

    @rule(app=st.sampled_from(APPS), count=st.integers(1, 6), of=SPECS)
    def planned_anew(self, app: str, count: int, of: InstanceSpec) -> None:
        """The same in place of those that there are."""
        self.specs[app] = of.model_copy(update={"sticky_key": ""})
        self.kills_are_done()
        patience_s, instances = self.desk.config.unreachable_after_s, self.desk.cluster.instances
        lost = [i.since for i in instances.values() if i.state is State.UNREACHABLE]
        if lost and self.desk.now - min(lost) >= patience_s:
            self.hosts_are_back()  # with its instances that are given up, a host is forgotten
        self.told.clear()
        self.give(free())  # whether addresses of those that end are free at once is ipam's to say
        if self._settle() and not any(i.stop for i in self.desk.cluster.instances.values()):
            self._compare(app, count, replacing=True)

    def _compare(self, app: str, count: int, replacing: bool) -> None:
        desk = self.desk
        instances = desk.cluster.instances
        planned = plan(desk.cluster, app, self.specs[app], count, replacing, desk.now, desk.config)
        if replacing:
            mine = {each.id for each in instances.values() if each.app == app}
            self.give(*(unwant(name) for name in mine))
            for task in self._reachable():
                if task.instance in mine:
                    self._tell(task, "TASK_KILLED")
        wants = self._wants(app, count)
        self._offered(sorted(ALL), also=tuple(wants))
        made = [instances[each.instance.id] for each in wants]
        placed = Counter(str(each.agent) for each in made if each.state is State.STAGED)
        said = {each.agent: each.count for each in planned.places}
        assert said == placed, f"{said} was planned, and {dict(placed)} came of it"
        waiting = [each for each in made if each.state is State.PENDING]
        assert planned.unplaced == len(waiting)
        if waiting:
            why = why_of(desk.cluster, waiting[0])
            assert planned.why and why
            assert planned.why.failed == why.failed, f"{planned.why} was planned, and it was {why}"
        self.met["planned"] += len(planned.places)
        self.met["planned not"] += planned.unplaced
        self.met["replaced"] += replacing


COMES_UP = (
    *("placed", "adopted", "victims", "spread", "apart", "mixed", "static", "dynamic", "*"),
    *("planned", "planned not", "replaced", "quota", "free", "class", "open", "reachable"),
    *InstanceClass,
    *ConstraintOperator,
)


def test_every_rule_holds_in_every_decision() -> None:
    Market.met.clear()
    bounds = settings(max_examples=120, stateful_step_count=40)
    run_state_machine_as_test(Market, settings=bounds)
    assert not [each for each in COMES_UP if Market.met[each] < 5], Market.met
