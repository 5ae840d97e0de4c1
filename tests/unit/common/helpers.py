"""Small real things for tests: a log that keeps its lines, an authenticator with a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from libs.common.errors import Unauthenticated
from libs.common.http import ANONYMOUS, Principal


@dataclass
class Lines:
    """A Log that keeps (level, event, values)."""

    lines: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def debug(self, event: str, **values: Any) -> None:
        self.lines.append(("debug", event, values))

    def info(self, event: str, **values: Any) -> None:
        self.lines.append(("info", event, values))

    def warning(self, event: str, **values: Any) -> None:
        self.lines.append(("warning", event, values))

    def error(self, event: str, **values: Any) -> None:
        self.lines.append(("error", event, values))

    def exception(self, event: str, **values: Any) -> None:
        self.lines.append(("exception", event, values))

    def of(self, level: str) -> list[str]:
        """The events of one level."""
        return [event for each, event, _ in self.lines if each == level]


@dataclass(frozen=True)
class Table:
    """Knows principals by their token."""

    by_token: Mapping[str, Principal]

    async def __call__(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Principal:
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if not token:
            return ANONYMOUS
        if token not in self.by_token:
            raise Unauthenticated("unknown token")
        return self.by_token[token]
