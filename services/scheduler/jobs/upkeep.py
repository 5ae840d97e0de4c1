"""Jobs over time: woken when one is due, measured, and old documents forgotten."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from libs.common.errors import Unavailable
from libs.common.events import Event
from libs.common.events import model as ev
from libs.common.runtime import Runtime
from libs.common.waiting import set_or_due
from services.scheduler.cluster import Cluster, Draft
from services.scheduler.jobs.run import JobId
from services.scheduler.model import InstanceId, Tick
from services.scheduler.settings import SchedulerConfig
from services.scheduler.store import SchedulerStore

LONGEST_S = 60.0
SHORTEST_S = 0.001
SURPLUS = 10
"""A job's records are counted after so many new ones."""


class Upkeep:
    """One leader's. `submit` hands an input to the loop and returns when what it leads to is saved."""

    def __init__(
        self,
        rt: Runtime,
        config: SchedulerConfig,
        cluster: Cluster,
        store: SchedulerStore,
        submit: Callable[[Tick], Awaitable[None]],
    ) -> None:
        self._clock = rt.clock
        self._log = rt.telemetry.log
        self._config = config.jobs
        self._keep_ended_s = config.keep_ended_s
        self._cluster = cluster
        self._store = store
        self._submit = submit
        self._sooner = asyncio.Event()
        self._due: float | None = None
        self._fresh: Counter[JobId] = Counter()  # records since their job's were counted
        metrics = rt.telemetry
        self._defined = metrics.gauge("scheduler_jobs", "Jobs that there are")
        self._defined.set(len(cluster.jobs.jobs))
        self._runs = metrics.counter(
            "scheduler_job_runs_total", "Runs, by what became of them", "state"
        )
        self._delay_s = metrics.histogram(
            "scheduler_job_start_delay_seconds", "From a target to its run's begin"
        )

    def committed(self, draft: Draft) -> None:
        """A batch is saved: look whether something is due sooner, and count."""
        first = self._cluster.jobs.agenda.first()
        if first != self._due:
            self._due = first
            self._sooner.set()
        jobs = draft.jobs
        if not jobs:
            return
        self._defined.set(len(self._cluster.jobs.jobs))
        for record in jobs.records.values():
            self._fresh[record.job] += 1
        for events in jobs.events.values():
            for event in events:
                self._count(draft, event)

    def _count(self, draft: Draft, event: Event) -> None:
        match event:
            case ev.JobRunStarted():
                self._runs.labels("started").inc()
                instance = draft.changed.get(InstanceId(event.run))
                run = instance.run if instance is not None else None
                if run is not None and event.tries == 1 and run.cause == "schedule":
                    self._delay_s.observe(max(0.0, run.began - run.target))
            case ev.JobRunFinished():
                self._runs.labels("finished").inc()
            case ev.JobRunFailed(again=False):
                self._runs.labels("failed").inc()
            case ev.JobRunMissed():
                self._runs.labels("missed").inc()
            case _:
                pass

    async def wake(self) -> None:
        """Let the loop decide the moment that a job is due; until cancelled."""
        while True:
            self._sooner.clear()
            due = self._cluster.jobs.agenda.first()
            wait_s = LONGEST_S if due is None else due - self._clock.now()
            if wait_s > 0:
                await set_or_due(self._sooner, min(max(wait_s, SHORTEST_S), LONGEST_S))
                continue
            await self._submit(Tick())

    async def clean(self) -> None:
        """Forget what is old; until cancelled."""
        while True:
            await self._clock.sleep(self._config.clean_every_s)
            try:
                await self._clean(self._clock.now())
            except Unavailable as error:
                self._log.warning("old runs are kept for now", error=str(error))

    async def _clean(self, now: float) -> None:
        config, jobs = self._config, self._store.jobs
        while await self._store.forget_runs(now - config.keep_instances_s):
            pass
        # As long as an instance is there, its record says that it was counted.
        settled = now - 2 * config.keep_instances_s - config.clean_every_s
        lost = now - 2 * max(config.keep_instances_s, self._keep_ended_s)
        for name in [name for name, count in self._fresh.items() if count >= SURPLUS]:
            while await jobs.forget_surplus(name, config.keep_runs, settled, lost):
                pass
            del self._fresh[name]
        while await jobs.forget_records(min(settled, lost, now - config.keep_runs_s)):
            pass
        while await jobs.forget_requests(now - config.keep_requests_s):
            pass
        for name in await jobs.forget_deleted(now - config.keep_deleted_s):
            self._cluster.jobs.forget(name)
