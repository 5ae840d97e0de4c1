"""Jobs, summaries, graphs and statistics as Chronos tells them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from libs.client.jobs import JobStats, JobView, RunView
from libs.common.jobs import JobSpec
from services.gateway.chronos.model import ChronosJob, Version
from services.gateway.chronos.names import chronos_name
from services.gateway.chronos.schedules import begins_at_put
from services.gateway.chronos.specs import Names, of_spec

PERCENTILES: Mapping[str, str] = {
    "75thPercentile": "p75",
    "95thPercentile": "p95",
    "98thPercentile": "p98",
    "99thPercentile": "p99",
    "median": "median",
    "mean": "mean",
}
"""What Chronos calls which of our figures."""
_ONLY = {Version.V2: ("concurrent",), Version.V3: ("epsilon", "async")}
_STATUS = {"succeeded": "Success", "running": "Running", "pending": "Idle"}


def spec_told(view: JobView) -> JobSpec:
    """The spec of our view of a job, but for what a newer scheduler tells and we don't know."""
    return JobSpec.model_validate(view.spec, extra="ignore")


@dataclass(frozen=True, slots=True)
class Entry:
    """A job as we and as Chronos know it."""

    view: JobView
    spec: JobSpec
    job: ChronosJob

    @classmethod
    def of(cls, view: JobView, names: Names) -> Entry:
        """From our view; `names` has the Chronos names of its parents where they are others than ours."""
        spec = spec_told(view)
        job = of_spec(spec, chronos_name(view.name, spec.labels), names)
        if view.schedule and spec.schedule and begins_at_put(spec.schedule):
            # With its start, as Chronos tells it: put again as it is, it goes on.
            job = job.model_copy(update={"schedule": view.schedule})
        return cls(view, spec, job)

    @property
    def disabled(self) -> bool:
        """Does nothing of it start. Chronos disables jobs that are over, once they have run."""
        over = self.view.state == "finished" and self.view.counts.succeeded > 0
        return self.job.disabled or self.view.state in ("disabled", "paused") or over

    @property
    def last(self) -> str:
        """How its last run went."""
        success, error = self.view.last_success, self.view.last_error
        if success is None and error is None:
            return "fresh"
        return "success" if (success or 0.0) > (error or 0.0) else "failure"

    @property
    def state(self) -> str:
        """What is of it now."""
        view, last = self.view, self.view.last_run
        # Runs under way are those that wait for a place, too; of the last one we know.
        waits = last is not None and last.state == "pending" and last.run in view.running
        running = len(view.running) - waits
        if running:
            return f"{running} running"
        return "queued" if waits or view.queued else "idle"


def names_of(views: Iterable[JobView]) -> Names:
    """The Chronos names of jobs, by ours."""
    return {each.name: chronos_name(each.name, each.spec.get("labels", {})) for each in views}


def told(entry: Entry, version: Version, *, mirrored: bool = False) -> dict[str, Any]:
    """The job with its counters; `mirrored`: `uris` and `fetch` each tell what only the other has, as in listings."""
    view, job = entry.view, entry.job.wire()
    job |= {
        "disabled": entry.disabled,
        "successCount": view.counts.succeeded,
        "errorCount": view.counts.failed,
        "errorsSinceLastSuccess": view.failures_in_a_row,
        "lastSuccess": moment(view.last_success),
        "lastError": moment(view.last_error),
    }
    for field in _ONLY[version]:
        del job[field]
    container = job.get("container")
    if container is not None and version is Version.V2:
        container["type"] = container["type"].lower()
        network = container["network"]
        container["network"] = "BRIDGE" if network == "USER" else network
        for field in ("networkName", "networkInfos"):
            container.pop(field, None)
    if mirrored and job["fetch"]:
        job["uris"] = [each["uri"] for each in job["fetch"]]
    elif mirrored:
        more = {"executable": False, "cache": False, "extract": version is Version.V3}
        job["fetch"] = [{"uri": uri, **more} for uri in job["uris"]]
    return job


def found(entries: Sequence[Entry], name: str, command: str, term: str) -> list[Entry]:
    """The jobs that have all of that in name and command, or `term` in one of them."""

    def matches(job: ChronosJob) -> bool:
        job_name, line = job.name.lower(), job.command.lower()
        if term and (term.lower() in job_name or term.lower() in line):
            return True
        asked = bool(name or command) or not term
        return asked and name.lower() in job_name and command.lower() in line

    return [each for each in entries if matches(each.job)]


