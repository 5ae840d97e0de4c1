"""How hostd counts silence, and what it keeps of executors. What they tell it: tests/unit/executor/test_signs.py."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress

import pytest
from pydantic import ValidationError

from libs.common.pids import pid_space
from libs.common.telemetry import make_log
from services.hostd.executors import MOST, Executors, Sign

LOG = make_log("hostd", level="critical")


class Turns:
    """A clock whose sleeps take as long as told, one after the other; then whoever sleeps is done."""

    def __init__(self, turns_s: Sequence[float]) -> None:
        self.at_s = 0.0
        self._turns_s = list(turns_s)

    def now(self) -> float:
        return self.at_s

    def monotonic(self) -> float:
        return self.at_s

    async def sleep(self, delay_s: float) -> None:
        if not self._turns_s:
            raise asyncio.CancelledError
        self.at_s += self._turns_s.pop(0)


async def heard_for(turns_s: Sequence[float], supervisor: int = 0, space: str = "") -> Executors:
    """What is known of one that gave a sign, and then none for these turns, or until it is forgotten."""
    executors = Executors(15.0, Turns(turns_s), LOG)
    executors.sign("h1", Sign(run="r", worker="w", supervisor=supervisor, pid_space=space))
    counting = asyncio.create_task(executors.run())
    while executors._heard and not counting.done():
        await asyncio.sleep(0)
    counting.cancel()
    with suppress(asyncio.CancelledError):
        await counting
    return executors


async def test_silence_is_what_hostd_ran_to_hear() -> None:
    assert (await heard_for([1.0] * 14)).silent == ""
    assert "for 15 s" in (await heard_for([1.0] * 15)).silent
    assert (await heard_for([1.0, 600.0, 1.0])).silent == "", "it stood still itself"


async def test_who_stands_still_is_told_of_as_long_as_that_lasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = pid_space()
    assert "for 2000 s" in (await heard_for([1.0] * 2000, os.getpid(), here)).silent
    assert (await heard_for([1.0] * 2000, os.getpid(), "another")).silent == ""
    monkeypatch.setattr("services.hostd.executors.is_gone", lambda *_who: True)
    assert (await heard_for([1.0] * 2000, 1, here)).silent == ""


async def test_what_is_kept_is_bounded() -> None:
    executors = Executors(15.0, Turns([]), LOG)
    for n in range(3 * MOST):
        executors.sign(f"h{n}", Sign(run="r", worker=f"w{n}", unheard_s=60))
    assert executors.silent.count("has not listened") == MOST
    for n in range(3 * MOST):
        executors.sign("h", Sign(run="r", worker=f"v{n}"))
    assert f"and {MOST} were within" in executors.restarted


def test_what_a_newer_worker_says_besides_is_passed_over() -> None:
    told = {"run": "r", "worker": "w", "mood": "good"}
    assert Sign.model_validate(told) == Sign(run="r", worker="w")
    with pytest.raises(ValidationError):
        Sign.model_validate({"run": "r", "worker": "w" * 65})
