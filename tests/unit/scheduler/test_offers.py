"""Offers: nobody starves, neither an instance that fits nor another framework. Against a master as it is measured.

The master below keeps filters, SUPPRESS and REVIVE as Mesos does (facts of its allocator: a cycle of 1 s; a declined
offer comes again when its filter is over; what an ACCEPT leaves comes again at once; REVIVE clears all filters).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from libs.mesos import events as mesos
from services.scheduler.model import (
    EXECUTOR_AMOUNTS,
    Action,
    Decline,
    InstanceId,
    Kill,
    Launch,
    Revive,
    State,
    Suppress,
)
from services.scheduler.settings import SchedulerConfig
from tests.unit.scheduler.world import Desk, launches, offer, spec, unwant, want

AGENTS = ("a1", "a2", "a3")
CPUS = 1.0
ROUNDS = 5
"""Cycles of the allocator in which whoever fits has a place: what is held is bounded, and so is every refusal."""


@dataclass
class Master:
    """The allocator, for one framework among others that may hold agents for a while."""

    desk: Desk
    free: dict[str, float] = field(default_factory=lambda: dict.fromkeys(AGENTS, CPUS))
    out: dict[str, tuple[str, float]] = field(default_factory=dict)  # offers: agent, CPUs
    filtered: dict[str, float] = field(default_factory=dict)  # agents: until when
    elsewhere: set[str] = field(default_factory=set)  # agents that others hold
    suppressed: bool = False
    tasks: dict[str, tuple[str, float]] = field(default_factory=dict)
    executors: set[str] = field(default_factory=set)
    offered: int = 0

    def take(self, actions: list[Action]) -> None:
        """What the scheduler does."""
        for action in actions:
            match action:
                case Launch(offers, on, infos):
                    agent = str(on)
                    self.free[agent] += sum(self.out.pop(each)[1] for each in offers)
                    if agent not in self.executors:
                        self.executors.add(agent)
                        self.free[agent] -= EXECUTOR_AMOUNTS.cpus
                    for info in infos:
                        cpus = next(
                            r["scalar"]["value"] for r in info["resources"] if r["name"] == "cpus"
                        )
                        self.free[agent] -= cpus
                        self.tasks[info["task_id"]["value"]] = (agent, cpus)
                    self.filtered.pop(agent, None)
                case Decline(offers, refuse_s):
                    for each in offers:
                        if each in self.out:
                            agent, cpus = self.out.pop(each)
                            self.free[agent] += cpus
                            self.filtered[agent] = self.desk.now + refuse_s
                case Suppress():
                    self.suppressed = True
                case Revive():
                    self.suppressed = False
                    self.filtered.clear()
                case Kill(task) if task in self.tasks:
                    agent, cpus = self.tasks.pop(task)
                    self.free[agent] += cpus
                    self.take(self.desk.tell(task, "TASK_KILLED", agent=agent))
                case _:
                    pass

    def cycle(self) -> None:
        """A second passes; what is free is offered."""
        self.take(self.desk.tick(1.0))
        if self.suppressed:
            return
        made = []
        for agent, cpus in self.free.items():
            waits = self.filtered.get(agent, 0.0) > self.desk.now
            if cpus > 0.005 and not waits and agent not in self.elsewhere:
                self.offered += 1
                made.append(offer(self.offered, agent, cpus))
                self.out[f"o{self.offered}"] = (agent, cpus)
                self.free[agent] = 0.0
        if made:
            self.take(self.desk.give(mesos.Offers(tuple(made))))  # type: ignore[arg-type]
        for task, (agent, _) in list(self.tasks.items()):
            self.take(self.desk.tell(task, "TASK_RUNNING", agent=agent, container="c"))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("want"), st.sampled_from([1, 5, 9])),  # tenths of a CPU
        st.tuples(st.sampled_from(["stop", "fail"]), st.integers(1, 20)),
        st.tuples(st.sampled_from(["hold", "free"]), st.integers(0, len(AGENTS) - 1)),
        st.tuples(st.just("wait"), st.sampled_from([1, 3, 20])),
    ),
    max_size=25,
)


def _do(master: Master, what: str, n: int, wanted: int) -> None:
    desk = master.desk
    match what:
        case "want":
            master.take(desk.give(want(f"i{wanted}", spec(n / 10))))
        case "stop" if n <= wanted:
            master.take(desk.give(unwant(f"i{n}")))
        case "fail" if master.tasks:
            task = sorted(master.tasks)[n % len(master.tasks)]
            agent, cpus = master.tasks.pop(task)
            master.free[agent] += cpus
            master.take(desk.tell(task, "TASK_FAILED", agent=agent))
        case "hold":
            master.elsewhere.add(AGENTS[n])
        case "free":
            master.elsewhere.discard(AGENTS[n])
        case "wait":
            for _ in range(n):
                master.cycle()
        case _:
            pass


@given(STEPS)
@example([*[("want", 9)] * 4, ("wait", 20), ("stop", 1)])  # room behind a long refusal
@example([("hold", 0), ("hold", 1), ("hold", 2), ("want", 5), ("wait", 20)])
@settings(max_examples=80, deadline=None)
def test_whoever_fits_is_placed_within_a_few_rounds_and_nothing_is_hoarded(
    steps: list[tuple[str, int]],
) -> None:
    desk = Desk(SchedulerConfig(restart_backoff_max_s=2.0, decline_s=600.0))
    master = Master(desk)
    master.take(desk.subscribe())
    wanted = 0
    for what, n in steps:
        wanted += what == "want"
        _do(master, what, n, wanted)
    master.elsewhere.clear()
    for _ in range(ROUNDS):
        master.cycle()
    room = dict(master.free)
    for agent, cpus in master.out.values():
        room[agent] += cpus
    waiting = [each for each in desk.cluster.instances.values() if each.state is State.PENDING]
    for each in waiting:
        assert max(room.values()) < each.spec.resources.cpus + EXECUTOR_AMOUNTS.cpus + 0.001
    if not waiting:  # others may have what nobody here waits for
        assert not master.out and master.suppressed
    for held in desk.cluster.volatile.offers.values():
        assert desk.now - held.received_at <= desk.config.offer_hold_s


def test_a_pending_one_ends_the_longest_refusal_at_once() -> None:
    desk = Desk()
    master = Master(desk)
    master.take(desk.subscribe())
    for _ in range(3):
        master.cycle()
    assert master.suppressed
    master.take(desk.give(want("i1")))
    assert not master.suppressed and not master.filtered
    master.cycle()
    assert desk[InstanceId("i1")].state is State.RUNNING


def test_what_was_given_back_is_asked_for_when_something_new_needs_it() -> None:
    desk = Desk(SchedulerConfig(decline_s=600.0))
    desk.subscribe()
    desk.give(want("huge", spec(50.0)))
    desk.offer("a1")
    desk.now += desk.config.offer_hold_s - 1
    desk.offer("a2", cpus=1.0)

    def asks(actions: list[Action]) -> bool:
        return any(isinstance(each, Revive) for each in actions)

    desk.now += 1.5
    given_back = desk.give()
    assert any(isinstance(each, Decline) for each in given_back)
    assert not asks(given_back)  # others may have it: `huge` did not need it
    assert asks(desk.give(want("new", spec(2.0))))
    assert launches(desk.offer("a1")) == ["new.1"]
    desk.now += 1.5
    assert not asks(desk.give(want("newer", spec(9.0))))  # nothing has been given back since
