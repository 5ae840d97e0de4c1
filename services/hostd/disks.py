"""How much room this host's disks have, said in numbers (metrics) and, when it is little, in words (/healthz)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from libs.common.disk import Space
from libs.common.telemetry import Telemetry
from services.hostd.ports import Engine, Measure
from services.hostd.settings import HostdConfig


class Disks:
    """The engine's, hostd's own, and those that are configured."""

    def __init__(
        self,
        engine: Engine,
        measure: Measure,
        places: Sequence[Path],
        settings: HostdConfig,
        telemetry: Telemetry,
    ) -> None:
        self.low = ""  # what there is little of, by the last look
        self._engine = engine
        self._measure = measure
        self._places = tuple(places)
        self._settings = settings
        self._log = telemetry.log
        self._free = telemetry.gauge("hostd_disk_free_bytes", "Room that is left", "path")
        self._total = telemetry.gauge("hostd_disk_total_bytes", "Room there is", "path")
        self._inodes = telemetry.gauge(
            "hostd_disk_free_inodes_ratio", "Inodes left, of all there are", "path"
        )

    async def look(self) -> None:
        """Measure all. Raises Unavailable when the engine does not say where its data is: the rest is measured."""
        spaces = [self._measure(place) for place in self._places]
        try:
            spaces.insert(0, self._measure(await self._engine.root()))
        finally:
            self._tell(spaces)

    def _tell(self, spaces: Sequence[Space]) -> None:
        settings, before = self._settings, self.low
        for each in spaces:
            self._free.labels(each.path).set(each.free_bytes)
            self._total.labels(each.path).set(each.total_bytes)
            self._inodes.labels(each.path).set(each.free_inodes_pct / 100)
        lacking = (
            each.lacks(free_pct=settings.disk_low_pct, inodes_pct=settings.disk_low_pct)
            for each in spaces
        )
        self.low = next((each for each in lacking if each), "")
        if bool(self.low) != bool(before):
            self._log.warning("the disk is low" if self.low else "the disk has room", low=self.low)
