"""After a restore of the store: new addresses wait until the hosts have said which ones they have.

What is being done about it is one document, the same for all replicas. It begins with the note that a restore leaves
in the store, or with a host's word that the store has gone back, and is over when every host that the store knows has
reported and others have had the time to; or, for hosts that don't come back, after `restore_wait_s`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from libs.common.clock import Clock
from libs.common.errors import Unavailable
from libs.common.telemetry import Log
from services.ipam.model import IpamConfig
from services.ipam.store import IpamStore, Recovery

LOOK_EVERY_S = 5.0
ROUND_S = (
    90.0  # hosts report every 60 s: by then those have, too, that a restored store does not know
)
WORD_COUNTS_S = 3600.0  # a host's word alone holds everybody up no more often than this
_TRIES = 16


@dataclass
class Recoveries:
    """One replica's view."""

    store: IpamStore
    config: IpamConfig
    clock: Clock
    log: Log
    current: Recovery = field(default_factory=Recovery)

    async def start(self, restored: float) -> None:
        """Look at what there is; `restored` is the note in the store."""
        self.current = await self.store.recovery()
        await self._begin(
            lambda known: known.restored < restored, restored, "the store was restored"
        )

    def waiting(self) -> str:
        """Why no new address is given now; "" when they are."""
        current = self.current
        if current.over:
            return ""
        missing = ", ".join(sorted(set(current.expected) - set(current.reported))) or "others"
        return f"{current.why}: new addresses wait until hosts have said what they have, now for {missing}"

    async def gone_back(self) -> None:
        """A host has shown that the store has gone back."""
        await self._begin(self._word_counts, self.current.restored, "the store has gone back")

    def _word_counts(self, known: Recovery) -> bool:
        return known.over and self.clock.now() - known.since >= WORD_COUNTS_S

    async def _begin(self, due: Callable[[Recovery], bool], restored: float, why: str) -> None:
        if not due(self.current):
            return
        self.log.error("new addresses wait for hosts' reports", why=why)
        hosts = await self.store.hosts()
        fresh = Recovery(restored, self.clock.now(), why, over=False, expected=hosts)
        # Unless another replica was first.
        await self._change(lambda known: fresh if due(known) else known)

    async def reported(self, host: str) -> None:
        """What the host has is in the store now."""
        if not self.current.over and host not in self.current.reported:
            await self._change(
                lambda known: replace(known, reported=tuple(sorted({*known.reported, host})))
            )

    async def run(self) -> None:
        """Follow what other replicas note, and end it in time."""
        while True:
            await self.clock.sleep(LOOK_EVERY_S)
            try:
                self.current = await self.store.recovery()
                if not self.current.over and self._is_over(self.current):
                    await self._change(lambda known: replace(known, over=self._is_over(known)))
            except Unavailable as error:
                self.log.warning("recovery waits", error=str(error))

    def _is_over(self, known: Recovery) -> bool:
        age_s = self.clock.now() - known.since
        everybody = set(known.expected) <= set(known.reported)
        return (everybody and age_s >= ROUND_S) or age_s >= self.config.restore_wait_s

    async def _change(self, change: Callable[[Recovery], Recovery]) -> None:
        for _ in range(_TRIES):
            known = await self.store.recovery()
            after = replace(change(known), version=known.version)
            if after == known:
                self.current = known
                return
            if await self.store.save_recovery(after):
                self.current = replace(after, version=after.version + 1)
                return
        raise Unavailable("the recovery is being changed by too many")
