"""Which instances are ready, as the deployer says: its own stops must leave as many as an app's strategy promises."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from libs.common.spec import AppSpec, Strategy
from tests.simulation.cloud import Cloud

GRACE_S = 5.0
"""What changed so shortly before a stop, who decided it may not have seen; more than clocks differ by."""

SLACK_S = 0.5
"""From the moment that a document tells until it is saved; a store's call may be slow."""

_NEVER = float("inf")


class Readiness:
    """Since when each instance is ready. Deaths by faults don't count against a deployer that can't know them yet."""

    def __init__(self, cloud: Cloud, fail: Callable[[str], None]) -> None:
        self._cloud = cloud
        self._fail = fail
        self._healthy: dict[str, tuple[float, float]] = {}  # healthy_since, and when it was written
        self._ready_at: dict[str, float] = {}  # of those that serve
        self._left_at: dict[str, float] = {}  # when one that was ready ceased to be
        self.stops = 0  # of ready ones, that were looked at

    def store_went_back(self) -> None:
        """What was learned does not count any more."""
        self._healthy.clear()
        self._ready_at.clear()
        self._left_at.clear()

    def wrote(self, instance: str, body: Mapping[str, Any]) -> None:
        """The deployer has saved an instance."""
        now = self._cloud.loop.time()
        if not _serves(body):
            self._left(instance, now)
            return
        since = body["healthy_since"]
        if self._healthy.get(instance, (None,))[0] != since:  # by the clock of who wrote it
            self._healthy[instance] = (since, now)
            self._left(instance, now)
        if instance not in self._ready_at:
            settled_at = self._healthy[instance][1] + float(body["min_ready_s"])
            self._ready_at[instance] = max(now, settled_at)

    def stopped(
        self, app: str, body: Mapping[str, Any], fresh: Mapping[str, str], doomed: Collection[str]
    ) -> None:
        """An app's document has new stops, by instance with their reasons; `doomed` are all stops so far."""
        now = self._cloud.loop.time()
        forced = {name for name, reason in fresh.items() if "deadline has passed" in reason}
        taken = [
            name
            for name in sorted(fresh.keys() - forced)
            if self._ready_at.get(name, _NEVER) + GRACE_S <= now
        ]
        if not taken:
            return
        self.stops += len(taken)
        left = [
            name
            for name, each in self._cloud.store.bodies("deployer_instances").items()
            if each["app"] == app
            and each["wanted"] == "run"
            and (name in forced or name not in doomed)
            and self._may_look_ready(name, now)
        ]
        least = _least(body)
        if len(left) < least:
            self._fail(
                f"{app}: {taken} were ready and are stopped; {left} is too few, {least} must stay"
            )

    def _left(self, instance: str, now: float) -> None:
        """It is not what it was any more, and may have looked ready until now."""
        if self._ready_at.pop(instance, _NEVER) - self._early_s() <= now:
            self._left_at[instance] = now

    def _may_look_ready(self, instance: str, now: float) -> bool:
        ready_at = self._ready_at.get(instance, _NEVER) - self._early_s()
        return ready_at <= now or self._left_at.get(instance, -_NEVER) >= now - GRACE_S

    def _early_s(self) -> float:
        """So much sooner one deployer takes for ready what another saw become healthy."""
        skews = [each.skew_s for each in self._cloud.service("deployer")]
        return max(skews) - min(skews) + SLACK_S


def _serves(body: Mapping[str, Any]) -> bool:
    if body["state"] != "healthy":
        return False
    hook = body["hook"]
    endpoint = hook["endpoint"] or {}
    in_use = hook["phase"] == "on" and endpoint.get("address") == body["address"]
    return in_use or not body["hooked"]


def _least(body: Mapping[str, Any]) -> int:
    """How many ready ones the deployer's stops must leave."""
    deployment = body["deployment"]
    if deployment is not None:
        goal = int(deployment["goal"]["wanted"])
        return goal - Strategy.model_validate(deployment["strategy"]).unavailable(goal)
    spec, wanted = AppSpec.model_validate(body["spec"]), int(body["wanted"])
    return wanted - max(spec.strategy.unavailable(wanted), spec.budget(wanted))
