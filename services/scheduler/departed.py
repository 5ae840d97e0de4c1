"""Instances that have ended, and others in their place are yet to be asked for. Pure.

Nobody says whether one is replaced: the deployer makes another when it hears of the end, and that takes until events
have come and gone, longer where a request must be repeated or many have died. Until then it counts as missing.
"""

from __future__ import annotations

from services.scheduler.model import Instance

AWAITED_S = 120.0
"""The deployer's longest pause before a replacement, and a request that was lost and is made again."""


class Departed:
    """By app, when those ended that nobody has been asked for in place of yet."""

    def __init__(self) -> None:
        self._ends: dict[str, list[float]] = {}  # the apps in the order of their last ends

    def gone(self, instance: Instance) -> None:
        """It has ended."""
        if _replaced(instance):
            ends = self._ends.pop(instance.app, [])
            self._ends[instance.app] = [*_since(ends, instance.since), instance.since]
            for app in list(self._ends):
                if _since(self._ends[app], instance.since):
                    break
                del self._ends[app]

    def came(self, instance: Instance) -> None:
        """It is new, in place of the first that ended."""
        ends = self._ends.get(instance.app)
        if ends and _replaced(instance):
            del ends[0]
            if not ends:
                del self._ends[instance.app]

    def of(self, app: str, now: float) -> int:
        """How many of an app are awaited."""
        return len(_since(self._ends.get(app, []), now))


def _replaced(instance: Instance) -> bool:
    return instance.run is None and not instance.cleanup


def _since(ends: list[float], now: float) -> list[float]:
    return [each for each in ends if now - each < AWAITED_S]
