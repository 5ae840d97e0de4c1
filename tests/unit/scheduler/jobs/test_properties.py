"""Whatever is asked, happens or crashes, in whatever order: what must never be of jobs and their runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.scheduler.cluster import Cluster
from services.scheduler.core import Input, decide
from services.scheduler.documents import from_body, to_body
from services.scheduler.jobs.loading import book_of
from services.scheduler.jobs.model import (
    Action,
    Job,
    JobAsked,
    Record,
    job_body,
    job_of,
    record_body,
    record_of,
)
from services.scheduler.jobs.run import JobId
from services.scheduler.model import Instance, InstanceId, Launch, State
from tests.unit.scheduler.jobs.world import JobDesk, job_spec
from tests.unit.scheduler.world import FACTORY, IMAGE

NAMES = ("acme/a", "acme/b", "acme/c")
JOBS = st.sampled_from(NAMES)
SPECS = st.fixed_dictionaries(
    {
        "schedule": st.sampled_from(["R/2027-01-15T08:00:00Z/PT1M", "R3//PT30S"]),
        "concurrency": st.sampled_from(["allow", "forbid", "replace", "queue"]),
        "queue_limit": st.integers(1, 2),
        "catch_up": st.fixed_dictionaries(
            {"policy": st.sampled_from(["none", "latest", "all"]), "limit": st.integers(1, 3)}
        ),
        "start_deadline_s": st.sampled_from([None, 45]),
        "retry": st.fixed_dictionaries(
            {"limit": st.integers(0, 2), "delay_s": st.sampled_from([0, 20])}
        ),
        "disable_after": st.sampled_from([0, 0, 2]),
        "soft_errors": st.booleans(),
    }
)
ENDS = st.sampled_from(
    [
        *(["TASK_FINISHED"] * 3),
        *("TASK_FAILED", "TASK_FAILED", "TASK_KILLED", "TASK_GONE", "TASK_DROPPED"),
    ]
)
CRASHES = st.sampled_from([None, None, None, 0, 1, 2, 3, 4])
"""After so many of its next writes the leader dies."""
Known = dict[str, tuple[int, dict[str, Any]]]


class Saved(JobDesk):
    """A desk with a store, of which a leader may have saved only a part when it dies."""

    def __init__(self) -> None:
        super().__init__()
        self.instances: Known = {}
        self.runs_over: Known = {}
        self.jobs: Known = {}
        self.crash_after: int | None = None

    def give(self, *inputs: Input) -> list[Any]:
        """Decide, save as the store does, commit; or die, and let another one load."""
        draft = decide(self.cluster, inputs, self.now, self.config, FACTORY)
        records = [each for each in draft.jobs.records.values() if not each.version]
        writes = [
            *((self.instances, i.id, i.version, to_body(i)) for i in draft.changed.values()),
            *((self.runs_over, r.run, 0, record_body(r)) for r in records),
            *((self.jobs, j.id, j.version, job_body(j)) for j in draft.jobs.changed.values()),
        ]
        left, self.crash_after = self.crash_after, None
        for into, name, version, body in writes[:left]:
            assert into.get(name, (0, {}))[0] == version, f"{name} is overwritten"
            into[name] = (version + 1, body)
        if left is not None and left < len(writes):
            self.load()
            return []
        versions = {key: each.version + 1 for key, each in draft.changed.items()}
        self.cluster.commit(draft, versions)
        self.outcomes.update({name: each[3] for name, each in draft.jobs.outcomes.items()})
        self.actions.extend(draft.actions)
        return draft.actions

    def load(self) -> None:
        """Another one leads from now on."""
        found = [from_body(n, v, body) for n, (v, body) in self.instances.items()]
        live = [each for each in found if each.state is not State.ENDED]
        over = [each for each in found if each.state is State.ENDED]
        book = book_of(self.all_jobs(), live, over, self.all_records())
        self.cluster = Cluster(live, {each.id: each.version for each in over}, book)
        self.subscribe()

    def all_jobs(self) -> list[Job]:
        """As they are stored."""
        return [job_of(name, version, body) for name, (version, body) in self.jobs.items()]

    def all_records(self) -> dict[str, Record]:
        """As they are stored."""
        return {n: record_of(n, version, body) for n, (version, body) in self.runs_over.items()}


class Storm(RuleBasedStateMachine):
    """Requests, time, ends and crashes; `decide` itself raises when a state machine is violated."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Saved()
        self.desk.subscribe()
        self.taken = 0
        self.launched: Counter[str] = Counter()
        self.deleted: dict[str, float] = {}
        self.concurrency: dict[str, str] = {}
        self.before: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))

    @rule(job=JOBS, fields=SPECS, child=st.booleans())
    def put(self, job: str, fields: dict[str, Any], child: bool) -> None:
        if child and job != NAMES[0]:
            fields = {**fields, "schedule": None, "parents": [NAMES[0].partition("/")[2]]}
        spec = job_spec(**fields)
        self._ask("put", job, spec=spec, image=IMAGE)

    @rule(
        job=JOBS,
        action=st.sampled_from(["run", "run", "pause", "resume", "kill", "delete"]),
        crash=CRASHES,
    )
    def asked(self, job: str, action: Action, crash: int | None) -> None:
        self.desk.crash_after = crash
        self._ask(action, job)

    def _ask(self, action: Action, job: str, **fields: Any) -> None:
        self.desk.requests += 1
        request = f"r{self.desk.requests}"
        asked = JobAsked(request, JobId(job), action, "ann", **fields)
        self.desk.give(asked)
        if request not in self.desk.outcomes:  # its leader died: the event comes again
            self.desk.give(asked)

    @rule(after_s=st.sampled_from([0.5, 10.0, 30.0, 60.0, 200.0]), crash=CRASHES)
    def time_passes(self, after_s: float, crash: int | None) -> None:
        self.desk.crash_after = crash
        self.desk.tick(after_s)

    @rule()
    def offered(self) -> None:
        self.desk.offer("a1", "a2")

    @rule(number=st.integers(0, 9), begins=st.booleans(), state=ENDS, crash=CRASHES)
    def told(self, number: int, begins: bool, state: str, crash: int | None) -> None:
        there = [each for each in self.desk.cluster.instances.values() if each.live]
        if not there:
            return
        instance = there[number % len(there)]
        self.desk.crash_after = crash
        if begins:
            self.desk.report(instance.attempt, "TASK_RUNNING", container="c", address="a")
        else:
            code = {"TASK_FINISHED": 0, "TASK_FAILED": 1}.get(state)
            self.desk.report(instance.attempt, state, exit_code=code)

    @invariant()
    def no_attempt_is_launched_twice(self) -> None:
        fresh = self.desk.actions[self.taken :]
        self.taken = len(self.desk.actions)
        tasks = [t["task_id"]["value"] for a in fresh if isinstance(a, Launch) for t in a.tasks]
        self.launched.update(tasks)
        assert not [task for task, count in self.launched.items() if count > 1]

    @invariant()
    def a_run_is_over_or_under_way_and_its_tries_have_a_bound(self) -> None:
        records = self.desk.all_records()
        for instance in self.desk.cluster.instances.values():
            assert instance.run is not None and instance.id not in records
            assert instance.run.failed <= instance.run.retry.limit
        tries = Counter(task.rpartition(".")[0] for task in self.launched)
        for name, record in records.items():
            assert record.tries <= max(tries[name], 3)

    @invariant()
    def jobs_know_their_runs(self) -> None:
        instances: dict[InstanceId, Instance] = self.desk.cluster.instances
        for job in self.desk.cluster.jobs.jobs.values():
            mine = {n for n, each in instances.items() if each.run and each.run.job == job.id}
            assert set(job.running) == mine
            assert not (job.queue and not job.running and not job.off and not job.paused)
            if job.spec.concurrency != "allow" and job.deleted == 0.0:
                fresh = [n for n in mine if instances[n].run.created > job.changed]  # type: ignore[union-attr]
                assert len(fresh) <= 1, "runs overlap"

    @invariant()
    def counts_are_those_of_the_records(self) -> None:
        cluster = self.desk.cluster
        counted: dict[str, Counter[str]] = defaultdict(Counter)
        for record in self.desk.all_records().values():
            job = cluster.jobs.jobs.get(record.job)
            if job is not None and record.created > job.created:
                counted[job.id][record.state.value] += 1
        for job in cluster.jobs.jobs.values():
            if cluster.jobs.left:
                continue
            found = counted[job.id]
            assert job.succeeded >= found["succeeded"]
            assert job.missed >= found["missed"]
            assert job.failed >= found["failed"] + found["lost"]

    @invariant()
    def nothing_starts_of_a_deleted_job(self) -> None:
        for job in self.desk.cluster.jobs.jobs.values():
            if job.deleted:
                assert job.id not in self.desk.cluster.jobs.agenda and not job.queue
                for name in job.running:
                    instance = self.desk.cluster.instances[InstanceId(name)]
                    assert instance.stop, "it was there, and is to end"

    @invariant()
    def the_agenda_is_that_of_the_jobs(self) -> None:
        book = self.desk.cluster.jobs
        for job in book.jobs.values():
            if job.look is None or job.deleted:
                assert job.id not in book.agenda or job.spec.parents
            else:
                assert job.id in book.agenda
            fresh = replace(job, version=0)
            assert replace(job_of(job.id, 0, job_body(job)), version=0) == fresh


TestStorm = Storm.TestCase
TestStorm.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
