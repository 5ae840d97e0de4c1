"""Was what the API took carried out once? Runs by what their processes told a witness, requests by number. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from libs.client.jobs import RunView
from tests.soak.witness import Seen

_DUE, _TRY = 1, 2  # parts of Chronos' id of a try, ct:<the run's time in ms>:<number>:<job>:


def due(process: Seen) -> float:
    """The moment that its run is for, Unix seconds."""
    return int(process.task.split(":")[_DUE]) / 1000


def carried_out(runs: Sequence[RunView], seen: Iterable[Seen]) -> list[str]:
    """What is wrong with the processes of a job's runs. Each try of a run has one, and its own id.

    A try that nobody saw is no fault here: the witness can't be reached without the switch, and it may have failed
    before it had a process. One that succeeded has told, as telling is its work.
    """
    errors = []
    processes: dict[int, list[Seen]] = defaultdict(list)
    for each in seen:
        processes[round(due(each) * 1000)].append(each)
    by_due: dict[int, RunView] = {}
    for run in runs:
        moment = round(run.target * 1000)
        if moment in by_due:
            errors.append(f"run {run.run} is for the same moment as {by_due[moment].run}")
        by_due[moment] = run
    for moment, those in sorted(processes.items()):
        if moment in by_due:
            errors += _of_run(by_due[moment], those)
        else:
            errors.append(f"{len(those)} processes of {those[0].task}, which is no run's")
    for moment, run in by_due.items():
        ended = {each.token for each in processes.get(moment, ()) if each.end is not None}
        if run.state == "succeeded" and run.output.strip() not in ended:
            errors.append(f"run {run.run} is said to have succeeded, and no process of it has")
    return errors


def _of_run(run: RunView, processes: Sequence[Seen]) -> list[str]:
    errors = []
    for number in sorted({each.task.split(":")[_TRY] for each in processes}):
        count = sum(each.task.split(":")[_TRY] == number for each in processes)
        if count > 1 + run.lost_tries:
            errors.append(f"try {number} of run {run.run} ran {count} times")
    if len(processes) > run.tries + run.lost_tries:
        errors.append(f"run {run.run} had {len(processes)} processes in {run.tries} tries")
    return errors


def too_many(what: str, made: Collection[str], asked: int) -> list[str]:
    """More came of calls than there were. (Fewer may: a call may come to nothing, unless it was accepted.)"""
    return [f"{len(made)} {what} came of {asked} calls"] if len(made) > asked else []
