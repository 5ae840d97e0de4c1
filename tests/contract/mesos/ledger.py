"""Who is offered what: offers that are open, recorded or live, and their sums per agent.

How free resources fall into offers, and to which of two frameworks, depends on the phase of the
allocator's one-second batch against our requests, which no recording can fix. What does not depend
on it is the sum of all open offers of an agent, so that is what a replay compares; and the shape
of each offer, field by field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Offer = Mapping[str, Any]
Sum = dict[str, Any]

_SCALE = 1000  # Mesos keeps three decimals


def resource_sum(resources: Iterable[Mapping[str, Any]]) -> Sum:
    """name (and reservation role) → amount in thousandths, or the set of numbers of ranges."""
    total: Sum = {}
    for resource in resources:
        reserved = [entry["role"] for entry in resource.get("reservations", [])]
        role = resource.get("role", "*")
        holder = reserved[-1] if reserved else role
        key = f"{resource['name']}({holder})"
        if "scalar" in resource:
            total[key] = total.get(key, 0) + round(resource["scalar"]["value"] * _SCALE)
        elif "ranges" in resource:
            spans = resource["ranges"]["range"]
            numbers = {n for span in spans for n in range(span["begin"], span["end"] + 1)}
            total[key] = total.get(key, frozenset()) | numbers
    return {key: amount for key, amount in total.items() if amount}


@dataclass(slots=True)
class Open:
    """An open offer, and the stream (by its id in the fixture) that holds it."""

    offer: Offer
    stream: str
    matched: bool = False

    @property
    def id(self) -> str:
        """The offer's id."""
        return str(self.offer["id"]["value"])

    @property
    def agent(self) -> str:
        """Its agent's id."""
        return str(self.offer["agent_id"]["value"])

    @property
    def sum(self) -> Sum:
        """What it offers."""
        return resource_sum(self.offer["resources"])


@dataclass(slots=True)
class Ledger:
    """The open offers of one side."""

    open: dict[str, Open] = field(default_factory=dict)
    known: dict[str, Open] = field(default_factory=dict)

    def offered(self, stream: str, offers: Iterable[Offer]) -> None:
        """An OFFERS event came."""
        for offer in offers:
            entry = Open(offer, stream)
            self.open[entry.id] = self.known[entry.id] = entry

    def gone(self, offer_id: str) -> bool:
        """It was rescinded, accepted or declined; whether it was open."""
        return self.open.pop(offer_id, None) is not None

    def stream_gone(self, stream: str) -> None:
        """A framework without a stream holds no offers."""
        self.open = {key: entry for key, entry in self.open.items() if entry.stream != stream}

    def of(self, agent: str) -> list[Open]:
        """Open offers of that agent, the biggest first."""
        found = [entry for entry in self.open.values() if entry.agent == agent]
        return sorted(found, key=lambda entry: -entry.sum.get("cpus(*)", 0))

    def sums(self) -> dict[str, Sum]:
        """Agent → what all its open offers add up to."""
        agents = sorted({entry.agent for entry in self.open.values()})
        return {
            agent: resource_sum(
                resource for entry in self.of(agent) for resource in entry.offer["resources"]
            )
            for agent in agents
        }


def describe(sums: Mapping[str, Sum]) -> str:
    """For messages: scalars in units, ranges as counts."""
    return "; ".join(
        f"{agent[-4:]}: "
        + ", ".join(
            f"{key} {len(amount) if isinstance(amount, frozenset | set) else amount / _SCALE:g}"
            for key, amount in sorted(total.items())
        )
        for agent, total in sums.items()
    )
