"""How fast instances are placed, and how well: the policy alone, the whole core, and how full agents get.

The peer is Nomad's own `BenchmarkServiceScheduler` on this kind of machine (in memory, without Raft and plan apply), at
the nearest number of allocations. What it times is what `placement_per_s_*` times, medians of some rounds, and ten
times as many were promised; `decide_per_s_*` is all that the core does for a launch, which is more (ADR 23). Times are
CPU times, whatever else runs here. Like instances are of one app; unlike ones of 200 shapes, half of them with
constraints that look at the agent, or at its host's other instances. Rules over values of attributes have keys of their
own (`_unique`, `_cluster`, `_group_by`, `_crossing`, `_levels`), where all instances have them: nothing was promised of
these, and their peer is Nomad without such rules.
"""

from __future__ import annotations

import gc
import random
import statistics
import tracemalloc
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import inf
from multiprocessing import get_context
from pathlib import Path
from time import process_time

import numpy as np

from libs.common.spec import Constraint, ConstraintOperator, InstanceClass, InstanceSpec, Resources
from libs.mesos import events as mesos
from libs.mesos.messages import Offer
from services.main import GC_AFTER
from services.scheduler.cluster import Cluster
from services.scheduler.core import Input, decide
from services.scheduler.model import (
    AgentId,
    Amounts,
    Decline,
    Instance,
    InstanceId,
    Launch,
    Revive,
    Tick,
    Want,
)
from services.scheduler.policy import Agents, Candidate, Need, Round, Shape, place_on
from services.scheduler.service import in_pieces
from services.scheduler.settings import SchedulerConfig
from services.scheduler.tasks import TaskFactory
from tests.bench.report import Report

AGENTS = (1_000, 5_000, 10_000)
COUNTS = (50, 500, 5_000, 50_000)
CORES = ((1_000, 1_000), (5_000, 5_000), (10_000, 100_000))
"""Agents and instances of the whole core."""
SHAPES = 200
ZONES = 10
CPUS, MEM = 64.0, 262_144.0
Trace = list[tuple[float, int, int]]
"""Apps as cpus, mem_mib and instances."""
_O = ConstraintOperator

# Placements a second of Nomad's scheduler, by nodes and spread, with so many allocations.
NOMAD = {
    (1_000, False): {50: 4310, 500: 4480},
    (5_000, False): {50: 2410, 500: 3240, 5_000: 2870},
    (10_000, False): {50: 2020, 500: 3230, 5_000: 3580},
    (1_000, True): {50: 469, 500: 124},
    (5_000, True): {50: 387, 500: 114, 5_000: 29},
    (10_000, True): {50: 403, 500: 154, 5_000: 31},
}
LEAST_PER_S, LEAST_SPREAD_PER_S = 30_000, 4_000
"""Ten times what Nomad's does: about 3,000, and at most 400 with spread."""
ROUNDS = 15
GROWTH = 5
"""So much more, at most, it may take to find places for a thousand times as many like instances."""
TRACES = 12
LOSS_PCT, WORST_LOSS_PCT = 3, 4
"""On average over all traces, and of the worst of them."""


@dataclass(frozen=True)
class Kind:
    """What is placed. `rule` is its part of the key; all of a kind with a rule have these constraints and spread."""

    unlike: bool = False
    rule: str = ""
    constraints: tuple[Constraint, ...] = ()
    spread: tuple[str, ...] = ()

    def key(self, agents: int, count: int) -> str:
        """The end of its keys."""
        return f"{agents}x{count}{self.suffix}"

    @property
    def suffix(self) -> str:
        """The end of that."""
        rule = f"_{self.rule}" if self.rule else ""
        return f"{rule}{'_unlike' if self.unlike else ''}"


def _rule(attribute: str, operator: ConstraintOperator, value: str | None = None) -> Constraint:
    return Constraint(attribute=attribute, operator=operator, value=value)


