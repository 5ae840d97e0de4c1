"""Pure: what the results of health checks mean."""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.spec import HealthCheck
from services.executor.model import CheckState, ProbeResult

PASSED = CheckState(passed=True, ever=True)


def judge(check: HealthCheck, state: CheckState, result: ProbeResult, age_s: float) -> CheckState:
    """The check's state after a probe. Failures before the first success count only after the grace."""
    if result.passed:
        return PASSED
    counted = state.ever or age_s >= check.grace_s
    return CheckState(
        failures=state.failures + 1 if counted else 0,
        ever=state.ever,
        message=result.message,
    )


def next_probe_s(check: HealthCheck, state: CheckState, age_s: float, first_s: float) -> float:
    """Pause before the next probe: the interval, but short and growing with age while failures don't count."""
    if state.ever or age_s >= check.grace_s:
        return check.interval_s
    return min(check.interval_s, max(first_s, age_s / 2))


def verdict(
    checks: Sequence[HealthCheck], states: Sequence[CheckState], before: bool | None
) -> bool | None:
    """Healthy when all checks pass, unhealthy when one has failed often enough; otherwise as before."""
    if any(failing(check, state) for check, state in zip(checks, states, strict=True)):
        return False
    if all(state.passed for state in states):
        return True
    return before


def failing(check: HealthCheck, state: CheckState) -> bool:
    """Has it failed as often as it may?"""
    return state.failures >= check.max_consecutive_failures


def why(checks: Sequence[HealthCheck], states: Sequence[CheckState]) -> str:
    """In words, which check failed and how. There are no states before the container runs."""
    for check, state in zip(checks, states, strict=False):
        if failing(check, state):
            return f"health check failed: {state.message} ({state.failures} times in a row)"
    return ""
