"""What an instance has besides when it is a run of a job: it ends, and is not restarted as services are. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from hashlib import sha256
from typing import Any, Literal, NewType

from libs.common.jobs import Retry
from libs.common.task import RunPayload

JobId = NewType("JobId", str)
"""`bu/job`."""


USUAL = Retry()


class RunState(StrEnum):
    """Where a run is. The last five it does not leave."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    MISSED = "missed"
    KILLED = "killed"
    LOST = "lost"  # its host died: nobody can tell how far it came


@dataclass(frozen=True, slots=True)
class Run:
    """A run, as part of its instance; the instance's id is the run's. Times are Unix seconds, 0: not yet.

    A try has *begun* when its process was seen to run. Tries that never began and were no fault of the run (the host
    had no room, Mesos lost the launch) count nowhere. `started` is the first try's begin, `began` the newest's.
    `told`: a command that went well has only started something, and somebody reports how the try ended.
    """

    job: JobId
    target: float
    cause: str
    created: float
    retry: Retry = USUAL
    start_by: float = 0.0
    timeout_s: float = 0.0
    success_codes: tuple[int, ...] = (0,)
    soft: bool = False
    reuse: Literal["shared", "never"] = "shared"
    told: bool = False
    report: int | None = None  # of the current try: 0 it went well
    untold: bool = False  # its command went well, and there is no report yet
    begun: int = 0
    failed: int = 0
    lost: int = 0  # of the failed ones, those whose host died
    started: float = 0.0
    began: float = 0.0
    ended: float = 0.0
    outcome: str = ""  # a RunState, once it has ended
    exit_code: int | None = None
    reason: str = ""
    output: str = ""

    @property
    def tries(self) -> int:
        """How many there were, the current one included once it has begun."""
        return max(self.begun, self.failed)

    def payload(self, run: str, hostname: str) -> RunPayload:
        """What its host is told of a try that is to begin there."""
        return RunPayload(
            job=self.job,
            run=run,
            target=self.target,
            reuse=self.reuse,
            timeout_s=self.timeout_s,
            tries=self.tries,
            hostname=hostname,
        )


_NOTHING = {each.name: each.default for each in fields(Run)}
_PLAIN = tuple(name for name in _NOTHING if name not in ("retry", "success_codes"))


def run_body(run: Run) -> dict[str, Any]:
    """As a part of the instance's document; without what is as usual."""
    body = {n: v for n in _PLAIN if (v := getattr(run, n)) != _NOTHING[n]}
    if run.retry != USUAL:
        body["retry"] = run.retry.model_dump(mode="json")
    if run.success_codes != (0,):
        body["success_codes"] = list(run.success_codes)
    return body


def run_of(body: Mapping[str, Any]) -> Run:
    """The run of such a part."""
    known = {name: body[name] for name in _PLAIN if name in body}
    if "retry" in body:
        known["retry"] = Retry.model_validate(body["retry"], extra="ignore")
    if "success_codes" in body:
        known["success_codes"] = tuple(body["success_codes"])
    return Run(**known)


def run_id(job: str, what: str) -> str:
    """The id of a job's run for a target, or for a request: whoever decides on it again names the same run."""
    digest = sha256(f"{job}\x1f{what}".encode()).hexdigest()
    return f"{job.partition('/')[2]}-{digest[:16]}"


def target_id(job: str, target: float) -> str:
    """The id of the run of a target."""
    return run_id(job, f"{target:.6f}")


def app_of(job: str) -> str:
    """What its runs have in the place of an app's name: no app can be called so."""
    bu, _, name = job.partition("/")
    return f"{bu}/job.{name}"
