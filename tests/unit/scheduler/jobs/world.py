"""A scheduler's memory with jobs in it: requests in, time passes, runs begin and end; what is kept is remembered."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any

from libs.common.events import Event
from libs.common.events import model as ev
from libs.common.jobs import JobSpec
from libs.common.task import TaskReport
from libs.mesos import events as mesos
from services.scheduler.core import Input, decide
from services.scheduler.jobs.model import Action, Job, JobAsked, Outcome, Record
from services.scheduler.jobs.run import JobId
from services.scheduler.model import Action as MesosAction
from services.scheduler.model import Instance, InstanceId
from tests.unit.scheduler.world import FACTORY, IMAGE, Desk

START = 1_800_000_000.0  # a round time in 2027
JOB = "acme/nightly"
MINUTELY = "R/2027-01-15T08:00:00Z/PT1M"
"""START, and each minute after it."""


def job_spec(**fields: Any) -> JobSpec:
    """A job that runs each minute, unless it is said otherwise."""
    usual = {"image": "web:1", "network": "web", "schedule": MINUTELY, "retry": {"limit": 0}}
    return JobSpec.model_validate({**usual, **fields})


@dataclass
class JobDesk(Desk):
    """See the module. Agents offer 4 CPUs each time one is asked for a run."""

    now: float = START - 30.0
    records: dict[str, Record] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    requests: int = 0

    def give(self, *inputs: Input) -> list[MesosAction]:
        """Decide and commit, as if saved."""
        draft = decide(self.cluster, inputs, self.now, self.config, FACTORY)
        versions = {key: each.version + 1 for key, each in draft.changed.items()}
        self.cluster.commit(draft, versions)
        self.actions.extend(draft.actions)
        for told in (*draft.events.values(), *draft.jobs.events.values()):
            self.events.extend(told)
        for run, record in draft.jobs.records.items():
            assert run not in self.records, f"{run} is counted twice"
            self.records[run] = record
        self.outcomes.update({name: each[3] for name, each in draft.jobs.outcomes.items()})
        return draft.actions

    # -- requests

    def ask(self, action: Action, job: str = JOB, **fields: Any) -> Outcome:
        """Something is asked of a job."""
        self.requests += 1
        request = fields.pop("request", f"r{self.requests}")
        self.give(JobAsked(request, JobId(job), action, "ann", **fields))
        return self.outcomes[request]

    def put(self, job: str = JOB, **fields: Any) -> Outcome:
        """A job is put."""
        return self.ask("put", job, spec=job_spec(**fields), image=IMAGE)

    def took(self, job: str = JOB, **fields: Any) -> Job:
        """It is put, and taken."""
        outcome = self.put(job, **fields)
        assert outcome.state == "done", outcome.problem
        return self.job(job)

    # -- runs

    def at(self, after_start_s: float) -> list[str]:
        """It is so late; the runs that have come to be by that."""
        before = set(self.names())
        self.now = START + after_start_s
        self.tick(0.0)
        return [each for each in self.names() if each not in before]

    def begin(self, run: str = "") -> Instance:
        """A run (the only one) is placed and begins."""
        run = run or self.names()[0]
        if not self.cluster.volatile.subscribed:
            self.subscribe()
        self.offer()
        return self.runs(run)

    def runs(self, run: str) -> Instance:
        """Its try is seen to run."""
        instance = self[run]
        self.report(instance.attempt, "TASK_RUNNING", container="c", address="10.0.0.1")
        return self[run]

    def end(self, run: str = "", state: str = "TASK_FINISHED", **report: Any) -> None:
        """A run (the only one) ends."""
        run = run or self.names()[0]
        code = {"TASK_FINISHED": 0, "TASK_FAILED": 1}.get(state)
        self.report(self[run].attempt, state, **{"exit_code": code, **report})

    def passes(self, job: str, state: str = "TASK_FINISHED", **report: Any) -> None:
        """A run of the job, which is under way or asked for, begins and ends, by default well."""
        (run,) = self.names(job) or [self.ask("run", job).run]
        self.begin(run)
        self.end(run, state, **report)

    def report(self, task: str, state: str, *, reason: str = "", **report: Any) -> None:
        """An update comes in."""
        data = TaskReport(**report).model_dump_json().encode()
        status: dict[str, Any] = {
            "task_id": {"value": task},
            "agent_id": {"value": "a1"},
            "state": state,
            "source": "SOURCE_MASTER" if reason else "SOURCE_EXECUTOR",
            "uuid": "AAAA",
            "data": b64encode(data).decode(),
        }
        if reason:
            status["reason"] = reason
        self.give(mesos.Update(status))  # type: ignore[arg-type]

    # -- what there is

    def job(self, name: str = JOB) -> Job:
        """A job."""
        return self.cluster.jobs.jobs[JobId(name)]

    def names(self, job: str = "") -> list[str]:
        """The runs that are under way."""
        found = self.cluster.instances.values()
        return [each.id for each in found if each.run is not None and job in ("", each.run.job)]

    def run(self, name: str) -> Any:
        """The run of an instance."""
        return self.cluster.instances[InstanceId(name)].run

    def states(self) -> list[str]:
        """How runs ended, in order."""
        return [each.state.value for each in self.records.values()]

    def targets(self) -> list[float]:
        """The targets of runs under way, since START."""
        return [self.run(each).target - START for each in self.names()]

    def told(self, kind: type[Event]) -> list[Any]:
        """The events of a kind."""
        return [each for each in self.events if isinstance(each, kind)]

    def missed(self) -> list[float]:
        """The targets that were told as missed, since START."""
        return [each.target - START for each in self.told(ev.JobRunMissed)]
