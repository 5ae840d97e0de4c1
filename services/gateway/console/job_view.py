"""What the console shows of jobs and runs, as data. Pure: from the API's answers to rows, bars and words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson

from libs.client.jobs import Durations, JobStats, JobView, RunView, whole_spec
from libs.common.errors import InvalidInput
from libs.common.schedule import parse
from libs.common.serve import segment
from services.gateway.console.job_graph import HEIGHT, WIDTH, Graph, Node, draw, family
from services.gateway.peers import with_query

ROWS = 500  # a page of more can't be read, and takes long
HISTORY = 40  # runs on a page
TIMES = 5
NAME_CHARS = 24  # of a job in the graph
# States of jobs and of runs → colour class.
LOOKS: Mapping[str, str] = {
    "active": "ok",
    "paused": "waiting",
    "disabled": "bad",
    "finished": "leaving",
    "succeeded": "ok",
    "running": "starting",
    "pending": "waiting",
    "failed": "bad",
    "missed": "waiting",
    "killed": "leaving",
    "lost": "lost",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """A time: for machines, and on a clock (UTC). How far off it is, the page's script says."""

    iso: str
    text: str


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in a table. `at` is when it was due."""

    run: str
    url: str
    state: str
    look: str
    cause: str
    at: Moment
    started: str
    took: str
    tries: int
    exit_code: str
    host: str
    reason: str
    is_shown: bool


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job in a table."""

    job: str
    url: str
    state: str
    look: str
    reason: str
    when: str
    next: Moment | None
    running: int
    last: RunRow | None
    failures: int
    owner: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A run in the strip of the newest ones: its height is how long it took, 0 to 100."""

    x: int
    height: float
    look: str
    told: str


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A job in the graph."""

    at: Node
    url: str
    look: str
    text: str
    told: str
    is_here: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """The graph of jobs that depend on each other."""

    graph: Graph
    nodes: tuple[GraphNode, ...]
    box: tuple[int, int] = (WIDTH, HEIGHT)


@dataclass(frozen=True, slots=True)
class JobPage:
    """One job: its row, its facts, what comes, what was, and one run with its output.

    `follow` is where a run that is under way tells more of it; `actions` are the buttons, each with its path, of those
    who `may` change the job.
    """

    row: JobRow
    description: str
    facts: tuple[tuple[str, str], ...]
    times: tuple[str, ...]
    bars: tuple[Bar, ...]
    counts: str
    durations: tuple[tuple[str, str], ...]
    runs: tuple[RunRow, ...]
    more: str
    run: RunRow | None
    output: str
    follow: str
    may: bool
    actions: tuple[tuple[str, str], ...]
    spec: str


# -- jobs ------------------------------------------------------------------------------------------


def job_url(job: str, run: str = "", before: str = "") -> str:
    """A job's page: with one of its runs, or from a place in its history on."""
    bu, _, name = job.partition("/")
    return with_query(f"/jobs/{segment(bu)}/{segment(name)}", {"run": run, "before": before})


def job_row(view: JobView) -> JobRow:
    """A job as a row."""
    return JobRow(
        job=view.job,
        url=job_url(view.job),
        state=view.state,
        look=LOOKS.get(view.state, "waiting"),
        reason=view.reason,
        when=when(view),
        next=moment(view.next) if view.state == "active" else None,
        running=len(view.running),
        last=run_row(view.last_run) if view.last_run else None,
        failures=view.failures_in_a_row,
        owner=str(view.spec.get("owner") or ""),
    )


def when(view: JobView) -> str:
    """What makes it run."""
    parents, schedule = view.spec.get("parents"), view.spec.get("schedule")
    if parents:
        return f"after {', '.join(parents)}"
    if not schedule:
        return "when asked to"
    zone = view.spec.get("time_zone", "UTC")
    return str(schedule) if zone == "UTC" else f"{schedule}, {zone}"


def picture(jobs: Sequence[JobView], here: str = "") -> Picture | None:
    """The graph of jobs that depend on each other; with `here` of that one's family only."""
    known = {each.job: each for each in jobs}
    parents = {
        each.job: tuple(f"{each.bu}/{name}" for name in each.spec.get("parents") or ())
        for each in jobs
    }
    graph = draw(family(parents, here))
    if graph is None:
        return None
    return Picture(graph, tuple(_node(known[each.job], each, here) for each in graph.nodes))


def _node(view: JobView, at: Node, here: str) -> GraphNode:
    last = view.last_run.state if view.last_run else "no run yet"
    look = LOOKS.get(last if view.state == "active" else view.state, "leaving")
    text = view.name if len(view.name) <= NAME_CHARS else f"{view.name[: NAME_CHARS - 1]}…"
    told = f"{view.job}: {view.state}, last run {last}" if view.last_run else f"{view.job}: {last}"
    return GraphNode(at, job_url(view.job), look, text, told, view.job == here)


# -- one job ---------------------------------------------------------------------------------------


