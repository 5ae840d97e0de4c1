"""A world with a store, a bus and a network, and nothing in it: for tests of one service in virtual time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from libs.common.bus.memory import MemoryBus
from libs.common.config import Settings
from libs.common.runtime import CommonConfig, Runtime
from libs.common.store.base import Write
from tests.simulation.faults import Faults
from tests.simulation.life import Life
from tests.simulation.loop import VirtualClock, VirtualLoop
from tests.simulation.process import make_runtime
from tests.simulation.tap import OnWrite, TapStore
from tests.simulation.trace import Trace
from tests.simulation.wire import Net


def _nobody(_collection: str, _write: Write) -> None:
    return


@dataclass
class SmallWorld:
    """See Surroundings. `writes` are told as they take effect."""

    loop: VirtualLoop
    seed: int = 0
    settings: Settings = field(default_factory=dict)
    on_write: OnWrite = _nobody
    common: CommonConfig = field(default_factory=lambda: CommonConfig(cluster="sim"))
    bugs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.trace = Trace(self.loop.time)
        self.faults = Faults(random.Random(self.seed), self.trace)
        self.net = Net(self.faults, self.trace)
        self.bus = MemoryBus(VirtualClock(self.loop))
        self.store = TapStore(self.on_write)

    def bug(self, what: str) -> None:
        """Kept in `bugs`."""
        self.bugs.append(what)

    def runtime(self, service: str, name: str) -> Runtime:
        """The runtime of a replica that never dies."""
        return make_runtime(self, Life(self.loop, name), service)
