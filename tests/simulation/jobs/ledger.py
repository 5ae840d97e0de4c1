"""What really ran of jobs, as the hosts' engines know it; and all that the scheduler has ever saved of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from libs.common.store.base import Write
from services.executor.model import LABEL_APP, LABEL_ATTEMPT, LABEL_INSTANCE
from services.executor.runs.model import TaskView
from tests.fakes.docker import FakeContainer, Watch
from tests.simulation.cloud import SKEW_S, Cloud
from tests.simulation.host import Host
from tests.simulation.loop import EPOCH_S


@dataclass
class Try:
    """One start of a process for an attempt at a run. Times are true ones, Unix seconds; `end` None: it runs."""

    job: str
    run: str
    attempt: str
    host: str
    start: float
    end: float | None = None
    code: int | None = None
    told_to_end: bool = False

    @property
    def bad(self) -> bool:
        """It came to nothing, or nobody can say that it came to an end of its own."""
        return self.end is not None and (self.code != 0 or self.told_to_end)


@dataclass(frozen=True)
class Loss:
    """The scheduler has said that nobody will know how far a try came. `staged`: when it was given its place."""

    attempt: str
    host: str
    staged: float
    at: float
    reason: str


@dataclass
class Ledger:
    """See the module. What must hold whenever something starts is looked at then."""

    cloud: Cloud
    given_up: set[str]  # attempts that the scheduler no longer counts on
    fail: Callable[[str], None]
    may_overlap: Mapping[str, bool] = field(default_factory=dict)
    tries: list[Try] = field(default_factory=list)
    instances: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # run → newest document
    records: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)  # job → its schedules, in their order
    staged: dict[str, float] = field(default_factory=dict)  # attempt → when it was given a place…
    place: dict[str, str] = field(default_factory=dict)  # …on which host…
    over: dict[str, float] = field(default_factory=dict)  # …and when it was known to be over
    finished: dict[str, float] = field(default_factory=dict)  # run → when its end was saved
    losses: list[Loss] = field(default_factory=list)  # not yet looked at
    _placed: dict[str, float] = field(default_factory=dict)  # run → when its newest try was staged
    _open: dict[str, Try] = field(default_factory=dict)  # by container
    _started: dict[str, Try] = field(default_factory=dict)  # by attempt

    def __post_init__(self) -> None:
        self.cloud.on_write.append(self._on_write)
        for host in self.cloud.hosts:
            host.docker.watch = self._watcher(host)

    def now(self) -> float:
        """The true time."""
        return EPOCH_S + self.cloud.loop.time()

    def of(self, job: str) -> list[Try]:
        """All that ran of a job, by time."""
        return [each for each in self.tries if each.job == job]

    def began_at(self, attempt: str) -> float | None:
        """When its process began."""
        one = self._started.get(attempt)
        return one.start if one is not None else None

    def target(self, run: str) -> float:
        """What a run was for, as it is saved."""
        body = self.records.get(run)
        return float(body["target"] if body else self.instances[run]["run"]["target"])

    # -- the engines

    def _watcher(self, host: Host) -> Watch:
        def watch(container: FakeContainer, task: TaskView | None) -> None:
            labels, key = container.spec.labels, container.id
            if task is not None:
                run, attempt = task.task.rpartition(".")[0], task.task
                key = f"{key}/{attempt}"
                told = any(each.endswith(f" {attempt}") for each in container.signals)
                runs, code = task.running, task.exit_code
            elif "/job." in labels[LABEL_APP]:
                run, attempt = labels[LABEL_INSTANCE], labels[LABEL_ATTEMPT]
                told = bool(container.signals)
                runs, code = container.running, container.exit_code
            else:
                return
            if runs and host.by_hand == container.id and attempt in self._started:
                # A start whose answer was lost is registered anew, which leaves somebody a moment to use that.
                return
            if runs:
                self.began(key, run, attempt, host.name)
            else:
                self.ended(key, code, told)

        return watch

    def began(self, key: str, run: str, attempt: str, host: str) -> None:
        """A process of a run has started."""
        saved = self.instances.get(run)
        job = str(saved["run"]["job"]) if saved is not None else ""
        one = Try(job, run, attempt, host, self.now())
        before = self._started.get(attempt)
        if before is not None:
            self.fail(f"{attempt} is started twice: {before} and {one}")
        if saved is None:
            self.fail(f"{one} is started, and was never saved")
        elif one.start < self.target(run) - SKEW_S:
            self.fail(f"{one} is started before its time, which is {self.target(run):.3f}")
        if not self.may_overlap.get(job, False):
            for other in self._open.values():
                if other.job == job and other.attempt not in self.given_up:
                    self.fail(f"{one} is started while {other} runs")
        self.tries.append(one)
        self._started[attempt] = self._open[key] = one

    def ended(self, key: str, code: int, told_to_end: bool) -> None:
        """It is over."""
        one = self._open.pop(key, None)
        if one is None:
            return  # it was begun by hand
        one.end, one.code, one.told_to_end = self.now(), code, told_to_end

    # -- the store

    def _on_write(self, collection: str, write: Write) -> None:
        body = write.body
        if collection == "scheduler_instances" and body.get("run"):
            before = self.instances.get(write.id)
            self.instances[write.id] = body
            attempt = f"{write.id}.{body['generation']}"
            if before is not None and _lost(body) > _lost(before):
                staged, why = self._placed[write.id], str(body["run"].get("reason", ""))
                self.losses.append(Loss(attempt, str(body["hostname"]), staged, self.now(), why))
            if body["state"] == "staged" and not body["adopt"]:
                self._placed[write.id] = self.now()
            if body["state"] == "staged":
                self.staged.setdefault(attempt, self.now())
                self.place.setdefault(attempt, str(body["hostname"]))
            elif body["state"] in ("pending", "ended") and attempt in self.staged:
                self.over.setdefault(attempt, self.now())
            if body["state"] == "ended":
                self.finished.setdefault(write.id, self.now())
        elif collection == "scheduler_runs":
            if write.id in self.records and self.records[write.id] != body:
                self.fail(f"run {write.id} ends twice: {self.records[write.id]} and {body}")
            self.records[write.id] = body
        elif collection == "scheduler_jobs":
            texts = self.texts.setdefault(write.id, [])
            if body["text"] and body["text"] not in texts[-1:]:
                texts.append(body["text"])


def _lost(body: Mapping[str, Any]) -> int:
    return int(body["run"].get("lost", 0))