LIKE_AND_UNLIKE = (False, True)
KINDS = tuple(
    Kind(unlike, rule, spread=spread)
    for rule, spread in (("", ()), ("spread", ("zone",)))
    for unlike in LIKE_AND_UNLIKE
)
"""As Nomad's benchmark has them."""
RULED = tuple(
    Kind(unlike, rule, constraints, spread)
    for rule, constraints, spread in (
        ("unique", (_rule("hostname", _O.UNIQUE),), ()),
        ("cluster", (_rule("zone", _O.CLUSTER),), ()),
        ("group_by", (_rule("zone", _O.GROUP_BY),), ()),
        ("crossing", (_rule("zone", _O.GROUP_BY), _rule("rack", _O.MAX_PER, "30")), ()),
        ("levels", (), ("zone", "hostname")),
    )
    for unlike in LIKE_AND_UNLIKE
)
"""Rules for which it matters where an app's other instances are. `crossing` ones are placed one at a time."""
RULED_COUNTS = COUNTS[:-1]  # more of one app than that find no room by such rules


def measure(report: Report) -> None:
    """All figures of placement."""
    policy(report, AGENTS, COUNTS, RULED_COUNTS)
    for agents, count in CORES:
        for kind in KINDS if count <= 5_000 else (KINDS[0], KINDS[-1]):
            _core(report, agents, count, kind)
    packing(report, TRACES)


def policy(
    report: Report, sizes: Sequence[int], counts: Sequence[int], ruled: Sequence[int]
) -> None:
    """The policy alone, on so many agents: so many instances of each kind, and of those with rules."""
    for agents in sizes:
        base = Agents.of(_candidates(agents))
        for kind in (*KINDS, *RULED):
            for count in ruled if kind in RULED else counts:
                if kind.rule == "unique" and not kind.unlike and count > agents:
                    continue  # of one app there can be no more than hosts
                _policy(report, base, count, kind)
                _memory(report, agents, count, kind)
        for kind in (each for each in KINDS if not each.unlike):
            _growth(report, base, kind)


def _nomad(agents: int, count: int, kind: Kind) -> int:
    peers = NOMAD[agents, bool(kind.spread)]
    return peers[max(each for each in peers if each <= count)]


def _candidates(count: int) -> list[Candidate]:
    return [
        Candidate(
            AgentId(f"agent-{n}"),
            f"host-{n}",
            {"zone": f"z{n % ZONES}", "rack": f"r{n % 200}", "class": "thin"},
            Amounts(CPUS, MEM, 1_000_000.0),
        )
        for n in range(count)
    ]


