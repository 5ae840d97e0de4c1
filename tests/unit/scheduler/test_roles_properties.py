"""Whatever a master offers in which role: nothing is launched across roles, and what there is room for is launched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from libs.mesos import events as mesos
from services.scheduler.cluster import Cluster
from services.scheduler.model import (
    EXECUTOR_AMOUNTS,
    AgentId,
    Decline,
    Launch,
    Revive,
    Suppress,
    Tick,
)
from services.scheduler.settings import SchedulerConfig
from services.scheduler.tasks import EXECUTOR_ID
from tests.unit.scheduler.world import Desk, offer, spec, unwant, update, want

ROLES = ("gantry", "gantry-fat")
FREE = "*"
HOSTS: dict[str, dict[str, float]] = {
    "a1": {FREE: 2.0},
    "a2": {FREE: 0.5, "gantry": 2.0},
    "a3": {FREE: 0.5, "gantry-fat": 2.0},
    "a4": {FREE: 0.5, "gantry": 1.0, "gantry-fat": 1.0},
    "a5": {FREE: 1.0, "others": 4.0},
}
"""CPUs of which reservation; a GiB of memory with each."""
CPUS = 0.4
ALL = 21
"""So many instances there is room for, each agent being in its role."""

Kinds = Counter[str]  # CPUs in thousandths, by whom they are reserved for


@dataclass
class Master:
    """What a master does: all that is free on an agent goes to one role after the other, but for what it refused."""

    free: dict[str, Kinds] = field(
        default_factory=lambda: {
            agent: Counter({whose: round(cpus * 1000) for whose, cpus in has.items()})
            for agent, has in HOSTS.items()
        }
    )
    offers: dict[str, tuple[str, str, Kinds]] = field(default_factory=dict)
    executors: dict[str, str] = field(default_factory=dict)  # agents, and in which role
    tasks: dict[str, tuple[str, Kinds]] = field(default_factory=dict)
    filters: dict[tuple[str, str], list[tuple[float, Kinds]]] = field(default_factory=dict)
    suppressed: bool = False
    made: int = 0

    def allocate(self, now: float, roles: Sequence[str]) -> list[dict[str, Any]]:
        """One cycle; `roles` in the order in which they have their turns."""
        found: list[dict[str, Any]] = []
        for agent, free in self.free.items():
            for role in () if self.suppressed else roles:
                kinds = Counter({k: n for k, n in free.items() if k in (FREE, role) and n > 10})
                old = self.filters.get((role, agent), [])
                refused = any(at > now and kinds <= what for at, what in old)
                if kinds and not refused:
                    free.subtract(kinds)
                    found.append(self._offer(agent, role, kinds))
        return found

    def _offer(self, agent: str, role: str, kinds: Kinds) -> dict[str, Any]:
        self.made += 1
        self.offers[f"o{self.made}"] = (agent, role, kinds)
        made = offer(self.made, agent)
        made["allocation_info"] = {"role": role}
        made["resources"] = [
            {
                "name": name,
                "type": "SCALAR",
                "role": whose,
                "scalar": {"value": milli / 1000 * unit},
                "allocation_info": {"role": role},
            }
            for whose, milli in kinds.items()
            for name, unit in (("cpus", 1.0), ("mem", 1024.0))
        ]
        if agent in self.executors:
            made["executor_ids"] = [{"value": EXECUTOR_ID}]
        return made

    def decline(self, action: Decline, now: float) -> None:
        """What is refused is free for other roles."""
        for name in action.offers:
            agent, role, kinds = self.offers.pop(name)
            self.free[agent].update(kinds)
            known = self.filters.setdefault((role, agent), [])
            known.append((now + action.refuse_s, kinds))

    def accept(self, action: Launch) -> None:
        """With what Mesos holds a framework to."""
        given = [self.offers.pop(each) for each in action.offers]
        (role,) = {each[1] for each in given}
        assert {each[0] for each in given} == {action.agent}
        left: Kinds = Counter()
        for _, _, kinds in given:
            left.update(kinds)
        for info in action.tasks:
            inside = [*info["resources"], *info["executor"]["resources"]]
            assert {each["allocation_info"]["role"] for each in inside} == {role}
            if action.agent not in self.executors:
                self.executors[action.agent] = role
                left.subtract({FREE: round(EXECUTOR_AMOUNTS.cpus * 1000)})
            assert self.executors[action.agent] == role, "another executor is there"
            paid: Kinds = Counter()
            for each in info["resources"]:
                if each["name"] == "cpus":
                    paid[each["role"]] += round(each["scalar"]["value"] * 1000)
            left.subtract(paid)
            self.tasks[info["task_id"]["value"]] = (action.agent, paid)
        assert min(left.values()) >= 0
        self.free[action.agent].update(left)

    def end(self, task: str) -> str:
        """It is over, and its executor lives on. Its agent."""
        agent, paid = self.tasks.pop(task)
        self.free[agent].update(paid)
        return agent


class Market(RuleBasedStateMachine):
    """Instances come and go, and roles have their turns in any order."""

    met: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(SchedulerConfig(roles=ROLES))
        self.master = Master()
        self.named = 0
        self.give(mesos.Subscribed("f1", 15.0, {}))

    def give(self, *inputs: Any) -> None:
        """Decide, and do it."""
        for action in self.desk.give(*inputs):
            match action:
                case Launch():
                    self.master.accept(action)
                    self.met.update(self.master.executors[action.agent] for _ in action.tasks)
                case Decline():
                    self.master.decline(action, self.desk.now)
                case Revive():
                    self.master.filters.clear()
                    self.master.suppressed = False
                case Suppress():
                    self.master.suppressed = True

    @rule(more=st.integers(1, 4))
    def scaled_up(self, more: int) -> None:
        self.named += more
        names = [f"i{self.named - n}" for n in range(more)]
        self.give(*(want(each, spec(CPUS, 32)) for each in names))

    @rule(turns=st.permutations(ROLES), after_s=st.sampled_from([0.1, 1.0, 1.0, 6.0]))
    def cycle(self, turns: Sequence[str], after_s: float) -> None:
        self.desk.now += after_s
        self.give(mesos.Offers(tuple(self.master.allocate(self.desk.now, turns))))  # type: ignore[arg-type]
        self.give(Tick())

    @rule()
    def all_run(self) -> None:
        for task, (agent, _) in self.master.tasks.items():
            self.give(update(task, "TASK_RUNNING", agent=agent, container="c"))

    @rule(n=st.integers(0, 99))
    def one_ends(self, n: int) -> None:
        if self.master.tasks:
            self._ends(sorted(self.master.tasks)[n % len(self.master.tasks)])

    def _ends(self, task: str) -> None:
        self.give(unwant(task.rpartition(".")[0]))
        self.give(update(task, "TASK_KILLED", agent=self.master.end(task)))

    @rule(agent=st.sampled_from(sorted(HOSTS)))
    def all_end(self, agent: str) -> None:
        """And the executor after them."""
        for task in [task for task, (at, _) in self.master.tasks.items() if at == agent]:
            self._ends(task)
        if agent in self.master.executors:
            del self.master.executors[agent]
            self.master.free[agent].update({FREE: round(EXECUTOR_AMOUNTS.cpus * 1000)})
            # The offers that are out were made while it was there; no master takes them back for that.
            self.give(mesos.Failure(agent, EXECUTOR_ID, 0))
            self.met["ended"] += 1

    @rule()
    def new_leader(self) -> None:
        old = self.desk.cluster
        heir = Cluster(old.instances.values(), dict(old.ended), roles=old.roles)
        self.desk = Desk(self.desk.config, self.desk.now, heir)
        for agent, _, kinds in self.master.offers.values():
            self.master.free[agent].update(kinds)
        self.master.offers.clear()
        self.master.filters.clear()
        self.master.suppressed = False
        self.give(mesos.Subscribed("f1", 15.0, {}))
        self.all_run()
        self.met["heirs"] += 1

    @invariant()
    def what_is_known_is_so(self) -> None:
        known = self.desk.cluster.roles
        for agent, role in self.master.executors.items():
            assert known[AgentId(agent)] == role
        held = self.desk.cluster.volatile.offers
        for each in held.values():
            assert self.master.executors.get(each.agent, each.role) == each.role, "it is hoarded"

    def teardown(self) -> None:
        """Nobody starves: what waits in the end is more than there is room for, in the role in which each agent is."""
        self.scaled_up(ALL + 9)
        for n in range(20):
            self.cycle(ROLES if n % 2 else ROLES[::-1], 1.0)
            self.all_run()
        there = Counter(agent for agent, _ in self.master.tasks.values())
        for agent, has in HOSTS.items():
            role = self.master.executors[agent]
            assert there[agent] == int((has[FREE] + has.get(role, 0.0) - 0.01) / CPUS), agent
            best = next((each for each in ROLES if each in has), ROLES[0])
            self.met["best" if role == best else "second best"] += 1


def test_roles_are_kept_apart_and_nobody_starves() -> None:
    Market.met.clear()
    run_state_machine_as_test(Market, settings=settings(max_examples=40, stateful_step_count=25))
    assert {*ROLES, "ended", "heirs"} <= Market.met.keys(), Market.met
    assert Market.met["best"] > 20 * Market.met["second best"], Market.met
