"""How long a job's runs took, from the records that are kept. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from services.scheduler.jobs.model import Record
from services.scheduler.jobs.run import RunState

QUANTILES = {"median": 0.5, "p75": 0.75, "p95": 0.95, "p98": 0.98, "p99": 0.99, "p999": 0.999}
_COUNTED = {
    RunState.SUCCEEDED: "succeeded",
    RunState.FAILED: "failed",
    RunState.LOST: "failed",
    RunState.MISSED: "missed",
}


def stats_of(records: Sequence[Record]) -> Mapping[str, Any]:
    """Counts of all, and the durations (seconds) of those that went well."""
    counts = dict.fromkeys(_COUNTED.values(), 0)
    for each in records:
        if each.state in _COUNTED:
            counts[_COUNTED[each.state]] += 1
    took = sorted(
        each.duration_s
        for each in records
        if each.state is RunState.SUCCEEDED and each.duration_s is not None
    )
    return {"runs": len(records), **counts, "duration": durations(took)}


def durations(took: Sequence[float]) -> Mapping[str, float | int | None]:
    """Of sorted durations; all but `count` None when there are none."""
    names = ("min", "max", "mean", *QUANTILES)
    if not took:
        return {"count": 0, **dict.fromkeys(names)}
    return {
        "count": len(took),
        "min": took[0],
        "max": took[-1],
        "mean": math.fsum(took) / len(took),
        **{name: quantile(took, at) for name, at in QUANTILES.items()},
    }


def quantile(values: Sequence[float], at: float) -> float:
    """Of sorted values, by linear interpolation between the two nearest (Hyndman and Fan's type 7)."""
    place = (len(values) - 1) * at
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)