def summary(entries: Iterable[Entry]) -> dict[str, Any]:
    """3.x's short list."""
    return {
        "jobs": [
            {
                "name": each.job.name,
                "status": each.last,
                "state": each.state,
                "schedule": each.job.schedule or "",
                "parents": list(each.job.parents or ()),
                "disabled": each.disabled,
            }
            for each in entries
        ]
    }


# -- graphs ----------------------------------------------------------------------------------------


def csv(entries: Sequence[Entry]) -> str:
    """Nodes and edges, a line each."""
    nodes = [f"node,{each.job.name},{each.last},{each.state}\n" for each in entries]
    edges = [f"link,{parent},{child}\n" for parent, child in _edges(entries)]
    return "".join((*nodes, *edges))


def dot(entries: Sequence[Entry]) -> str:
    """The same for graphviz, as JGraphT writes it."""
    numbers = {each.job.name: number for number, each in enumerate(entries, 1)}
    nodes = [f'  {number} [ label="{name}" ];\n' for name, number in numbers.items()]
    edges = [f"  {numbers[parent]} -> {numbers[child]};\n" for parent, child in _edges(entries)]
    return "".join(("digraph G {\n", *nodes, *edges, "}\n"))


def _edges(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    known = {each.job.name for each in entries}
    return [
        (parent, each.job.name)
        for each in entries
        for parent in each.job.parents or ()
        if parent in known
    ]


# -- statistics ------------------------------------------------------------------------------------


def histogram(stats: JobStats) -> dict[str, Any]:
    """How long successful runs took, in milliseconds; zeros when there were none."""
    return {
        **{name: milliseconds(stats, ours) for name, ours in PERCENTILES.items()},
        "count": stats.duration.count,
    }


def milliseconds(stats: JobStats, figure: str) -> float:
    """One of the figures of `Durations`."""
    return round(float(getattr(stats.duration, figure) or 0.0) * 1000, 3)


def ranking(stats: Mapping[str, JobStats], figure: str) -> list[dict[str, Any]]:
    """The jobs by one of `PERCENTILES`, longest first, in seconds; nothing for a figure that there is not."""
    ours = PERCENTILES.get(figure)
    if ours is None:
        return []
    times = [(name, milliseconds(each, ours) / 1000) for name, each in stats.items()]
    times.sort(key=lambda each: -each[1])
    return [{"jobNameLabel": name, "time": time} for name, time in times]


def history(entry: Entry, runs: Iterable[RunView]) -> list[dict[str, Any]]:
    """Runs, newest first; those that never began are none for Chronos."""
    return [_told_run(entry, each) for each in runs if each.state not in ("missed", "pending")]


def _told_run(entry: Entry, run: RunView) -> dict[str, Any]:
    attempt, due_ms = max(0, run.tries - 1), round(run.target * 1000)
    arguments = " ".join(entry.job.arguments).replace(";", "")
    content = {
        "taskId": f"ct:{due_ms}:{attempt}:{entry.job.name}:{arguments}",
        "jobName": entry.job.name,
        "slaveId": run.hostname,
        "startTime": _clock_time(run.started),
        "endTime": _clock_time(run.ended),
        "status": _STATUS.get(run.state, "Fail"),
    }
    if run.duration_s is not None:
        content["duration"] = _length(run.duration_s)
    return content


def metrics(entries: Iterable[Entry], stats: Mapping[str, JobStats]) -> dict[str, Any]:
    """What `/metrics` says of jobs, as Dropwizard's metrics do."""
    counters: dict[str, Any] = {}
    for each in entries:
        counts = each.view.counts
        counters[f"jobs.run.success.{each.job.name}"] = {"count": counts.succeeded}
        counters[f"jobs.run.failure.{each.job.name}"] = {"count": counts.failed}
    figures = ("max", "mean", "min", "p75", "p95", "p98", "p99", "p999")
    histograms = {
        f"jobs.run.time.{name}": {
            "count": each.duration.count,
            **{figure: milliseconds(each, figure) for figure in figures},
            "p50": milliseconds(each, "median"),
        }
        for name, each in stats.items()
    }
    content = {"gauges": {}, "counters": counters, "histograms": histograms}
    return {"version": "3.0.0", **content, "meters": {}, "timers": {}}


# -- times -----------------------------------------------------------------------------------------


def moment(at: float | None) -> str:
    """Unix seconds as Joda writes them; "" for never."""
    if at is None:
        return ""
    text = datetime.fromtimestamp(round(at, 3), UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _clock_time(at: float | None) -> str:
    return "N/A" if at is None else datetime.fromtimestamp(at, UTC).strftime("%m/%d/%y %H:%M:%S")


def _length(length_s: float) -> str:
    hours, rest = divmod(int(length_s), 3600)
    minutes, seconds = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "m"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) + f"{seconds}s"
