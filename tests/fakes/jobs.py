"""The scheduler's jobs in memory, for the gateway and the CLI: hears `job.requested`, answers as the real one does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from libs.client.jobs import JobCheck
from libs.common.actor import Actor
from libs.common.clock import Clock
from libs.common.errors import InvalidInput, NotFound, Unavailable
from libs.common.events import Envelope
from libs.common.events import model as ev
from libs.common.http import Handler, Request, Response, Role, Route, reply
from libs.common.jobs import JobSpec
from libs.common.schedule import parse

DIGEST = "sha256:" + "0" * 64
PERIOD_S = 60.0


def _cause(spec: JobSpec) -> tuple[str | None, str]:
    return spec.schedule, spec.time_zone


@dataclass
class FakeJobs:
    """Jobs and runs. `deaf` lets events wait; `refusing` is what it refuses each change with; `away` hides it.

    A job with a schedule runs each minute; a run-now begins a run that the test ends by `end`.
    """

    clock: Clock
    away: bool = False
    deaf: bool = False
    refusing: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: dict[str, dict[str, Any]] = field(default_factory=dict)
    heard: list[ev.JobRequested] = field(default_factory=list)
    commands: dict[str, tuple[str, ...]] = field(default_factory=dict)
    containers: dict[str, str] = field(default_factory=dict)  # of runs that are under way

    def routes(self) -> list[Route]:
        """As the real one's."""
        job = "/v1/jobs/{bu}/{job}"
        table: dict[tuple[str, str], Any] = {
            ("GET", "/v1/jobs"): self.list_jobs,
            ("POST", "/v1/jobs/check"): self.check,
            ("GET", job): self.get_job,
            ("GET", f"{job}/runs"): self.list_runs,
            ("GET", f"{job}/stats"): self.stats,
            ("GET", "/v1/runs/{run}"): self.get_run,
            ("GET", "/v1/instances/{instance}"): self.get_instance,
            ("GET", "/v1/job-requests/{request}"): self.get_request,
        }
        return [Route(method, path, self._up(each)) for (method, path), each in table.items()]

    def _up(self, handler: Handler) -> Handler:
        async def checked(request: Request) -> Response:
            if self.away:
                raise Unavailable("the scheduler is not the leader")
            return await handler(request)

        return checked

    # -- what is asked by event ------------------------------------------------------------------

    async def on_requested(self, event: ev.JobRequested, _envelope: Envelope) -> None:
        """Carry it out, once for each request."""
        if self.deaf:
            raise Unavailable("nobody listens")
        if event.request in self.requests:
            return
        self.heard.append(event)
        outcome = {"state": "done", "problem": "", "run": ""}
        if self.refusing:
            outcome |= {"state": "refused", "problem": self.refusing}
        else:
            outcome["run"] = self._carry_out(event)
        head = {"request": event.request, "job": event.job, "action": event.action}
        self.requests[event.request] = {**head, **outcome}

    def _carry_out(self, event: ev.JobRequested) -> str:
        if event.action == "put":
            self._put(event)
        elif event.action == "delete":
            del self.jobs[event.job]
        elif event.action == "run":
            return self.begin(event.job, command=event.command)
        elif event.action == "succeed":
            self._succeed(event.job)
        elif event.action == "report":
            self.end(event.run, "failed" if event.status else "succeeded", exit_code=event.status)
        elif event.action == "kill":
            for run in [event.run] if event.run else list(self.jobs[event.job]["running"]):
                self.end(run, "killed", reason=f"killed by {event.actor}")
        else:
            state = "paused" if event.action == "pause" else "active"
            self.jobs[event.job] |= {"state": state, "changed_by": event.actor}
        return ""

    def _put(self, event: ev.JobRequested) -> None:
        now = self.clock.now()
        spec = JobSpec.model_validate(event.spec)
        known = self.jobs.get(event.job)
        bu, _, name = event.job.partition("/")
        fresh = {
            "job": event.job, "bu": bu, "name": name, "version": 0, "state": "active", "reason": "",
            "running": [], "queued": 0, "last_run": None, "failures_in_a_row": 0, "created": now,
            "counts": {"succeeded": 0, "failed": 0, "missed": 0}, "last_success": None, "last_error": None,
        }  # fmt: skip
        before = JobSpec.model_validate(known["spec"]) if known else None
        job = {**fresh, **(known or {})}
        job |= {
            "version": job["version"] + 1,
            "spec": spec.model_dump(mode="json", by_alias=True, exclude_defaults=True),
            "image": f"{spec.image.partition('@')[0].rpartition(':')[0]}@{DIGEST}",
            "next": self._next(spec),
            "changed": now,
            "changed_by": event.actor,
        }
        self.jobs[event.job] = job
        if event.since is not None and spec.schedule is not None and spec.enabled:
            same = before is not None and _cause(before) == _cause(spec)
            last = job["last_run"]["target"] if same and job["last_run"] else 0.0
            schedule = parse(spec.schedule, spec.time_zone)
            past = schedule.between(max(event.since, last), now, 1)
            if past and not (same and before is not None and before.enabled):
                self.begin(event.job)

    def _next(self, spec: JobSpec) -> float | None:
        return None if spec.schedule is None else self.clock.now() // PERIOD_S * PERIOD_S + PERIOD_S

    def _succeed(self, name: str) -> None:
        job, now = self.jobs[name], self.clock.now()
        job["counts"]["succeeded"] += 1
        job |= {"last_success": now, "failures_in_a_row": 0}
        for child, known in self.jobs.items():
            if name.partition("/")[2] in known["spec"].get("parents", ()):
                self.begin(child, "parents")

    # -- what tests do ---------------------------------------------------------------------------

    def begin(self, job: str, cause: str = "manual", command: tuple[str, ...] | None = None) -> str:
        """Begin a run; `commands` has those that were given one."""
        run, now = f"{job.replace('/', '-')}-{len(self.runs) + 1}", self.clock.now()
        self.runs[run] = {
            "run": run, "job": job, "target": now, "cause": cause, "state": "running", "tries": 1,
            "created": now, "started": now, "ended": None, "duration_s": None, "exit_code": None,
            "hostname": "host-1", "reason": "", "output": "", "soft": False, "instance": run,
        }  # fmt: skip
        if command is not None:
            self.commands[run] = command
        self.jobs[job]["running"].append(run)
        self.jobs[job]["last_run"] = self.runs[run]
        return run

    def end(self, run: str, state: str = "succeeded", **fields: Any) -> None:
        """End a run; fields such as `output`, `exit_code` and `reason` are told of it."""
        found, now = self.runs[run], self.clock.now()
        found |= {"state": state, "ended": now, "duration_s": now - found["started"], **fields}
        job = self.jobs[found["job"]]
        job["running"].remove(run)
        if state in job["counts"]:
            job["counts"][state] += 1
        failed = state in ("failed", "lost")
        job["failures_in_a_row"] = job["failures_in_a_row"] + 1 if failed else 0
        job["last_error" if failed else "last_success"] = now

    # -- what is answered ------------------------------------------------------------------------

    async def list_jobs(self, request: Request) -> Response:
        bu = request.query.get("bu", "")
        return reply({"jobs": [job for job in self.jobs.values() if bu in ("", job["bu"])]})

    async def check(self, request: Request) -> Response:
        asked = request.parse(JobCheck)
        bu = asked.job.partition("/")[0]
        Actor.of(request).require(bu, Role.DEPLOYER)
        spec = asked.spec
        if spec.schedule is not None and spec.schedule.startswith("bad"):
            raise InvalidInput.of("schedule", "is not a schedule", "a crontab line")
        for parent in spec.parents:
            if f"{bu}/{parent}" not in self.jobs:
                raise InvalidInput.of("parents", f"there is no job {bu}/{parent}")
        first = self._next(spec)
        times = [] if first is None else [first + n * PERIOD_S for n in range(5)]
        after = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        before: Mapping[str, Any] = self.jobs.get(asked.job, {}).get("spec", {})
        differ = sorted(n for n in {*after, *before} if after.get(n) != before.get(n))
        return reply({"next": times, "changes": differ})

    async def get_job(self, request: Request) -> Response:
        return reply(self._job(request))

    async def list_runs(self, request: Request) -> Response:
        job = self._job(request)["job"]
        found = [run for run in reversed(self.runs.values()) if run["job"] == job]
        if before := request.query.get("before"):
            found = found[[run["run"] for run in found].index(before) + 1 :]
        return reply({"runs": found[: int(request.query.get("limit", "50"))]})

    async def stats(self, request: Request) -> Response:
        job = self._job(request)
        took = sorted(
            run["duration_s"]
            for run in self.runs.values()
            if run["job"] == job["job"] and run["state"] == "succeeded"
        )
        duration: dict[str, Any] = {"count": len(took)}
        if took:
            duration |= {"min": took[0], "max": took[-1], "median": took[len(took) // 2]}
        return reply({"runs": sum(job["counts"].values()), **job["counts"], "duration": duration})

    async def get_run(self, request: Request) -> Response:
        run = request.params["run"]
        if run not in self.runs:
            raise NotFound(f"there is no run {run!r}")
        return reply(self.runs[run])

    async def get_instance(self, request: Request) -> Response:
        """Of a run that has not ended."""
        run = self.runs.get(request.params["instance"])
        if run is None or run["ended"] is not None:
            raise NotFound("there is no such instance that has not ended")
        container = self.containers.get(run["run"], "")
        place = {"agent": "agent-1", "hostname": "host-1"} if container else {}
        return reply({"instance": run["run"], "container": container, **place})

    async def get_request(self, request: Request) -> Response:
        found = self.requests.get(request.params["request"])
        if found is None:
            raise NotFound("not handled yet")
        return reply(found)

    def _job(self, request: Request) -> dict[str, Any]:
        name = f"{request.params['bu']}/{request.params['job']}"
        if name not in self.jobs:
            raise NotFound(f"there is no job {name!r}")
        return self.jobs[name]