def job_page(
    view: JobView,
    runs: Sequence[RunView],
    stats: JobStats,
    run: RunView | None,
    tail: str | None = None,
    *,
    may: bool = False,
) -> JobPage:
    """A job's page with HISTORY of its runs; `run` is the one whose output is shown, `tail` what it writes now.

    `may` who looks change the job.
    """
    shown = run.run if run is not None else ""
    counts = view.counts
    return JobPage(
        row=job_row(view),
        description=str(view.spec.get("description") or ""),
        facts=tuple(_facts(view)),
        times=tuple(next_times(view)),
        bars=bars(runs),
        counts=f"{counts.succeeded:,} succeeded, {counts.failed:,} failed, {counts.missed:,} missed",
        durations=tuple(_durations(stats.duration)),
        runs=tuple(run_row(each, shown) for each in runs),
        more=job_url(view.job, before=runs[-1].run) if len(runs) >= HISTORY else "",
        run=run_row(run, shown) if run is not None else None,
        output=tail if tail is not None else run.output if run is not None else "",
        follow=_output_url(run) if run is not None and tail is not None else "",
        may=may,
        actions=tuple(_actions(view)) if may else (),
        spec=orjson.dumps(view.spec, option=orjson.OPT_INDENT_2).decode(),
    )


def _output_url(run: RunView) -> str:
    return f"/console{job_url(run.job)}/runs/{segment(run.run)}/output"


def _actions(view: JobView) -> Iterator[tuple[str, str]]:
    """What can be done in the job's state. One that its spec disables is enabled by a put alone."""
    at = job_url(view.job)
    if view.state != "disabled":
        yield "Run now", f"{at}/run"
    if view.state == "active":
        yield "Pause", f"{at}/pause"
    if view.state in ("paused", "disabled") and view.spec.get("enabled", True):
        yield "Resume", f"{at}/resume"


def _facts(view: JobView) -> Iterator[tuple[str, str]]:
    spec = whole_spec(view)
    retry, catch_up = spec.get("retry") or {}, spec.get("catch_up") or {}
    yield "Schedule", when(view)
    yield "Image", view.image
    if spec.get("command"):
        yield "Command", " ".join(spec["command"])
    yield "Network", str(spec.get("network", ""))
    yield "When runs overlap", str(spec.get("concurrency", ""))
    if retry.get("limit"):
        yield "Retries", f"{retry['limit']}, the first after {duration(retry.get('delay_s'))}"
    yield "Time-out", duration(spec.get("timeout_s")) or "none"
    if catch_up:
        yield "Catch-up", str(catch_up.get("policy", ""))
    if spec.get("disable_after"):
        yield "Disabled after", f"{spec['disable_after']} failed in a row"
    if view.queued:
        yield "Waiting", f"{view.queued}"
    if spec.get("owner"):
        yield "Owner", str(spec["owner"])
    changed = moment(view.changed)
    if changed is not None:
        yield "Version", f"{view.version}, {changed.text}, by {view.changed_by}"


def next_times(view: JobView) -> Iterator[str]:
    """Its next times, in its own zone; none when it does not run by itself now."""
    schedule, zone = view.spec.get("schedule"), str(view.spec.get("time_zone") or "UTC")
    if view.next is None or not schedule or view.state != "active":
        return
    try:
        read, where = parse(str(schedule), zone, salt=view.job), ZoneInfo(zone)
    except (InvalidInput, ZoneInfoNotFoundError):  # a newer scheduler knows more than we do
        return
    at: float | None = view.next
    for _ in range(TIMES):
        if at is None:
            return
        yield datetime.fromtimestamp(at, where).strftime("%a %Y-%m-%d %H:%M:%S %Z")
        at = read.after(at)


def _durations(took: Durations) -> Iterator[tuple[str, str]]:
    for name in Durations.model_fields:
        value = getattr(took, name)
        if name != "count" and value is not None:
            yield name, duration(value)


# -- runs ------------------------------------------------------------------------------------------


def run_row(run: RunView, shown: str = "") -> RunRow:
    """A run as a row."""
    started = moment(run.started)
    return RunRow(
        run=run.run,
        url=job_url(run.job, run.run),
        state=run.state,
        look=LOOKS.get(run.state, "waiting"),
        cause=run.cause.replace("_", " "),
        at=moment(run.target) or Moment("", ""),
        started=started.text if started is not None else "",
        took=duration(run.duration_s),
        tries=run.tries,
        exit_code="" if run.exit_code is None else str(run.exit_code),
        host=run.hostname,
        reason=run.reason,
        is_shown=run.run == shown,
    )


def bars(runs: Sequence[RunView]) -> tuple[Bar, ...]:
    """The runs as bars, the oldest first."""
    longest = max((run.duration_s or 0.0 for run in runs), default=0.0)
    made = []
    for n, run in enumerate(reversed(runs)):
        part = (run.duration_s or 0.0) / longest if longest else 0.0
        told = f"{run.run}: {run.state}"
        if run.duration_s is not None:
            told += f" after {duration(run.duration_s)}"
        made.append(
            Bar(n * 10, round(max(6.0, 100.0 * part), 1), LOOKS.get(run.state, "waiting"), told)
        )
    return tuple(made)


# -- words -----------------------------------------------------------------------------------------


def moment(at: float | None) -> Moment | None:
    """A time; None when there is none."""
    if not at:
        return None
    read = datetime.fromtimestamp(at, UTC)
    return Moment(read.isoformat(), read.strftime("%Y-%m-%d %H:%M:%SZ"))


def duration(seconds: float | None) -> str:
    """A duration in words, to two figures or so; "" when there is none."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.3g} s"
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
