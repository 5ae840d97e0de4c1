"""How long a decision takes that looks for room for the more important, where very many could yield."""

from __future__ import annotations

import gc
from time import process_time

from libs.common.spec import InstanceSpec, Resources
from libs.mesos import events as mesos
from services.main import GC_AFTER
from services.scheduler.cluster import Cluster
from services.scheduler.core import Input, decide
from services.scheduler.evicting import PAUSE_S
from services.scheduler.model import AgentId, Instance, InstanceId, State, Tick, Want
from services.scheduler.settings import SchedulerConfig
from services.scheduler.tasks import TaskFactory
from tests.bench.report import Report

AGENTS, YIELDING, ASKING = 5_000, 100_000, 64
APPS = 1_000
LONGEST_S = 0.5
"""What else the loop has to do, heartbeats and the lease above all, can wait for longer than that."""


def measure(report: Report) -> None:
    """Full agents, apps that can spare a tenth each, and many apps that wait for room, all of different shapes."""
    longest_s, made = longest_of(AGENTS, YIELDING, ASKING)
    note = f"one decision of those in which {made} of {ASKING} shapes are made room for"
    report.add(f"preempt_longest_s_{AGENTS}x{YIELDING}", longest_s, "s", note=note, most=LONGEST_S)


def longest_of(agents: int, yielding: int, asking: int) -> tuple[float, int]:
    """CPU seconds of the longest decision, and for how many room was made."""
    gc.set_threshold(*GC_AFTER)  # as in every service
    config, factory = SchedulerConfig(), TaskFactory("bench", "true")
    cluster = Cluster(_running(n, agents) for n in range(yielding))
    now, longest_s = 1000.0, 0.0

    def give(*inputs: Input) -> None:
        nonlocal longest_s
        began = process_time()
        draft = decide(cluster, inputs, now, config, factory)
        cluster.commit(draft, {name: each.version + 1 for name, each in draft.changed.items()})
        longest_s = max(longest_s, process_time() - began)

    give(mesos.Subscribed("f", 15.0, {}))
    give(*(_asking(n) for n in range(asking)))
    now, longest_s = now + config.preempt_after_s, 0.0
    for _ in range(2 * asking):
        now += PAUSE_S
        give(Tick())
    served = {each.yields_to for each in cluster.instances.values() if each.yields_to}
    if len(served) < asking:
        raise AssertionError(f"room is made for {len(served)} of {asking}")
    return longest_s, len(served)


def _spec(cpus: float, mem_mib: int, budget_pct: int, priority: int) -> InstanceSpec:
    return InstanceSpec(
        image="bench/app@sha256:" + "0" * 64,
        network="bench",
        resources=Resources(cpus=cpus, mem_mib=mem_mib),
        disruption_budget_pct=budget_pct,
        priority=priority,
    )


def _running(n: int, agents: int) -> Instance:
    app, host = n % APPS, n * 7 % agents
    return Instance(
        id=InstanceId(f"i{n}"),
        app=f"bench/app-{app}",
        release=1,
        deployment="d",
        spec=_spec(0.1 + app % 40 / 10, 64 + app % 90, 10, app % 5),
        state=State.RUNNING,
        healthy=True,
        generation=1,
        agent=AgentId(f"agent-{host}"),
        hostname=f"host-{host}",
        attributes={"zone": f"z{host % 10}"},
        since=float(n % 997),
    )


def _asking(n: int) -> Want:
    app, spec = f"bench/urgent-{n}", _spec(2.0 + n / 10, 128 + n, 0, 10)
    return Want(Instance(InstanceId(f"u{n}"), app, 1, "d", spec))
