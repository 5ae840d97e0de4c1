"""Which quotas there are: one document, as the networks are, which replicas read again every REFRESH_S."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from libs.common.clock import Clock
from libs.common.errors import Conflict, NotFound, Stale, Unavailable
from libs.common.events import Event, seal
from libs.common.events import model as ev
from libs.common.spec import Name
from libs.common.store.base import Body, Collection, Write

REFRESH_S = 2.0
MAX_QUOTAS = 2000
TRIES = 16
_DOC = "quotas"


class QuotaBody(BaseModel):
    """PUT /v1/quotas/{bu}: how many addresses a business unit may have, over all networks and in some."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int | None = Field(None, ge=0, le=2**40, description="over all networks; none: no limit")
    networks: dict[Name, int] = Field({}, max_length=200, description="by network")


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit. No `network`: over all of them."""

    bu: str
    network: str
    limit: int

    @property
    def scope(self) -> str:
        """The document that has its use."""
        return f"{self.bu}/{self.network}" if self.network else self.bu

    @property
    def where(self) -> str:
        """For messages."""
        return f" in network {self.network}" if self.network else ""


@dataclass(frozen=True, slots=True)
class Rule:
    """A business unit's quotas. `version` counts its changes."""

    body: QuotaBody
    version: int = 1

    def quotas(self, bu: str) -> list[Quota]:
        """Each limit."""
        whole = [] if self.body.limit is None else [Quota(bu, "", self.body.limit)]
        return [
            *whole,
            *(Quota(bu, name, most) for name, most in sorted(self.body.networks.items())),
        ]


@dataclass(frozen=True, slots=True)
class _Stored:
    rules: Mapping[str, Rule] = field(default_factory=dict)
    version: int = 0


class Rules:
    """One replica's view."""

    def __init__(self, collection: Collection, clock: Clock) -> None:
        self.collection = collection
        self._clock = clock
        self._stored = _Stored()
        self._read_at = float("-inf")
        self.known: Mapping[str, Sequence[Quota]] = {}

    async def current(self) -> Mapping[str, Sequence[Quota]]:
        """All quotas by business unit, as they are or were a moment ago. Raises Unavailable."""
        if self._clock.monotonic() - self._read_at >= REFRESH_S:
            await self.all()
        return self.known

    async def all(self) -> Mapping[str, Rule]:
        """Read them again. Raises Unavailable."""
        asked_at = self._clock.monotonic()
        doc = await self.collection.get(_DOC)
        stored = _Stored(
            {each["id"]: _rule(each) for each in doc.body["quotas"]} if doc else {},
            doc.version if doc else 0,
        )
        self._take(stored, asked_at)
        return stored.rules

    def _take(self, stored: _Stored, at: float) -> None:
        self._read_at = at
        self._stored = stored
        self.known = {bu: each.quotas(bu) for bu, each in stored.rules.items()}

    async def put(
        self, bu: str, body: QuotaBody, actor: str, must_be: frozenset[int] | None
    ) -> tuple[Rule, bool]:
        """Set a business unit's quotas; True when there were none. Raises Stale, Conflict (too many), Unavailable."""
        for _ in range(TRIES):
            before = (await self.all()).get(bu)
            _check(must_be, before)
            after = Rule(body, before.version + 1 if before else 1)
            if before is not None and before.body == body:
                return before, False
            rules = {**self._stored.rules, bu: after}
            if len(rules) > MAX_QUOTAS:
                raise Conflict(f"there are {MAX_QUOTAS} quotas already")
            if await self._save(rules, _audit(actor, "quota.put", bu, before, after)):
                return after, before is None
        raise Unavailable("quotas are being changed by too many")

    async def delete(self, bu: str, actor: str, must_be: frozenset[int] | None) -> None:
        """No limit any more. Raises NotFound, Stale, Unavailable."""
        for _ in range(TRIES):
            before = (await self.all()).get(bu)
            if before is None:
                raise NotFound(f"business unit {bu} has no quota")
            _check(must_be, before)
            rules = {name: each for name, each in self._stored.rules.items() if name != bu}
            if await self._save(rules, _audit(actor, "quota.delete", bu, before, None)):
                return
        raise Unavailable("quotas are being changed by too many")

    async def _save(self, rules: Mapping[str, Rule], event: Event) -> bool:
        asked_at, version = self._clock.monotonic(), self._stored.version
        body = {
            "quotas": [
                {
                    "id": bu,
                    "version": each.version,
                    "limit": each.body.limit,
                    "networks": [
                        {"id": name, "limit": most} for name, most in each.body.networks.items()
                    ],
                }
                for bu, each in sorted(rules.items())
            ]
        }
        sealed = seal(
            (event,), source="ipam", sequence=version + 1, now=self._clock.now(), aggregate="quotas"
        )
        (result,) = await self.collection.replace_many([Write(_DOC, version, body, sealed)])
        if result.ok:
            self._take(replace(self._stored, rules=rules, version=version + 1), asked_at)
        return result.ok


def _check(must_be: frozenset[int] | None, before: Rule | None) -> None:
    if must_be is not None and (before is None or (must_be and before.version not in must_be)):
        raise Stale(f"it is at version {before.version if before else 0}")


def _rule(body: Body) -> Rule:
    networks = {each["id"]: each["limit"] for each in body["networks"]}
    return Rule(QuotaBody(limit=body["limit"], networks=networks), int(body["version"]))


def _audit(actor: str, action: str, bu: str, before: Rule | None, after: Rule | None) -> Event:
    return ev.AuditRecorded(
        actor=actor,
        action=action,
        target=f"bu {bu}",
        allowed=True,
        before=before.body.model_dump(mode="json") if before else None,
        after=after.body.model_dump(mode="json") if after else None,
    )


def known_quotas(body: Mapping[str, Any]) -> dict[str, Any]:
    """What this code understands of the document."""
    return {
        "quotas": [
            {
                **{name: each[name] for name in ("id", "version", "limit")},
                "networks": [
                    {name: limit[name] for name in ("id", "limit")} for limit in each["networks"]
                ],
            }
            for each in body["quotas"]
        ]
    }
