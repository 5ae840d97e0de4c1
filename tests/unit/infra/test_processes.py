"""Processes of local clusters are told to leave; those that don't are killed, and that is said."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process

from infra.local.processes import alive, end

STUBBORN = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); sys.stdin.read()"
OBEDIENT = "import sys; print(flush=True); sys.stdin.read()"


async def _child(code: str) -> Process:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, "its-name", stdin=PIPE, stdout=PIPE
    )
    assert child.stdout is not None
    await child.stdout.readline()
    return child


async def test_who_has_to_be_killed_is_told() -> None:
    stubborn, obedient = await _child(STUBBORN), await _child(OBEDIENT)
    (said,) = await end([stubborn.pid, obedient.pid], patience_s=3.0)
    assert f"process {stubborn.pid} was killed" in said and said.endswith("its-name")
    assert not alive(stubborn.pid) and not alive(obedient.pid)


async def test_who_leaves_in_time_is_not() -> None:
    obedient = await _child(OBEDIENT)
    assert await end([obedient.pid]) == []
    assert not alive(obedient.pid)