def _spec(n: int, kind: Kind) -> InstanceSpec:
    """Shape n of 200. Half of the unlike ones have constraints, and all of those with a rule that one."""
    unlike, constraints = kind.unlike, kind.constraints
    if unlike and n % 2 and kind not in RULED:
        constraints = (
            (_rule("zone", _O.LIKE, f"z[{n % 5}-9]"),),
            (_rule("rack", _O.UNLIKE, f"r1{n % 9}.*"),),
            (_rule("hostname", _O.MAX_PER, "4"),),
            (_rule("zone", _O.IS, f"z{n % ZONES}"),),
        )[n // 2 % 4]
    return InstanceSpec(
        image="bench/app@sha256:" + "0" * 64,
        network="bench",
        resources=Resources(
            cpus=0.1 + (n * 37 % 40) / 50 if unlike else 0.25,
            mem_mib=64 + n * 53 % 900 if unlike else 512,
        ),
        constraints=constraints,
        spread=kind.spread,
    )


def _specs(count: int, kind: Kind) -> list[tuple[str, InstanceSpec]]:
    shapes = min(SHAPES, count) if kind.unlike else 1
    made = [(f"bench/app-{n}", _spec(n, kind)) for n in range(shapes)]
    return [made[n % shapes] for n in range(count)]


def _needs(count: int, kind: Kind) -> list[Need]:
    specs = _specs(count, kind)
    return [Need(InstanceId(f"i{n}"), Shape.of(app, spec)) for n, (app, spec) in enumerate(specs)]


def _policy(report: Report, base: Agents, count: int, kind: Kind) -> None:
    needs, agents = _needs(count, kind), len(base.rows)
    placed = 0

    def run() -> None:
        nonlocal placed
        placed = len(place_on(base.copy(), needs).placed)

    took_s = _median(run, 15 if count <= 500 else 5 if count <= 5_000 else 3)
    if placed < count:
        raise AssertionError(f"only {placed} of {kind.key(agents, count)} are placed")
    ruled = kind in RULED
    promised = LEAST_SPREAD_PER_S if kind.spread else LEAST_PER_S
    report.add(
        f"placement_per_s_{kind.key(agents, count)}",
        count / took_s,
        "1/s",
        _nomad(agents, count, kind),
        "peer: Nomad, without such rules" if ruled else "peer: Nomad",
        least=None if ruled else promised,
    )


def _growth(report: Report, base: Agents, kind: Kind) -> None:
    """How much more it takes to find places for the most of like instances than for the fewest: of one shape, decided
    on at once, before anything is made of each."""
    shape = Shape.of("bench/app-0", _spec(0, kind))

    def took_ms(count: int) -> float:
        fresh = iter([Round(base.copy()) for _ in range(ROUNDS)])
        return 1e3 * _median(lambda: next(fresh).put(shape, count), ROUNDS)

    few_ms, many_ms = took_ms(COUNTS[0]), took_ms(COUNTS[-1])
    note = f"{many_ms:.2f} ms for {COUNTS[-1]}, {few_ms:.2f} ms for {COUNTS[0]}"
    growth = many_ms / few_ms
    report.add(
        f"placement_growth_{len(base.rows)}{kind.suffix}", growth, "", note=note, most=GROWTH
    )


def _median(run: Callable[[], object], times: int) -> float:
    found = []
    for _ in range(times):
        began = process_time()
        run()
        found.append(process_time() - began)
    return statistics.median(found)


def _memory(report: Report, agents: int, count: int, kind: Kind) -> None:
    """All that is allocated on the way: agents, instances, and what placing them takes besides."""
    tracemalloc.start()
    place_on(Agents.of(_candidates(agents)), _needs(count, kind))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    note = "agents and instances included"
    report.add(f"placement_peak_mib_{kind.key(agents, count)}", peak / 2**20, "MiB", note=note)


# -- the whole core ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Took:
    """CPU seconds of all decisions and of the longest; MiB that the process grew by at its peak."""

    all_s: float
    longest_s: float
    grown_mib: float


def _core(report: Report, agents: int, count: int, kind: Kind) -> None:
    """In a process of its own, whose memory is nobody else's."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        took = pool.submit(core_of, agents, count, kind).result()
    name, nomad = kind.key(agents, count), _nomad(agents, count, kind)
    note = f"offers, documents, events and tasks too; Nomad, without these: {nomad}"
    report.add(f"decide_per_s_{name}", count / took.all_s, "1/s", note=note)
    report.add(f"decide_longest_s_{name}", took.longest_s, "s", note="one decision")
    note = "cluster and master included"
    report.add(f"decide_peak_mib_{name}", took.grown_mib, "MiB", note=note)


def core_of(agents: int, count: int, kind: Kind) -> Took:
    """`decide` from the wish to the launch, with documents, events and task infos; offers go and come as at Mesos."""
    gc.set_threshold(*GC_AFTER)  # as in every service
    before_mib = _mib("VmRSS")
    core = Core(agents)
    core.give(mesos.Subscribed("f", 15.0, {}))
    wants = [
        Want(Instance(InstanceId(f"i{n}"), app, 1, "d", spec))
        for n, (app, spec) in enumerate(_specs(count, kind))
    ]
    core.took_s = core.longest_s = 0.0
    rounds = 0
    while core.launched < count:
        inputs: Sequence[Input] = wants[rounds * 1000 : rounds * 1000 + 1000]
        core.give(*(inputs or [Tick()]))
        rounds += 1
        if rounds > count:
            raise AssertionError(f"only {core.launched} of {count} are launched")
    return Took(core.took_s, core.longest_s, _mib("VmHWM") - before_mib)


def _mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(each.split()[1]) for each in lines if each.startswith(f"{field}:")) / 1024


class Core:
    """The scheduler's core with a master that offers what is free as soon as it may, and nothing twice."""

    def __init__(self, agents: int) -> None:
        self.took_s = self.longest_s = 0.0
        self.launched = 0
        self._config = SchedulerConfig()
        self._factory = TaskFactory("bench", "true")
        self._cluster = Cluster()
        self._now = 1000.0
        self._offers: list[AgentId] = []  # their agents
        self._coming: deque[mesos.Offers] = deque()
        self._hosts = {each.agent: each for each in _candidates(agents)}
        self._free = dict.fromkeys(self._hosts, (CPUS, MEM))
        self._idle = dict.fromkeys(self._free)  # agents that are to be offered
        self._refused: dict[AgentId, float] = {}  # those that are not wanted, and until when

    def give(self, *inputs: Input) -> None:
        """One decision on these inputs and on some of what is offered, as the service gives it; only it is timed."""
        if self._cluster.volatile.subscribed:
            self._revive(self._now)
            offers = [self._offer(agent) for agent in self._idle]
            self._idle.clear()
            self._coming.extend(in_pieces(mesos.Offers(tuple(offers))))
        if self._coming:
            inputs = (self._coming.popleft(), *inputs)
        self._now += 0.1
        began = process_time()
        draft = decide(self._cluster, inputs, self._now, self._config, self._factory)
        versions = {name: each.version + 1 for name, each in draft.changed.items()}
        self._cluster.commit(draft, versions)
        spent = process_time() - began
        self.took_s, self.longest_s = self.took_s + spent, max(self.longest_s, spent)
        for action in draft.actions:
            if isinstance(action, Launch):
                self._launch(action)
            elif isinstance(action, Decline):
                until = self._now + action.refuse_s
                self._refused.update((self._offers[int(each)], until) for each in action.offers)
            elif isinstance(action, Revive):
                self._revive(inf)

    def _launch(self, launch: Launch) -> None:
        left = dict(zip(("cpus", "mem"), self._free[launch.agent], strict=True))
        for task in launch.tasks:
            for each in task["resources"]:
                if each["name"] in left:
                    left[each["name"]] -= each["scalar"]["value"]
        self._free[launch.agent] = left["cpus"], left["mem"]
        self._idle[launch.agent] = None
        self.launched += len(launch.tasks)

    def _revive(self, until: float) -> None:
        for agent in [each for each, at in self._refused.items() if at <= until]:
            del self._refused[agent]
            self._idle[agent] = None

    def _offer(self, agent: AgentId) -> Offer:
        self._offers.append(agent)
        cpus, mem = self._free[agent]
        host = self._hosts[agent]
        amounts = (("cpus", cpus), ("mem", mem), ("disk", 1_000_000.0))
        return {
            "id": {"value": f"{len(self._offers) - 1}"},
            "framework_id": {"value": "f"},
            "agent_id": {"value": agent},
            "hostname": host.hostname,
            "resources": [
                {"name": name, "type": "SCALAR", "scalar": {"value": amount}}
                for name, amount in amounts
            ],
            "attributes": [
                {"name": name, "type": "TEXT", "text": {"value": value}}
                for name, value in host.attributes.items()
            ],
            "allocation_info": {"role": "gantry"},
        }


# -- packing -----------------------------------------------------------------------------------------


def packing(report: Report, traces: int) -> None:
    """Apps of mixed shapes come one after the other until one instance is refused: how full are agents then.

    Measured against an offline bound: the longest beginning of the same trace that best fit decreasing can pack, which
    knows all of it in advance; of three kinds of it, the best.
    """
    losses, notes = [], []
    for seed in range(traces):
        trace = _trace(random.Random(seed))
        online, reached = _online(trace, 100)
        offline = _offline(trace, 100, reached)
        losses.append(100 * (offline - online) / offline)
        notes.append(f"{100 * online:.1f} of {100 * offline:.1f}")
    worst, note = max(losses), f"used at the first refusal, % (offline bound): {', '.join(notes)}"
    mean = statistics.mean(losses)
    report.add("packing_loss_pct", mean, "%", note=f"the mean of {traces} traces", most=LOSS_PCT)
    report.add("packing_loss_worst_pct", worst, "%", note=note, most=WORST_LOSS_PCT)


def _trace(rng: random.Random) -> Trace:
    """Mostly small ones, some large, some lop-sided."""
    made = []
    for _ in range(20_000):
        cpus = rng.choice([0.1, 0.25, 0.5, 1.0, 1.0, 2.0, 4.0, 8.0])
        ratio = rng.choice([1024, 2048, 4096, 4096, 4096, 8192, 16384])
        made.append((cpus, int(cpus * ratio), rng.choice([1, 2, 2, 3, 4, 8, 20])))
    return made


def _online(trace: Trace, agents: int) -> tuple[float, int]:
    """How full agents are at the first refusal, and how many apps were placed by then."""
    base = Agents.of(_candidates(agents))
    for n, (cpus, mem, count) in enumerate(trace):
        shape = Shape(f"bench/{n}", cpus, float(mem), 0.0, InstanceClass.THIN)
        _, refusal = Round(base).put(shape, count)  # a decision each
        if refusal is not None:
            left = base.free[:2].sum(axis=1)
            return float((1 - left / (np.array([CPUS, MEM]) * agents)).max()), n
    raise AssertionError("the trace is too short")


def _offline(trace: Trace, agents: int, reached: int) -> float:
    """How full agents are when the longest beginning is packed that can be."""
    sizes = np.array([[cpus * n / CPUS, mem * n / MEM] for cpus, mem, n in trace])
    full = sizes.cumsum(axis=0) / agents
    most = int((full.max(axis=1) <= 1.0).sum())  # more there is no room for at all
    longest = 0
    for packs in (_by_item(max), _by_item(sum), _by_agent):
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if packs(trace[:middle], agents):
                low = middle
            else:
                high = middle - 1
        longest = max(longest, low)
    if longest < reached:  # what was placed online can be packed
        longest = reached
    return float(full[longest - 1].max())


def _by_item(size: Callable[[tuple[float, float]], float]) -> Callable[[Trace, int], bool]:
    """The largest item first, each to the agent that would be left with the least."""

    def packs(apps: Trace, agents: int) -> bool:
        free = np.ones((2, agents))
        items = [(cpus / CPUS, mem / MEM) for cpus, mem, n in apps for _ in range(n)]
        for item in sorted(items, key=size, reverse=True):
            left = free - np.array(item)[:, None]
            fits = (left >= -1e-9).all(axis=0)
            if not fits.any():
                return False
            free[:, np.where(fits, (left**2).sum(axis=0), np.inf).argmin()] -= item
        return True

    return packs


def _by_agent(apps: Trace, agents: int) -> bool:
    """One agent after the other, each time with the item that leaves the least of it (Panigrahy et al. 2011)."""
    counts: dict[tuple[float, float], int] = {}
    for cpus, mem, n in apps:
        counts[cpus / CPUS, mem / MEM] = counts.get((cpus / CPUS, mem / MEM), 0) + n
    items, left = np.array(list(counts)), np.array(list(counts.values()))
    for _ in range(agents):
        free = np.ones(2)
        while True:
            rest = free - items
            fits = (rest >= -1e-9).all(axis=1) & (left > 0)
            if not fits.any():
                break
            best = np.where(fits, (rest**2).sum(axis=1), np.inf).argmin()
            free, left[best] = rest[best], left[best] - 1
    return not left.any()
