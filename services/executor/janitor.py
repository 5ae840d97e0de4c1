"""Keeps room on the host's disk: images that nobody needs go, and without room nothing new is started.

The model is the kubelet's: above a high-water mark images go, the longest unused first, down to a low-water mark. What
an attempt of ours wants, or a container of anybody's has, never goes; nor does, by default, what we did not pull.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from libs.common.clock import Clock
from libs.common.disk import Space
from libs.common.errors import Unavailable
from libs.common.telemetry import Log
from libs.common.waiting import set_or_due
from services.executor.config import ExecutorConfig
from services.executor.images import plain, removable, uses
from services.executor.ports import Images, Measure, UseLedger

Wanted = Callable[[], frozenset[str]]
"""The images of attempts that are not over, at this moment."""


class Janitor:
    """Looks after one host's disk while `run` runs."""

    def __init__(
        self,
        images: Images,
        ledger: UseLedger,
        measure: Measure,
        places: Sequence[Path],
        *,
        clock: Clock,
        log: Log,
        config: ExecutorConfig,
    ) -> None:
        self._images = images
        self._ledger = ledger
        self._measure = measure
        self._places = tuple(places)  # that we write to ourselves
        self._clock = clock
        self._log = log
        self._config = config
        self._used_at = ledger.load()
        self._saved = dict(self._used_at)
        self._root: Path | None = None  # of the engine; not known before it was asked
        self._removing = asyncio.Lock()
        self._look = asyncio.Event()

    def no_room(self) -> str:
        """Why nothing new can be started here, "" when it can; then room is made at once."""
        try:
            lacking = self._lacking()
        except Unavailable as error:  # then the engine will say it
            self._log.warning("the disk can't be measured", reason=str(error))
            return ""
        if lacking:
            self._look.set()
        return lacking

    async def before_pull(self, image: str) -> None:
        """The image is ours from now on. Waits for a removal under way, which might be of this one."""
        self._used_at[plain(image)] = self._clock.now()
        async with self._removing:
            self._save()

    async def run(self, wanted: Wanted) -> None:
        """Clean up now and then, and when there is no room."""
        while True:
            self._look.clear()
            try:
                await self.clean(wanted)
            except Unavailable as error:
                self._log.warning("the disk was not cleaned up", reason=str(error))
            await set_or_due(self._look, self._config.clean_s)

    async def clean(self, wanted: Wanted) -> int:
        """Note what is of use; remove images if the disk is too full. Returns how many went. Raises Unavailable."""
        if self._root is None:
            self._root = await self._images.root()
        config, now = self._config, self._clock.now()
        images = await self._images.images()
        self._used_at = uses(images, self._used_at, wanted(), now, config)
        self._save()
        space = self._measure(self._root)
        if space.used_pct < config.image_high_pct and not self._lacking():
            return 0
        gone = 0
        for asked in removable(images, self._used_at, wanted(), now, config):
            if self._enough():
                break
            gone += await self._remove(asked, wanted)
        after = self._measure(self._root)
        self._log.warning(
            "disk cleaned up",
            images=gone,
            used_pct=round(after.used_pct, 1),
            was_pct=round(space.used_pct, 1),
        )
        return gone

    async def _remove(self, names: tuple[str, ...], wanted: Wanted) -> bool:
        async with self._removing:
            for name in names:
                # Asked anew each time: an attempt may have come while another image was being removed.
                if plain(name) in {plain(each) for each in wanted()}:
                    return False
                if not await self._images.remove_image(name):
                    return False
                self._used_at.pop(plain(name), None)
                self._log.info("image removed", image=name)
        return True

    def _enough(self) -> bool:
        assert self._root is not None
        used_pct = self._measure(self._root).used_pct
        return used_pct <= self._config.image_low_pct and not self._lacking()

    def _lacking(self) -> str:
        config = self._config
        for place in (*self._places, *([self._root] if self._root else [])):
            space: Space = self._measure(place)
            lacking = space.lacks(config.min_free_mib, inodes_pct=config.min_free_inodes_pct)
            if lacking:
                return lacking
        return ""

    def _save(self) -> None:
        """On a full disk what is known is kept in memory; an image that is forgotten so stays."""
        if self._used_at == self._saved:
            return
        try:
            self._ledger.save(self._used_at)
            self._saved = dict(self._used_at)
        except Unavailable as error:
            self._log.warning("use of images not saved", reason=str(error))
