"""Whether this host's executors live, by the signs that their workers give. Kept in memory: after a restart hostd knows
of those that give signs again.

A worker that ends in order takes itself back. One that is silent without that stands still, unless its supervisor is
gone: then Mesos knows that the executor ended, and starts one when it is needed. One that another took the place of was
killed, or has failed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from libs.common.clock import Clock
from libs.common.pids import is_gone, pid_space
from libs.common.telemetry import Log

FORGET_S = 900.0  # one that ended, or may have, comes back only when there is work for it
TOLD_S = 60.0  # for so long it is said that one was started anew…
COUNTED_S = 300.0  # …and how often within this time
MOST = 16  # executors, and ends of them
TURN_S = 1.0
TURN_MAX_S = 2.0  # a turn that took longer says that we did not run ourselves to hear anybody


class Sign(BaseModel):
    """A worker's sign of life. What a newer one says besides is passed over."""

    model_config = ConfigDict(frozen=True)

    run: str = Field(max_length=64, description="of the executor: its supervisor's")
    worker: str = Field(max_length=64, description="this process, among the run's workers")
    unheard_s: float = Field(
        0.0, ge=0, description="for how long its supervisor has not listened to it"
    )
    supervisor: int = Field(0, ge=0, description="that process; 0: it says nothing of it")
    pid_space: str = Field("", max_length=64, description="the namespace of that number")


@dataclass
class _Heard:
    """An executor, and for how long it has been silent since its last sign."""

    sign: Sign
    silent_s: float = 0.0
    gone: bool = False


class Executors:
    """Of one cluster, by the agent that each belongs to."""

    def __init__(self, silent_s: float, clock: Clock, log: Log) -> None:
        self._silent_s = silent_s
        self._clock = clock
        self._log = log
        self._heard: dict[str, _Heard] = {}
        self._ends: deque[tuple[float, str]] = deque(maxlen=MOST)
        self._over: deque[str] = deque(maxlen=MOST)  # workers whose signs may still be under way
        self._wake = asyncio.Event()  # there is one to be listened for

    def sign(self, agent: str, sign: Sign) -> None:
        """A worker of this agent's executor lives."""
        if sign.worker in self._over:
            return
        before = self._heard.pop(agent, None)
        if before is not None and before.sign.worker != sign.worker:
            who = "worker" if before.sign.run == sign.run else "supervisor"
            self._ends.append((self._clock.monotonic(), f"the {who} of {agent}"))
            self._over.append(before.sign.worker)
            self._log.warning("an executor was started anew", agent=agent, ended=who)
        if before is None:
            self._log.info("an executor lives", agent=agent, run=sign.run)
        if before is None and len(self._heard) >= MOST:
            del self._heard[next(iter(self._heard))]  # the one that was heard of least lately
        self._heard[agent] = _Heard(sign)
        self._wake.set()

    def take_back(self, agent: str, worker: str) -> None:
        """This worker ends in order: no more signs are to be waited for."""
        self._over.append(worker)
        known = self._heard.get(agent)
        if known is not None and known.sign.worker == worker:
            del self._heard[agent]

    @property
    def silent(self) -> str:
        """Who stands still, and for how long; "" when nobody does."""
        return "; ".join(filter(None, (self._why(*each) for each in sorted(self._heard.items()))))

    def _why(self, agent: str, heard: _Heard) -> str:
        if heard.gone:
            return ""
        if heard.silent_s >= self._silent_s:
            return f"the executor of {agent} has given no sign of life for {heard.silent_s:.0f} s"
        unheard_s = heard.sign.unheard_s
        if unheard_s >= self._silent_s:
            return f"the supervisor of {agent} has not listened to its worker for {unheard_s:.0f} s"
        return ""

    @property
    def restarted(self) -> str:
        """Who has ended unasked and was started anew just now; "" when nobody was."""
        now = self._clock.monotonic()
        counted = [who for at, who in self._ends if now - at < COUNTED_S]
        if not counted or now - self._ends[-1][0] >= TOLD_S:
            return ""
        last = counted[-1]
        often = f", and {len(counted)} were within {COUNTED_S:g} s" if len(counted) > 1 else ""
        return f"{last} had ended without being asked to and was started anew{often}"

    async def run(self) -> None:
        """Count silence until cancelled. Time in which we did not run ourselves, or hardly, is nobody's silence."""
        turned = self._clock.monotonic()
        while True:
            if not self._heard:
                self._wake.clear()
                await self._wake.wait()
                turned = self._clock.monotonic()
            await self._clock.sleep(TURN_S)
            now = self._clock.monotonic()
            self._turn(min(now - turned, TURN_MAX_S))
            turned = now

    def _turn(self, turn_s: float) -> None:
        for agent, heard in sorted(self._heard.items()):
            was = heard.silent_s >= self._silent_s
            heard.silent_s += turn_s
            if heard.silent_s < self._silent_s:
                continue
            heard.gone = is_gone(heard.sign.supervisor, heard.sign.pid_space)
            if not was:
                self._log.warning("an executor is silent", agent=agent, gone=heard.gone)
            untold = not heard.sign.supervisor or heard.sign.pid_space != pid_space()
            if heard.silent_s >= FORGET_S and (heard.gone or untold):
                del self._heard[agent]
