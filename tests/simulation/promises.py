"""What was acknowledged, and what must come of it: each deployment asked for once, the last number of instances, and
alerts of which people were told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from libs.common.store.base import Write
from tests.simulation.cloud import Cloud
from tests.simulation.parts import Told

TOLD_WITHIN_S = 90.0
"""An alert that lasts for so long is told: mail that fails, or a monitor or a store that is away, takes less."""


@dataclass
class Acked:
    """What the cloud has promised: deployments by id, and the newest spec of each app."""

    deployments: dict[str, str] = field(default_factory=dict)  # id → app
    markers: dict[str, str] = field(default_factory=dict)  # app → env MARK of its newest PUT
    wanted: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    """App → what its spec's number of instances is from: one of these, a PUT (its number) or a scale (its id)."""

    scales: dict[str, int] = field(default_factory=dict)  # deployment → the number asked for
    asked: set[str] = field(default_factory=set)  # all deployments that ever were acknowledged
    puts: dict[str, int] = field(
        default_factory=dict
    )  # app → how many PUTs began and were answered

    def take(self, deployment: str, app: str) -> None:
        """A deployment was acknowledged."""
        self.deployments[deployment] = app
        self.asked.add(deployment)

    def begin_put(self, app: str) -> None:
        """A spec is on its way; whatever else changes the app's until it is answered may be first or last."""
        self.puts[app] = self.puts.get(app, 0) + 1

    def end_put(self, app: str, mark: str, instances: int) -> None:
        """The spec was acknowledged."""
        self.puts[app] += 1
        self.markers[app] = mark
        self.wanted[app] = (instances,)

    def numbers(self, app: str) -> set[int]:
        """How many instances the app's spec may have."""
        found = (
            each if isinstance(each, int) else self.scales.get(each)
            for each in self.wanted.get(app, ())
        )
        return {each for each in found if each is not None}


class Promises:
    """Follows what becomes of what was acknowledged; `check` at the end."""

    def __init__(self, cloud: Cloud, acked: Acked, fail: Callable[[str], None]) -> None:
        self._cloud = cloud
        self.acked = acked
        self._fail = fail
        self._puts: dict[str, int] = {}  # scale → PUTs of its app when it began
        self._scaled: set[str] = set()  # scales that succeeded
        self._turns: dict[str, dict[Told, float]] = {}  # alert → its turns, and when each was saved
        self._kept = Acked()
        cloud.on_write.append(self.on_write)

    def remember(self) -> None:
        """A backup is made: what is promised from now on is lost with a restore."""
        acked = self.acked
        self._kept = Acked(dict(acked.deployments), dict(acked.markers), dict(acked.wanted))

    def store_went_back(self) -> None:
        """The backup was restored: what was promised before it holds, and alerts begin anew."""
        kept = self._kept
        self.acked.deployments, self.acked.markers = kept.deployments, kept.markers
        self.acked.wanted = kept.wanted
        self._puts.clear()
        self._scaled.clear()
        self._turns.clear()

    def on_write(self, collection: str, write: Write) -> None:
        """One write took effect."""
        body = write.body
        if collection == "deployer_apps":
            self._follow_scales(write.id, body)
        elif collection == "monitor_alerts" and body["since"]:
            turn = Told(write.id, bool(body["firing"]), float(body["since"]))
            self._turns.setdefault(write.id, {}).setdefault(turn, self._cloud.loop.time())

    def _follow_scales(self, app: str, body: Mapping[str, Any]) -> None:
        puts, wanted = self.acked.puts.get(app, 0), self.acked.wanted
        running = body["deployment"]
        if running is not None and running["action"] == "scale":
            self._puts.setdefault(running["id"], puts)
        for each in body["intents"]["deployments"]:
            name = each["id"]
            if (each["action"], each["state"]) != ("scale", "succeeded") or name in self._scaled:
                continue
            self._scaled.add(name)
            # With a PUT under way (an odd number), or begun since the scale was, either number may have come last.
            sure = puts % 2 == 0 and puts == self._puts.get(name)
            wanted[app] = (name,) if sure else (*wanted.get(app, ()), name)

    def check(self) -> None:
        """All that makes sense only in the end."""
        for name, body in self._cloud.store.bodies("deployer_deployments").items():
            if name not in self.acked.asked:
                self._fail(f"{body['app']}: nobody was told of deployment {name}: asked twice?")
        now, told = self._cloud.loop.time(), self._cloud.mailbox.told
        for turns in self._turns.values():
            self._check_told(list(turns.items()), told, now)

    def _check_told(self, turns: list[tuple[Told, float]], told: list[Told], now: float) -> None:
        ends = [*(at for _, at in turns[1:]), now]
        for (turn, began), end in zip(turns, ends, strict=True):
            if turn.firing and end - began >= TOLD_WITHIN_S and turn not in told:
                self._fail(f"{turn.alert} lasted {end - began:.0f} s, of which nobody was told")
        # What was mailed while the store took nothing is of no turn: nobody is left to know that it is over.
        known = {turn for turn, _ in turns}
        last = [each for each in told if each in known][-1:]
        newest, began = turns[-1]
        over = not newest.firing and now - began >= TOLD_WITHIN_S
        if over and last and last[0].firing:
            self._fail(f"people were told of {newest.alert}, but never that it is over")
