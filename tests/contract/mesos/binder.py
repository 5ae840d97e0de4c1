"""Recorded names and the live names that stand for them, one to one within a kind."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(slots=True)
class Binder:
    """A bijection per kind (`framework`, `agent`, `offer`, `port`, …), learnt while comparing."""

    live: dict[str, dict[str, str]] = field(default_factory=dict)
    recorded: dict[str, dict[str, str]] = field(default_factory=dict)
    _pattern: re.Pattern[str] | None = None

    def bind(self, kind: str, recorded: str, live: str) -> str | None:
        """Learn the pair, or say how it contradicts what is known."""
        known = self.live.setdefault(kind, {}).get(recorded)
        if known is not None:
            return None if known == live else f"{kind} {recorded} is {known} here, not {live}"
        other = self.recorded.setdefault(kind, {}).get(live)
        if other is not None:
            return f"{kind} {live} already stands for {other}, not for {recorded}"
        self.rebind(kind, recorded, live)
        return None

    def rebind(self, kind: str, recorded: str, live: str) -> None:
        """Set the pair, whatever was known of `recorded`."""
        old = self.live.setdefault(kind, {}).get(recorded)
        if old is not None:
            self.recorded[kind].pop(old, None)
        self.live[kind][recorded] = live
        self.recorded.setdefault(kind, {})[live] = recorded
        self._pattern = None

    def get(self, kind: str, recorded: str) -> str | None:
        """The live name, if known."""
        return self.live.get(kind, {}).get(recorded)

    def text(self, recorded: str) -> str:
        """`recorded` with every recorded name in it replaced by its live one."""
        if self._pattern is None:
            names = sorted(self._names(), key=len, reverse=True)
            # Not within a longer id: …-O1 must not match in …-O12.
            body = "|".join(re.escape(name) for name in names) or r"(?!)"
            self._pattern = re.compile(rf"(?:{body})(?![0-9])")
        table = self._names()
        return self._pattern.sub(lambda match: table[match[0]], recorded)

    def copy(self) -> Binder:
        """One that learns on its own from here on."""
        return Binder(
            {kind: dict(pairs) for kind, pairs in self.live.items()},
            {kind: dict(pairs) for kind, pairs in self.recorded.items()},
            self._pattern,
        )

    def _names(self) -> dict[str, str]:
        # Short names (ports, pids) would hit by chance within other text.
        return {
            recorded: live
            for kind, pairs in self.live.items()
            if kind in IN_TEXT
            for recorded, live in pairs.items()
        }


IN_TEXT = (
    "framework",
    "agent",
    "offer",
    "stream",
    "container",
    "master",
    "uuid",
    "hostname",
    "command",
)
"""Kinds whose names also occur within texts and request bodies."""
