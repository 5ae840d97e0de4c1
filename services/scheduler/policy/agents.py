"""Agents as vectors: one row each, attributes as small whole numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.scheduler.model import AgentId
from services.scheduler.policy.model import Candidate, Mask, Vector

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Column:
    """An attribute of all rows: `codes[row]` is the place of its value in `values`; 0 is "", for those that lack it.

    `used`: values that some row has. `identity`: no two rows have the same, as it usually is with `hostname`.
    """

    codes: Codes
    values: Sequence[str]
    index: Mapping[str, int]
    used: Mask
    identity: bool


class Rows:
    """Who the agents are. Never changed: `extended` gives new ones, so that drafts can share them."""

    def __init__(self, known: Iterable[tuple[AgentId, str, Mapping[str, str]]] = ()) -> None:
        rows = list(known)
        self.ids = [agent for agent, _, _ in rows]
        self.hostnames = [hostname for _, hostname, _ in rows]
        self.attributes = [attributes for _, _, attributes in rows]
        self.index = {agent: n for n, agent in enumerate(self.ids)}
        self.masks: dict[object, Mask] = {}  # of filters that only look at who an agent is
        self._columns: dict[str, Column] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def extended(self, more: Mapping[AgentId, tuple[str, Mapping[str, str]]]) -> Rows:
        """With more agents at the end, and known ones as they are by now; the places of known ones stay."""
        rows = {
            agent: (agent, hostname, attributes)
            for agent, hostname, attributes in zip(
                self.ids, self.hostnames, self.attributes, strict=True
            )
        }
        rows.update((agent, (agent, *what)) for agent, what in more.items())
        return Rows(rows.values())

    def column(self, attribute: str) -> Column:
        """The values of an attribute; `hostname` is one too."""
        column = self._columns.get(attribute)
        if column is None:
            column = self._columns[attribute] = _column(self._texts(attribute))
        return column

    def _texts(self, attribute: str) -> list[str]:
        if attribute == "hostname":
            return self.hostnames
        return [each.get(attribute, "") for each in self.attributes]


def _column(texts: Sequence[str]) -> Column:
    index = {"": 0}
    codes = np.fromiter(
        (index.setdefault(text, len(index)) for text in texts), dtype=np.int64, count=len(texts)
    )
    often = np.bincount(codes, minlength=1)
    return Column(codes, list(index), index, often > 0, bool(often.max(initial=0) <= 1))


class Agents:
    """The rows with what is free on them.

    `free[resource, row]`, in the order of RESOURCES; the others per row. Placement books on `free`. `closed` by
    a person to whatever is new; `busy` with launches; `away`: Mesos can't reach them; `barred`: our executor, which is
    paid out of what is reserved for nobody, is not there and can't start; `outside`: it is there in a role that is
    no longer ours. `expected` is what should be free on those that offer nothing now, for whoever explains.
    """

    def __init__(
        self,
        rows: Rows,
        free: Vector,
        offered: Mask,
        full: Mask,
        closed: Mask | None = None,
        busy: Mask | None = None,
        away: Mask | None = None,
        barred: Mask | None = None,
        outside: Mask | None = None,
        expected: Vector | None = None,
    ) -> None:
        self.rows = rows
        self.free = free
        self.offered = offered
        self.full = full
        none = np.zeros(len(rows), dtype=np.bool_)
        self.closed = none if closed is None else closed
        self.busy = none if busy is None else busy
        self.away = none if away is None else away
        self.barred = none if barred is None else barred
        self.outside = none if outside is None else outside
        self._expected = expected

    @classmethod
    def of(cls, candidates: Sequence[Candidate]) -> Agents:
        """Agents that are all offered."""
        free = np.array(
            [[c.free.cpus, c.free.mem_mib, c.free.disk_mib] for c in candidates], dtype=np.float64
        ).reshape(len(candidates), 3)
        return cls(
            Rows((c.agent, c.hostname, c.attributes) for c in candidates),
            np.ascontiguousarray(free.T),
            np.ones(len(candidates), dtype=np.bool_),
            np.array([c.full for c in candidates], dtype=np.bool_),
        )

    def copy(self) -> Agents:
        """The same with vectors of its own, to book on."""
        free, offered = self.free.copy(), self.offered.copy()
        shut = (self.full, self.closed, self.busy, self.away, self.barred, self.outside)
        full, closed, busy, away, barred, outside = (each.copy() for each in shut)
        expected = None if self._expected is None else self._expected.copy()
        return Agents(self.rows, free, offered, full, closed, busy, away, barred, outside, expected)

    def give_back(self, row: int, amounts: Vector) -> None:
        """So much more may be had on a row."""
        self.free[:, row] += amounts
        if self._expected is not None:
            self._expected[:, row] += amounts

    def known(self) -> Vector:
        """What is free on each, whether it offers it or only should."""
        if self._expected is None:
            return self.free
        known: Vector = np.where(self.offered, self.free, self._expected)
        return known
