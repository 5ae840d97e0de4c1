"""What survives the master: admitted, unreachable and gone agents, drains, weights, maintenance.

As in Mesos, frameworks and tasks are not among it: agents tell of them when they re-register.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from libs.minimesos.schema import Json

AGENT = "agents/"
UNREACHABLE = "unreachable/"
GONE = "gone/"
WEIGHTS = "weights"
QUOTAS = "quotas"
MAINTENANCE = "maintenance"


@dataclass(slots=True)
class Registry:
    """The durable part of the master's knowledge. Times are unix seconds.

    `agents` maps an agent id to `{"info", "drain"?, "deactivated"?}`; `recovered` are those of a
    former master's agents that have not come back yet.
    """

    agents: dict[str, Json] = field(default_factory=dict)
    recovered: dict[str, Json] = field(default_factory=dict)
    unreachable: dict[str, Json] = field(default_factory=dict)
    gone: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    quotas: dict[str, Json] = field(default_factory=dict)
    windows: list[Json] = field(default_factory=list)
    down: list[Json] = field(default_factory=list)


def load(saved: Mapping[str, bytes]) -> Registry:
    """The registry from its saved entries."""
    registry = Registry()
    for key, raw in saved.items():
        value = orjson.loads(raw)
        if key.startswith(AGENT):
            registry.agents[key.removeprefix(AGENT)] = value
        elif key.startswith(UNREACHABLE):
            registry.unreachable[key.removeprefix(UNREACHABLE)] = value
        elif key.startswith(GONE):
            registry.gone[key.removeprefix(GONE)] = value["time"]
        elif key == WEIGHTS:
            registry.weights = value
        elif key == QUOTAS:
            registry.quotas = value
        elif key == MAINTENANCE:
            registry.windows = value["windows"]
            registry.down = value.get("down", [])
    registry.recovered = dict(registry.agents)
    return registry
